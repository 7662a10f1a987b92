"""What wakes a run's loop, and what keeps its passes apart: one event and one lock for each run.

An asyncio.Event keeps one wake-up until it is taken: none is lost, and a burst is one. Must not: know kopf or why a run
is woken. Neighbours: `handlers` and `watches` wake, `loop` waits.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from selfrewarding.cluster.protocol import RunKey

SETTLE = 0.05
"""Seconds that a woken loop waits, so that a burst of events (a Job with its pods) is one pass."""


@dataclass
class _Bell:
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Wakes:
    """Events and locks by run. Not thread-safe: all calls come from one event loop."""

    def __init__(self) -> None:
        self._bells: dict[RunKey, _Bell] = {}

    def __len__(self) -> int:
        return len(self._bells)

    def open(self, key: RunKey) -> None:
        """A run is there: from now on it can be woken."""
        self._bells.setdefault(key, _Bell())

    def forget(self, key: RunKey) -> None:
        """A run is gone."""
        self._bells.pop(key, None)

    def wake(self, key: RunKey) -> None:
        """Let the run's next pass begin now. A run without a loop begins with a pass anyway."""
        bell = self._bells.get(key)
        if bell is not None:
            bell.woken.set()

    def wake_all(self) -> None:
        """Let every run look again."""
        for bell in self._bells.values():
            bell.woken.set()

    def lock(self, key: RunKey) -> asyncio.Lock:
        """Held by a pass, and by the end of a run."""
        return self._bells.setdefault(key, _Bell()).lock

    def taken(self, key: RunKey) -> None:
        """What woke the run is seen by the pass that now begins."""
        self._bells.setdefault(key, _Bell()).woken.clear()

    async def wait(self, key: RunKey, seconds: float, stopped: Callable[[], Awaitable[object]]) -> None:
        """Until the run is woken, its loop is to stop, or the time is over: whichever comes first."""
        woken = self._bells.setdefault(key, _Bell()).woken
        waiters = [asyncio.ensure_future(woken.wait()), asyncio.ensure_future(stopped())]
        try:
            await asyncio.wait(waiters, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if woken.is_set() and not waiters[1].done():
                await asyncio.wait(waiters[1:], timeout=SETTLE)
        finally:
            for waiter in waiters:
                waiter.cancel()
