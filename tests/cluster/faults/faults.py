"""What an API server, a load balancer or a network does to a client now and then (research: operators, style 2.3).

Each fault hits a share of the calls, or every k-th event, so that a whole run meets it many times and still ends.

Purpose: the kinds of faults. Must not: run a test. Neighbours: `proxy` calls the hooks.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.faults.proxy import Answer, Call, Cut, NoFault

from selfrewarding.contract.program import PROGRESS_PREFIX
from selfrewarding.contract.progress import ProgressLine

Which = Callable[[Call], bool]


def is_write(call: Call) -> bool:
    """Calls that change something, leases aside."""
    return call.is_write


def is_single(call: Call) -> bool:
    """Everything but watches and leases."""
    return call.verb != "watch" and call.resource != "leases" and bool(call.resource)


def is_watch(call: Call) -> bool:
    """Watches."""
    return call.verb == "watch"


def status_body(code: int, reason: str, message: str, **details: Any) -> dict[str, Any]:
    """A `Status` as the API server answers with."""
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return (
        body
        | {"message": message, "reason": reason, "code": code}
        | ({"details": details} if details else {})
    )


CONFLICT = Answer(
    409, status_body(409, "Conflict", "the object has been modified; please apply your changes")
)
TOO_MANY = Answer(
    429,
    status_body(429, "TooManyRequests", "too many requests, please try again later", retryAfterSeconds=1),
    {"Retry-After": "1"},
)
INTERNAL = Answer(500, status_body(500, "InternalError", "etcdserver: request timed out"))
UNAVAILABLE = Answer(503, status_body(503, "ServiceUnavailable", "apiserver is shutting down"))
GONE = json.dumps(
    {"type": "ERROR", "object": status_body(410, "Expired", "too old resource version")}
).encode()


@dataclass
class Some(NoFault):
    """A share of the calls of a kind, by a seed: not carried out, or carried out and the answer lost."""

    which: Which
    answer: Answer | None
    """None: the connection is cut."""
    share: float = 0.08
    carried_out: bool = False
    met: int = 0
    """How many calls it has hit."""
    _random: random.Random = field(default_factory=lambda: random.Random(7))
    _chosen: set[int] = field(default_factory=set)

    async def before(self, call: Call) -> Answer | None:
        """Choose, and hit at once unless the call shall be carried out."""
        if not self.which(call) or self._random.random() >= self.share:
            return None
        self.met += 1
        if self.carried_out:
            self._chosen.add(id(call))
            return None
        return self._hit()

    async def after(self, call: Call) -> Answer | None:
        """Hit what was chosen."""
        if id(call) not in self._chosen:
            return None
        self._chosen.discard(id(call))
        return self._hit()

    def _hit(self) -> Answer:
        if self.answer is None:
            raise Cut
        return self.answer


@dataclass
class Progressing(NoFault):
    """No fault, but what a node would tell: the log of a pod in a namespace says at each read that one more row is done.

    There is no kubelet to read logs from.
    """

    namespace: str
    total: int = 1_000_000
    met: int = 0
    """How often a log was read."""

    async def before(self, call: Call) -> Answer | None:
        """Answer for the kubelet."""
        if call.resource != "pods/log" or call.namespace != self.namespace:
            return None
        self.met += 1
        line = ProgressLine(done=self.met, total=self.total).model_dump_json(by_alias=True)
        return Answer(200, f"{PROGRESS_PREFIX}{line}\n")


@dataclass
class Silence(NoFault):
    """Nothing passes for a while, in either direction, from `starts` on; then everything does, late."""

    starts: float
    """Seconds of the monotonic clock."""
    seconds: float
    met: int = 0

    async def before(self, call: Call) -> Answer | None:
        """Hold requests."""
        await self._wait()
        return None

    async def after(self, call: Call) -> Answer | None:
        """Hold answers."""
        await self._wait()
        return None

    async def event(self, call: Call, line: bytes) -> list[bytes]:
        """Hold events."""
        await self._wait()
        return [line]

    async def _wait(self) -> None:
        now = time.monotonic()
        if self.starts <= now < self.starts + self.seconds:
            self.met += 1
            await asyncio.sleep(self.starts + self.seconds - now)


@dataclass
class _EveryKthEvent(NoFault):
    """Counts the events of watches."""

    every: int
    met: int = 0
    _seen: int = 0

    def is_due(self) -> bool:
        """Whether this event is a k-th one."""
        self._seen += 1
        due = self._seen % self.every == 0
        self.met += due
        return due


class WatchGone(_EveryKthEvent):
    """Every k-th event of a watch is a 410: the watcher must list again."""

    async def event(self, call: Call, line: bytes) -> list[bytes]:
        """Replace the event; it is lost, as are those after it."""
        return [GONE] if self.is_due() else [line]


class WatchCut(_EveryKthEvent):
    """The connection of a watch is cut at every k-th event, which is lost."""

    async def event(self, call: Call, line: bytes) -> list[bytes]:
        """Cut."""
        if self.is_due():
            raise ConnectionResetError
        return [line]


@dataclass
class WatchRepeats(NoFault):
    """Every event comes twice, and now and then the one before it comes again: duplicated and out of order."""

    met: int = 0
    _last: dict[int, bytes] = field(default_factory=dict)

    async def event(self, call: Call, line: bytes) -> list[bytes]:
        """Repeat."""
        if b'"BOOKMARK"' in line:
            return [line]
        self.met += 1
        before = self._last.get(id(call), line)
        self._last[id(call)] = line
        return [line, line, before, line] if self.met % 3 == 0 else [line, line]


@dataclass
class WatchLate(NoFault):
    """Events of some kinds come late, the others at once: what a pass sees does not fit together."""

    resources: frozenset[str]
    seconds: float
    met: int = 0
    _sent: dict[int, float] = field(default_factory=dict)

    async def event(self, call: Call, line: bytes) -> list[bytes]:
        """The first event of a burst waits; those that have piled up behind it follow at once."""
        quiet = time.monotonic() - self._sent.get(id(call), 0.0)
        if call.resource in self.resources and quiet > self.seconds:
            self.met += 1
            await asyncio.sleep(self.seconds)
        self._sent[id(call)] = time.monotonic()
        return [line]
