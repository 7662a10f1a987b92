"""Which run a command is about, and its finished stages: a local run by its folder, any run by its store.

Purpose: `--file`, `--artifacts`, `--run` and `--store` mean the same in `srr explain`, `trace`, `export`, `report` and `models`.
Must not: import a planner: these commands answer in a fraction of a second.
Neighbours: `status.find_records` finds local runs; `store.run_results` reads what a run left.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from selfrewarding.contract.config import RunRef
    from selfrewarding.local.run_record import RunRecord
    from selfrewarding.store.protocol import ArtifactStore
    from selfrewarding.store.run_results import RunResults

BAD_INPUT = 2

FileOption = Annotated[str | None, typer.Option("--file", "-f", help="The local run of this file.")]
ArtifactsOption = Annotated[Path, typer.Option(help="Folder for artifacts of `srr local`.", metavar="DIR")]
RunOption = Annotated[
    str | None, typer.Option("--run", help="NAMESPACE/NAME, where there are several.", metavar="RUN")
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Read a run of a cluster: its spec.artifacts.uri (s3://… or file://…). Endpoint, addressing, region, authority "
        "and keys are taken from SRR_S3_ENDPOINT, SRR_S3_ADDRESSING, AWS_REGION, AWS_CA_BUNDLE and AWS_* as in its pods.",
        metavar="URI",
    ),
]


@dataclass(frozen=True)
class FoundRun:
    """A run and what it has left in its store."""

    store: "ArtifactStore"
    results: "RunResults"
    spec: dict[str, Any]
    """As written, or with its preset filled in; {} where nobody has told it."""


@dataclass(frozen=True)
class LocatedRun:
    """A run and its store, before anything of it is read."""

    store: "ArtifactStore"
    run: "RunRef"
    record: "RunRecord | None" = None
    """A local run's own record."""


def locate_run(file: str | None, artifacts: Path, run: str | None, store: str | None) -> LocatedRun:
    """The one run that the options mean. Ends the command with exit code 2 if there is none, or several."""
    from selfrewarding.store.errors import StoreError

    try:
        return _in_store(store, run) if store is not None else _local(file, artifacts, run)
    except StoreError as error:
        raise refusal(str(error)) from None


def find_run(file: str | None, artifacts: Path, run: str | None, store: str | None) -> FoundRun:
    """As `locate_run`, with the results of its stages."""
    from selfrewarding.store.errors import Corrupt, StoreError
    from selfrewarding.store.run_results import results_of_run

    found = locate_run(file, artifacts, run, store)
    index: dict[str, Any] = {}
    try:
        if found.record is not None:
            document = found.record.object
            current, spec = document.get("status", {}).get("results") or None, document["spec"]
        else:
            with suppress(Corrupt):  # the marks tell the stages all the same
                index = stored_index(found) or {}
            current, spec = index.get("results"), index.get("spec", {})
        return FoundRun(found.store, results_of_run(found.store, found.run, current=current), spec)
    except StoreError as error:
        raise refusal(str(error)) from None


def refusal(message: str) -> typer.Exit:
    """Say what is wrong; to be raised."""
    typer.echo(message, err=True)
    return typer.Exit(BAD_INPUT)


def _local(file: str | None, artifacts: Path, run: str | None) -> LocatedRun:
    from selfrewarding.cli.status import find_records
    from selfrewarding.contract.config import RunRef
    from selfrewarding.local.pod_environment import Machine, open_run_store

    records = [record for _, record in find_records(file, artifacts)]
    names = [_name(record.object["metadata"]) for record in records]
    if run is not None:
        records = [
            record for record, name in zip(records, names, strict=True) if run in (name, name.split("/")[1])
        ]
    if len(records) != 1:
        raise refusal(_ambiguous(str(artifacts.resolve()), names, run))
    found = records[0].object
    metadata = found["metadata"]
    store = open_run_store(found["spec"]["artifacts"]["uri"], Machine(os.environ, artifacts.resolve()))
    who = RunRef(namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"])
    return LocatedRun(store, who, records[0])


def _in_store(uri: str, run: str | None) -> LocatedRun:
    from selfrewarding.store import open_store
    from selfrewarding.store.run_results import runs_in

    store = open_store(uri)
    # A run that was deleted and made again has several marks under one name: the newest is meant.
    newest = {f"{one.namespace}/{one.name}": one for one in runs_in(store)}
    names = [name for name in newest if run is None or run in (name, name.split("/")[1])]
    if len(names) != 1:
        raise refusal(_ambiguous(uri, sorted(newest), run))
    return LocatedRun(store, newest[names[0]])


def required_index(found: LocatedRun) -> dict[str, Any]:
    """As `stored_index`; ends the command with exit code 2 if there is none. Raises StoreError."""
    document = stored_index(found)
    if document is None:
        raise refusal(
            f"{found.store.uri}: the run {found.run.namespace}/{found.run.name} has no index yet: its first report "
            "writes it, after the first iteration"
        )
    return document


def stored_index(found: LocatedRun) -> dict[str, Any] | None:
    """The index of a run in a store, as its newest report has left it; None if it has none yet. Says so where the run has
    gone on since. Raises StoreError."""
    from selfrewarding.contract.artifacts import run_prefix
    from selfrewarding.report.index import INDEX, read_index

    document = read_index(found.store, found.run)
    if document is not None:
        folder = run_prefix(found.run.namespace, found.run.name)
        written = {entry.key: entry.modified for entry in found.store.list(folder)}
        marks = f"{folder}/{found.run.uid}/stages/"
        newest = max((time for key, time in written.items() if key.startswith(marks)), default=None)
        index = written.get(f"{folder}/{INDEX}")
        if newest is not None and index is not None and newest > index:
            typer.echo(
                f"note: the run has gone on since its index was written ({index:%Y-%m-%d %H:%M} UTC): stages that began "
                "later do not count yet; the next report writes it anew",
                err=True,
            )
    return document


def _name(metadata: dict[str, Any]) -> str:
    return f"{metadata['namespace']}/{metadata['name']}"


def _ambiguous(place: str, names: Iterable[str], run: str | None) -> str:
    listed = ", ".join(names) or "none"
    if run is None and listed != "none":
        return f"{place}: there are several runs: {listed}: say which one with --run NAMESPACE/NAME"
    asked = f"no single run {run}" if run else "no run"
    return f"{place}: {asked} is here (there are: {listed}): check --run, --store and --artifacts"
