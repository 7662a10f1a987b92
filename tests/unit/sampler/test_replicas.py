"""Places at replicas: readiness, load, affinity, names that resolve to something new."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from srr_sampler.replicas import Replica, ReplicaSet


class Network:
    """A name server and the replicas behind its one name."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = list(hosts)
        self.broken: dict[str, str] = {}
        self.resolved = 0
        self.probes: Counter[str] = Counter()

    async def resolve(self, host: str, port: int) -> list[str]:
        self.resolved += 1
        if not self.hosts:
            raise OSError(-2, "Name or service not known")
        return self.hosts

    async def probe(self, address: str) -> str | None:
        self.probes[address] += 1
        return self.broken.get(address)

    def set(self, limit: int = 4) -> ReplicaSet:
        return ReplicaSet(
            "policy server m1", "http://policy:8000", limit=limit, probe=self.probe, resolve=self.resolve
        )


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def hold(
    replicas: ReplicaSet, stack: AsyncExitStack, weight: int = 1, prefer: str | None = None
) -> Replica:
    return await stack.enter_async_context(replicas.place(weight, prefer=prefer))


async def test_places_go_to_the_replica_with_the_fewest_sequences_in_flight() -> None:
    network = Network("10.0.0.1", "10.0.0.2")
    async with network.set(limit=8) as replicas, AsyncExitStack() as stack:
        first = await hold(replicas, stack, weight=3)
        others = [await hold(replicas, stack) for _ in range(3)]
        assert first not in others, "a request for three samples counts three"
        assert {replica.in_flight for replica in replicas.replicas} == {3}
        assert len({(await hold(replicas, stack)).address for _ in range(2)}) == 2


async def test_nothing_is_handed_out_beyond_the_limit_and_waiting_is_in_order() -> None:
    network = Network("10.0.0.1")
    async with network.set(limit=4) as replicas, AsyncExitStack() as stack:
        await hold(replicas, stack, weight=3)
        order: list[str] = []

        async def take(name: str, weight: int, *, first: bool = False) -> None:
            async with replicas.place(weight, first=first):
                order.append(name)

        waiting = [asyncio.create_task(take("large", 3))]
        await asyncio.sleep(0.01)
        waiting.append(asyncio.create_task(take("small", 1)))
        waiting.append(asyncio.create_task(take("begun", 2, first=True)))
        await asyncio.sleep(0.01)
        assert order == [], "the small one does not overtake the large one, or that would never get a place"
        await stack.aclose()
        await asyncio.gather(*waiting)
        assert order == ["begun", "large", "small"]


async def test_a_request_larger_than_the_limit_goes_to_an_idle_replica() -> None:
    async with Network("10.0.0.1").set(limit=2) as replicas, replicas.place(16) as replica:
        assert replica.in_flight == 16


async def test_rule_14_calls_of_one_prompt_go_to_one_replica_and_overflow_to_the_least_loaded() -> None:
    network = Network(*(f"10.0.0.{number}" for number in range(1, 5)))
    async with network.set(limit=16) as replicas, AsyncExitStack() as stack:
        homes = {}
        for key in [f"prompt-{number}" for number in range(40)]:
            async with replicas.place(1, prefer=key) as one, replicas.place(1, prefer=key) as other:
                assert one is other
                homes[key] = one.address
        assert len(set(homes.values())) == 4, "prompts spread over the replicas"
        home = homes["prompt-0"]
        taken = [(await hold(replicas, stack, 3, "prompt-0")).address for _ in range(8)]
        assert taken[0] == taken[1] == home
        assert set(taken) != {home}
        loads = [replica.in_flight for replica in replicas.replicas]
        assert max(loads) - min(loads) <= 2 * 3


