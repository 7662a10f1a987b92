"""`srr models`: the models that runs have made, where they lie, and a copy of one.

Neighbours: `find_run` finds runs; `local.run_results` finds a model's folder.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfrewarding.cli.find_run import (
    ArtifactsOption,
    FileOption,
    RunOption,
    StoreOption,
    locate_run,
    refusal,
    required_index,
)
from selfrewarding.cli.status import Output, find_records

if TYPE_CHECKING:
    from selfrewarding.api.run import ModelStatus
    from selfrewarding.store.protocol import ArtifactStore


@dataclass(frozen=True)
class _Model:
    run: str
    store: "ArtifactStore"
    status: "ModelStatus"


def models_command(
    file: FileOption = None,
    artifacts: ArtifactsOption = Path("artifacts"),
    run: RunOption = None,
    store: StoreOption = None,
    *,
    output: Annotated[Output, typer.Option("--output", "-o", help="table or json.")] = Output.TABLE,
    download: Annotated[
        Path | None, typer.Option(help="Copy one model's files into this folder.", metavar="DIR")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Only M1, M2, … or Baseline; --download without it takes the newest.",
            metavar="NAME",
        ),
    ] = None,
) -> None:
    """List the models of local runs, or of a run in a cluster (--store): name, folder, metrics, what the gate decided.

    A folder is in Hugging Face format: transformers and vLLM load it as it is; --download brings one here.
    JSON is a list of objects: run, name, iteration, folder, uri, digest, metrics, gate, gateMessage.

    Example: srr models --store s3://runs/demo --download m3 --model M3
    """
    import json

    from selfrewarding.local.run_results import model_folder

    models = _in_store(artifacts, run, store) if store is not None else _local(file, artifacts, run)
    found = [one for one in models if model in (None, one.status.name)]
    if model is not None and not found:
        names = ", ".join(dict.fromkeys(one.status.name for one in models)) or "none"
        raise refusal(f"no run here has a model {model} (there are: {names}): name one with --model")
    if download is not None:
        _download(found, download)
        return
    rows = [
        {
            "run": one.run,
            "folder": model_folder(one.store, one.status),
            **one.status.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        for one in found
    ]
    if output is Output.JSON:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        _print(rows)


def _local(file: str | None, artifacts: Path, run: str | None) -> list[_Model]:
    import os

    from selfrewarding.api.run import ModelStatus
    from selfrewarding.local.pod_environment import Machine, open_run_store

    machine = Machine(os.environ, artifacts.resolve())
    found: list[_Model] = []
    for _, record in find_records(file, artifacts):
        metadata = record.object["metadata"]
        name = f"{metadata['namespace']}/{metadata['name']}"
        if run in (None, name, metadata["name"]):
            store = open_run_store(record.object["spec"]["artifacts"]["uri"], machine)
            made = record.object.get("status", {}).get("models", [])
            found += [_Model(name, store, ModelStatus.model_validate(one)) for one in made]
    return found


def _in_store(artifacts: Path, run: str | None, store: str) -> list[_Model]:
    from selfrewarding.api.run import ModelStatus
    from selfrewarding.store.errors import StoreError

    located = locate_run(None, artifacts, run, store)
    name = f"{located.run.namespace}/{located.run.name}"
    try:
        made = required_index(located).get("models", [])
        return [_Model(name, located.store, ModelStatus.model_validate(one)) for one in made]
    except (StoreError, ValueError) as error:
        raise refusal(str(error)) from None


def _download(models: list[_Model], folder: Path) -> None:
    """The last of these models that was not rolled back."""
    from selfrewarding.contract.program import ParentMissing
    from selfrewarding.local.run_results import made_model
    from selfrewarding.store.errors import StoreError
    from selfrewarding.store.results import download_folder

    runs = list(dict.fromkeys(one.run for one in models))
    if len(runs) > 1:
        raise refusal(
            f"there are models of several runs: {', '.join(runs)}: say which one with --run NAMESPACE/NAME"
        )
    kept = [one for one in models if one.status.gate != "RolledBack"] or models
    if not kept:
        raise refusal("the run has made no model yet")
    wanted = kept[-1]
    made = made_model(wanted.store, wanted.status)
    if made is None:
        raise refusal(f"{wanted.status.uri}: the result of {wanted.status.name} is gone or cannot be read")
    try:
        download_folder(wanted.store, made.result, made.folder, folder, writable=True)
    except (ParentMissing, StoreError) as error:
        raise refusal(str(error)) from None
    except OSError as error:
        raise refusal(f"{folder}: {error.strerror}: name another folder with --download DIR") from None
    typer.echo(f"{wanted.status.name} of {wanted.run}: {folder.resolve()}")


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(pad_edge=False)
    for name in ("Run", "Model", "Iteration", "Gate", "Metrics", "Folder"):
        table.add_column(name, overflow="fold")
    for row in rows:
        metrics = "\n".join(f"{name} {value:.4g}" for name, value in row["metrics"].items())
        table.add_row(
            row["run"],
            row["name"],
            str(row["iteration"]),
            row.get("gate", "–"),
            metrics or "–",
            row["folder"] or row["uri"],
        )
    Console().print(table)
