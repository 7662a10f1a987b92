"""Suspension and resumption: what is freed, what is kept, and what status says meanwhile (survival rule 9)."""

import asyncio
import time

import pytest
from tests.cluster.faults.api_client import RUNS
from tests.cluster.faults.invariants import side_by_side
from tests.cluster.faults.kubelet import Pace
from tests.cluster.faults.runs import NAME, STAGES, condition
from tests.cluster.faults.scenarios import scenario
from tests.cluster.lifecycle.executions import computed, keys_of
from tests.cluster.lifecycle.scene import Scene

pytestmark = pytest.mark.timeout(300)

ONCE = {"SupervisedFineTune-1": 1, "GeneratePrompts-2": 1, "Rollout-2": 1, "BuildPreferences-2": 1,
        "PreferenceOptimize-2": 1}  # fmt: skip
WATCHED = 4.0
"""Seconds in which a suspended run must do nothing at all."""


@scenario
async def test_suspended_while_it_trains_it_frees_its_gpus_keeps_its_results_and_goes_on_there(
    scene: Scene,
) -> None:
    await suspend_and_resume(scene, "SupervisedFineTune")


@scenario
async def test_suspended_while_it_asks_servers_it_frees_its_gpus_keeps_its_results_and_goes_on_there(
    scene: Scene,
) -> None:
    await suspend_and_resume(scene, "Rollout")


async def suspend_and_resume(scene: Scene, held: str) -> None:
    namespace = await scene.namespace("suspend")
    scene.player.set_pace(namespace, Pace(grace=0.5))
    with scene.holding(namespace, held):
        await scene.run(namespace)
        await scene.until_running(namespace, held)
        before = scene.status(namespace)
        await scene.edit(namespace, {"suspend": True})
        await scene.until("Suspended", lambda: scene.says(namespace, "Suspended", "True", "Suspended"))

        status = scene.status(namespace)
        # Pods that have ended are the garbage collector's, in its own time.
        ended = [f"pods {one['metadata']['name']}" for one in scene.pods(namespace, phase="Succeeded")]
        assert set(scene.census.left(namespace)) <= set(ended)
        assert (status["gpus"], status.get("waitingFor")) == (0, None)
        assert status["results"] == before["results"]
        assert status["models"] == before["models"]
        assert status["attempts"] == before["attempts"]
        assert scene.says(namespace, "Ready", "True", "Suspended")
        assert "Set it to false to go on" in scene.message(namespace, "Suspended")
        # It said on its way that it was not there yet.
        said = [condition(run, "Suspended") for run in scene.census.statuses(namespace)]
        assert ("False", "Suspending") in said

        await scene.until_quiet(namespace)
        began = time.monotonic()
        await asyncio.sleep(WATCHED)
        assert scene.calls(namespace, since=began) == []

    await scene.edit(namespace, {"suspend": False})
    run = await scene.until_succeeded(namespace)
    # The stage under way began again, under its own key and in the same attempt; what was finished did not.
    assert computed(scene.census, namespace) == ONCE | {f"{held}-{before['iteration']}": 2}
    assert len(set(keys_of(scene.census, namespace, held))) == 1
    entries = [
        entry
        for version in scene.census.statuses(namespace)
        for entry in version.get("status", {}).get("attempts", {}).values()
    ]
    assert {entry["attempt"] for entry in entries} == {1}
    assert all(entry.get("failures", 0) == entry.get("infrastructure", 0) == 0 for entry in entries)
    assert not side_by_side(scene.census, namespace)
    assert "suspendedAt" not in run["status"]


@scenario
async def test_a_run_that_is_born_suspended_makes_nothing_until_it_is_let_go(scene: Scene) -> None:
    namespace = await scene.namespace("born-suspended")
    await scene.run(namespace, {"suspend": True})
    await scene.until("Suspended", lambda: scene.says(namespace, "Suspended", "True"))
    await scene.until_quiet(namespace)
    assert scene.census.of(namespace) == []
    await scene.edit(namespace, {"suspend": False})
    await scene.until_succeeded(namespace)
    assert computed(scene.census, namespace) == ONCE


@scenario
async def test_suspended_and_resumed_again_and_again_it_does_every_stage_and_never_two_things_at_once(
    scene: Scene,
) -> None:
    """At whatever moment: between stages, while servers start, before anything of the last change was done."""
    namespace = await scene.namespace("back-and-forth")
    scene.player.set_pace(namespace, Pace(start=0.05, run=0.1, grace=0.3))
    await scene.run(namespace)
    for number in range(24):
        await asyncio.sleep(0.15 + 0.05 * (number % 7))
        await scene.edit(namespace, {"suspend": number % 2 == 0})
    run = await scene.until_succeeded(namespace)
    assert set(computed(scene.census, namespace)) == set(ONCE)
    assert not side_by_side(scene.census, namespace)
    assert {summary["stage"] for summary in run["status"]["results"].values()} == {
        *STAGES, "Report",
    } - {"Resolve"}  # fmt: skip
    entries = [
        entry
        for version in scene.census.statuses(namespace)
        for entry in version.get("status", {}).get("attempts", {}).values()
    ]
    assert all(entry.get("failures", 0) == entry.get("infrastructure", 0) == 0 for entry in entries)


@scenario
async def test_a_finished_run_that_is_suspended_stays_finished(scene: Scene) -> None:
    """There is nothing to suspend: its end does not become untrue, and resuming begins nothing."""
    namespace = await scene.namespace("finished")
    await scene.run(namespace)
    await scene.until_succeeded(namespace)
    made = len(scene.census.changes)
    for suspend in (True, False):
        await scene.edit(namespace, {"suspend": suspend})
        await scene.until("the edit is seen", lambda: scene.is_seen(namespace))
        run = await scene.api.get(RUNS, namespace, NAME)
        assert condition(run, "Succeeded")[0] == "True"
        assert condition(run, "Suspended")[0] == "False"
    await scene.until_quiet(namespace)
    assert computed(scene.census, namespace, since=made) == {}
