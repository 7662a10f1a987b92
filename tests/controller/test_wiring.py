"""kopf with our handlers: what wakes a run, what waits for what, and what a new start begins with."""

import asyncio
import time

import kmock
import pytest
from tests.controller.conftest import JOBS, RUNS, Shell, a_job, a_run, know

from selfrewarding.api import labels
from selfrewarding.cluster.protocol import RunKey

DEMO = RunKey("lab", "demo")


async def idle(key: RunKey) -> float:
    return 300.0


async def test_a_new_run_is_looked_at_at_once_and_gets_our_finalizer_and_nothing_else(api, shells) -> None:
    shell: Shell = shells(idle)
    async with shell.running():
        await shell.until(lambda: shell.starts.unlisted() is None)
        await shell.create(a_run())
        began = time.monotonic()
        await shell.until(lambda: shell.reconciler.passes)
        assert time.monotonic() - began < 1.0
        await shell.until(lambda: api.objects[RUNS, "lab", "demo"]["metadata"].get("finalizers"))
        await asyncio.sleep(0.3)
    run = api.objects[RUNS, "lab", "demo"].raw
    assert run["metadata"]["finalizers"] == [labels.FINALIZER]
    assert not run["metadata"].get("annotations")
    assert [one.method.value for one in api if one.method.value != "GET"] == ["POST", "PATCH"]


async def test_a_child_that_changes_wakes_its_run_at_once(api, shells) -> None:
    job = a_job()
    seen: list[tuple[float, int]] = []

    async def look(key: RunKey) -> float:
        children = shell.inventory.of(key).children
        ended = [one for one in children if one["status"].get("succeeded")]
        seen.append((time.monotonic(), len(ended)))
        return 300.0

    shell: Shell = shells(look)
    await shell.create(a_run())
    await shell.create(job)
    async with shell.running():
        await shell.until(lambda: seen)
        await asyncio.sleep(0.3)
        changed = time.monotonic()
        await shell.patch(job, status={"succeeded": 1})
        await shell.until(lambda: seen[-1][1] == 1)
        assert seen[-1][0] - changed < 1.0


async def test_a_burst_of_events_is_few_passes(api, shells) -> None:
    jobs = [a_job(f"job-{number}") for number in range(10)]
    shell: Shell = shells(idle)
    await shell.create(a_run())
    async with shell.running():
        await shell.until(lambda: shell.reconciler.passes)
        await asyncio.sleep(0.3)
        before = len(shell.reconciler.passes)
        for job in jobs:
            await shell.create(job)
        await shell.until(lambda: len(shell.inventory) == 10)
        await asyncio.sleep(0.3)
        assert 1 <= len(shell.reconciler.passes) - before <= 5


async def test_an_event_that_changes_nothing_for_a_pass_wakes_nobody(api, shells) -> None:
    job = a_job()
    shell: Shell = shells(idle)
    await shell.create(a_run())
    await shell.create(job)
    async with shell.running():
        await shell.until(lambda: shell.reconciler.passes)
        await asyncio.sleep(0.3)
        before = len(shell.reconciler.passes)
        await shell.patch(job, metadata={"annotations": {"somebody": "was here"}})
        await asyncio.sleep(0.3)
        assert len(shell.reconciler.passes) == before


async def test_an_edit_an_approval_and_a_pause_wake_the_run(api, shells) -> None:
    run = a_run()
    shell: Shell = shells(idle)
    await shell.create(run)
    async with shell.running():
        await shell.until(lambda: shell.reconciler.passes)
        await asyncio.sleep(0.3)
        for change in (
            {"spec": {"iterations": 3}},
            {"metadata": {"annotations": {labels.APPROVE: "1"}}},
            {"metadata": {"annotations": {labels.PAUSE: "disabled"}}},
        ):
            before = len(shell.reconciler.passes)
            await shell.patch(run, **change)
            await shell.until(lambda before=before: len(shell.reconciler.passes) > before)
            await asyncio.sleep(0.2)


