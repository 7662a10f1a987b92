"""`srr status`: how local runs stand, as `run.json` says it."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from selfrewarding.local.run_record import RunRecord
    from selfrewarding.local.state import StateFolder


class Output(StrEnum):
    """How the answer is printed."""

    TABLE = "table"
    JSON = "json"


def status_command(
    file: Annotated[str | None, typer.Option("--file", "-f", help="Only the run of this file.")] = None,
    artifacts: Annotated[
        Path, typer.Option(help="Folder for artifacts of `srr local`.", metavar="DIR")
    ] = Path("artifacts"),
    output: Annotated[Output, typer.Option("--output", "-o", help="table or json.")] = Output.TABLE,
) -> None:
    """Show how the local runs in an artifacts folder stand.

    JSON is a list of objects: run, running, generation, status (as `kubectl get -o json` shows it).
    For runs in a cluster: kubectl get selfrewardingruns.

    Example: srr status -f run.yaml -o json
    """
    import json

    from rich.console import Console
    from rich.table import Table

    records = find_records(file, artifacts)
    if output is Output.JSON:
        documents = [
            {
                "run": f"{record.object['metadata']['namespace']}/{record.object['metadata']['name']}",
                "running": state.is_locked(),
                "generation": record.object["metadata"]["generation"],
                "status": record.object.get("status", {}),
            }
            for state, record in records
        ]
        typer.echo(json.dumps(documents, indent=1, ensure_ascii=False))
        return
    table = Table(pad_edge=False)
    for name in ("Run", "State", "Iteration", "Stage", "Progress", "Models", "Alarms", "Message"):
        table.add_column(name, overflow="fold")
    for state, record in records:
        table.add_row(*_row(record.object, running=state.is_locked()))
    Console().print(table)


def find_records(file: str | None, artifacts: Path) -> "list[tuple[StateFolder, RunRecord]]":
    """The local runs of an artifacts folder, or the one of a file. Ends the command with exit code 2 without any."""
    from selfrewarding.cli.run_file import read_run_file
    from selfrewarding.local.errors import LocalError
    from selfrewarding.local.run_record import load_record
    from selfrewarding.local.state import StateFolder, run_folders

    try:
        if file is None:
            states = run_folders(artifacts)
        else:
            metadata = read_run_file(file).metadata
            states = [StateFolder.of(artifacts, metadata.namespace or "default", metadata.name)]
        found = [(state, record) for state in states if (record := load_record(state)) is not None]
    except LocalError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    if not found:
        which = f"the run of {file} was never started here" if file else "no run was started here"
        typer.echo(
            f"{artifacts.resolve()}: {which}: start one with `srr local -f FILE`, or name another folder with "
            "--artifacts DIR",
            err=True,
        )
        raise typer.Exit(2)
    return found


def _model(model: dict[str, Any]) -> str:
    """Its name, with its win rate against the model before where they were compared."""
    rate = model.get("metrics", {}).get("winRate")
    return str(model["name"]) if rate is None else f"{model['name']} ({rate:.0%} wins)"


def _row(document: dict[str, Any], *, running: bool) -> list[str]:
    metadata, status = document["metadata"], document.get("status", {})
    progress = status.get("progress")
    conditions = {one["type"]: one for one in status.get("conditions", [])}
    state = next(
        (
            name
            for name in ("Succeeded", "Failed", "Stalled", "Suspended")
            if conditions.get(name, {}).get("status") == "True"
        ),
        "Running" if running else "Stopped",
    )
    return [
        f"{metadata['namespace']}/{metadata['name']}",
        state,
        str(status.get("iteration") or "–"),
        status.get("stage") or "–",
        f"{progress['done']}/{progress['total']}" if progress else "–",
        ", ".join(map(_model, status.get("models", []))) or "–",
        ", ".join(f"{one['name']} (M{one['iteration']})" for one in status.get("alarms", [])) or "–",
        status.get("waitingFor") or conditions.get("Ready", {}).get("message", ""),
    ]
