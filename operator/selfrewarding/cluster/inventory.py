"""Children and pods of all runs as the watches tell of them: a pass reads them here and asks the API server nothing.

The shell feeds it: `put` for every object that a watch shows, `remove` for every one that is gone. Events may come
twice, late and in any order; what is newer stays, and what is gone stays gone. A watch that had to start again with a
list tells nothing of what vanished in between (kopf 1.45 makes no DELETED of it): `put(…, listed=True)` makes the
adapter ask once for each object that such a list does not show.

Must not: talk to the API server or know what objects mean. Neighbours: `slim` says what is kept of an object,
`translate` what it means, `kubernetes` reads.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from selfrewarding.api import labels
from selfrewarding.api.run import RawObject
from selfrewarding.cluster.kinds import CHILDREN, WORKLOADS
from selfrewarding.cluster.protocol import RunKey
from selfrewarding.cluster.slim import slim
from selfrewarding.manifests.names import run_label

_TOMBSTONES = 4096
"""Gone objects that are remembered, so that a late event does not bring one back."""
_ONE_LISTING = 10.0
"""Seconds without a listed object of a kind after which the next one is of another listing."""
_Place = tuple[str, str]
"""Namespace and label RUN."""


@dataclass(frozen=True)
class Holdings:
    """What the inventory has of one run; slim objects, to be read only."""

    children: tuple[RawObject, ...] = ()
    pods: tuple[RawObject, ...] = ()
    past: tuple[RawObject, ...] = ()
    """Children that are gone while pods of the run are still there."""


@dataclass(slots=True)
class _Entry:
    object: RawObject
    place: _Place
    version: int | None
    confirmed: float
    """When the API server last told of it, by the inventory's clock."""


