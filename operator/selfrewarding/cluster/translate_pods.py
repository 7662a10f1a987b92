"""Pods as the API server shows them, as the planner sees them.

A pod is ours if the controller that it names is one of our children. A Deployment's pods name a ReplicaSet, which
nobody watches: its name must be the Deployment's with the pod's own template hash behind it. A pod of a child that is
gone already (deleted before this operator started, say) is taken only while it is being deleted: it may still hold
a GPU, but is believed nothing.

Pure, like `translate`, which has the children.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from selfrewarding.api import labels
from selfrewarding.api.run import RawObject
from selfrewarding.cluster.translate import Conditions, conditions_of, holds, moment, number
from selfrewarding.contract.result import TerminationMessage, parse_termination
from selfrewarding.manifests import batch, inference, training
from selfrewarding.plan.observed import Phase, Pod
from selfrewarding.plan.view import GONE_AFTER

PROGRAMS = (batch.CONTAINER, training.CONTAINER, inference.CONTAINER)
"""Containers that a pod is there for; others beside them (a service mesh's, a user's) say nothing of the stage."""
_JUST_STARTING = frozenset({"PodInitializing", "ContainerCreating"})
_HASH = "pod-template-hash"
_INDEX = "batch.kubernetes.io/job-completion-index"
_REPLICA_INDEX = "training.kubeflow.org/replica-index"

_Status = Mapping[str, Any]


def program_of(pod: RawObject) -> str | None:
    """Name of the container that a pod is there for."""
    names = {one.get("name") for one in (pod.get("spec") or {}).get("containers") or ()}
    return next((name for name in PROGRAMS if name in names), None)


def owner_among(pod: RawObject, children: Iterable[RawObject]) -> RawObject | None:
    """The child that a pod belongs to."""
    controller = _controller(pod)
    if controller is None:
        return None
    marks = pod["metadata"].get("labels") or {}
    for child in children:
        metadata = child["metadata"]
        if child["kind"] == "Deployment":
            replica_set = f"{metadata['name']}-{marks.get(_HASH)}"
            alike = all(
                marks.get(name) == (metadata.get("labels") or {}).get(name)
                for name in (labels.HOLDER, labels.ATTEMPT)
            )
            if controller.get("kind") == "ReplicaSet" and controller.get("name") == replica_set and alike:
                return child
        elif controller.get("uid") == metadata["uid"]:
            return child
    return None


def is_orphan(pod: RawObject) -> bool:
    """Whether a pod without a known child may be one of ours on its way out."""
    return pod["metadata"].get("deletionTimestamp") is not None and _controller(pod) is not None


def pod_of(raw: RawObject, gpu_resource: str) -> Pod | None:
    """A pod, without progress; None for one whose labels are not those that we give."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    marks = metadata.get("labels") or {}
    key, attempt = marks.get(labels.KEY), number(marks.get(labels.ATTEMPT))
    if key is None or attempt is None:
        return None
    conditions = conditions_of(status)
    scheduled = conditions.get("PodScheduled", {})
    mains, inits = _statuses(status, "containerStatuses"), _statuses(status, "initContainerStatuses")
    told, waiting = _telling(mains, inits), _waiting([*inits.values(), *mains.values()])
    ended = _terminated(told)
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        key=key,
        attempt=attempt,
        stage=marks.get(labels.STAGE),
        holder=marks.get(labels.HOLDER),
        index=_index(metadata),
        phase=_phase(status.get("phase")),
        scheduled=scheduled.get("status") == "True" or bool(spec.get("nodeName")),
        scheduling_message=scheduled.get("message") if scheduled.get("status") == "False" else None,
        waiting_reason=waiting.get("reason"),
        waiting_message=waiting.get("message"),
        ready=holds(conditions, "Ready"),
        restarts=sum(one.get("restartCount") or 0 for one in _programs(mains, inits)),
        gpus=_gpus(spec, gpu_resource),
        created=moment(metadata["creationTimestamp"]),
        started=_moment(status.get("startTime")),
        deleting_since=_moment(metadata.get("deletionTimestamp")),
        exit_code=ended.get("exitCode"),
        reason=_reason(status, conditions, ended),
        termination=_termination(ended),
    )


