"""An event loop on which waiting takes no time: where only a timer could go on, the clock moves to it.

For code that waits for hours by the loop's clock and does no input or output. `now` is also there for code that reads
`time.time` or `time.monotonic`: replace those by it.
"""

import asyncio
import selectors


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        super().__init__(_Impatient(self))

    def time(self) -> float:
        """Seconds on the clock of this loop."""
        return self.now


class _Impatient(selectors.DefaultSelector):
    """Moves the clock where the loop would have waited."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            self._loop.now += timeout
        return ready
