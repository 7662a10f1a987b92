"""All of kopf that there is: which kinds are watched, what an event does, and one daemon for each run.

    child or pod changes ─► index: into the inventory, wake its run
    run changes          ─► wake it
    run is there         ─► daemon: its loop, until the run is deleted
    run is being deleted ─► wait for its pass, retire it, let it go

The inventory is fed by kopf *indexes*, which it fills from the first list of every kind before it starts any daemon: no
pass decides while it does not know what exists. Must not: read, decide or write; every handler is `async def`, since
kopf runs plain functions in threads. Neighbours: `loop`, `cluster.inventory`, `app` starts kopf with this.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import kopf

from selfrewarding.api import labels
from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.kinds import RUN, Resource
from selfrewarding.cluster.protocol import RunKey
from selfrewarding.controller.loop import Controller
from selfrewarding.controller.wake import Wakes
from selfrewarding.controller.watches import RENEWED_EVERY

OWNED = f"{labels.MANAGED_BY}={labels.FIELD_MANAGER}"
"""Label selector of everything that we make; the API server applies it."""
PASS_GRACE = 20.0
"""Seconds that a pass in progress gets to end when the operator stops or its run is deleted."""


class _Patiently(Iterable[float]):
    """Seconds between tries of a request of kopf's, without end: the API server may be away for as long as it likes."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1, 2, 4)
        while True:
            yield 8.0


class _NoDiffs(kopf.DiffBaseStorage):
    """Remembers nothing of a run: its loop compares with what is there, so no annotation holds a copy of the spec."""

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:  # noqa: ARG002 - kopf's interface
        """Nothing was stored."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is stored."""


def kopf_settings(kinds: Iterable[Resource]) -> kopf.OperatorSettings:
    """How kopf behaves. `kinds` are those of children and pods."""
    settings = kopf.OperatorSettings()
    prefix = f"kopf.{labels.GROUP}"
    settings.persistence.finalizer = labels.FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=prefix, v1=False)
    settings.persistence.diffbase_storage = _NoDiffs()
    for kind in kinds:
        settings.watching.label_selectors[_place(kind)] = OWNED
    settings.watching.server_timeout = RENEWED_EVERY
    settings.watching.client_timeout = RENEWED_EVERY + 30
    settings.watching.connect_timeout = 10
    settings.watching.reconnect_backoff = 0.2
    settings.watching.chunk_size = 100
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = _Patiently()
    settings.networking.enforce_retry_after = True
    # The kinds of this start are known; what comes later begins a new start (`app`). So no right on CRDs is needed.
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.background.instant_exit_timeout = 2.0
    # A start that failed is followed by another one in the same process.
    settings.process.ultimate_exiting_timeout = None
    return settings


def build_registry(
    kinds: Iterable[Resource],
    *,
    inventory: Inventory,
    wakes: Wakes,
    controller: Controller,
    login: Any,
) -> kopf.OperatorRegistry:
    """The handlers. `kinds` are those of children and pods; `login` is kopf's login handler."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(login)
    _watch_children(registry, kinds, inventory, wakes)
    _watch_runs(registry, controller, wakes)
    return registry


def _watch_children(
    registry: kopf.OperatorRegistry, kinds: Iterable[Resource], inventory: Inventory, wakes: Wakes
) -> None:
    async def seen(body: kopf.Body, **_: Any) -> None:
        key = inventory.put(body)
        if key is not None:
            wakes.wake(key)

    async def event(type: str, body: kopf.Body, **_: Any) -> None:  # noqa: A002 - kopf's name
        key = inventory.remove(body) if type == "DELETED" else None
        if key is not None:
            wakes.wake(key)

    for kind in kinds:
        place = _place(kind)
        kopf.index(*place, id=f"inventory-{kind.plural}", registry=registry)(seen)
        kopf.on.event(*place, id=f"gone-{kind.plural}", registry=registry)(event)


def _watch_runs(registry: kopf.OperatorRegistry, controller: Controller, wakes: Wakes) -> None:
    place = _place(RUN)

    @kopf.on.event(*place, id="run", registry=registry)
    async def event(type: str, namespace: str | None, name: str, **_: Any) -> None:  # noqa: A002 - kopf's name
        key = RunKey(namespace or "", name)
        if type == "DELETED":
            controller.gone(key)
        else:
            controller.open(key)
            wakes.wake(key)

    def first_delay(status: kopf.Status, **_: Any) -> float:
        return controller.first_delay(is_new=not status)

    @kopf.daemon(
        *place,
        id="loop",
        registry=registry,
        initial_delay=first_delay,
        cancellation_backoff=PASS_GRACE,
        cancellation_timeout=2.0,
    )
    async def loop(namespace: str | None, name: str, stopped: kopf.DaemonStopped, **_: Any) -> None:
        await controller.run(RunKey(namespace or "", name), _Stopped(stopped))

    @kopf.on.delete(*place, id="retire", registry=registry)
    async def deleted(namespace: str | None, name: str, **_: Any) -> None:
        await controller.retire(RunKey(namespace or "", name))


def _place(kind: Resource) -> tuple[str, str, str]:
    return kind.group, kind.api_version.rpartition("/")[2], kind.plural


class _Stopped:
    """kopf's stopper as `loop.Stopped`."""

    def __init__(self, stopped: Any) -> None:
        self._stopped = stopped

    def __bool__(self) -> bool:
        return bool(self._stopped)

    async def wait(self) -> object:
        return await self._stopped.wait()
