"""From the inventory's objects of one run to what a pass sees of it.

Pure. Neighbours: `translate` and `translate_pods` read one object each, `kubernetes` adds what must be asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from selfrewarding.api.run import RawObject
from selfrewarding.cluster.complaints import Complaint
from selfrewarding.cluster.inventory import Holdings
from selfrewarding.cluster.translate import child_of, is_owned_by
from selfrewarding.cluster.translate_pods import is_orphan, lost, owner_among, pod_of
from selfrewarding.contract.progress import ProgressLine
from selfrewarding.plan.observed import Child, Phase, Pod

_JOBS = frozenset({"Job", "PyTorchJob"})


@dataclass(frozen=True, kw_only=True)
class OwnPod:
    """A pod of the run with the object that it was read from."""

    raw: RawObject
    pod: Pod
    owner: str | None
    """UID of its child; None if that is gone and was never seen."""


@dataclass(frozen=True, kw_only=True)
class OwnChild:
    """A child of the run with the object that it was read from and its pods."""

    raw: RawObject
    child: Child
    pods: tuple[OwnPod, ...]


@dataclass(frozen=True)
class Family:
    """A run's children and pods, strangers with copied labels left out."""

    children: tuple[OwnChild, ...]
    pods: tuple[OwnPod, ...]


def family_of(holdings: Holdings, run_uid: str, gpu_resource: str, now: datetime) -> Family:
    """What belongs to a run."""
    raws = [raw for raw in holdings.children if is_owned_by(raw, run_uid)]
    owners = [*raws, *(raw for raw in holdings.past if is_owned_by(raw, run_uid))]
    pods = []
    for raw in holdings.pods:
        owner = owner_among(raw, owners)
        pod = pod_of(raw, gpu_resource) if owner is not None or is_orphan(raw) else None
        if pod is not None:
            uid = owner["metadata"]["uid"] if owner is not None else None
            pods.append(OwnPod(raw=raw, pod=_with_lost_node(pod, now), owner=uid))
    children = []
    for raw in raws:
        child = child_of(raw)
        if child is not None:
            own = tuple(one for one in pods if one.owner == child.uid)
            children.append(OwnChild(raw=raw, child=_with_lost_pods(child, own, now), pods=own))
    return Family(tuple(children), tuple(pods))


def complained(
    family: Family, complaints: Mapping[str, Complaint], progress: Mapping[str, ProgressLine]
) -> tuple[tuple[Child, ...], tuple[Pod, ...]]:
    """Children and pods with what was asked for besides."""
    children = []
    for one in family.children:
        found = complaints.get(one.child.uid)
        message = one.child.message or (f"{found.reason}: {found.message}" if found else None)
        children.append(replace(one.child, message=message))
    pods = []
    for own in family.pods:
        pod, found = replace(own.pod, progress=progress.get(own.pod.uid)), complaints.get(own.pod.uid)
        if found is not None:
            pod = replace(pod, waiting_reason=found.reason, waiting_message=found.message)
        pods.append(pod)
    return tuple(children), tuple(pods)


def ended_untold(family: Family) -> set[str]:
    """Jobs that have ended while no pod of theirs is known to have told why, by UID."""
    return {
        one.child.uid
        for one in family.children
        if one.child.kind in _JOBS and one.child.phase in (Phase.SUCCEEDED, Phase.FAILED)
        if not any(pod.pod.termination is not None for pod in one.pods)
    }


def _with_lost_node(pod: Pod, now: datetime) -> Pod:
    return replace(pod, reason="NodeLost") if pod.reason is None and lost([pod], now) is not None else pod


def _with_lost_pods(child: Child, pods: tuple[OwnPod, ...], now: datetime) -> Child:
    """A Job whose pod is on a lost node has failed, whatever its controller still waits for."""
    if child.kind not in _JOBS or child.phase in (Phase.SUCCEEDED, Phase.FAILED):
        return child
    gone = lost((one.pod for one in pods), now)
    if gone is None:
        return child
    return replace(
        child,
        phase=Phase.FAILED,
        message=f'NodeLost: pod "{gone.name}" should have ended a minute ago; its node does not answer.',
    )