async def test_a_child_that_vanishes_leaves_the_inventory_and_wakes_its_run(api, shells) -> None:
    job = a_job()
    shell: Shell = shells(idle)
    await shell.create(a_run())
    await shell.create(job)
    async with shell.running():
        await shell.until(lambda: shell.inventory.of(DEMO).children and shell.reconciler.passes)
        await asyncio.sleep(0.3)
        before = len(shell.reconciler.passes)
        await shell.delete(job)
        await shell.until(lambda: len(shell.reconciler.passes) > before)
        assert shell.inventory.of(DEMO).children == ()


async def test_survival_rule_02_a_new_process_decides_nothing_before_it_knows_what_exists(
    api, shells
) -> None:
    """The children's list is slow; the runs' is quick. A pass that did not wait would create the Job again."""
    slow = asyncio.Event()
    api[kmock.action.LIST, kmock.resource(JOBS)] << _after(
        slow, lambda: {"metadata": {"resourceVersion": "1"}, "items": [job]}
    )
    run, job = a_run(), a_job()
    created: list[str] = []

    async def create_if_absent(key: RunKey) -> float:
        if not shell.inventory.of(key).children:
            created.append("job")
        return 300.0

    shell: Shell = shells(create_if_absent)
    await shell.create(run)
    async with shell.running():
        await shell.until(lambda: shell.watches.has_listed("SelfRewardingRun", ""))
        await asyncio.sleep(0.5)
        assert shell.reconciler.passes == []
        assert shell.starts.unlisted() == "the first list of Job"
        slow.set()
        await shell.until(lambda: shell.reconciler.passes)
        assert shell.starts.unlisted() is None
    assert created == []


def _after(event: asyncio.Event, answer):
    async def serve(request):
        await event.wait()
        return answer()

    return serve


async def test_a_restart_with_children_creates_nothing_twice(api, shells) -> None:
    async def create_if_absent(key: RunKey) -> float:
        if not current.inventory.of(key).children:
            await current.create(a_job())
        return 300.0

    current: Shell = shells(create_if_absent)
    await current.create(a_run())
    for _ in range(3):
        async with current.running():
            await _settled(current)
        current = shells(create_if_absent)
    await current.client.close()
    assert len([one for one in api if one.method == "POST" and one.resource.plural == "jobs"]) == 1


async def _settled(shell: Shell) -> None:
    await shell.until(lambda: shell.reconciler.passes and len(shell.inventory) == 1)
    await asyncio.sleep(0.2)


async def test_a_deletion_waits_for_the_pass_in_progress_and_then_retires_the_run_once(api, shells) -> None:
    log: list[str] = []
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(key: RunKey) -> float:
        log.append("pass begins")
        began.set()
        await go_on.wait()
        log.append("pass ends")
        return 300.0

    class Retirer:
        async def retire(self, key: RunKey) -> float | None:
            log.append("retired")
            return None

    run = a_run(finalizers=[labels.FINALIZER])
    shell: Shell = shells(slow, retirer=Retirer())
    await shell.create(run)
    async with shell.running():
        await began.wait()
        await shell.delete(run)
        await asyncio.sleep(0.5)
        assert log == ["pass begins"]
        assert not api.objects[RUNS, "lab", "demo"].deleted
        go_on.set()
        await shell.until(lambda: api.objects[RUNS, "lab", "demo"].deleted)
        await shell.until(lambda: len(shell.wakes) == 0)
    assert log == ["pass begins", "pass ends", "retired"]


