"""What was ever created, changed and deleted, as watches of the API server itself told it.

Purpose: "created once" is counted here, not at the operator's mouth. Must not: change anything in the cluster.
Neighbours: `player` runs it beside its other parts; tests and benchmarks ask it.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.cluster.faults.api_client import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    JOBS,
    NETWORK_POLICIES,
    PODS,
    PYTORCH_JOBS,
    RUNS,
    SERVICES,
    Api,
    Kind,
    Raw,
)

from selfrewarding.api import labels

MANAGED = f"{labels.MANAGED_BY}={labels.FIELD_MANAGER}"
CHILDREN = (CONFIG_MAPS, SERVICES, NETWORK_POLICIES, DEPLOYMENTS, JOBS, PYTORCH_JOBS)


@dataclass(frozen=True)
class Change:
    """One event of a watch."""

    at: float
    """Seconds of the monotonic clock."""
    kind: str
    """Plural, e.g. jobs."""
    type: str
    """ADDED, MODIFIED or DELETED."""
    object: Raw

    @property
    def namespace(self) -> str:
        """Namespace of the object."""
        return str(self.object["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """Name of the object."""
        return str(self.object["metadata"]["name"])

    @property
    def uid(self) -> str:
        """UID of the object."""
        return str(self.object["metadata"]["uid"])

    def label(self, name: str) -> str | None:
        """A label of the object."""
        value = self.object["metadata"].get("labels", {}).get(name)
        return None if value is None else str(value)


Listener = Callable[[Change], None]


@dataclass
class Census:
    """All changes, the objects as they are now, and listeners that hear of each change in order."""

    changes: list[Change] = field(default_factory=list)
    present: dict[str, dict[str, Raw]] = field(default_factory=lambda: defaultdict(dict))
    """Objects by plural and UID."""
    listeners: list[Listener] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    """The watches."""
    keep_bodies: bool = True
    """False: old bodies are dropped, for long measurements with many runs."""
    _by_namespace: dict[str, list[Change]] = field(default_factory=lambda: defaultdict(list))
    _there: dict[str, dict[str, tuple[str, Raw]]] = field(default_factory=lambda: defaultdict(dict))
    """Kinds and objects that are there now, by namespace and UID."""

    async def follow(self, api: Api, kind: Kind, *, listed: asyncio.Event) -> None:
        """Watch a kind until cancelled."""
        selector = None if kind is RUNS else MANAGED
        async for type_, body in api.watch(kind, selector=selector, listed=listed):
            uid = body["metadata"]["uid"]
            known = self.present[kind.plural].get(uid)
            version = body["metadata"]["resourceVersion"]
            if type_ == "ADDED" and known is not None and known["metadata"]["resourceVersion"] == version:
                continue  # listed again
            change = Change(time.monotonic(), kind.plural, type_ if known is None else _again(type_), body)
            there = self._there[change.namespace]
            if type_ == "DELETED":
                self.present[kind.plural].pop(uid, None)
                there.pop(uid, None)
            else:
                self.present[kind.plural][uid] = body
                there[uid] = (kind.plural, body)
            if self.keep_bodies:
                self.changes.append(change)
                self._by_namespace[change.namespace].append(change)
            for listener in self.listeners:
                listener(change)

    def start(self, api: Api, group: asyncio.TaskGroup) -> list[asyncio.Event]:
        """Watch all kinds; the events are set when each has been listed."""
        listed = []
        for kind in (*CHILDREN, PODS, RUNS):
            listed.append(asyncio.Event())
            self.tasks.append(group.create_task(self.follow(api, kind, listed=listed[-1])))
        return listed

    def of(self, namespace: str, kinds: Iterable[Kind] = CHILDREN) -> list[Change]:
        """Changes of these kinds in a namespace."""
        plurals = {kind.plural for kind in kinds}
        return [one for one in self._by_namespace.get(namespace, ()) if one.kind in plurals]

    def creations(self, namespace: str) -> dict[tuple[str, str], set[str]]:
        """UIDs that ever stood behind a child's name, by kind and name: more than one means created twice."""
        found: dict[tuple[str, str], set[str]] = defaultdict(set)
        for change in self.of(namespace):
            found[change.kind, change.name].add(change.uid)
        return dict(found)

    def roles(self, namespace: str) -> list[tuple[str, ...]]:
        """What every child that was ever created is for, without names and UIDs: kind, stage or pool, iteration, attempt.

        Equal for two runs that did the same; sorted, with repetitions.
        """
        seen: dict[str, tuple[str, ...]] = {}
        for change in self.of(namespace):
            pool = (change.label(labels.HOLDER) or "").rpartition("-")[2]
            what = change.label(labels.STAGE) or pool
            iteration, attempt = change.label(labels.ITERATION) or "", change.label(labels.ATTEMPT) or ""
            seen[change.uid] = (change.kind, what, iteration, attempt)
        return sorted(seen.values())

    def there(self, namespace: str) -> list[tuple[str, Raw]]:
        """Kinds (plural) and objects of a namespace that are there now."""
        return list(self._there.get(namespace, {}).values())

    def left(self, namespace: str) -> list[str]:
        """Children and pods that are there now."""
        return [
            f"{kind} {one['metadata']['name']}" for kind, one in self.there(namespace) if kind != RUNS.plural
        ]

    def run(self, namespace: str, name: str) -> Raw | None:
        """A run as its watch showed it last."""
        found = (one for kind, one in self.there(namespace) if kind == RUNS.plural)
        return next((one for one in found if one["metadata"]["name"] == name), None)

    def history(self, namespace: str) -> list[str]:
        """One line for each change in a namespace, in order: what to read when a run went another way."""
        changes = self._by_namespace.get(namespace, [])
        return [f"{change.at - changes[0].at:7.2f} s  {_told(change)}" for change in changes]

    def statuses(self, namespace: str) -> list[Raw]:
        """Every version of the runs in a namespace that the API server showed, in order."""
        return [change.object for change in self.of(namespace, (RUNS,)) if change.type != "DELETED"]


def _told(change: Change) -> str:
    status = change.object.get("status", {})
    what = f"{change.type:<8} {change.kind} {change.name} @{change.object['metadata']['resourceVersion']}"
    if change.kind == RUNS.plural:
        known = [f"{one['stage']}-{one['iteration']}" for one in status.get("results", {}).values()]
        reasons = [
            f"{one['type']}={one['status']} ({one.get('reason')})" for one in status.get("conditions", ())
        ]
        return f"{what} known {known} attempts {status.get('attempts')} {reasons}"
    phase = status.get("phase") or [
        one["type"] for one in status.get("conditions", ()) if one["status"] == "True"
    ]
    deleting = " deleting" if change.object["metadata"].get("deletionTimestamp") else ""
    return f"{what} {phase}{deleting}"


def _again(type_: str) -> str:
    """An object that is listed again after a lost watch is no new one."""
    return "MODIFIED" if type_ == "ADDED" else type_
