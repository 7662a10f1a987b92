"""`srr validate`: everything about run files that can be known without a cluster."""

from enum import StrEnum
from typing import Annotated

import typer


class Output(StrEnum):
    """How the answer is printed."""

    TEXT = "text"
    JSON = "json"


def validate_command(
    files: Annotated[
        list[str], typer.Argument(help="Run files (YAML); - is standard input.", metavar="FILE…")
    ],
    output: Annotated[Output, typer.Option("--output", "-o", help="text or json.")] = Output.TEXT,
) -> None:
    """Check run files: unknown fields, wrong types, contradictions.

    Every mistake is told with its line, what was found and what is expected. Exit code 2 if there is any.
    What needs the data or the model (missing files, broken rows, a template that fails) is checked by the run's first
    stage, Prepare, before any GPU is asked for.

    Example: srr validate crds/examples/*.yaml
    """
    import dataclasses
    import json

    from selfrewarding.cli.run_file import InvalidRunFile, Problem, read_run_files

    problems: list[Problem] = []
    names: list[str] = []
    for file in files:
        try:
            found = [run.metadata.name for run in read_run_files(file)]
        except InvalidRunFile as error:
            problems += error.problems
            continue
        names += found
        if output is Output.TEXT:
            typer.echo(f"{file}: ok ({', '.join(found)})")
    if output is Output.JSON:
        listed = [dataclasses.asdict(problem) for problem in problems]
        typer.echo(json.dumps({"valid": not problems, "runs": names, "problems": listed}, ensure_ascii=False))
    else:
        for problem in problems:
            typer.echo(str(problem), err=True)
    if problems:
        raise typer.Exit(2)
