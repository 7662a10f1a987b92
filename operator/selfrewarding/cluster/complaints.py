"""Why a child has no pods, or a pod does not start, where only events tell: a quota, an admission policy, a missing
volume.

A Job's and a PyTorchJob's controllers post an event when they may not make a pod, and write no condition; a kubelet
posts one when a Secret or a claim that a volume needs is not there. Must not: judge what is found. Neighbours:
`readings` says when events are read, `translate` has what the objects tell themselves.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from selfrewarding.api.run import RawObject
from selfrewarding.cluster.calls import Call, Calls
from selfrewarding.cluster.kinds import EVENT
from selfrewarding.cluster.protocol import RunKey
from selfrewarding.cluster.readings import Readings, Wanted
from selfrewarding.cluster.translate import wanted_pods
from selfrewarding.plan.observed import Child, Phase, Pod

PATIENCE = timedelta(seconds=8)
"""So long a child may take to have its pods, and a pod on its node to start, before anybody is asked why."""


@dataclass(frozen=True)
class Complaint:
    """What the newest Warning event about an object says."""

    reason: str
    message: str


class ComplaintReader:
    """The newest warning about each of a run's children and pods that do not come on."""

    def __init__(self, calls: Calls, readings: Readings[Complaint]) -> None:
        self._calls = calls
        self._readings = readings

    async def look(self, key: RunKey, uids: Iterable[str]) -> dict[str, Complaint]:
        """Complaints by UID of the object that they are about."""
        wanted = {uid: Wanted(read=partial(self._newest, key.namespace, uid)) for uid in uids}
        return await self._readings.look(key, wanted)

    async def _newest(self, namespace: str, uid: str) -> Complaint | None:
        found = await self._calls.ask(
            Call(
                verb="list",
                resource=EVENT,
                namespace=namespace,
                query={"fieldSelector": f"involvedObject.uid={uid},type=Warning"},
            )
        )
        events = [one for one in found.get("items") or () if one.get("reason") and one.get("message")]
        if not events:
            return None
        newest = max(events, key=_when)
        return Complaint(newest["reason"], " ".join(str(newest["message"]).split()))


def lacks_pods(raw: RawObject, child: Child, pods: Iterable[Pod], now: datetime) -> bool:
    """Whether a Job or PyTorchJob should have more pods by now. A Deployment says in a condition why it has not."""
    if child.kind not in ("Job", "PyTorchJob") or child.deleting or now < child.created + PATIENCE:
        return False
    # Also of a job that runs: of a training job's pods one may run and wait for another that a quota refuses.
    return child.phase not in (Phase.SUCCEEDED, Phase.FAILED) and sum(1 for _ in pods) < wanted_pods(raw)


def does_not_start(pod: Pod, now: datetime) -> bool:
    """Whether a pod has a node and does not come to run, for a reason that its own status does not tell."""
    waits = pod.phase is Phase.PENDING and pod.scheduled and pod.waiting_reason is None
    return waits and pod.deleting_since is None and now >= pod.created + PATIENCE


def _when(event: Mapping[str, Any]) -> str:
    """When an event was last seen; RFC 3339 in UTC sorts as text."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return max((str(time) for time in times if time), default="")
