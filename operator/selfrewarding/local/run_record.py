"""The run's own object in `run.json`: identity, generation, spec as the user wrote it, status.

Purpose: what the API server does for a custom resource: give it a UID, raise the generation when the spec changes,
refuse a stale status write, keep immutable fields.
Must not: know objects other than the run.
Neighbours: `cluster` reads and writes it while a run goes on; `srr status` and `srr models` only read it.
"""

import uuid
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from selfrewarding.api import labels
from selfrewarding.api.presets import effective
from selfrewarding.api.run import RawObject, SelfRewardingRun, SelfRewardingRunStatus
from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.local.errors import LocalError
from selfrewarding.local.state import StateFolder, read_json, write_json
from selfrewarding.plan.approval import newest_approval


class RunRecord(BaseModel):
    """The content of `run.json`."""

    model_config = ConfigDict(extra="forbid")

    contract: int
    """Contract version that the run was started with."""
    created: datetime
    object: RawObject
    """The custom resource: metadata with uid, generation and resourceVersion, spec as written, status."""
    approved: str | int | None = None
    """The model that a person has approved by `srr approve` (the annotation's value); an older annotation in the file does
    not undo it."""


def open_record(state: StateFolder, raw: RawObject, namespace: str, now: datetime) -> RunRecord:
    """The record of a run that starts or goes on with the object in `raw`.

    A changed spec raises the generation. Raises LocalError if the folder belongs to something else.
    """
    metadata = raw["metadata"]
    kept = {name: metadata[name] for name in ("labels", "annotations") if metadata.get(name)}
    found = load_record(state)
    if found is None:
        identity = {
            "name": metadata["name"],
            "namespace": namespace,
            "uid": metadata.get("uid") or str(uuid.uuid4()),
            "generation": 1,
            "resourceVersion": "1",
        }
        document = {
            "apiVersion": labels.API_VERSION,
            "kind": labels.KIND,
            "metadata": identity | kept,
            "spec": raw["spec"],
        }
        record = RunRecord(contract=CONTRACT_VERSION, created=now, object=document)
    else:
        _check_same_run(state, found, raw, namespace)
        old = found.object["metadata"]
        changed = found.object["spec"] != raw["spec"]
        identity = {name: value for name, value in old.items() if name not in ("labels", "annotations")}
        identity["generation"] = old["generation"] + 1 if changed else old["generation"]
        identity["resourceVersion"] = str(int(old["resourceVersion"]) + 1)
        if found.approved is not None:
            annotations = metadata.get("annotations") or {}
            approval = newest_approval([str(found.approved), str(annotations.get(labels.APPROVE, ""))])
            kept["annotations"] = annotations | {labels.APPROVE: approval}
        document = found.object | {"metadata": identity | kept, "spec": raw["spec"]}
        record = found.model_copy(update={"object": document})
    save_record(state, record)
    return record


def load_record(state: StateFolder) -> RunRecord | None:
    """What `run.json` holds, None if there is none. Raises LocalError."""
    value = read_json(state.run_file)
    if value is None:
        return None
    try:
        record = RunRecord.model_validate(value)
        uri, identity = record.object["spec"]["artifacts"]["uri"], record.object["metadata"]
        known = (
            isinstance(uri, str)
            and {"name", "namespace", "uid", "generation", "resourceVersion"} <= identity.keys()
        )
    except (ValidationError, KeyError, TypeError, AttributeError) as error:
        known, reason = False, str(error).splitlines()[0]
    else:
        reason = "fields are missing"
    if not known:
        raise LocalError(
            f"{state.run_file} is no record of a run ({reason}): move {state.root} away to start the run again "
            "(finished stages are kept with the artifacts and are found again)"
        )
    return record


def save_record(state: StateFolder, record: RunRecord) -> None:
    """Write `run.json`. Raises OSError."""
    write_json(state.run_file, record.model_dump(mode="json"))


def run_of(record: RunRecord) -> SelfRewardingRun:
    """The record's object as its type. Raises pydantic.ValidationError for a spec that no preset mends."""
    try:
        return SelfRewardingRun.model_validate(record.object)
    except ValidationError:
        # Some rules join fields of which a preset fills in one (a batch size and its micro batch): the API server does
        # not know presets and would take such a spec, so it is checked as what it stands for.
        status = record.object.get("status") or {}
        pinned = (status.get("pinned") or {}).get("preset")
        spec = effective(record.object["spec"], pinned)
        return SelfRewardingRun.model_validate(record.object | {"spec": spec})


def with_status(record: RunRecord, status: SelfRewardingRunStatus) -> RunRecord:
    """The record with another status and the next resourceVersion."""
    metadata = record.object["metadata"]
    document = record.object | {
        "metadata": metadata | {"resourceVersion": str(int(metadata["resourceVersion"]) + 1)},
        "status": status.model_dump(mode="json", by_alias=True, exclude_defaults=True),
    }
    return record.model_copy(update={"object": document})


def _check_same_run(state: StateFolder, found: RunRecord, raw: RawObject, namespace: str) -> None:
    def refuse(what: str, here: Any, asked: Any, remedy: str) -> LocalError:
        return LocalError(
            f"{state.root}: {what}: the run there has {here!r}, this file has {asked!r}: {remedy}"
        )

    apart = "give this run another metadata.name, or another folder with --artifacts DIR"
    metadata, spec = found.object["metadata"], found.object["spec"]
    mine = raw["metadata"]
    if found.contract != CONTRACT_VERSION:
        raise LocalError(
            f"{state.root}: an old contract version: the run there was started with contract version {found.contract}, "
            f"this release of srr knows {CONTRACT_VERSION}: finish it with the release that started it, or {apart}"
        )
    if (metadata["namespace"], metadata["name"]) != (namespace, mine["name"]):
        here = f"{metadata['namespace']}/{metadata['name']}"
        raise refuse("an artifact folder of another run", here, f"{namespace}/{mine['name']}", apart)
    if mine.get("uid") not in (None, metadata["uid"]):
        raise refuse("an artifact folder of another run (metadata.uid)", metadata["uid"], mine["uid"], apart)
    if spec["artifacts"]["uri"] != raw["spec"]["artifacts"]["uri"]:
        raise refuse(
            "an artifact folder of another run (spec.artifacts.uri)",
            spec["artifacts"]["uri"],
            raw["spec"]["artifacts"]["uri"],
            f"artifacts.uri cannot be changed; {apart}",
        )
    if spec.get("preset") != raw["spec"].get("preset"):
        raise refuse(
            "spec.preset cannot be changed",
            spec.get("preset"),
            raw["spec"].get("preset"),
            f"set the fields themselves, or {apart}",
        )
