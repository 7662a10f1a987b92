"""Events about a run, for people: counted, not repeated, and never a flood.

One event object per run, type, reason and message; when the same is told again its count goes up. Its name follows from
these, so an operator that was started again goes on counting. As client-go's recorder does, a run may tell the same again
25 times at once and then once in five minutes. What is new, as each stage of a run in which all goes well, has an allowance
of its own, which such a run does not use up. Must not: raise anything but ClusterError. Neighbour: `kubernetes` calls it.
"""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from selfrewarding.api import labels
from selfrewarding.api.run import RawObject, SelfRewardingRun
from selfrewarding.cluster.calls import Call, Calls
from selfrewarding.cluster.kinds import EVENT
from selfrewarding.cluster.protocol import Conflict, NotFound
from selfrewarding.plan.actions import Event

log = logging.getLogger(__name__)

BURST = 25
REFILL = 300.0
"""Of events that were told before: so many at once, and seconds until a run may post one more."""
NEW_BURST = 150
NEW_REFILL = 60.0
"""Of new ones. An iteration has seventeen, one with eight candidates 43; the quickest run takes minutes for each."""
_REMEMBERED = 4096
"""Events and runs that are remembered; the longest unused are forgotten first."""
_MAX_MESSAGE = 1024
"""Characters; the limit of events.k8s.io."""
_MERGE_PATCH = "application/merge-patch+json"


@dataclass(slots=True)
class _Allowance:
    left: float
    since: float


class EventPoster:
    """Posts events of all runs. `clock` is the wall clock."""

    def __init__(self, calls: Calls, clock: Callable[[], datetime], *, instance: str = "") -> None:
        self._calls = calls
        self._clock = clock
        self._instance = instance or labels.FIELD_MANAGER
        self._counts: OrderedDict[str, int] = OrderedDict()
        self._allowances: OrderedDict[str, _Allowance] = OrderedDict()

    async def post(self, run: SelfRewardingRun, event: Event) -> None:
        """Post one event, or count it once more. Raises ClusterError."""
        name = _name(run, event)
        place = f"{run.metadata.namespace}/{name}"
        count = self._counts.get(place)
        if not self._may_post(run.metadata.uid or "", new=count is None):
            log.info("%s: too many events, left out: %s: %s", run.metadata.name, event.reason, event.message)
            return
        count = await (
            self._create(run, event, name) if count is None else self._count(run, event, name, count + 1)
        )
        self._counts[place] = count
        _shorten(self._counts, place)

    def _may_post(self, uid: str, *, new: bool) -> bool:
        now, of = self._clock().timestamp(), f"{uid} {'new' if new else 'again'}"
        burst, refill = (NEW_BURST, NEW_REFILL) if new else (BURST, REFILL)
        allowance = self._allowances.setdefault(of, _Allowance(burst, now))
        _shorten(self._allowances, of)
        allowance.left = min(burst, allowance.left + max(0.0, now - allowance.since) / refill)
        allowance.since = now
        if allowance.left < 1:
            return False
        allowance.left -= 1
        return True

    async def _create(self, run: SelfRewardingRun, event: Event, name: str) -> int:
        namespace = run.metadata.namespace or "default"
        body = self._object(run, event, name)
        try:
            await self._calls.ask(Call(verb="create", resource=EVENT, namespace=namespace, body=body))
        except Conflict:
            there = await self._calls.ask(Call(verb="get", resource=EVENT, namespace=namespace, name=name))
            return await self._count(run, event, name, (there.get("count") or 1) + 1)
        return 1

    async def _count(self, run: SelfRewardingRun, event: Event, name: str, count: int) -> int:
        namespace = run.metadata.namespace or "default"
        try:
            await self._calls.ask(
                Call(
                    verb="patch",
                    resource=EVENT,
                    namespace=namespace,
                    name=name,
                    body={"count": count, "lastTimestamp": _stamp(self._clock())},
                    content_type=_MERGE_PATCH,
                )
            )
        except NotFound:  # events live for an hour
            return await self._create(run, event, name)
        return count

    def _object(self, run: SelfRewardingRun, event: Event, name: str) -> RawObject:
        now = _stamp(self._clock())
        about: dict[str, Any] = {
            "apiVersion": labels.API_VERSION,
            "kind": labels.KIND,
            "name": run.metadata.name,
            "namespace": run.metadata.namespace,
            "uid": run.metadata.uid,
            "resourceVersion": run.metadata.resource_version,
        }
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"name": name, "namespace": run.metadata.namespace},
            "involvedObject": {field: value for field, value in about.items() if value},
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:_MAX_MESSAGE],
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": labels.FIELD_MANAGER},
            "reportingComponent": labels.FIELD_MANAGER,
            "reportingInstance": self._instance,
        }


def _name(run: SelfRewardingRun, event: Event) -> str:
    parts = (run.metadata.uid or "", event.type, event.reason, event.message)
    digest = hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]
    return f"{run.metadata.name[:200].rstrip('-.')}.{digest}"


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _shorten(memory: "OrderedDict[str, Any]", used: str) -> None:
    memory.move_to_end(used)
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)
