"""Runs that share a prefix of stages: what is there is used, what another one makes is waited for (survival rule 8)."""

from collections import Counter

import pytest
from tests.cluster.faults.kubelet import Pace
from tests.cluster.faults.runs import NAME, condition
from tests.cluster.faults.scenarios import scenario
from tests.cluster.lifecycle.executions import computed, finished_by_artifact, side_by_side
from tests.cluster.lifecycle.scene import Scene

pytestmark = pytest.mark.timeout(300)

SHARED = ("SupervisedFineTune-1", "GeneratePrompts-2", "Rollout-2", "BuildPreferences-2")
OWN = "PreferenceOptimize-2"


def beta(value: float) -> dict[str, dict[str, float]]:
    """The one setting that the runs here differ in."""
    return {"dpo": {"beta": value}}


@scenario
async def test_a_second_run_trains_nothing_that_exists(scene: Scene) -> None:
    """A sweep over dpo.beta trains M1 once, in another namespace as in the same one."""
    first, second = await scene.namespace("sweep-one"), await scene.namespace("sweep-two")
    await scene.run(first, beta(0.1), store=first)
    await scene.until_succeeded(first)
    assert computed(scene.census, first) == dict.fromkeys((*SHARED, OWN), 1)

    await scene.run(second, beta(0.2), store=first)
    await scene.run(first, beta(0.3), store=first, name="sweep")
    for namespace, name in ((second, NAME), (first, "sweep")):
        run = await scene.until_succeeded(namespace, name=name)
        m1, m2 = run["status"]["models"]
        assert m1 == scene.status(first)["models"][0]
        assert m2["uri"] != scene.status(first)["models"][1]["uri"]
    assert computed(scene.census, second) == {OWN: 1}
    # The same again, word for word: nothing at all.
    again = await scene.namespace("sweep-again")
    await scene.run(again, beta(0.2), store=first)
    await scene.until_succeeded(again)
    assert computed(scene.census, again) == {}
    assert scene.servers(again) == []


@scenario
async def test_runs_that_begin_at_once_share_what_they_have_in_common_and_never_collide(scene: Scene) -> None:
    """Three runs of two namespaces, created in the same moment: one trains M1, the others wait for it."""
    one, two = await scene.namespace("at-once-one"), await scene.namespace("at-once-two")
    places = [(one, NAME, 0.1), (two, NAME, 0.2), (two, "third", 0.3)]
    for namespace in (one, two):
        scene.player.set_pace(namespace, Pace(run=1.0, grace=0.2))
    with scene.holding(one, "SupervisedFineTune"), scene.holding(two, "SupervisedFineTune"):
        for namespace, name, value in places:
            await scene.run(namespace, beta(value), store=one, name=name)
        reasons = lambda: sorted(  # noqa: E731
            condition(scene.look(namespace, name), "Ready")[1] for namespace, name, _ in places
        )
        wanted = ["ComputedByAnotherRun", "ComputedByAnotherRun", "Progressing"]
        await scene.until("two wait for the third", lambda: reasons() == wanted)
    for namespace, name, _ in places:
        await scene.until_succeeded(namespace, seconds=200, name=name)
    assert side_by_side(scene.census, [one, two]) == []
    ended = Counter(stage for stage, _ in finished_by_artifact(scene.census, [one, two]).elements())
    assert (ended["SupervisedFineTune"], ended["PreferenceOptimize"]) == (1, 3)
    # What takes less time than the answer of a Resolve takes to be read may be begun once more by one that asked just
    # before: its program then finds the result and ends (`srr_sampler.asking`). Here stages are a hundred times too fast.
    assert all(1 <= ended[stage] <= 2 for stage in ("GeneratePrompts", "Rollout", "BuildPreferences"))
    waited = {
        run["status"].get("waitingFor") or ""
        for namespace in (one, two)
        for run in scene.census.statuses(namespace)
        if "status" in run
    }
    assert any("which computes the same SupervisedFineTune" in text for text in waited)
    entries = [
        entry
        for namespace in (one, two)
        for run in scene.census.statuses(namespace)
        for entry in run.get("status", {}).get("attempts", {}).values()
    ]
    assert {entry["attempt"] for entry in entries} == {1}


@scenario
async def test_the_second_takes_over_when_the_first_is_suspended_and_the_first_finds_the_result(
    scene: Scene,
) -> None:
    first, second = await scene.namespace("over-one"), await scene.namespace("over-two")
    with scene.holding(first, "SupervisedFineTune"):
        await scene.run(first, beta(0.1), store=first)
        await scene.until_running(first, "SupervisedFineTune")
        await scene.run(second, beta(0.2), store=first)
        await scene.until(
            "the second waits", lambda: scene.says(second, "Ready", "True", "ComputedByAnotherRun")
        )
        assert f'run "{first}/{NAME}"' in scene.status(second)["waitingFor"]
        await scene.edit(first, {"suspend": True})
        await scene.until("Suspended", lambda: scene.says(first, "Suspended", "True"))
    await scene.until_succeeded(second)
    assert computed(scene.census, second) == dict.fromkeys((*SHARED, OWN), 1)
    await scene.edit(first, {"suspend": False})
    await scene.until_succeeded(first)
    assert computed(scene.census, first) == {"SupervisedFineTune-1": 1, OWN: 1}
    assert side_by_side(scene.census, [first, second]) == []


@scenario
async def test_equal_runs_with_stores_of_their_own_share_nothing(scene: Scene) -> None:
    """The control of all the above: what counts is the store, not the spec."""
    one, two = await scene.namespace("apart-one"), await scene.namespace("apart-two")
    for namespace in (one, two):
        await scene.run(namespace)
    for namespace in (one, two):
        await scene.until_succeeded(namespace)
        assert computed(scene.census, namespace) == dict.fromkeys((*SHARED, OWN), 1)
