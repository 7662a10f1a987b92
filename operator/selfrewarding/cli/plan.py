"""`srr plan`: the stages of a run before it runs, with keys, tokens and memory."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from selfrewarding.api.run import StageSummary
    from selfrewarding.cli.run_file import RunFile
    from selfrewarding.plan.estimates import StageEstimate
    from selfrewarding.plan.stage import Graph, Stage

_BILLION = 1e9
_GIB = 2**30


class Output(StrEnum):
    """How the plan is printed."""

    TABLE = "table"
    JSON = "json"
    DOT = "dot"


def plan_command(  # noqa: PLR0917 - a command's options are its parameters
    file: Annotated[str, typer.Option("--file", "-f", help="Run file (YAML); - is standard input.")],
    output: Annotated[
        Output, typer.Option("--output", "-o", help="table, json, or dot for Graphviz.")
    ] = Output.TABLE,
    artifacts: Annotated[
        Path,
        typer.Option(help="Folder of `srr local`; once Prepare has run there, keys and sizes are exact."),
    ] = Path("artifacts"),
    parameters: Annotated[
        float | None,
        typer.Option(help="Size of the model in billions of parameters, before Prepare has read it."),
    ] = None,
    gpu_memory: Annotated[
        float | None,
        typer.Option(help="Memory of one GPU in GiB: what cannot fit is refused, with remedies."),
    ] = None,
    host_memory: Annotated[float | None, typer.Option(help="Memory of one node in GiB, likewise.")] = None,
) -> None:
    """Show the stages of a run in order: what runs them, what they ask, tokens, memory, keys.

    Stages with equal keys are computed once, also by different runs. Keys rest on the data's and the model's digests, so
    they are known once Prepare has read both.

    Example: srr plan -f run.yaml --parameters 8 --gpu-memory 80
    """
    import json

    from selfrewarding.cli.run_file import InvalidRunFile, Problem, read_run_file
    from selfrewarding.contract import CONTRACT_VERSION
    from selfrewarding.plan.estimates import estimate_run, misfits
    from selfrewarding.plan.graph import build_graph, outline

    run = read_run_file(file)
    uid, prepare = _prepared(run, artifacts)
    graph = (
        build_graph(run.spec, run_uid=uid, contract=CONTRACT_VERSION, prepare=prepare)
        if prepare
        else outline(run.spec, contract=CONTRACT_VERSION)
    )
    counts = dict(prepare.counts) if prepare else {}
    if parameters is not None:
        counts["parameters"] = round(parameters * _BILLION)
    estimates = estimate_run(graph, run.spec, counts)
    match output:
        case Output.JSON:
            known = prepare is not None
            listed = [
                _described(stage, one, known) for stage, one in zip(graph.stages, estimates, strict=True)
            ]
            typer.echo(json.dumps({"run": run.metadata.name, "keysKnown": known, "stages": listed}, indent=2))
        case Output.DOT:
            typer.echo(_dot(run, graph))
        case Output.TABLE:
            _print_table(run, graph, estimates, known=prepare is not None)

    if gpu_memory is None:
        return
    if "parameters" not in counts:
        expected = "the model's size is not known yet: give --parameters (in billions)"
        raise InvalidRunFile([Problem(file, None, "--gpu-memory", "", expected)])
    host = round(host_memory * _GIB) if host_memory else None
    sentences = misfits(estimates, run.spec, gpu_memory=round(gpu_memory * _GIB), host_memory=host)
    if sentences:
        raise InvalidRunFile([Problem(file, None, "spec", "", sentence) for sentence in sentences])


def _prepared(run: "RunFile", artifacts: Path) -> tuple[str, "StageSummary | None"]:
    """The UID of the local run of this name, and what its Prepare found out for this very spec."""
    from selfrewarding.contract import CONTRACT_VERSION
    from selfrewarding.local.run_record import load_record, run_of
    from selfrewarding.local.state import StateFolder
    from selfrewarding.plan.graph import build_graph

    state = StateFolder.of(artifacts.absolute(), run.metadata.namespace or "default", run.metadata.name)
    record = load_record(state)
    if record is None:
        return "", None
    found = run_of(record)
    uid = found.metadata.uid or ""
    prepare = build_graph(run.spec, run_uid=uid, contract=CONTRACT_VERSION).prepare
    return uid, found.status.results.get(prepare.short)


def _runs_as(stage: "Stage") -> str:
    from selfrewarding.contract.stages import StageKind

    if stage.kind == StageKind.GATE:
        return "planner"
    if stage.trains:
        return "PyTorchJob"
    return f"Indexed Job ({stage.shards})" if stage.shards > 1 else "Job"


def _described(stage: "Stage", estimate: "StageEstimate", known: bool) -> dict[str, Any]:
    memory = {role: one.per_gpu or one.host for role, one in estimate.serving.items()}
    if estimate.training is not None:
        memory["training"] = estimate.training.per_gpu or estimate.training.host
    return {
        "iteration": stage.iteration,
        "stage": stage.kind,
        "key": stage.key if known else None,
        "runsAs": _runs_as(stage),
        "gpus": stage.gpus + sum(holder.gpus for holder in stage.holders.values()),
        "asks": {role: f"{holder.model.name} ({holder.pool})" for role, holder in stage.holders.items()},
        "reads": {role: f"{parent.kind} {parent.iteration}" for role, parent in stage.parents.items()},
        "generatedTokens": estimate.generated_tokens,
        "trainedTokens": estimate.trained_tokens,
        "memoryBytes": memory,
    }


def _dot(run: "RunFile", graph: "Graph") -> str:
    """The stages as a Graphviz graph: solid arrows are data, dashed ones are the models that are asked."""
    lines = [f'digraph "{run.metadata.name}" {{', "  rankdir=LR; node [shape=box, style=rounded];"]
    for stage in graph.stages:
        label = f"{stage.kind}\\n{'M' + str(stage.iteration) if stage.iteration else ''}".removesuffix("\\n")
        lines.append(f'  "{stage.short}" [label="{label}"];')
        lines += [
            f'  "{parent.short}" -> "{stage.short}" [label="{role}"];'
            for role, parent in stage.parents.items()
        ]
        for role, holder in stage.holders.items():
            source = f'"{holder.model.stage.short}"' if holder.model.stage else f'"{holder.model.name}"'
            lines.append(f'  {source} -> "{stage.short}" [style=dashed, label="{role}"];')
    return "\n".join([*lines, "}"])


def _print_table(run: "RunFile", graph: "Graph", estimates: "list[StageEstimate]", *, known: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from selfrewarding.plan.estimates import readable

    rows: list[dict[str, str]] = []
    for stage, one in zip(graph.stages, estimates, strict=True):
        described = _described(stage, one, known)
        rows.append(
            {
                "#": str(stage.iteration or ""),
                "Stage": stage.kind,
                "Runs as": described["runsAs"],
                "Asks": ", ".join(dict.fromkeys(holder.model.name for holder in stage.holders.values())),
                "GPUs": str(described["gpus"] or ""),
                "Writes": _tokens(one.generated_tokens),
                "Trains": _tokens(one.trained_tokens),
                "Memory": ", ".join(
                    readable(size) for size in dict.fromkeys(described["memoryBytes"].values())
                ),
                "Key": stage.short if known else "",
            }
        )
    table = Table(
        title=f"{run.metadata.name}: M0 to M{run.spec.iterations}", title_justify="left", box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0), pad_edge=False,
    )  # fmt: skip
    # A terminal of 80 columns has no room for what is not there.
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    numbers = ("#", "GPUs", "Writes", "Trains", "Memory")
    for name in names:
        table.add_column(name, justify="right" if name in numbers else "left", no_wrap=name == "Stage")
    for row, after in zip(rows, [*rows[1:], rows[-1]], strict=True):
        table.add_row(*(row[name] for name in names), end_section=row["#"] != after["#"])
    console = Console()
    console.print(table)
    generated, trained = (
        sum(getattr(one, f"{name}_tokens") for one in estimates) for name in ("generated", "trained")
    )
    console.print(
        f"At most {generated:,} generated and {trained:,} trained tokens, every text at its longest."
    )
    if not known:
        console.print(
            "Keys are known once Prepare has read the data; memory, once it has read the model or with --parameters."
        )


def _tokens(number: int) -> str:
    """A bound as people say it: ≤ 1.02 M."""
    for size, name in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if number >= size:
            return f"≤ {number / size:.3g}{name}"
    return f"≤ {number}" if number else ""
