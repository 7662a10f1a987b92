"""The loop of a run without kopf: when passes come, what they wait for, and how long until the next."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.builders import make_run

from selfrewarding.api.run import Metrics as ModelMetrics
from selfrewarding.api.run import ModelStatus, SelfRewardingRunStatus
from selfrewarding.cluster.protocol import Conflict, RunKey, Unavailable
from selfrewarding.controller.health import OVERDUE, Passes
from selfrewarding.controller.loop import JITTER, Controller
from selfrewarding.controller.metrics import Metrics
from selfrewarding.controller.reconcile import NEVER, FailedPasses
from selfrewarding.controller.wake import SETTLE, Wakes

KEY, OTHER = RunKey("lab", "demo"), RunKey("lab", "other")


class Stop:
    """A stopper as kopf's."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def __bool__(self) -> bool:
        return self.event.is_set()

    async def wait(self) -> object:
        return await self.event.wait()


class Recorder:
    """A reconciler that returns `after` and notes how many passes are under way."""

    def __init__(self, after: float = NEVER, work: Callable[[RunKey], Any] | None = None) -> None:
        self.after, self.work = after, work
        self.passes: list[RunKey] = []
        self.under_way, self.most = 0, 0
        self.error: Exception | None = None

    async def reconcile(self, key: RunKey) -> float:
        self.passes.append(key)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if self.work is not None:
            await self.work(key)
        self.under_way -= 1
        return self.after

    def failed_passes(self, key: RunKey) -> FailedPasses | None:
        return FailedPasses(1, self.error) if self.error else None


def make(recorder: Recorder, **options: Any) -> tuple[Controller, Wakes, Passes, Metrics]:
    wakes, passes, metrics = Wakes(), Passes(), Metrics()
    options = {"concurrency": 8, "uniform": lambda low, high: high} | options
    return Controller(recorder, wakes, passes=passes, metrics=metrics, **options), wakes, passes, metrics


async def many(recorder: Recorder, passes: int) -> None:
    async with asyncio.timeout(5):
        while len(recorder.passes) < passes:  # noqa: ASYNC110 - the recorder stays simple
            await asyncio.sleep(0.005)


async def settle(times: int = 5) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def test_a_wake_up_during_a_pass_is_followed_by_another_pass() -> None:
    async def work(key: RunKey) -> None:
        if len(recorder.passes) == 1:
            wakes.wake(key)

    recorder, stop = Recorder(work=work), Stop()
    controller, wakes, _, _ = make(recorder)
    loop = asyncio.create_task(controller.run(KEY, stop))
    await many(recorder, 2)
    await asyncio.sleep(2 * SETTLE)
    assert len(recorder.passes) == 2
    stop.event.set()
    await asyncio.wait_for(loop, 1)


async def test_a_hundred_wake_ups_at_once_are_one_pass() -> None:
    recorder, stop = Recorder(), Stop()
    controller, wakes, _, _ = make(recorder)
    loop = asyncio.create_task(controller.run(KEY, stop))
    await settle(20)
    assert len(recorder.passes) == 1
    for _ in range(100):
        wakes.wake(KEY)
        await asyncio.sleep(0)
    await asyncio.sleep(3 * SETTLE)
    assert len(recorder.passes) == 2
    stop.event.set()
    await asyncio.wait_for(loop, 1)


async def test_passes_of_one_run_never_overlap_and_those_of_all_are_limited() -> None:
    go_on = asyncio.Event()

    async def work(_: RunKey) -> None:
        await go_on.wait()

    recorder, stop = Recorder(work=work), Stop()
    controller, *_ = make(recorder, concurrency=3)
    keys = [RunKey("lab", f"run-{number}") for number in range(10)]
    loops = [asyncio.create_task(controller.run(key, stop)) for key in (*keys, *keys)]
    await settle(20)
    assert recorder.under_way == 3
    go_on.set()
    await many(recorder, 20)
    assert recorder.most == 3
    stop.event.set()
    await asyncio.wait_for(asyncio.gather(*loops), 2)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param(1e9, NEVER * (1 + JITTER), id="never later than the resync"),
        pytest.param(20.0, 20.0 * (1 + JITTER), id="as asked, varied by a tenth"),
        pytest.param(0.001, SETTLE, id="not faster than events settle"),
        pytest.param(0.0, 0.0, id="at once"),
    ],
)
async def test_the_next_look_comes_as_asked_and_at_the_latest_after_the_resync(
    asked: float, expected: float
) -> None:
    recorder, stop = Recorder(after=asked), Stop()
    controller, wakes, _, _ = make(recorder)
    waited: list[float] = []

    async def wait(key: RunKey, seconds: float, stopped: Any) -> None:
        waited.append(seconds)
        stop.event.set()

    wakes.wait = wait  # type: ignore[method-assign]
    await controller.run(KEY, stop)
    assert waited == [pytest.approx(expected)]


