"""Leadership: when it begins, how it ends, and that the Lease itself is kept as Kubernetes' components keep theirs."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from kubernetes.aio.client.exceptions import ApiException

from selfrewarding.cluster.lease import LeaseElection, LeaseTimes
from selfrewarding.controller.leader import Leader


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


async def test_a_standby_whose_election_fails_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfrewarding.controller.leader._PAUSE", 0.01)
    election, ends = Election(), []
    election.fails = 2
    leader = Leader(election, end=lambda: ends.append("ended"))
    async with leader.elected():
        election.won.set()
        await asyncio.wait_for(leader.leading.wait(), 1)
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


QUICK = LeaseTimes(duration=3, deadline=1.5, leader=1.0, standby=1.0, request=0.2)


def candidate(server: LeaseServer, name: str, times: LeaseTimes = QUICK) -> LeaseElection:
    election = LeaseElection(SimpleNamespace(), namespace="lab", name="op", identity=name, times=times)  # type: ignore[arg-type]
    election._lock.api_instance = server
    return election


async def leading(election: LeaseElection) -> asyncio.Task[None]:
    event = asyncio.Event()
    task = asyncio.create_task(election.lead(event.set))
    await asyncio.wait_for(event.wait(), 5)
    return task


async def test_one_of_two_leads_and_hands_over_at_once_when_it_ends() -> None:
    server = LeaseServer()
    first, second = candidate(server, "first"), candidate(server, "second")
    task = await leading(first)
    assert (first.holds(), server.lease.spec.holder_identity) == (True, "first")
    other = asyncio.create_task(leading(second))
    await asyncio.sleep(0.1)
    assert not other.done()
    task.cancel()
    await first.give_back()
    assert (first.holds(), server.lease.spec.holder_identity) == (False, "")
    standby = await asyncio.wait_for(other, QUICK.standby + 0.5)
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


async def test_survival_rule_10_a_leader_that_cannot_renew_in_time_has_lost() -> None:
    async def lost(fault: Exception | None) -> None:
        server = LeaseServer()
        task = await leading(candidate(server, "first"))
        server.fail, server.hang = fault, fault is None
        await asyncio.wait_for(task, QUICK.deadline + QUICK.leader + 2 * QUICK.request + 2.0)

    refused = aiohttp.ClientConnectionError("refused")
    broken = ApiException(status=500, reason="etcd", body="<html>")
    await asyncio.gather(lost(refused), lost(broken), lost(None))


async def test_a_leader_waits_a_short_fault_out() -> None:
    server = LeaseServer()
    election = candidate(
        server, "first", LeaseTimes(duration=4, deadline=3, leader=1.0, standby=1.0, request=0.2)
    )
    task = await leading(election)
    server.fail = aiohttp.ClientConnectionError("refused")
    await asyncio.sleep(1.3)
    server.fail = None
    await asyncio.sleep(1.2)
    assert not task.done()
    assert election.holds()
    task.cancel()


async def test_survival_rule_10_a_leader_that_sees_another_holder_has_lost_at_once() -> None:
    server = LeaseServer()
    task = await leading(candidate(server, "first"))
    server.lease.spec.holder_identity = "second"
    await asyncio.wait_for(task, QUICK.leader + 0.5)


async def test_a_full_second_is_a_time_too() -> None:
    server = LeaseServer()
    election = candidate(server, "first")
    assert election._lock.time_str_to_iso("2026-01-31 12:00:00") == "2026-01-31T12:00:00.000000Z"
