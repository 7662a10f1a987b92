"""Leader election by a Lease (coordination.k8s.io/v1), with the client library's own election.

What is added to the library's, version 37: a time limit for each request, patience with connections that fail, an end as
soon as somebody else is seen to hold the Lease (the library would try until its deadline), a way to give it back, and to
know at any moment whether it is still held. Must not: decide what follows from a lost Lease.
Neighbour: `controller.leader` does.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.client.models import V1Lease, V1ObjectMeta
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LeaseTimes:
    """Seconds. The defaults are those of Kubernetes' own components but for `standby`."""

    duration: int = 15
    """A standby takes a Lease over that was not renewed for so long."""
    deadline: float = 10.0
    """A leader that could not renew for so long has lost it."""
    leader: float = 2.0
    """Between two renewals."""
    standby: float = 1.0
    """Between two looks of a standby: a Lease that is given back is taken after at most so long."""
    request: float = 4.0
    """A request may take so long."""


class LeaseElection:
    """One candidate."""

    def __init__(
        self,
        client: ApiClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes = LeaseTimes(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._times = times
        self._clock = clock
        self._renewed = float("-inf")
        self._lock = _Lock(
            client, namespace, name, identity, limit=times.request, on_renewed=self._on_renewed
        )

    def holds(self) -> bool:
        """Whether nobody else can have the Lease at this moment."""
        return self._clock() - self._renewed < self._times.duration

    async def lead(self, on_leading: Callable[[], None]) -> None:
        """Wait for the Lease, call `on_leading`, and hold the Lease. Returns when it is lost."""

        async def begun() -> None:
            on_leading()

        def begin() -> Any:
            self._lock.leads = True
            # The library reads this for each phase anew: a standby looks more often than a leader renews.
            config.retry_period = self._times.leader
            return begun()

        async def ended() -> None:
            """The library tells this after its own deadline only; `lead` returns then anyway."""

        config = Config(
            self._lock,
            lease_duration=self._times.duration,
            renew_deadline=self._times.deadline,
            retry_period=self._times.standby,
            onstarted_leading=begin,
            onstopped_leading=ended,
        )
        self._lock.taken.clear()
        tasks = [
            asyncio.create_task(LeaderElection(config).run()),
            asyncio.create_task(self._lock.taken.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                tasks[0].result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def give_back(self) -> None:
        """Let a standby have the Lease at once. Nobody must act any more. Never raises: otherwise it runs out."""
        if self.holds():
            self._renewed = float("-inf")
            await self._lock.give_back()

    def _on_renewed(self, asked: float) -> None:
        self._renewed = asked


class _Lock(LeaseLock):
    """The library's lock: failures of any kind are answers, never exceptions, and none takes longer than its limit."""

    def __init__(
        self,
        client: ApiClient,
        namespace: str,
        name: str,
        identity: str,
        *,
        limit: float,
        on_renewed: Callable[[float], None],
    ) -> None:
        super().__init__(name, namespace, identity, client)
        self.leads = False
        self.taken = asyncio.Event()
        """Somebody else holds the Lease that was ours."""
        self._limit = limit
        self._on_renewed = on_renewed

    async def get(self, name: str, namespace: str) -> Any:
        """The record, or why there is none."""
        found, record = await self._tried("read", super().get(name, namespace), failed=_failure)
        if found and self.leads and record.holder_identity != self.identity:
            log.error("the Lease %s/%s is held by %s", namespace, name, record.holder_identity)
            self.taken.set()
        return found, record

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        """Whether the Lease is now ours."""

        async def write() -> bool:
            # The library's own asks for `pretty=True`, which its own checks refuse.
            lease = V1Lease(metadata=V1ObjectMeta(name=name), spec=self.update_lease(election_record))
            await self.api_instance.create_namespaced_lease(namespace, lease)
            return True

        return await self._renewal(write())

    async def update(self, name: str, namespace: str, updated_record: LeaderElectionRecord) -> bool:
        """Whether the Lease is now, or still, ours."""
        return await self._renewal(super().update(name, namespace, updated_record))

    async def give_back(self) -> None:
        """As client-go does: no holder, and a second to run."""

        async def write() -> bool:
            found, _ = await LeaseLock.get(self, self.name, self.namespace)
            lease = self.lease_reference
            if (
                not found
                or lease is None
                or lease.spec is None
                or lease.spec.holder_identity != self.identity
            ):
                return False
            lease.spec.holder_identity = ""
            lease.spec.lease_duration_seconds = 1
            await self.api_instance.replace_namespaced_lease(self.name, self.namespace, lease)
            return True

        await self._tried("give back", write(), failed=lambda _: False)

    def time_str_to_iso(self, str_time: str) -> str:
        """RFC 3339 with microseconds, as MicroTime wants it. The library's own refuses a time on a full second."""
        return datetime.fromisoformat(str_time).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"

    async def _renewal(self, call: Awaitable[bool]) -> bool:
        asked = time.monotonic()
        done: bool = await self._tried("write", call, failed=lambda _: False)
        if done:
            self._on_renewed(asked)
        return done

    async def _tried(self, what: str, call: Awaitable[Any], *, failed: Callable[[Exception], Any]) -> Any:
        try:
            async with asyncio.timeout(self._limit):
                return await call
        except (aiohttp.ClientError, ApiException, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
            log.warning(
                "the Lease %s/%s: could not %s it: %s",
                self.namespace,
                self.name,
                what,
                reason.splitlines()[0],
            )
            return failed(error)


def _failure(error: Exception) -> tuple[bool, ApiException]:
    # The library asks for `body` and `reason`; without a body it tries again.
    return False, ApiException(status=0, reason=str(error) or type(error).__name__)
