"""Leadership: when it begins, how it ends, and that the Lease itself is kept as Kubernetes' components keep theirs.

All of it on a clock that jumps over every wait, so that the times are those of production.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection import leaderelection

from selfrewarding.cluster import lease
from selfrewarding.cluster.lease import LeaseElection, LeaseTimes
from selfrewarding.controller.leader import Leader

pytestmark = pytest.mark.virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture(autouse=True)
def _clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours and the client library's election read the clock of the loop."""
    monkeypatch.setattr(leaderelection, "time", SimpleNamespace(time=now))
    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=now))


class Election:
    """An election that a test decides."""

    def __init__(self) -> None:
        self.won, self.lost = asyncio.Event(), asyncio.Event()
        self.given_back = 0
        self.fails = 0

    def holds(self) -> bool:
        return self.won.is_set() and not self.lost.is_set()

    async def lead(self, on_leading: Callable[[], None]) -> None:
        if self.fails:
            self.fails -= 1
            raise RuntimeError("election")
        await self.won.wait()
        on_leading()
        await self.lost.wait()

    async def give_back(self) -> None:
        self.given_back += 1


async def test_survival_rule_10_losing_the_lease_ends_the_process_at_once() -> None:
    election, ends = Election(), []
    leader = Leader(election, end=lambda: ends.append("ended"))
    async with leader.elected():
        election.won.set()
        await asyncio.wait_for(leader.leading.wait(), 1)
        assert leader.holds()
        election.lost.set()
        await asyncio.sleep(0.01)
        assert ends == ["ended"]
        assert not leader.holds()


async def test_a_standby_whose_election_fails_tries_again() -> None:
    election, ends = Election(), []
    election.fails = 2
    leader = Leader(election, end=lambda: ends.append("ended"))
    async with leader.elected():
        election.won.set()
        await asyncio.wait_for(leader.leading.wait(), 5)
    assert ends == []


async def test_the_lease_is_given_back_at_the_end() -> None:
    election = Election()
    async with Leader(election).elected():
        pass
    assert election.given_back == 1


# ------------------------------------------------------------------ the Lease


class LeaseServer:
    """CoordinationV1Api with one Lease in memory."""

    def __init__(self) -> None:
        self.lease: Any = None
        self.version = 0
        self.fail: Exception | None = None
        self.hang = False

    async def _answer(self) -> None:
        if self.hang:
            await asyncio.Event().wait()
        if self.fail is not None:
            raise self.fail

    async def read_namespaced_lease(self, name: str, namespace: str) -> Any:
        await self._answer()
        if self.lease is None:
            raise ApiException(status=404, reason="Not Found", body='{"code": 404}')
        return self.lease.model_copy(deep=True)

    async def create_namespaced_lease(self, namespace: str, body: Any) -> Any:
        await self._answer()
        self.version += 1
        self.lease = body.model_copy(deep=True)
        self.lease.metadata.resource_version = str(self.version)
        self._parse()

    async def replace_namespaced_lease(self, name: str, namespace: str, body: Any) -> Any:
        await self._answer()
        if body.metadata.resource_version != str(self.version):
            raise ApiException(status=409, reason="Conflict")
        self.version += 1
        self.lease = body.model_copy(deep=True)
        self.lease.metadata.resource_version = str(self.version)
        self._parse()

    def _parse(self) -> None:
        for field in ("acquire_time", "renew_time"):
            value = getattr(self.lease.spec, field)
            if isinstance(value, str):
                setattr(self.lease.spec, field, datetime.fromisoformat(value))


TIMES = LeaseTimes()


def candidate(server: LeaseServer, name: str) -> LeaseElection:
    election = LeaseElection(SimpleNamespace(), namespace="lab", name="op", identity=name, clock=now)  # type: ignore[arg-type]
    election._lock.api_instance = server
    return election


async def leading(election: LeaseElection) -> asyncio.Task[None]:
    event = asyncio.Event()
    task = asyncio.create_task(election.lead(event.set))
    await asyncio.wait_for(event.wait(), 60)
    return task


async def test_one_of_two_leads_and_hands_over_at_once_when_it_ends() -> None:
    server = LeaseServer()
    first, second = candidate(server, "first"), candidate(server, "second")
    task = await leading(first)
    assert (first.holds(), server.lease.spec.holder_identity) == (True, "first")
    other = asyncio.create_task(leading(second))
    await asyncio.sleep(3 * TIMES.duration)
    assert not other.done()
    assert first.holds()
    task.cancel()
    await first.give_back()
    assert (first.holds(), server.lease.spec.holder_identity) == (False, "")
    standby = await asyncio.wait_for(other, TIMES.standby + 0.1)
    assert (second.holds(), server.lease.spec.holder_identity) == (True, "second")
    standby.cancel()


async def test_a_lease_of_somebody_else_is_not_given_back() -> None:
    server = LeaseServer()
    first = candidate(server, "first")
    task = await leading(first)
    task.cancel()
    server.lease.spec.holder_identity = "second"
    await first.give_back()
    assert server.lease.spec.holder_identity == "second"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(aiohttp.ClientConnectionError("refused"), id="connection refused"),
        pytest.param(ApiException(status=500, reason="etcd", body="<html>"), id="server error"),
        pytest.param(None, id="no answer"),
    ],
)
async def test_survival_rule_10_a_leader_that_cannot_renew_has_lost_before_another_may_lead(
    fault: Exception | None,
) -> None:
    server = LeaseServer()
    election = candidate(server, "first")
    task = await leading(election)
    await asyncio.sleep(100 * TIMES.leader)
    server.fail, server.hang, since = fault, fault is None, now()
    await task
    assert now() - since >= TIMES.deadline - TIMES.leader, "it was patient"
    assert election.holds(), "it ends before another one may lead"


async def test_a_leader_waits_a_short_fault_out() -> None:
    server = LeaseServer()
    election = candidate(server, "first")
    task = await leading(election)
    server.fail = aiohttp.ClientConnectionError("refused")
    await asyncio.sleep(TIMES.deadline - TIMES.leader - 1)
    server.fail = None
    await asyncio.sleep(10 * TIMES.duration)
    assert not task.done()
    assert election.holds()
    task.cancel()


async def test_a_process_that_was_frozen_knows_that_it_may_not_act_any_more() -> None:
    server = LeaseServer()
    election = candidate(server, "first")
    task = await leading(election)
    asyncio.get_running_loop().now += TIMES.duration + 1  # type: ignore[attr-defined]
    assert not election.holds()
    task.cancel()


async def test_survival_rule_10_a_leader_that_sees_another_holder_has_lost_at_once() -> None:
    server = LeaseServer()
    task = await leading(candidate(server, "first"))
    server.lease.spec.holder_identity = "second"
    await asyncio.wait_for(task, TIMES.leader + 0.1)


async def test_a_full_second_is_a_time_too() -> None:
    server = LeaseServer()
    election = candidate(server, "first")
    assert election._lock.time_str_to_iso("2026-01-31 12:00:00") == "2026-01-31T12:00:00.000000Z"
