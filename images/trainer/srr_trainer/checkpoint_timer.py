"""When a checkpoint is due, and whether there is time for one before a pod is killed.

Must not: know what a checkpoint is, or import transformers.
Neighbours: `callbacks` asks it on rank 0 and tells it what saving took.
"""

import time

SAVE_SHARE = 20
"""Between two checkpoints lies at least this many times what saving one takes."""
CHEAP_SECONDS = 20.0
"""After SIGTERM a checkpoint is saved if that takes at most so long; Kubernetes kills after 30 s by default."""


class CheckpointTimer:
    """When the next checkpoint is due; rank 0's clock alone counts."""

    def __init__(self, interval_seconds: float, *, first_guess: float) -> None:
        self._interval = interval_seconds
        self._took = first_guess
        self._measured = False
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether enough time has passed since the last one."""
        wait = max(self._interval, SAVE_SHARE * self._took if self._measured else 0.0)
        return time.monotonic() - self._last >= wait

    @property
    def cheap(self) -> bool:
        """Whether saving fits into the time between SIGTERM and SIGKILL."""
        return self._took <= CHEAP_SECONDS

    def saved(self, seconds: float) -> None:
        """A save took this long."""
        self._took, self._measured, self._last = seconds, True, time.monotonic()
