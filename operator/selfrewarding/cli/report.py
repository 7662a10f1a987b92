"""`srr report`: the page of a run, from what lies with its artifacts."""

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

if TYPE_CHECKING:
    from selfrewarding.cli.find_run import LocatedRun


def report_command(
    file: FileOption = None,
    artifacts: ArtifactsOption = Path("artifacts"),
    run: RunOption = None,
    store: StoreOption = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The page to write; an older one is replaced.", metavar="FILE"),
    ] = Path("report.html"),
) -> None:
    """Write the report of a run as one HTML page: progress, judge, alarms, data, cost and a sample of the pairs.

    The page needs no network and no other file. A run that goes on is reported as far as it is. Each iteration
    also leaves its page with the artifacts, at runs/NAMESPACE/NAME/report.html.

    Example: srr report -o report.html
    """
    from selfrewarding.report.collect import collect, load
    from selfrewarding.report.index import report_parts
    from selfrewarding.report.page import render
    from selfrewarding.store.errors import StoreError

    found = locate_run(file, artifacts, run, store)
    try:
        who, stages, story = report_parts(_index(found))
        loaded = load(found.store, stages)
        told = collect(found.store, who, loaded, story)
    except (StoreError, ValueError) as error:
        raise refusal(str(error)) from None
    page = render(told).encode()
    try:
        output.write_bytes(page)
    except OSError as error:
        raise refusal(
            f"{output}: cannot be written: {(error.strerror or str(error)).lower()}: name another place with -o FILE"
        ) from None
    for problem in told.problems:
        typer.echo(f"missing: {problem}", err=True)
    typer.echo(
        f"Wrote {output} ({len(page) / 1e6:.2f} MB): {who.namespace}/{who.name}, {_how_far(len(stages))}."
    )


def _index(found: "LocatedRun") -> dict[str, Any]:
    """What the run has made: of a local run as it stands now, else as its newest report has left it."""
    from datetime import UTC, datetime

    if found.record is not None:
        from selfrewarding.controller.reconcile import effective_spec
        from selfrewarding.local.run_record import run_of
        from selfrewarding.local.run_results import run_index, run_stages

        local = run_of(found.record)
        spec = effective_spec(local)
        return run_index(local, spec, run_stages(local, spec, datetime.now(UTC)), {})
    return required_index(found)


def _how_far(stages: int) -> str:
    return f"{stages} finished {'stage' if stages == 1 else 'stages'}"