async def test_a_run_is_kept_until_it_is_retired_and_its_job_wakes_that(api, shells) -> None:
    job = a_job("retire")

    class Retirer:
        asked = 0

        async def retire(self, key: RunKey) -> float | None:
            self.asked += 1
            if self.asked == 1:
                await shell.create(job)
            children = shell.inventory.of(key).children
            return None if children and children[0]["status"].get("succeeded") else 300.0

    run, retirer = a_run(), Retirer()
    shell: Shell = shells(idle, retirer=retirer)
    await shell.create(run)
    async with shell.running():
        await shell.until(lambda: api.objects[RUNS, "lab", "demo"]["metadata"].get("finalizers"))
        await shell.delete(run)
        await shell.until(lambda: shell.inventory.of(DEMO).children)
        await asyncio.sleep(0.3)
        assert not api.objects[RUNS, "lab", "demo"].deleted
        await shell.patch(job, status={"succeeded": 1})
        await shell.until(lambda: api.objects[RUNS, "lab", "demo"].deleted)
    assert not any("annotations" in str(one.data) for one in api if one.method.value == "PATCH")
    assert 2 <= retirer.asked <= 3


async def test_a_stop_lets_the_pass_in_progress_end(api, shells) -> None:
    log: list[str] = []
    began = asyncio.Event()

    async def slow(key: RunKey) -> float:
        began.set()
        await asyncio.sleep(1.0)
        log.append("written")
        return 300.0

    shell: Shell = shells(slow)
    await shell.create(a_run())
    async with shell.running():
        await began.wait()
    assert log == ["written"]


async def test_stopping_is_quick_when_nothing_is_in_progress(api, shells) -> None:
    shell: Shell = shells(idle)
    await shell.create(a_run())
    async with shell.running():
        await shell.until(lambda: shell.reconciler.passes)
        await asyncio.sleep(0.2)
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 3.0


@pytest.mark.parametrize(
    "event",
    [
        pytest.param({"type": "ERROR", "object": {"code": 500, "message": "etcd"}}, id="an error in a watch"),
        pytest.param(b'{"type": "ADDED", "obj', id="a watch cut in the middle of a line"),
    ],
)
async def test_what_ends_kopf_does_not_end_the_process(api, shells, event) -> None:
    job = a_job()
    shell: Shell = shells(idle)
    await shell.create(a_run())
    await shell.create(job)
    api[kmock.action.WATCH, kmock.resource(JOBS)][:1] << (event,)
    async with shell.running():
        await shell.until(lambda: shell.reconciler.passes)
        await asyncio.sleep(0.6)
        before = len(shell.reconciler.passes)
        await shell.patch(job, status={"succeeded": 1})
        await shell.until(lambda: len(shell.reconciler.passes) > before)


async def test_survival_rule_10_pytorchjobs_that_are_installed_later_are_noticed_without_a_restart(
    api, shells
) -> None:
    training = a_job("train") | {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob"}
    shell: Shell = shells(idle, look_for_kinds=0.1)
    await shell.create(a_run())
    async with shell.running():
        await shell.until(lambda: shell.reconciler.passes)
        assert shell.inventory.missing_kinds == {"PyTorchJob"}
        know(api, "PyTorchJob")
        await shell.create(training)
        await shell.until(lambda: shell.inventory.of(DEMO).children)
        assert shell.inventory.missing_kinds == frozenset()
        before = len(shell.reconciler.passes)
        await shell.delete(training)
        await shell.until(lambda: len(shell.reconciler.passes) > before)


async def test_an_operator_without_its_crd_waits_for_it(api, shells) -> None:
    del api.resources[RUNS]
    shell: Shell = shells(idle)
    async with shell.running():
        await asyncio.sleep(0.4)
        assert shell.starts.unlisted() == "the kinds of the cluster"
        know(api, "SelfRewardingRun")
        await shell.create(a_run())
        await shell.until(lambda: shell.reconciler.passes)


async def test_a_pass_that_fails_in_any_way_leaves_the_loop_alive(api, shells) -> None:
    """kopf lets a daemon that has raised kopf.PermanentError rest for ever: ours never lets one out."""
    import kopf

    count = 0

    async def fail(key: RunKey) -> float:
        nonlocal count
        count += 1
        if count == 1:
            raise kopf.PermanentError("never again")
        return 300.0

    shell: Shell = shells(fail)
    run = a_run()
    await shell.create(run)
    async with shell.running():
        await shell.until(lambda: count >= 1)
        await shell.patch(run, spec={"suspend": True})
        await shell.until(lambda: count >= 2)
