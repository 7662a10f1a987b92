"""`srr trace`: all that came from one seed row."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfrewarding.cli.find_run import ArtifactsOption, FileOption, RunOption, StoreOption, find_run, refusal
from selfrewarding.cli.story_text import heading, quoted

if TYPE_CHECKING:
    from rich.console import Console

    from selfrewarding.lineage.facts import StageFacts
    from selfrewarding.lineage.trace import Trace

REMOVAL = (
    "save the file without the row under a new name, and name that one in the spec. A file that is changed in place is not "
    "noticed: what was prepared is kept by address."
)
_IDS = ("message_tree_id", "id", "question_id")
"""Fields that name a row: of OpenAssistant's trees, of most files, of MT-Bench's questions."""
_PROMPTS = 20
"""Prompts that are listed without `--full`."""


def trace_command(
    seed_row: Annotated[
        str,
        typer.Argument(
            help="Key of a row of the seed data, the beginning of it, its id, or FILE:LINE of a file in JSON lines.",
            metavar="SEED_ROW",
        ),
    ],
    file: FileOption = None,
    artifacts: ArtifactsOption = Path("artifacts"),
    run: RunOption = None,
    store: StoreOption = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    full: Annotated[bool, typer.Option("--full", help="List all prompts, texts to their end.")] = False,
) -> None:
    """List all that came from a seed row: prompts that it was an example for, their answers and pairs, trained models,
    and the stages that would be computed again without it.

    To remove the row, save the file without it under a new name and name that one in the spec: a file that is changed in
    place is not noticed, since what was prepared is kept by address.

    Example: srr trace data/instructions.jsonl:12
    """
    from selfrewarding.lineage.trace import UnknownRow, trace_row
    from selfrewarding.store.errors import StoreError

    reference, source = _reference(seed_row)
    found = find_run(file, artifacts, run, store)
    try:
        trace = trace_row(found.store, found.results, reference, among=_sets(found.spec, source))
    except (UnknownRow, StoreError) as error:
        raise refusal(str(error)) from None
    if as_json:
        typer.echo(json.dumps(trace.as_json(), indent=1, ensure_ascii=False))
        return
    from rich.console import Console

    _print(Console(highlight=False), trace, full=full)


def _reference(text: str) -> tuple[str, str | None]:
    """What Prepare knows the row by: for FILE:LINE the row's own id, or `line-<n>` where it has none, and the file's name."""
    name, separator, number = text.rpartition(":")
    path = Path(name)
    if not separator or not number.isdigit() or not path.is_file():
        return text, None
    try:
        with path.open(encoding="utf-8-sig") as stream:
            line = next((line for at, line in enumerate(stream, 1) if at == int(number)), None)
        row = json.loads(line) if line is not None else None
    except (OSError, ValueError) as error:
        raise refusal(f"{text}: this line is no JSON ({error}): give the row's key or id instead") from None
    if line is None:
        raise refusal(f"{text}: the file has no such line")
    fields = row if isinstance(row, dict) else {}
    own = next((fields[name] for name in _IDS if fields.get(name) is not None), None)
    return f"line-{number}" if own is None else str(own), path.name


def _sets(spec: Mapping[str, Any], source: str | None) -> set[str]:
    """The sets that Prepare makes of a file of this name; none where the spec names no such file, or no file is meant."""
    seeds, evaluation = spec.get("seedData") or {}, spec.get("evaluation") or {}
    ranked = ("ranked", "heldOut")
    sources = [
        (seeds.get("instructions"), ("instructions", *(() if seeds.get("ranked") else ranked))),
        (seeds.get("ranked"), ranked),
        ((seeds.get("heldOut") or {}).get("source"), ("heldOut",)),
        (seeds.get("evaluations"), ("evaluations",)),
        *((one, ("evaluationPrompts",)) for one in evaluation.get("prompts") or []),
    ]
    return {
        name for one, names in sources if one and one["uri"].rpartition("/")[2] == source for name in names
    }


def _print(console: "Console", trace: "Trace", *, full: bool) -> None:
    from rich.table import Table

    named = f", id {trace.id}" if trace.id else ""
    console.print(heading(f"{trace.set} row {trace.key[:16]}{named}"))
    for message in trace.row.get("messages") or trace.row.get("prompt") or []:
        console.print(quoted(f"{message['role']}: ", style="bold"), end="")
        console.print(quoted(message["content"], full=full))
    console.print(quoted(f"\nread by: {_stages(trace.read_by) or 'no stage yet'}"))
    console.print(quoted(f"trained: {', '.join(trace.trained) or 'no model'}"))
    if trace.examples:
        listed = ", ".join(f"{one['key'][:16]} (score {one['score']})" for one in trace.examples)
        console.print(quoted(f"EFT examples: {listed}"))
    if trace.offspring:
        table = Table(pad_edge=False)
        for name in ("Iteration", "Prompts", "Indirect", "Answers", "Judgements", "Pairs", "Trained"):
            table.add_column(name, justify="left" if name == "Trained" else "right")
        for one in trace.offspring:
            counts = (one.iteration, len(one.prompts), one.indirect, one.answers, one.judgements, one.pairs)
            table.add_row(*(f"{count:,}" for count in counts), one.trained or "–")
        console.print(table)
        for one in trace.offspring:
            for prompt in one.prompts if full else one.prompts[:_PROMPTS]:
                pairs = ", ".join(key[:16] for key in prompt["pairs"]) or "no pair"
                text = " ".join(prompt["text"].split())
                console.print(quoted(f"  {one.iteration}: [{prompt['key'][:16]}] {text[:160]} → {pairs}"))
            if not full and len(one.prompts) > _PROMPTS:
                console.print(
                    quoted(f"  … {len(one.prompts) - _PROMPTS:,} more prompts: --full", style="dim")
                )
    console.print(quoted(f"computed again without it: {_stages(trace.recomputed) or 'nothing'}"))
    console.print(quoted(f"to remove it: {REMOVAL}", style="dim"))


def _stages(stages: "list[StageFacts]") -> str:
    return ", ".join(f"{one.kind} {one.iteration}" for one in stages)
