"""From the records of objects and pods to what a reconcile pass sees.

Must not: change anything. Neighbours: `cluster` calls it in `observe`; the Kubernetes adapter reads API objects.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from selfrewarding.api import labels
from selfrewarding.api.run import RawObject
from selfrewarding.contract.progress import ProgressLine, last_progress
from selfrewarding.contract.result import parse_termination
from selfrewarding.local.errors import LocalError
from selfrewarding.local.pod import PodRecord
from selfrewarding.local.run_record import load_record
from selfrewarding.local.state import StateFolder, read_json, run_folders
from selfrewarding.local.workloads import replicas_of
from selfrewarding.plan.observed import Child, Phase, Pod, Rival

TAIL_BYTES = 4096
"""How much of a log's end is read for progress; the Kubernetes adapter asks the API for as much."""


def child(manifest: RawObject, pods: Sequence[PodRecord]) -> Child | None:
    """An object as `decide` sees it; None for one that does not carry our labels."""
    metadata = manifest["metadata"]
    found = metadata.get("labels") or {}
    if labels.KEY not in found:
        return None
    ready = sum(pod.ready and pod.deleting_since is None for pod in pods)
    status = manifest.get("status", {})
    phase = Phase(status["phase"]) if status.get("phase") else Phase.PENDING
    if phase is Phase.PENDING and pods and all(pod.phase is not Phase.PENDING for pod in pods):
        phase = Phase.RUNNING
    return Child(
        kind=manifest["kind"],
        name=metadata["name"],
        uid=metadata["uid"],
        key=found[labels.KEY],
        stage=found.get(labels.STAGE),
        holder=found.get(labels.HOLDER),
        iteration=int(found.get(labels.ITERATION, "0")),
        attempt=int(found.get(labels.ATTEMPT, "1")),
        phase=phase,
        replicas=replicas_of(manifest) if manifest["kind"] == "Deployment" else 0,
        ready_replicas=ready if manifest["kind"] == "Deployment" else 0,
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        message=status.get("message"),
    )


def pod(record: PodRecord) -> Pod:
    """A pod as `decide` sees it, with the end of its log read now."""
    stage = record.labels.get(labels.STAGE)
    return Pod(
        name=record.name,
        uid=record.uid,
        key=record.labels.get(labels.KEY, ""),
        attempt=int(record.labels.get(labels.ATTEMPT, "1")),
        stage=stage,
        holder=record.labels.get(labels.HOLDER),
        index=record.index,
        phase=record.phase,
        scheduled=record.scheduled,
        scheduling_message=record.scheduling_message,
        waiting_reason=record.waiting_reason,
        waiting_message=record.waiting_message,
        ready=record.ready,
        restarts=record.restarts,
        gpus=record.gpus,
        created=record.created,
        started=record.started,
        deleting_since=record.deleting_since,
        exit_code=record.exit_code,
        reason=record.reason,
        termination=parse_termination(record.termination) if record.termination else None,
        progress=progress(Path(record.log)) if stage else None,
    )


def progress(log: Path) -> ProgressLine | None:
    """The last progress line in the end of a log."""
    return last_progress(tail(log, TAIL_BYTES))


def tail(log: Path, size: int) -> str:
    """The last bytes of a log as text, "" if there is none."""
    try:
        with log.open("rb") as file:
            length = file.seek(0, 2)
            file.seek(max(0, length - size))
            return file.read(size).decode(errors="replace")
    except OSError:
        return ""


def rivals(own: StateFolder, artifacts: str) -> tuple[Rival, ...]:
    """Live stages of other runs that run now in the same artifacts folder, on the same artifacts."""
    found: list[Rival] = []
    for other in run_folders(own.artifacts):
        if other.root == own.root or not other.is_locked():
            continue
        try:
            record = load_record(other)
            manifests = [read_json(path) for path in other.objects.glob("*.json")]
        except LocalError:
            continue  # being written or gone by now: the next pass looks again
        if record is None or record.object["spec"]["artifacts"]["uri"] != artifacts:
            continue
        run = "/".join(other.root.parts[-2:])
        for manifest in manifests:
            label = ((manifest or {}).get("metadata", {}).get("labels") or {}).get(labels.ARTIFACT)
            if (
                label
                and manifest["kind"] in ("Job", "PyTorchJob")
                and manifest["status"].get("phase") is None
            ):
                found.append(Rival(run=run, artifact=label))
    return tuple(found)
