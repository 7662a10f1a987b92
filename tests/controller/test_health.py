"""Liveness and readiness: what makes the kubelet start the process anew, and what does not."""

import asyncio
from collections.abc import Callable

import aiohttp
import pytest
from tests.cluster.faults.operator_process import free_port
from tests.support.set_clock import SetClock

from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.protocol import RunKey
from selfrewarding.cluster.session import Asked, what_is_asked
from selfrewarding.controller.health import OVERDUE, Health, Passes
from selfrewarding.controller.metrics import Metrics
from selfrewarding.controller.reconcile import NEVER
from selfrewarding.controller.wake import Wakes
from selfrewarding.controller.watches import DEAF_AFTER, LISTED, Watches

KEY = RunKey("lab", "demo")
LIST, WATCH = Asked("list", "Job", "", False), Asked("watch", "Job", "", False)


@pytest.fixture
def clock() -> SetClock[float]:
    return SetClock(1000.0)


def some_watches(clock: Callable[[], float]) -> tuple[Watches, Inventory, Wakes]:
    inventory, wakes = Inventory(clock), Wakes()
    return Watches(inventory, wakes, Metrics(), clock), inventory, wakes


def test_the_probe_fails_when_passes_stop(clock: SetClock[float]) -> None:
    passes = Passes(clock)
    passes.expect(KEY, NEVER)
    passes.expect(RunKey("lab", "other"), NEVER + 100)
    clock.now += NEVER + OVERDUE
    assert passes.overdue() is None
    clock.now += 1
    assert passes.overdue() == "the pass of lab/demo is 601 s late"
    passes.clear()
    assert passes.overdue() is None


def test_the_probe_fails_when_a_watch_is_not_heard_of(clock: SetClock[float]) -> None:
    watches, *_ = some_watches(clock)
    watches.asks(WATCH)
    clock.now += DEAF_AFTER
    assert watches.deaf() is None
    clock.now += 1
    assert watches.deaf() == "nothing was asked of Job for 1501 s: its watch is dead"
    watches.asks(WATCH)
    assert watches.deaf() is None


def test_an_api_server_that_is_away_is_no_reason_to_start_anew(clock: SetClock[float]) -> None:
    watches, *_ = some_watches(clock)
    for _ in range(1000):  # kopf tries again and again, and gets no answer
        watches.asks(WATCH)
        watches.answered(WATCH, 0, 10.0)
        clock.now += 18.0
    assert watches.deaf() is None


async def test_a_list_after_the_first_doubts_what_is_known_and_wakes_everybody(
    clock: SetClock[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    watches, inventory, wakes = some_watches(clock)
    job = {
        "kind": "Job",
        "metadata": {
            "name": "a",
            "uid": "1",
            "namespace": "lab",
            "labels": {"selfrewarding.dev/run": "demo"},
        },
    }
    wakes.open(KEY)
    watches.asks(LIST)
    watches.answered(LIST, 200, 0.1)
    inventory.put(job)
    assert inventory.unheard("1") == 0.0
    watches.asks(Asked("list", "Job", "", True))  # a further page: no new list
    assert inventory.unheard("1") == 0.0
    watches.asks(LIST)
    assert inventory.unheard("1") == float("inf")
    loop = asyncio.get_running_loop()
    later: list[tuple[float, object]] = []
    monkeypatch.setattr(loop, "call_later", lambda seconds, call: later.append((seconds, call)))
    watches.answered(LIST, 200, 0.1)
    assert later == [(LISTED, wakes.wake_all)]


def test_a_list_that_fails_is_none(clock: SetClock[float]) -> None:
    watches, *_ = some_watches(clock)
    watches.asks(LIST)
    watches.answered(LIST, 403, 0.1)
    assert not watches.has_listed("Job", "")
    watches.answered(LIST, 200, 0.1)
    assert watches.has_listed("Job", "")


async def test_the_endpoints_tell_what_is_wrong() -> None:
    alive: list[str | None] = [None]
    ready: list[str | None] = ["the first list of Job"]
    health = Health(stage=lambda: "leading", alive=[lambda: alive[0]], ready=lambda: ready[0])
    port = free_port()
    await health.start(port)

    async def ask(path: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}{path}") as answer,
        ):
            return answer.status, await answer.text()

    try:
        assert await ask("/healthz") == (200, "leading")
        assert await ask("/readyz") == (503, "waits for the first list of Job")
        alive[0], ready[0] = "the pass of lab/demo is 601 s late", None
        assert await ask("/healthz") == (500, "the pass of lab/demo is 601 s late")
        assert await ask("/readyz") == (200, "leading")
    finally:
        await health.stop()


@pytest.mark.parametrize(
    ("method", "url", "asked"),
    [
        ("GET", "/apis/batch/v1/jobs?labelSelector=a", Asked("list", "Job", "", False)),
        ("GET", "/apis/batch/v1/jobs?limit=500&continue=abc", Asked("list", "Job", "", True)),
        ("GET", "/apis/batch/v1/namespaces/lab/jobs?watch=true", Asked("watch", "Job", "lab", False)),
        ("GET", "/api/v1/namespaces/lab/pods/a", Asked("get", "Pod", "lab", False)),
        ("GET", "/api/v1/namespaces/lab/pods/a/log", Asked("get", "Pod", "lab", False)),
        ("PATCH", "/apis/selfrewarding.dev/v1alpha1/namespaces/lab/selfrewardingruns/demo/status", Asked("patch", "SelfRewardingRun", "lab", False)),
        ("GET", "/apis/selfrewarding.dev/v1alpha1", Asked("get", "APIResourceList", "", False)),
        ("GET", "/api", Asked("get", "APIResourceList", "", False)),
    ],
)  # fmt: skip
def test_requests_are_named_as_kubernetes_names_them(method: str, url: str, asked: Asked) -> None:
    assert what_is_asked(method, f"https://10.0.0.1:6443{url}") == asked