async def test_a_replica_that_left_moves_only_its_own_prompts() -> None:
    network = Network(*(f"10.0.0.{number}" for number in range(1, 5)))
    keys = [f"prompt-{number}" for number in range(60)]
    async with network.set(limit=16) as replicas:

        async def homes() -> dict[str, str]:
            found = {}
            for key in keys:
                async with replicas.place(1, prefer=key) as replica:
                    found[key] = replica.address
            return found

        before = await homes()
        gone = next(replica for replica in replicas.replicas if replica.address.endswith(".2:8000"))
        network.broken[gone.address] = "no connection"
        replicas.lost(gone, "connection reset")
        after = await homes()
        assert {key for key in keys if before[key] != after[key]} == {
            key for key in keys if before[key] == gone.address
        }


async def test_a_lost_replica_gets_nothing_until_it_answers_again() -> None:
    network = Network("10.0.0.1", "10.0.0.2")
    async with network.set() as replicas:
        async with replicas.place(1) as replica:
            network.broken[replica.address] = "it serves m0, not m1"
            replicas.lost(replica, "connection reset")
        for _ in range(4):
            async with replicas.place(1) as other:
                assert other is not replica
        await until(lambda: replica.problem == "it serves m0, not m1")
        del network.broken[replica.address]
        await until(lambda: replica.ready)


async def test_waiting_starts_before_the_name_resolves_and_ends_when_a_replica_is_ready() -> None:
    network = Network()
    async with network.set() as replicas:
        task = asyncio.create_task(hold(replicas, AsyncExitStack()))
        await until(lambda: network.resolved > 0)
        await asyncio.sleep(0.01)
        assert replicas.problem is not None
        assert "does not resolve (Name or service not known)" in replicas.problem
        network.hosts = ["10.0.0.7"]
        replicas._next_resolve = 0
        replicas._stirred.set()
        assert (await task).address == "http://10.0.0.7:8000"
        assert replicas.problem is None


async def test_new_addresses_are_found_after_a_loss_and_old_ones_forgotten() -> None:
    network = Network("10.0.0.1")
    async with network.set() as replicas:
        async with replicas.place(1) as replica:
            network.hosts = ["10.0.0.2"]
            network.broken[replica.address] = "no connection"
            replicas.lost(replica, "connection reset")
        async with replicas.place(1) as other:
            assert other.address == "http://10.0.0.2:8000"
        assert [one.address for one in replicas.replicas] == ["http://10.0.0.2:8000"]


async def test_a_name_servers_hiccup_keeps_what_is_known() -> None:
    network = Network("10.0.0.1")
    async with network.set() as replicas:
        async with replicas.place(1):
            pass
        network.hosts = []
        replicas._next_resolve = 0
        replicas._stirred.set()
        await until(lambda: network.resolved > 1)
        async with replicas.place(1) as replica:
            assert replica.address == "http://10.0.0.1:8000"


async def test_an_overloaded_replica_is_held_back() -> None:
    network = Network("10.0.0.1")
    async with network.set() as replicas:
        loop = asyncio.get_running_loop()
        async with replicas.place(1) as replica:
            replicas.hold(replica, 0.15)
        begun = loop.time()
        async with replicas.place(1):
            assert loop.time() - begun >= 0.14


async def test_several_addresses_with_commas_and_ipv6() -> None:
    network = Network()

    async def resolve(host: str, port: int) -> list[str]:
        return {"a": ["10.0.0.1"], "b": ["fd00::1"]}[host]

    replicas = ReplicaSet(
        "policy server m1", "http://a:1, http://b:2/", limit=1, probe=network.probe, resolve=resolve
    )
    async with replicas, replicas.place(1), replicas.place(1):
        assert {replica.address for replica in replicas.replicas} == {
            "http://10.0.0.1:1",
            "http://[fd00::1]:2",
        }


async def test_a_cancelled_wait_leaves_no_place_taken() -> None:
    network = Network("10.0.0.1")
    async with network.set(limit=1) as replicas:
        async with replicas.place(1) as replica:
            task = asyncio.create_task(hold(replicas, AsyncExitStack()))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert replica.in_flight == 0
        async with asyncio.timeout(1), replicas.place(1):
            pass
