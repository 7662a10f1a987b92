"""Which of the replicas works: the one that holds the Lease. Losing it ends the process at once (survival rule 10).

An operator that goes on after that would be the second one: two would create, delete and write status at the same time.
There is nothing to tidy up: whatever a pass had begun, the next leader's passes find. Must not: know kopf. Neighbours:
`cluster.lease` is the Lease, `app` waits for `leading`.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from typing import NoReturn, Protocol

log = logging.getLogger(__name__)

LOST = 70
"""Exit code of a process that has lost the Lease."""
_PAUSE = 1.0


class Election(Protocol):
    """`cluster.lease.LeaseElection`."""

    def holds(self) -> bool:
        """Whether nobody else can lead at this moment."""

    async def lead(self, on_leading: Callable[[], None]) -> None:
        """Wait for leadership, call `on_leading`, and hold it. Returns when it is lost."""

    async def give_back(self) -> None:
        """Let another one lead at once."""


def end_the_process() -> NoReturn:
    """At once: no task runs on, no write that waits for its turn is sent."""
    os._exit(LOST)


class Leader:
    """This process as a candidate."""

    def __init__(self, election: Election, *, end: Callable[[], object] = end_the_process) -> None:
        self.leading = asyncio.Event()
        """Set once this process leads; it never stops to lead without ending."""
        self._election = election
        self._end = end

    def holds(self) -> bool:
        """Whether this process may act now. A process that was frozen for longer than the Lease lasts may not, even
        before it has noticed that the Lease is lost."""
        return self._election.holds()

    @contextlib.asynccontextmanager
    async def elected(self) -> AsyncIterator[None]:
        """Take part for as long as the block lasts; then, if this process leads, give the Lease back."""
        task = asyncio.create_task(self._stand(), name="leader election")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await self._election.give_back()

    async def _stand(self) -> None:
        while True:
            try:
                await self._election.lead(self._begin)
            except Exception:
                # Whatever it was: a leader may not go on without a Lease, a standby tries again.
                log.exception("the leader election failed")
            if self.leading.is_set():
                log.critical("the Lease is lost: this process ends, another one takes over")
                self._end()
                return
            await asyncio.sleep(_PAUSE)

    def _begin(self) -> None:
        log.info("this process leads")
        self.leading.set()