def lost(pods: Iterable[Pod], now: datetime) -> Pod | None:
    """A pod that should have ended a minute ago: its node is gone, and its Job waits for it for ever (a Job with
    `podReplacementPolicy: Failed` and a PyTorchJob both count pods that have ended, not pods that should have)."""
    return next(
        (
            pod
            for pod in pods
            if pod.phase not in (Phase.SUCCEEDED, Phase.FAILED)
            and pod.deleting_since is not None
            and now >= pod.deleting_since + GONE_AFTER
        ),
        None,
    )


# ---------------------------------------------------------------------- containers


def _telling(mains: Mapping[str, _Status], inits: Mapping[str, _Status]) -> _Status:
    """The container whose end tells how the pod fares: the program, or what fetches its model while that goes on."""
    program: _Status = next((mains[name] for name in PROGRAMS if name in mains), {})
    fetch = inits.get(inference.FETCH)
    if fetch is None or _has_run(program):
        return program
    return fetch


def _programs(mains: Mapping[str, _Status], inits: Mapping[str, _Status]) -> list[_Status]:
    fetch = [inits[inference.FETCH]] if inference.FETCH in inits else []
    return fetch + [mains[name] for name in PROGRAMS if name in mains]


def _has_run(container: _Status) -> bool:
    state = container.get("state") or {}
    return "running" in state or bool(_terminated(container)) or (container.get("restartCount") or 0) > 0


def _terminated(container: _Status) -> _Status:
    """How a container ended, or, if it was started again, how it ended the last time."""
    for field in ("state", "lastState"):
        found = (container.get(field) or {}).get("terminated")
        if found:
            return _mapping(found)
    return {}


def _waiting(containers: Iterable[_Status]) -> _Status:
    """Why a container waits, where that is not the usual way to start."""
    states = [_mapping((one.get("state") or {}).get("waiting")) for one in containers]
    return next((one for one in states if one.get("reason") and one["reason"] not in _JUST_STARTING), {})


def _termination(ended: _Status) -> TerminationMessage | None:
    text = ended.get("message")
    return parse_termination(text) if isinstance(text, str) and text.startswith("{") else None


def _reason(status: _Status, conditions: Conditions, ended: _Status) -> str | None:
    """The most telling reason: the pod's own, too little memory, who disrupted it, how the container ended."""
    if status.get("reason"):
        return str(status["reason"])
    if ended.get("reason") == "OOMKilled":
        return "OOMKilled"
    if holds(conditions, "DisruptionTarget"):
        return str(conditions["DisruptionTarget"].get("reason") or "DisruptionTarget")
    return ended.get("reason")


def _statuses(status: _Status, field: str) -> dict[str, _Status]:
    return {one["name"]: one for one in status.get(field) or () if one.get("name")}


# ---------------------------------------------------------------------- the pod


def _controller(pod: RawObject) -> Mapping[str, Any] | None:
    owners = pod["metadata"].get("ownerReferences") or ()
    return next((one for one in owners if one.get("controller")), None)


def _phase(text: object) -> Phase:
    """`Unknown` (its node does not answer) counts as running: it may still compute."""
    return (
        Phase.RUNNING
        if text == "Unknown"
        else Phase(text)
        if isinstance(text, str) and text in set(Phase)
        else Phase.PENDING
    )


def _index(metadata: Mapping[str, Any]) -> int:
    marks, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
    return number(notes.get(_INDEX)) or number(marks.get(_INDEX)) or number(marks.get(_REPLICA_INDEX)) or 0


def _gpus(spec: Mapping[str, Any], resource: str) -> int:
    """GPUs that the pod holds: init containers run before the others, so the larger of the two counts."""
    mains = [_devices(one, resource) for one in spec.get("containers") or ()]
    inits = [_devices(one, resource) for one in spec.get("initContainers") or ()]
    return max(sum(mains), max(inits, default=0))


def _devices(container: Mapping[str, Any], resource: str) -> int:
    resources = container.get("resources") or {}
    for field in ("requests", "limits"):
        wanted = (resources.get(field) or {}).get(resource)
        if wanted is not None:
            return number(str(wanted)) or 0
    return 0


def _moment(text: object) -> datetime | None:
    return moment(text) if isinstance(text, str) else None


def _mapping(value: object) -> _Status:
    return value if isinstance(value, Mapping) else {}
