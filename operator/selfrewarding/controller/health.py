"""Whether this process still does its work, on a port of its own.

`/healthz` fails when it should be started anew: a pass is long overdue, or a watch has not been heard of (kopf can go deaf
without a word, nolar/kopf#1276). A standby that waits for the Lease is healthy. `/readyz` fails while a leader has not
read what exists. An API server that is away makes neither fail: starting anew would not help.

Must not: decide or mend anything. Neighbours: `loop` reports passes, `watches` requests, `app` the state.
"""

import logging
import time
from collections.abc import Callable, Iterable

from aiohttp import web

from selfrewarding.cluster.protocol import RunKey
from selfrewarding.controller.reconcile import NEVER

log = logging.getLogger(__name__)

OVERDUE = 2 * NEVER
"""Seconds that a due pass may be late."""


class Passes:
    """When each run's next pass is due."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: dict[RunKey, float] = {}

    def expect(self, key: RunKey, after: float) -> None:
        """The next pass is due in so many seconds."""
        self._due[key] = self._clock() + after

    def forget(self, key: RunKey) -> None:
        """The run is gone, or its loop has ended."""
        self._due.pop(key, None)

    def clear(self) -> None:
        """All loops have ended."""
        self._due.clear()

    def overdue(self) -> str | None:
        """What is wrong; None if every pass came in time."""
        late = [(self._clock() - due, key) for key, due in self._due.items()]
        longest, key = max(late, default=(0.0, None), key=lambda one: one[0])
        if key is None or longest <= OVERDUE:
            return None
        return f"the pass of {key.namespace}/{key.name} is {longest:.0f} s late"


class Health:
    """The two answers."""

    def __init__(
        self,
        *,
        stage: Callable[[], str],
        alive: Iterable[Callable[[], str | None]],
        ready: Callable[[], str | None],
    ) -> None:
        self._stage = stage
        self._alive = tuple(alive)
        self._ready = ready
        self._runner: web.AppRunner | None = None

    def problems(self) -> list[str]:
        """Why the process should be started anew; empty if it should not."""
        return [problem for check in self._alive if (problem := check()) is not None]

    async def start(self, port: int) -> None:
        """Listen. Raises OSError if the port is taken."""
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(application, access_log=None, keepalive_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "0.0.0.0", port).start()  # noqa: S104 - the kubelet asks from outside

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _healthz(self, _: web.Request) -> web.Response:
        problems = self.problems()
        if problems:
            log.error("not healthy: %s", "; ".join(problems))
        return web.Response(status=500 if problems else 200, text="; ".join(problems) or self._stage())

    async def _readyz(self, _: web.Request) -> web.Response:
        waits = self._ready()
        return web.Response(
            status=503 if waits else 200, text=f"waits for {waits}" if waits else self._stage()
        )
