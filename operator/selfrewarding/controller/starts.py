"""Starts of kopf, one after the other in one process, until the operator is to stop.

What ends a start begins the next one: a watch error that kopf cannot mend (any ERROR event but 410, an answer cut in the
middle of a line), an optional kind that was installed or removed, a namespace that gave the operator its rights. Loops
end in between, and the inventory is read anew; the Lease is kept. Must not: know what passes do. Neighbours: `rights`
says which namespaces can be served, `handlers` is what kopf is started with, `app` calls.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import kopf

from selfrewarding.cluster.calls import Calls
from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.kinds import CHILDREN, OPTIONAL, POD, RUN, Resource
from selfrewarding.cluster.protocol import ClusterError
from selfrewarding.controller.handlers import PASS_GRACE, build_registry, kopf_settings
from selfrewarding.controller.health import Passes
from selfrewarding.controller.loop import Controller
from selfrewarding.controller.rights import missing_rights
from selfrewarding.controller.wake import Wakes
from selfrewarding.controller.watches import Watches

log = logging.getLogger(__name__)

LOOK_FOR_KINDS = 60.0
"""Seconds between two questions whether an optional kind has come."""
LOOK_FOR_RIGHTS = 15.0
"""Seconds between two questions whether a namespace can be served by now."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0
"""Seconds between a start that failed and the next; doubled each time, up to the second number."""
LONG_ENOUGH = 60.0
"""Seconds after which a start counts as one that worked."""