class Inventory:
    """Slim copies of our objects by UID. Not thread-safe: all calls come from one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._by_run: dict[_Place, dict[str, None]] = {}
        self._shared: dict[str, None] = {}
        """Jobs and PyTorchJobs with the label ARTIFACT."""
        self._past: dict[_Place, dict[str, RawObject]] = {}
        self._gone: OrderedDict[str, int] = OrderedDict()
        """The last version of what is gone. A newer one means that only its labels were gone for a while."""
        self._missing: set[str] = set()
        self._listed: dict[str, float] = {}
        """When the last listing of a kind began."""

    def __len__(self) -> int:
        return len(self._entries)

    # ------------------------------------------------------------------ what the shell tells

    def put(self, raw: Mapping[str, Any], *, listed: bool = False) -> RunKey | None:
        """An object as the API server has it now (whole, with `kind`). Returns the run to look at; None if the object
        is not ours, older than what is known, or has not changed in anything that a pass reads.

        `listed`: it comes from a watch that began (again) with a list; objects of its kind that the list does not show
        are in doubt from now on (`doubt`).
        """
        if listed:
            self._begin_listing(raw["kind"])
        metadata = raw["metadata"]
        uid, place = metadata["uid"], _place(metadata)
        version, known = _version(metadata), self._entries.get(uid)
        if place is None or (uid in self._gone and (version or 0) <= self._gone[uid]):
            return None
        self._gone.pop(uid, None)
        if known is not None:
            known.confirmed = self._clock()
            if version is not None and known.version is not None and version < known.version:
                return None
        kept = slim(raw)
        self._missing.discard(kept["kind"])
        if known is not None and known.object == kept:
            known.version = version
            return None
        self._entries[uid] = _Entry(kept, place, version, self._clock())
        self._by_run.setdefault(place, {})[uid] = None
        if kept["kind"] in WORKLOADS and labels.ARTIFACT in _labels(metadata):
            self._shared[uid] = None
        return self._run_at(place, kept)

    def remove(self, raw: Mapping[str, Any]) -> RunKey | None:
        """An object that is gone. Returns the run to look at; None if it was not known."""
        return self.discard(raw["metadata"]["uid"], _version(raw["metadata"]))

    def discard(self, uid: str, version: int | None = None) -> RunKey | None:
        """As `remove`, by UID."""
        entry = self._entries.pop(uid, None)
        self._gone[uid] = max(version or 0, (entry.version if entry else None) or 0, self._gone.pop(uid, 0))
        if len(self._gone) > _TOMBSTONES:
            self._gone.popitem(last=False)
        if entry is None:
            return None
        place = entry.place
        if entry.object["kind"] in WORKLOADS:
            self._past.setdefault(place, {})[uid] = entry.object
        self._shared.pop(uid, None)
        members = self._by_run[place]
        del members[uid]
        if not members:
            del self._by_run[place]
        run = self._run_at(place, entry.object)
        if not any(self._entries[one].object["kind"] == "Pod" for one in self._by_run.get(place, ())):
            self._past.pop(place, None)
        return run

    def doubt(self, kind: str) -> None:
        """A watch began anew: objects of this kind may have gone unseen. The next pass of each run asks for its own."""
        for entry in self._entries.values():
            if entry.object["kind"] == kind:
                entry.confirmed = float("-inf")

    def doubt_one(self, uid: str) -> None:
        """This object may be gone: the next pass of its run asks for it."""
        if uid in self._entries:
            self._entries[uid].confirmed = float("-inf")

    def _begin_listing(self, kind: str) -> None:
        now, before = self._clock(), self._listed.get(kind, float("-inf"))
        self._listed[kind] = now
        if now > before + _ONE_LISTING:
            self.doubt(kind)

    def kind_missing(self, kind: str) -> None:
        """The cluster does not know this kind."""
        self._missing.add(kind)

    def kind_found(self, kind: str) -> None:
        """The cluster knows this kind (again)."""
        self._missing.discard(kind)

    # ------------------------------------------------------------------ what passes read

    @property
    def missing_kinds(self) -> frozenset[str]:
        """Kinds that the cluster does not know."""
        return frozenset(self._missing)

    def of(self, key: RunKey) -> Holdings:
        """Everything that carries the run's label in its namespace; whose it is, `translate` finds out."""
        place = (key.namespace, run_label(key.name))
        objects = [self._entries[uid].object for uid in self._by_run.get(place, ())]
        return Holdings(
            children=tuple(one for one in objects if one["kind"] in CHILDREN),
            pods=tuple(one for one in objects if one["kind"] == "Pod"),
            past=tuple(self._past.get(place, {}).values()),
        )

    def shared(self) -> tuple[RawObject, ...]:
        """Jobs and PyTorchJobs of all runs that carry the label ARTIFACT."""
        return tuple(self._entries[uid].object for uid in self._shared)

    def find(self, kind: str, key: RunKey, name: str) -> RawObject | None:
        """A child of the run by name."""
        return next(
            (one for one in self.of(key).children if one["kind"] == kind and one["metadata"]["name"] == name),
            None,
        )

    def unheard(self, uid: str) -> float:
        """Seconds since the API server last told of an object; infinite for one in doubt, or unknown."""
        entry = self._entries.get(uid)
        return self._clock() - entry.confirmed if entry is not None else float("inf")

    def _run_at(self, place: _Place, kept: RawObject) -> RunKey:
        """The run that an object belongs to. A long name is cut in the label: children tell it in full."""
        for uid in (kept["metadata"]["uid"], *self._by_run.get(place, ())):
            found = kept if uid == kept["metadata"]["uid"] else self._entries[uid].object
            for owner in found["metadata"].get("ownerReferences", ()):
                if owner.get("kind") == labels.KIND and run_label(owner["name"]) == place[1]:
                    return RunKey(place[0], owner["name"])
        return RunKey(*place)


def _labels(metadata: Mapping[str, Any]) -> Mapping[str, str]:
    return metadata.get("labels") or {}


def _place(metadata: Mapping[str, Any]) -> _Place | None:
    run = _labels(metadata).get(labels.RUN)
    return (metadata.get("namespace") or "default", run) if run else None


def _version(metadata: Mapping[str, Any]) -> int | None:
    """resourceVersion as a number: comparable within a kind since Kubernetes 1.35, and in etcd's counting before."""
    text = str(metadata.get("resourceVersion") or "")
    return int(text) if text.isascii() and text.isdigit() else None
