"""Slow, optional reads about pods and children: each at most once in a while, side by side, never in a pass's way.

A kubelet that hangs must not hold up a pass: it waits a moment for what is being read, and takes what was read last;
the rest comes in the next pass. Neighbours: `progress` reads logs with it, `complaints` events.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from selfrewarding.cluster.protocol import ClusterError, RunKey

log = logging.getLogger(__name__)

EVERY = 25.0
"""Seconds between two reads of the same thing."""
PATIENCE = 0.5
"""Seconds that a pass waits for reads that it has started."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Wanted(Generic[Value]):
    """One thing to read."""

    read: Callable[[], Awaitable[Value | None]]
    """None, or a ClusterError: nothing new; what was read before stays."""
    last: bool = False
    """The thing has ended: once more, and never again."""
    waited_for: bool = True
    """Whether a pass waits a moment for it."""


@dataclass(slots=True)
class _Reading(Generic[Value]):
    value: Value | None = None
    due: float = 0.0
    last: bool = False
    task: asyncio.Task[None] | None = None


class Readings(Generic[Value]):
    """What was read last, by run and UID."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, patience: float = PATIENCE) -> None:
        self._clock = clock
        self._patience = patience
        self._runs: dict[RunKey, dict[str, _Reading[Value]]] = {}

    async def look(self, key: RunKey, wanted: Mapping[str, Wanted[Value]]) -> dict[str, Value]:
        """The newest known values of a run's things by UID; things that are no longer wanted are forgotten."""
        before = self._runs.get(key, {})
        readings = {uid: before.pop(uid) if uid in before else _Reading[Value]() for uid in wanted}
        _cancel(before)
        if not readings:
            self._runs.pop(key, None)
            return {}
        self._runs[key] = readings
        for uid, reading in readings.items():
            self._start(uid, reading, wanted[uid])
        tasks = [one.task for uid, one in readings.items() if one.task is not None and wanted[uid].waited_for]
        if tasks:
            await asyncio.wait(tasks, timeout=self._patience)
        return {uid: one.value for uid, one in readings.items() if one.value is not None}

    def forget(self, key: RunKey) -> None:
        """A run is gone."""
        _cancel(self._runs.pop(key, {}))

    async def aclose(self) -> None:
        """Stop all reads."""
        tasks = [one.task for readings in self._runs.values() for one in readings.values() if one.task]
        for key in list(self._runs):
            self.forget(key)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, uid: str, reading: _Reading[Value], wanted: Wanted[Value]) -> None:
        once_more = wanted.last and not reading.last
        if reading.task is not None or reading.last or (self._clock() < reading.due and not once_more):
            return
        reading.due = self._clock() + EVERY
        reading.task = asyncio.create_task(self._read(uid, reading, wanted), name=f"read about {uid}")

    async def _read(self, uid: str, reading: _Reading[Value], wanted: Wanted[Value]) -> None:
        try:
            value = await wanted.read()
        except ClusterError as error:
            log.debug("nothing could be read about %s: %s", uid, error)
        else:
            reading.value = value if value is not None else reading.value
        finally:
            reading.last = wanted.last
            reading.task = None


def _cancel(readings: Mapping[str, _Reading[Value]]) -> None:
    for reading in readings.values():
        if reading.task is not None:
            reading.task.cancel()
