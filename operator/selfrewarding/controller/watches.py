"""What kopf's requests tell of its watches.

A list after the first one means that a watch had to start anew: what vanished meanwhile is told by nobody (kopf 1.45 makes
no DELETED of it), so the inventory doubts what it has of that kind, and all runs look again. A watch that is not renewed
for long is dead. Must not: make requests. Neighbours: `cluster.session` reports, `health` asks.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.session import Asked
from selfrewarding.controller.metrics import Metrics
from selfrewarding.controller.wake import Wakes

log = logging.getLogger(__name__)

RENEWED_EVERY = 600
"""Seconds after which the API server ends a watch, and kopf begins it again where it was (no list)."""
DEAF_AFTER = 2.5 * RENEWED_EVERY
"""Seconds without a request after which a watch is dead."""
LISTED = 1.0
"""Seconds that a list may take to be told object by object."""


class Watches:
    """All watches of this process."""

    def __init__(
        self,
        inventory: Inventory,
        wakes: Wakes,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inventory = inventory
        self._wakes = wakes
        self._metrics = metrics
        self._clock = clock
        self._listed: set[tuple[str, str]] = set()
        self._asked: dict[tuple[str, str], float] = {}

    def asks(self, asked: Asked) -> None:
        """kopf is about to ask."""
        if asked.verb not in ("list", "watch"):
            return
        place = (asked.kind, asked.namespace)
        self._asked[place] = self._clock()
        if asked.verb == "list" and not asked.continued and place in self._listed:
            log.info("the watch of %s began anew", asked.kind)
            self._inventory.doubt(asked.kind)

    def answered(self, asked: Asked, code: int, seconds: float) -> None:
        """kopf has got an answer, or failed to."""
        self._metrics.requested(asked.verb, asked.kind, code, seconds)
        place = (asked.kind, asked.namespace)
        if asked.verb == "list" and code == 200:
            if place in self._listed:
                asyncio.get_running_loop().call_later(LISTED, self._wakes.wake_all)
            self._listed.add(place)

    def has_listed(self, kind: str, namespace: str) -> bool:
        """Whether kopf has listed the kind at least once; namespace "": all."""
        return (kind, namespace) in self._listed

    def ended(self) -> None:
        """kopf has ended: no watch is expected until it asks again."""
        self._asked.clear()

    def deaf(self) -> str | None:
        """What is wrong; None if every watch has been renewed."""
        now = self._clock()
        for (kind, namespace), asked in self._asked.items():
            if now - asked > DEAF_AFTER:
                place = f' in "{namespace}"' if namespace else ""
                return f"nothing was asked of {kind}{place} for {now - asked:.0f} s: its watch is dead"
        return None
