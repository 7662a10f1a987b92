"""The moment of death: each namespace stops at its n-th write until the operator is dead.

A write is held `before` it is forwarded, or `after` the API server has carried it out and before the operator hears of it.
What the same namespace would write next is held too. So one killed process is, for each run in a namespace of its own, a
death at exactly its own n-th write, and many runs die in one process.

Purpose: the kill points of "crash at every write". Must not: end the process; the test does.
Neighbours: `proxy` calls the hooks; `test_crash_at_every_write` sets the points.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from tests.cluster.faults.proxy import Answer, Call, Cut, NoFault

Moment = Literal["before", "after"]


@dataclass
class KillPoint:
    """Where one run's operator dies."""

    number: int
    """Which write, from 1."""
    moment: Moment
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    write: Call | None = None
    """The write that it was."""


@dataclass
class KillPoints(NoFault):
    """A fault that holds namespaces; writes are counted from when it is set."""

    points: dict[str, KillPoint]
    """By namespace."""
    dead: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the operator has been killed: what was held is dropped."""
    seen: Counter[str] = field(default_factory=Counter)
    _held: set[int] = field(default_factory=set)

    async def before(self, call: Call) -> Answer | None:
        """Count, and hold what must not get through."""
        point = self.points.get(call.namespace or "")
        if point is None or not call.is_write:
            return None
        self.seen[call.namespace or ""] += 1
        number = self.seen[call.namespace or ""]
        if number < point.number:
            return None
        if number == point.number:
            point.write = call
            if point.moment == "after":
                return None
            point.reached.set()
        await self.dead.wait()
        raise Cut

    async def after(self, call: Call) -> Answer | None:
        """Hold the answer of the n-th write."""
        point = self.points.get(call.namespace or "")
        if point is None or point.write is not call:
            return None
        point.reached.set()
        await self.dead.wait()
        raise Cut
