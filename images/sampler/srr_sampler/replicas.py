"""Which replica of a server takes the next request.

Purpose: know a server's replicas (a headless Service's name resolves to all of them), which of them are ready, how many
sequences each has in flight, and hand out places: the least loaded one, or for calls that share a prefix the one that
has it cached (number rule 14). A Service's own balancing chooses per connection, which pins pooled connections to a few
replicas; hence this.
Must not: speak HTTP (a probe is given) or know what is asked.
Neighbours: `client` asks for a place before each request and says what went wrong after it.
"""

import asyncio
import contextlib
import hashlib
import heapq
import itertools
import logging
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

Probe = Callable[[str], Awaitable[str | None]]
"""Asks the replica at an address whether it can be used; None if so, else what is wrong, for people."""
Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host name and port to IP addresses."""

_FIRST_PROBE_AFTER = 0.25
_PROBE_EVERY = 5.0
_RESOLVE_EVERY = 10.0
_SAY_EVERY = 30.0


@dataclass(slots=True, eq=False)
class Replica:
    """One server process.

    Attributes:
        address: `http://host:port`, the host an IP address where the scheme is http.
        in_flight: sequences that it was asked for and has not answered.
        ready: whether it answers for our model.
        held_until: loop time before which it gets nothing new (it said that it is overloaded).
        problem: why it is not ready.
    """

    address: str
    in_flight: int = 0
    ready: bool = False
    held_until: float = 0.0
    problem: str = "not asked yet"
    failures: int = 0
    """Probes that failed in a row."""
    next_probe: float = 0.0
    retired: bool = False
    """The name does not resolve to it any more; it gets nothing new."""


@dataclass(order=True, slots=True)
class _Waiting:
    rank: int
    number: int
    weight: int = field(compare=False)
    prefer: str | None = field(compare=False)
    place: "asyncio.Future[Replica]" = field(compare=False)


class ReplicaSet:
    """The replicas behind one or more addresses. Use as an async context manager: a task watches them meanwhile.

    Args:
        name: what messages call the server, e.g. `policy server m2-1f0c`.
        urls: addresses with commas between.
        limit: most sequences in flight per replica.
        probe: asks a replica whether it is ready.
        resolve: for tests; DNS otherwise.
    """

    def __init__(
        self, name: str, urls: str, *, limit: int, probe: Probe, resolve: Resolve | None = None
    ) -> None:
        self.name = name
        self.urls = [url.strip().rstrip("/") for url in urls.split(",") if url.strip()]
        self.limit = limit
        self._probe = probe
        self._resolve = resolve or _resolve
        self._replicas: dict[str, Replica] = {}
        self._waiting: list[_Waiting] = []
        self._numbers = itertools.count()
        self._resolve_problem = "not resolved yet"
        self._next_resolve = 0.0
        self._failure: Exception | None = None
        self._stirred = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "ReplicaSet":
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher

    @property
    def replicas(self) -> list[Replica]:
        """Those that exist now."""
        return [replica for replica in self._replicas.values() if not replica.retired]

    @property
    def problem(self) -> str | None:
        """Why nothing can be asked now, for people; None if a replica is ready."""
        replicas = self.replicas
        if any(replica.ready for replica in replicas):
            return None
        if not replicas:
            return self._resolve_problem
        return "; ".join(f"{replica.address}: {replica.problem}" for replica in replicas[:4])

    @contextlib.asynccontextmanager
    async def place(
        self, weight: int, *, prefer: str | None = None, first: bool = False
    ) -> AsyncIterator[Replica]:
        """Wait for a replica with room for `weight` sequences, and keep the room for the time of the block.

        Args:
            weight: sequences.
            prefer: calls with equal texts go to the same replica unless that is much busier than another.
            first: go before those that wait without it (work that was begun is finished first).
        """
        replica = await self._take(weight, prefer, first=first)
        try:
            yield replica
        finally:
            self._give_back(replica, weight)

    def lost(self, replica: Replica, problem: str) -> None:
        """The replica cannot be used now; it is probed until it can."""
        loop_time = asyncio.get_running_loop().time()
        if replica.ready:
            logger.warning("%s at %s is lost: %s", self.name, replica.address, problem)
            replica.failures = 0
            replica.next_probe = loop_time + _FIRST_PROBE_AFTER
            self._next_resolve = min(self._next_resolve, loop_time + _FIRST_PROBE_AFTER)
        replica.ready = False
        replica.problem = problem
        self._stirred.set()

    def hold(self, replica: Replica, seconds: float) -> None:
        """The replica said that it is overloaded: nothing new for that long."""
        loop = asyncio.get_running_loop()
        replica.held_until = max(replica.held_until, loop.time() + seconds)
        loop.call_later(seconds + 0.01, self._serve_waiting)

    def fail(self, error: Exception) -> None:
        """No replica will ever be of use: raise `error` wherever a place is waited for, now and later."""
        self._failure = error
        for waiting in self._waiting:
            if not waiting.place.done():
                waiting.place.set_exception(error)
        self._waiting.clear()

    async def _take(self, weight: int, prefer: str | None, *, first: bool) -> Replica:
        if self._failure is not None:
            raise self._failure
        future: asyncio.Future[Replica] = asyncio.get_running_loop().create_future()
        heapq.heappush(
            self._waiting, _Waiting(0 if first else 1, next(self._numbers), weight, prefer, future)
        )
        self._serve_waiting()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._give_back(future.result(), weight)
            raise

    def _give_back(self, replica: Replica, weight: int) -> None:
        replica.in_flight -= weight
        if replica.retired and not replica.in_flight:
            self._replicas.pop(replica.address, None)
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        """Strictly in order: a request for many sequences is not overtaken for ever by small ones."""
        while self._waiting:
            head = self._waiting[0]
            if not head.place.done():
                replica = self._choose(head.weight, head.prefer)
                if replica is None:
                    return
                replica.in_flight += head.weight
                head.place.set_result(replica)
            heapq.heappop(self._waiting)

    def _choose(self, weight: int, prefer: str | None) -> Replica | None:
        now = asyncio.get_running_loop().time()
        ready = [replica for replica in self.replicas if replica.ready]
        free = [
            replica
            for replica in ready
            if now >= replica.held_until
            and (not replica.in_flight or replica.in_flight + weight <= self.limit)
        ]
        if not free:
            return None
        least = min(free, key=lambda replica: replica.in_flight)
        if prefer is None or len(ready) == 1:
            return least
        home = max(ready, key=lambda replica: _affinity(prefer, replica.address))
        slack = max(weight, self.limit // 8)
        return home if home in free and home.in_flight <= least.in_flight + slack else least

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        said_at, since = float("-inf"), loop.time()
        while True:
            now = loop.time()
            if now >= self._next_resolve:
                await self._resolve_all()
                self._next_resolve = loop.time() + _RESOLVE_EVERY
            due = [
                replica
                for replica in self.replicas
                if not replica.ready and loop.time() >= replica.next_probe
            ]
            await asyncio.gather(*(self._ask(replica) for replica in due))
            self._serve_waiting()
            problem = self.problem
            if problem is None:
                said_at, since = float("-inf"), loop.time()
            elif loop.time() - said_at >= _SAY_EVERY:
                logger.warning("waiting for the %s (%.0f s): %s", self.name, loop.time() - since, problem)
                said_at = loop.time()
            probes = [replica.next_probe for replica in self.replicas if not replica.ready]
            wake = min([self._next_resolve, *probes])
            self._stirred.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.02, wake - loop.time())):
                    await self._stirred.wait()

    async def _ask(self, replica: Replica) -> None:
        problem = await self._probe(replica.address)
        if problem is None:
            replica.ready, replica.failures = True, 0
            return
        replica.problem = problem
        replica.failures += 1
        wait = min(_PROBE_EVERY, _FIRST_PROBE_AFTER * 2**replica.failures) * random.uniform(0.75, 1.25)  # noqa: S311
        replica.next_probe = asyncio.get_running_loop().time() + wait

    async def _resolve_all(self) -> None:
        found: list[str] = []
        for url in self.urls:
            parts = urlsplit(url)
            if parts.scheme != "http" or not parts.hostname:
                found.append(url)
                continue
            port = parts.port or 80
            try:
                hosts = await self._resolve(parts.hostname, port)
            except OSError as error:
                self._resolve_problem = (
                    f"the name {parts.hostname} does not resolve ({error.strerror or error})"
                )
                # What was known stays: a name server's hiccup must not stop a stage.
                found.extend(self._replicas)
                continue
            found.extend(
                f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}" for host in hosts
            )
        for address in dict.fromkeys(found):
            self._replicas.setdefault(address, Replica(address)).retired = False
        for address, replica in list(self._replicas.items()):
            if address not in found:
                replica.retired = True
                if not replica.in_flight:
                    del self._replicas[address]


def _affinity(prefer: str, address: str) -> bytes:
    """Rendezvous hashing: when a replica comes or goes, only its own share of the texts moves."""
    return hashlib.blake2b(f"{prefer}\x1f{address}".encode(), digest_size=8).digest()


async def _resolve(host: str, port: int) -> list[str]:
    """All addresses of a name; in a dual-stack network those of one family, or each replica would count twice."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families = {family for family, *_ in found}
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    return sorted({str(address[0]) for kind, _, _, _, address in found if kind == family})
