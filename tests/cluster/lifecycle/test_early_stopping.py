"""Candidates of a DPO training (`dpo.earlyStopping`): served one after the other, and one of them is the model."""

import pytest
from tests.cluster.faults.api_client import DEPLOYMENTS, Raw
from tests.cluster.faults.invariants import created_twice, side_by_side
from tests.cluster.faults.kubelet import Pace
from tests.cluster.faults.scenarios import scenario
from tests.cluster.lifecycle.executions import computed, keys_of
from tests.cluster.lifecycle.scene import Scene

from selfrewarding.api import labels

pytestmark = pytest.mark.timeout(300)

EARLY: Raw = {
    "seedData": {"heldOut": {"source": {"uri": "s3://data/ranked.jsonl", "format": "Ranked"}}},
    "dpo": {"earlyStopping": {"candidates": 2}},
    "evaluation": {"headToHead": {"prompts": 4}},
}
ONCE = {"SupervisedFineTune-1": 1, "Evaluate-1": 1, "GeneratePrompts-2": 1, "Rollout-2": 1, "BuildPreferences-2": 1,
        "PreferenceOptimize-2": 1, "Answer-2": 2, "Select-2": 1, "Evaluate-2": 1, "Compare-2": 1}  # fmt: skip


@scenario
async def test_candidates_are_served_one_after_the_other_and_the_chosen_one_is_measured(scene: Scene) -> None:
    namespace = await scene.namespace("candidates")
    scene.player.set_pace(namespace, Pace(start=0.05, run=0.1, grace=0.3))
    await scene.run(namespace, EARLY)
    run = await scene.until_succeeded(namespace)
    assert computed(scene.census, namespace) == ONCE
    (select,) = keys_of(scene.census, namespace, "Select")
    model = next(model for model in run["status"]["models"] if model["name"] == "M2")
    assert f"/Select/{select}" in model["uri"]
    pools = [change.label(labels.HOLDER) for change in scene.census.of(namespace, (DEPLOYMENTS,))]
    # M1, both candidates, and the chosen one.
    assert len(set(pools)) == 4
    assert not side_by_side(scene.census, namespace)
    assert not created_twice(scene.census, namespace)


@scenario
async def test_suspended_while_a_candidate_answers_the_one_before_does_not_answer_again(scene: Scene) -> None:
    namespace = await scene.namespace("suspend-candidate")
    scene.player.set_pace(namespace, Pace(grace=0.5))
    second = lambda: len(set(keys_of(scene.census, namespace, "Answer"))) == 2  # noqa: E731
    scene.player.hold(
        namespace, lambda pod: second() and pod["metadata"]["labels"].get(labels.STAGE) == "Answer"
    )
    await scene.run(namespace, EARLY)
    await scene.until("the second candidate's Job", second)
    await scene.until_running(namespace, "Answer")
    before = scene.status(namespace)
    await scene.edit(namespace, {"suspend": True})
    await scene.until("Suspended", lambda: scene.says(namespace, "Suspended", "True", "Suspended"))
    assert scene.status(namespace)["results"] == before["results"]
    assert scene.status(namespace)["gpus"] == 0
    scene.player.release(namespace)
    await scene.edit(namespace, {"suspend": False})
    await scene.until_succeeded(namespace)
    assert computed(scene.census, namespace) == ONCE | {"Answer-2": 3}
    first, *rest = keys_of(scene.census, namespace, "Answer")
    assert len(set(rest)) == 1
    assert first not in rest
    assert not side_by_side(scene.census, namespace)
