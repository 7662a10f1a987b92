"""Children as the API server shows them, as the planner sees them.

Pure; reads slim objects and whole ones alike, and takes every field but name, UID and creation time as optional.
Must not: decide anything. Neighbours: `translate_pods` has the other half, `inventory` the objects.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from selfrewarding.api import labels
from selfrewarding.api.run import RawObject
from selfrewarding.cluster.kinds import CHILDREN
from selfrewarding.plan.observed import Child, Phase, Rival

Conditions = Mapping[str, Mapping[str, Any]]
"""Conditions that are True or False, by type."""


def is_owned_by(raw: Mapping[str, Any], uid: str) -> bool:
    """Whether an object belongs to the run of this UID: by an owner reference (labels can be copied, an owner's UID
    means this very owner); a Job without any owner by its label RUN_UID."""
    owners = raw["metadata"].get("ownerReferences") or ()
    if not owners and raw.get("kind") == "Job":
        return (raw["metadata"].get("labels") or {}).get(labels.RUN_UID) == uid
    return any(one.get("uid") == uid for one in owners)


def child_of(raw: RawObject, *, message: str | None = None) -> Child | None:
    """A child; None for an object whose labels are not those that we give. `message`: what else is known of why it
    has no pods, for one that has not ended."""
    metadata, kind = raw["metadata"], raw["kind"]
    marks = metadata.get("labels") or {}
    key, attempt = marks.get(labels.KEY), number(marks.get(labels.ATTEMPT))
    if kind not in CHILDREN or key is None or attempt is None:
        return None
    status = raw.get("status") or {}
    phase, reason = _phase(kind, status)
    of_deployment = kind == "Deployment"
    return Child(
        kind=kind,
        name=metadata["name"],
        uid=metadata["uid"],
        key=key,
        stage=marks.get(labels.STAGE),
        holder=marks.get(labels.HOLDER),
        iteration=number(marks.get(labels.ITERATION)) or 0,
        attempt=attempt,
        phase=phase,
        deleting=metadata.get("deletionTimestamp") is not None,
        replicas=_replicas(raw) if of_deployment else 0,
        ready_replicas=status.get("readyReplicas") or 0 if of_deployment else 0,
        created=moment(metadata["creationTimestamp"]),
        message=reason or message,
    )


def wanted_pods(raw: RawObject) -> int:
    """How many pods a workload asks its controller for."""
    spec = raw.get("spec") or {}
    match raw["kind"]:
        case "Deployment":
            return _replicas(raw)
        case "Job":
            return _count(spec.get("parallelism"), 1)
        case "PyTorchJob":
            types = spec.get("pytorchReplicaSpecs") or {}
            return sum(_count(one.get("replicas"), 1) for one in types.values())
        case _:
            return 0


def rivals_of(objects: Iterable[RawObject], run_uid: str) -> tuple[Rival, ...]:
    """Children of other runs that are under way, out of all that make an artifact."""
    found = []
    for raw in objects:
        owner = _run_owner(raw)
        if owner is None or owner.get("uid") == run_uid or raw["metadata"].get("deletionTimestamp"):
            continue
        phase, _ = _phase(raw["kind"], raw.get("status") or {})
        if phase in (Phase.SUCCEEDED, Phase.FAILED):
            continue
        namespace = raw["metadata"].get("namespace") or "default"
        artifact = raw["metadata"]["labels"][labels.ARTIFACT]
        found.append(Rival(run=f"{namespace}/{owner['name']}", artifact=artifact))
    return tuple(found)


def conditions_of(status: Mapping[str, Any]) -> Conditions:
    """The conditions of a status by type."""
    return {one["type"]: one for one in status.get("conditions") or () if one.get("type")}


def holds(conditions: Conditions, kind: str) -> bool:
    """Whether a condition is there and True."""
    return conditions.get(kind, {}).get("status") == "True"


def moment(text: str) -> datetime:
    """A time of the API (RFC 3339)."""
    return datetime.fromisoformat(text)


def number(text: object) -> int | None:
    """A number that a label or annotation holds; None for anything else."""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() else None


def _phase(kind: str, status: Mapping[str, Any]) -> tuple[Phase, str | None]:
    """The phase, and what the API says of why it failed or does not come to run."""
    conditions = conditions_of(status)
    match kind:
        case "Job":
            return _job_phase(status, conditions)
        case "PyTorchJob":
            return _pytorch_phase(conditions)
        case "Deployment":
            return _deployment_phase(status, conditions)
        case _:
            return Phase.PENDING, None


def _job_phase(status: Mapping[str, Any], conditions: Conditions) -> tuple[Phase, str | None]:
    # FailureTarget and SuccessCriteriaMet are final too; Failed and Complete follow once every pod has ended
    # (Kubernetes 1.31 and later), which a pod on a lost node never does.
    for failed in ("Failed", "FailureTarget"):
        if holds(conditions, failed):
            return Phase.FAILED, _said(conditions[failed])
    if holds(conditions, "Complete") or holds(conditions, "SuccessCriteriaMet"):
        return Phase.SUCCEEDED, None
    return (Phase.RUNNING if status.get("ready") else Phase.PENDING), None


def _pytorch_phase(conditions: Conditions) -> tuple[Phase, str | None]:
    if holds(conditions, "Failed"):
        return Phase.FAILED, _said(conditions["Failed"])
    if holds(conditions, "Succeeded"):
        return Phase.SUCCEEDED, None
    return (Phase.RUNNING if holds(conditions, "Running") else Phase.PENDING), None


def _deployment_phase(status: Mapping[str, Any], conditions: Conditions) -> tuple[Phase, str | None]:
    phase = Phase.RUNNING if status.get("readyReplicas") else Phase.PENDING
    if holds(conditions, "ReplicaFailure"):
        return phase, _said(conditions["ReplicaFailure"])
    progressing = conditions.get("Progressing", {})
    late = progressing.get("status") == "False" and progressing.get("reason") == "ProgressDeadlineExceeded"
    return phase, _said(progressing) if late else None


def _said(condition: Mapping[str, Any]) -> str | None:
    parts = [str(part) for name in ("reason", "message") if (part := condition.get(name))]
    return ": ".join(parts) or None


def _replicas(raw: RawObject) -> int:
    return _count((raw.get("spec") or {}).get("replicas"), 1)


def _count(value: object, default: int) -> int:
    return value if isinstance(value, int) else default


def _run_owner(raw: RawObject) -> Mapping[str, Any] | None:
    owners = raw["metadata"].get("ownerReferences") or ()
    return next((one for one in owners if one.get("kind") == labels.KIND and one.get("name")), None)