@dataclass
class Starts:
    """kopf, again and again."""

    calls: Calls
    inventory: Inventory
    wakes: Wakes
    controller: Controller
    passes: Passes
    watches: Watches
    login: Any
    """kopf's login handler."""
    namespaces: Sequence[str] = ()
    """Empty: all."""
    on_signal: Callable[[], None] | None = None
    """What SIGTERM and SIGINT are to do; kopf takes them for itself at each start."""
    look_for_kinds: float = LOOK_FOR_KINDS
    look_for_rights: float = LOOK_FOR_RIGHTS
    missing: frozenset[str] | None = None
    """Kinds that the cluster lacks, as of this start; None before the first one."""
    served: tuple[str, ...] = ()
    """Of `namespaces` those whose rights suffice, as of this start: kopf begins no daemon before it has listed all
    namespaces that it was given, so that one without rights would hinder all others."""

    async def until(self, stop: asyncio.Event) -> None:
        """Start kopf until `stop` is set; then the passes in progress end first. Raises nothing of the API server's."""
        pause = FIRST_PAUSE
        while not stop.is_set():
            found = await self._kinds(stop)
            if found is None:
                return
            if self.namespaces and not self.served:
                await _first(stop.wait(), self._rights_come(found))
                continue
            started = time.monotonic()
            failed = await self._one_start(found, stop)
            self.watches.ended()
            self.passes.clear()
            if not failed or time.monotonic() - started > LONG_ENOUGH:
                pause = FIRST_PAUSE
            if failed and not stop.is_set():
                log.warning("the watches start anew in %.1f s", pause)
                await _sleep(pause, stop)
                pause = min(pause * 2, LONGEST_PAUSE)

    def unlisted(self) -> str | None:
        """What must still be read before passes begin; None if everything is."""
        if self.missing is None:
            return "the kinds of the cluster"
        if self.namespaces and not self.served:
            return f"rights in any of the namespaces {', '.join(self.namespaces)}"
        kinds = [RUN.kind, POD.kind, *(kind for kind in CHILDREN if kind not in self.missing)]
        waiting = [
            kind
            for kind in kinds
            for place in self.served or ("",)
            if not self.watches.has_listed(kind, place)
        ]
        return f"the first list of {', '.join(dict.fromkeys(waiting))}" if waiting else None

    async def _kinds(self, stop: asyncio.Event) -> list[Resource] | None:
        """The kinds of children and pods that the cluster knows; None if stopped before it could be asked."""
        pause = FIRST_PAUSE
        while not stop.is_set():
            try:
                if await self.calls.knows(RUN):
                    self.missing = frozenset(
                        [kind for kind in OPTIONAL if not await self.calls.knows(CHILDREN[kind])]
                    )
                    if self.missing:
                        log.info("the cluster does not know %s (yet)", ", ".join(sorted(self.missing)))
                    for kind in OPTIONAL:
                        note = (
                            self.inventory.kind_missing if kind in self.missing else self.inventory.kind_found
                        )
                        note(kind)
                    kinds = [POD, *(one for kind, one in CHILDREN.items() if kind not in self.missing)]
                    self.served = await self._servable(kinds)
                    return kinds
                log.warning(
                    "the cluster does not know %s: install the CRD (`srr crd | kubectl apply …`)", RUN.kind
                )
            except ClusterError as error:
                log.warning("the API server cannot be asked for its kinds: %s", error)
            await _sleep(pause, stop)
            pause = min(pause * 2, LONGEST_PAUSE)
        return None

    async def _servable(self, kinds: Collection[Resource]) -> tuple[str, ...]:
        """The namespaces whose rights suffice. Raises ClusterError."""
        lacks = await missing_rights(self.calls, self.namespaces, [RUN, *kinds])
        for namespace, said in lacks.items():
            log.error('runs in namespace "%s" are not looked after: %s', namespace, said)
        return tuple(one for one in self.namespaces if one not in lacks)

    async def _rights_come(self, kinds: Collection[Resource]) -> None:
        """Returns when a namespace that is not served can be."""
        closed = [one for one in self.namespaces if one not in self.served]
        while True:
            await asyncio.sleep(self.look_for_rights if closed else LONGEST_PAUSE)
            with contextlib.suppress(ClusterError):
                lacks = await missing_rights(self.calls, closed, [RUN, *kinds])
                if come := sorted(set(closed) - set(lacks)):
                    log.info("the rights in %s suffice now", ", ".join(come))
                    return

    async def _one_start(self, kinds: Collection[Resource], stop: asyncio.Event) -> bool:
        """One start of kopf, until `stop`, a change of the kinds, or a failure; returns whether it failed."""
        end = asyncio.Event()
        # Before kopf: it takes every task that is made after its own start for one of its own.
        helpers = [
            asyncio.create_task(stop.wait(), name="stop"),
            asyncio.create_task(self._kinds_change(), name="kinds"),
            asyncio.create_task(self._rights_come(kinds), name="rights"),
        ]
        running = asyncio.create_task(self._kopf(kinds, end), name="kopf")
        try:
            await asyncio.wait([running, *helpers], return_when=asyncio.FIRST_COMPLETED)
            end.set()
            await running
        except Exception as error:  # noqa: BLE001 - kopf has told it, traceback and all
            log.error("kopf ended: %s", error)  # noqa: TRY400
        else:
            return not any(helper.done() for helper in helpers)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
        return True

    async def _kopf(self, kinds: Collection[Resource], end: asyncio.Event) -> None:
        others = _Others(asyncio.all_tasks())
        tasks = await kopf.spawn_tasks(
            registry=build_registry(
                kinds,
                inventory=self.inventory,
                wakes=self.wakes,
                controller=self.controller,
                login=self.login,
            ),
            settings=kopf_settings(kinds),
            standalone=True,
            clusterwide=not self.namespaces,
            namespaces=list(self.served),
            stop_flag=end,
        )
        if self.on_signal is not None:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.on_signal)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not end.is_set():
            # kopf 1.45 leaves the other watches to themselves when one has failed: they would wait for ever for
            # credentials that nobody renews any more, and the end of this start would take half a minute.
            watchers = [one for one in asyncio.all_tasks() if one.get_name().startswith("watcher for ")]
            for watcher in watchers:
                watcher.cancel()
            if watchers:
                await asyncio.wait(watchers, timeout=PASS_GRACE)
            end.set()
        await kopf.run_tasks(tasks, ignored=others)

    async def _kinds_change(self) -> None:
        """Returns when an optional kind was installed. (One that was removed ends kopf's watch.)"""
        asked = time.monotonic()
        while True:
            await asyncio.sleep(min(1.0, self.look_for_kinds))
            missing = self.missing or frozenset()
            # A pass that needs a kind asks for it too, and more often.
            come = missing - self.inventory.missing_kinds
            if not come and missing and time.monotonic() - asked >= self.look_for_kinds:
                asked = time.monotonic()
                with contextlib.suppress(ClusterError):
                    come = frozenset([kind for kind in missing if await self.calls.knows(CHILDREN[kind])])
            if come:
                log.info("the cluster now knows %s", ", ".join(sorted(come)))
                return


class _Others(set[asyncio.Task[Any]]):
    """Tasks that are not kopf's. It ends all others when it ends, and takes those made after its start for its own."""

    def __contains__(self, task: object) -> bool:
        work = task.get_coro() if isinstance(task, asyncio.Task) else None
        return "RequestHandler" in getattr(work, "__qualname__", "") or super().__contains__(task)


async def _first(*waiting: Coroutine[Any, Any, object]) -> None:
    """Until one of them returns; the others are cancelled."""
    tasks = [asyncio.create_task(one) for one in waiting]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _sleep(seconds: float, stop: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