async def test_survival_rule_10_without_the_lease_no_pass_begins() -> None:
    recorder, stop = Recorder(), Stop()
    controller, *_ = make(recorder, may_act=lambda: False)
    loop = asyncio.create_task(controller.run(KEY, stop))
    await settle(50)
    assert recorder.passes == []
    stop.event.set()
    await asyncio.wait_for(loop, 1)


async def test_a_cancelled_loop_leaves_its_pass_to_end() -> None:
    began, written = asyncio.Event(), asyncio.Event()

    async def work(_: RunKey) -> None:
        began.set()
        await asyncio.sleep(0.05)
        written.set()

    controller, *_ = make(Recorder(work=work))
    loop = asyncio.create_task(controller.run(KEY, Stop()))
    await began.wait()
    loop.cancel()
    await asyncio.wait_for(written.wait(), 1)


async def test_first_passes_are_spread_after_a_start_but_a_new_run_does_not_wait() -> None:
    controller, wakes, _, _ = make(Recorder())
    for number in range(200):
        wakes.open(RunKey("lab", str(number)))
    assert controller.first_delay(is_new=True) == SETTLE
    assert controller.first_delay(is_new=False) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "Success"),
        (Conflict("x"), "Conflict"),
        (Unavailable("x"), "Unavailable"),
        (KeyError("x"), "Error"),
    ],
)
async def test_passes_are_counted_by_how_they_ended(error: Exception | None, outcome: str) -> None:
    recorder, stop = Recorder(), Stop()
    recorder.error = error
    controller, _, _, metrics = make(recorder)
    loop = asyncio.create_task(controller.run(KEY, stop))
    await settle(20)
    stop.event.set()
    await asyncio.wait_for(loop, 1)
    assert metrics.registry.get_sample_value("srr_reconcile_total", {"outcome": outcome}) == 1.0


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_first_pass_that_never_ends_is_overdue_as_any(deleted: bool) -> None:
    """A process whose passes hang from its start on must not look alive."""

    class Hangs:
        async def reconcile(self, _: RunKey) -> float:
            return await asyncio.Event().wait()

        async def retire(self, _: RunKey) -> float | None:
            return await asyncio.Event().wait()

        def failed_passes(self, _: RunKey) -> None:
            return None

    now, metrics = [0.0], Metrics()
    passes = Passes(clock=lambda: now[0])
    controller = Controller(Hangs(), Wakes(), passes=passes, metrics=metrics, concurrency=1, retirer=Hangs())
    # Two runs and one slot: the second's pass does not even begin.
    keys = (KEY, OTHER)
    loops = [
        asyncio.create_task(controller.retire(key) if deleted else controller.run(key, Stop()))
        for key in keys
    ]
    await settle(20)
    assert passes.overdue() is None
    now[0] = OVERDUE + 1.0
    assert passes.overdue() == f"the pass of lab/demo is {OVERDUE + 1.0:.0f} s late"
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    assert passes.overdue() is None


async def test_no_number_of_a_run_outlives_its_loop_though_nobody_tells_that_it_is_gone() -> None:
    """The DELETED of a run that went while its watch began anew never comes."""

    def shown() -> set[str]:
        of_the_run = {
            one.name
            for family in metrics.registry.collect()
            for one in family.samples
            if one.labels.get("run") == "demo"
        }
        phases = metrics.registry.get_sample_value("srr_runs", {"phase": "Pending"})
        return of_the_run | ({"srr_runs"} if phases else set())

    model = ModelStatus(name="M1", iteration=1, uri="s3://b/m1", digest="d", metrics=ModelMetrics(loss=1.5))
    run = make_run(status=SelfRewardingRunStatus(models=[model]))

    async def work(_: RunKey) -> None:
        metrics.seen(run)

    class Retires:
        async def retire(self, _: RunKey) -> float | None:
            metrics.seen(run)
            seen.append(shown())
            return None

    seen: list[set[str]] = []
    recorder, stop = Recorder(work=work), Stop()
    controller, _, _, metrics = make(recorder, retirer=Retires())
    loop = asyncio.create_task(controller.run(KEY, stop))
    await many(recorder, 1)
    assert shown() == {"srr_model_metric", "srr_runs"}
    stop.event.set()
    await asyncio.wait_for(loop, 1)
    assert shown() == set()
    await controller.retire(KEY)
    assert seen == [{"srr_model_metric", "srr_runs"}]
    assert shown() == set()


async def test_a_run_that_is_gone_leaves_nothing_behind() -> None:
    forgotten: list[RunKey] = []
    controller, wakes, passes, _ = make(Recorder(), forget=forgotten.append)
    controller.open(KEY)
    passes.expect(KEY, -2 * OVERDUE)
    assert passes.overdue() is not None
    controller.gone(KEY)
    assert (len(wakes), passes.overdue(), forgotten) == (0, None, [KEY])
