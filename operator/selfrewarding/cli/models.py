"""`srr models`: the models that local runs have made, and where they lie."""

from pathlib import Path
from typing import Annotated

import typer

from selfrewarding.cli.status import Output, find_records


def models_command(
    file: Annotated[str | None, typer.Option("--file", "-f", help="Only the run of this file.")] = None,
    artifacts: Annotated[
        Path, typer.Option(help="Folder for artifacts of `srr local`.", metavar="DIR")
    ] = Path("artifacts"),
    output: Annotated[Output, typer.Option("--output", "-o", help="table or json.")] = Output.TABLE,
) -> None:
    """List the models of the local runs in an artifacts folder: name, folder, metrics, what the gate decided.

    A folder is in Hugging Face format: transformers and vLLM load it as it is.
    JSON is a list of objects: run, name, iteration, folder, uri, digest, metrics, gate, gateMessage.

    Example: srr models -o json
    """
    import json
    import os

    from rich.console import Console
    from rich.table import Table

    from selfrewarding.api.run import ModelStatus
    from selfrewarding.local.pod_environment import Machine, open_run_store
    from selfrewarding.local.run_results import model_folder
    from selfrewarding.store.errors import StoreError

    machine = Machine(os.environ, artifacts.resolve())
    rows = []
    for _, record in find_records(file, artifacts):
        metadata = record.object["metadata"]
        for raw in record.object.get("status", {}).get("models", []):
            model = ModelStatus.model_validate(raw)
            try:
                folder = model_folder(
                    open_run_store(record.object["spec"]["artifacts"]["uri"], machine), model
                )
            except StoreError:
                folder = None
            known = model.model_dump(mode="json", by_alias=True, exclude_none=True)
            rows.append({"run": f"{metadata['namespace']}/{metadata['name']}", "folder": folder, **known})
    if output is Output.JSON:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
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
