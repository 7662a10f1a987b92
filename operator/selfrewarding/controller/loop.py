"""The loop of one run: pass, wait until woken or due, pass again, for as long as the run is there.

Passes of one run never overlap, those of all runs together are limited. Must not: know kopf (its daemons call `run`) or
what a pass does (`reconcile` and `retire` do). Neighbours: `wake`, `health`, `metrics`, `handlers`.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Protocol

from structlog.contextvars import bound_contextvars

from selfrewarding.cluster.protocol import RunKey
from selfrewarding.controller.health import Passes
from selfrewarding.controller.metrics import Metrics
from selfrewarding.controller.reconcile import LONGEST_BACKOFF, NEVER, FailedPasses
from selfrewarding.controller.wake import SETTLE, Wakes

log = logging.getLogger(__name__)

JITTER = 0.1
"""Share by which the time to the next look is varied, so that runs do not stay in step."""
STAGGER = 0.02
"""Seconds for each run there is: over so much time the first passes after a start are spread."""
NOT_LEADING = 1.0
"""Seconds until a pass is tried again that was not begun for want of the Lease."""


class Passing(Protocol):
    """`reconcile.Reconciler`."""

    async def reconcile(self, key: RunKey) -> float:
        """One pass; returns the seconds until the next one."""

    def failed_passes(self, key: RunKey) -> FailedPasses | None:
        """The failed passes since the last good one."""


class Retiring(Protocol):
    """`retire.Retirer`."""

    async def retire(self, key: RunKey) -> float | None:
        """One pass over a run that is being deleted; None: it may go, else the seconds until the next pass."""


class Stopped(Protocol):
    """Whether the loop is to end (kopf's daemon stopper)."""

    def __bool__(self) -> bool:
        """Whether it is to end."""

    async def wait(self) -> object:
        """Until it is to end."""


class Controller:
    """The loops of all runs."""

    def __init__(
        self,
        reconciler: Passing,
        wakes: Wakes,
        *,
        passes: Passes,
        metrics: Metrics,
        concurrency: int,
        may_act: Callable[[], bool] = lambda: True,
        forget: Callable[[RunKey], object] = lambda _: None,
        retirer: Retiring | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._reconciler = reconciler
        self._wakes = wakes
        self._passes = passes
        self._metrics = metrics
        self._slots = asyncio.Semaphore(concurrency)
        self._may_act = may_act
        self._forget = forget
        self._retirer = retirer
        self._uniform = uniform

    def first_delay(self, *, is_new: bool) -> float:
        """Seconds until the first pass of a loop. A new run's waits for kopf's finalizer, which would make the first
        status write a conflict; after a start, all runs are spread."""
        return SETTLE if is_new else self._uniform(0.0, STAGGER * len(self._wakes))

    def open(self, key: RunKey) -> None:
        """A run was seen: from now on it can be woken."""
        self._wakes.open(key)

    async def run(self, key: RunKey, stopped: Stopped) -> None:
        """Pass after pass until `stopped`. Never raises."""
        self._wakes.open(key)
        self._passes.expect(key, 0.0)  # the very first may be the one that never comes
        with bound_contextvars(run=f"{key.namespace}/{key.name}"):
            try:
                while not stopped:
                    after = await self._one_pass(key, stopped)
                    self._passes.expect(key, after)
                    await self._wakes.wait(key, after, stopped.wait)
            finally:
                self._passes.forget(key)
                self._metrics.forget(key)

    async def _one_pass(self, key: RunKey, stopped: Stopped) -> float:
        async with self._wakes.lock(key), self._slots:
            if stopped or not self._may_act():
                return NOT_LEADING
            # What happens from here on is either seen by this pass or wakes the next one.
            self._wakes.taken(key)
            started = time.monotonic()
            # Not cancelled in the middle of a write, whatever happens to the loop.
            try:
                after = await asyncio.shield(self._reconciler.reconcile(key))
                failed = self._reconciler.failed_passes(key)
                error = failed.error if failed else None
            except Exception as unexpected:
                # `reconcile` raises nothing; but an exception out of here would end the run's loop for good.
                log.exception("a pass broke")
                after, error = LONGEST_BACKOFF, unexpected
            self._metrics.passed(time.monotonic() - started, error)
        return max(min(after, NEVER) * (1 + self._uniform(-JITTER, JITTER)), SETTLE if after > 0 else 0.0)

    async def retire(self, key: RunKey) -> None:
        """The run is being deleted: waits for the pass in progress, then does what owner references cannot, pass after
        pass, woken as any run. Returns once the run may go; children go by their owner references."""
        if self._retirer is None:
            async with self._wakes.lock(key):
                return
        self._passes.expect(key, 0.0)
        with bound_contextvars(run=f"{key.namespace}/{key.name}"):
            try:
                while (after := await self._one_retirement(key, self._retirer)) is not None:
                    self._passes.expect(key, after)
                    await self._wakes.wait(key, after, asyncio.Event().wait)
            finally:
                self._passes.forget(key)
                self._metrics.forget(key)

    async def _one_retirement(self, key: RunKey, retirer: Retiring) -> float | None:
        async with self._wakes.lock(key), self._slots:
            if not self._may_act():
                return NOT_LEADING
            self._wakes.taken(key)
            return await asyncio.shield(retirer.retire(key))

    def gone(self, key: RunKey) -> None:
        """The run does not exist any more: drop all that is remembered of it."""
        self._wakes.forget(key)
        self._passes.forget(key)
        self._metrics.forget(key)
        self._forget(key)
