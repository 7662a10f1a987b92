"""Serving pools over a run's whole life: never two models behind one Service, and no server that nobody needs."""

from collections import defaultdict

import pytest
from tests.cluster.faults.api_client import DEPLOYMENTS, Raw
from tests.cluster.faults.kubelet import Failure, Pace
from tests.cluster.faults.scenarios import scenario
from tests.cluster.lifecycle.executions import computed
from tests.cluster.lifecycle.scene import Scene, stage_of
from tests.cluster.lifecycle.services import mixtures, ready_models

from selfrewarding.api import labels

pytestmark = pytest.mark.timeout(300)

JUDGE = {"judge": {"modelUri": "s3://models/judge"}}
WRITER = {"promptGeneration": {"writer": {"modelUri": "s3://models/writer"}}}


def pools(scene: Scene, namespace: str) -> dict[str, list[str]]:
    """Deployments by pool: the model keys that they served, in order."""
    found: dict[str, list[str]] = defaultdict(list)
    for change in scene.census.of(namespace, (DEPLOYMENTS,)):
        key, _, pool = (change.label(labels.HOLDER) or "").rpartition("-")
        if change.type == "ADDED":
            found[pool].append(key)
    return dict(found)


@scenario
async def test_a_new_model_is_rolled_out_without_ever_mixing_two(scene: Scene) -> None:
    """Three iterations with servers that start and stop slowly: M1, then M2, each behind a Service of its own."""
    namespace = await scene.namespace("rolling")
    scene.player.set_pace(namespace, Pace(start=0.1, run=0.2, grace=1.0))
    await scene.run(namespace, {"iterations": 3, "serving": {"replicas": 2}})
    await scene.until_succeeded(namespace)
    keys = pools(scene, namespace)["policy"]
    assert len(keys) == len(set(keys)) == 2
    assert ready_models(scene.census, namespace) == 1
    assert mixtures(scene.census, namespace) == []
    await scene.until("no server", lambda: not scene.servers(namespace))


@scenario
async def test_models_that_serve_side_by_side_are_each_behind_their_own_service(scene: Scene) -> None:
    """A dedicated judge beside the model in training, over three iterations, and a pool that is made anew on the way."""
    namespace = await scene.namespace("judge")
    scene.player.set_pace(namespace, Pace(run=0.1, grace=0.5))
    scene.player.fail_once(Failure("Rollout", namespace, exit_code=75))
    await scene.run(namespace, {"iterations": 3, **JUDGE})
    await scene.until_succeeded(namespace)
    assert ready_models(scene.census, namespace) == 2, "else nothing could have been mixed"
    assert mixtures(scene.census, namespace) == []
    assert len(set(pools(scene, namespace)["policy"])) == 2
    assert len(set(pools(scene, namespace)["judge"])) == 1


@scenario
async def test_nothing_serves_while_nothing_asks(scene: Scene) -> None:
    """The judge and the prompt writer come for their stages and go; no server lives while pairs are built or DPO runs."""
    namespace = await scene.namespace("asked")
    scene.player.set_pace(namespace, Pace(grace=0.2))
    with scene.holding(namespace, "GeneratePrompts", "Rollout", "BuildPreferences", "PreferenceOptimize"):
        await scene.run(namespace, {**JUDGE, **WRITER})
        there = {}
        for stage in ("GeneratePrompts", "Rollout", "BuildPreferences", "PreferenceOptimize"):
            await scene.until_running(namespace, stage)
            wanted = {"GeneratePrompts": {"writer"}, "Rollout": {"policy", "judge"}}.get(stage, set())
            await scene.until(
                f"servers of {stage}", lambda wanted=wanted: _serving(scene, namespace) == wanted
            )
            await scene.until_quiet(namespace, 1.0)
            there[stage] = _serving(scene, namespace)
            scene.player.hold(namespace, lambda pod, stage=stage: stage_of(pod) not in (stage, None))
    await scene.until_succeeded(namespace)
    assert there == {
        "GeneratePrompts": {"writer"},
        "Rollout": {"policy", "judge"},
        "BuildPreferences": set(),
        "PreferenceOptimize": set(),
    }


def _serving(scene: Scene, namespace: str) -> set[str]:
    holders = (str(pod["metadata"]["labels"][labels.HOLDER]) for pod in scene.servers(namespace))
    return {holder.rpartition("-")[2] for holder in holders}


@scenario
async def test_a_gate_that_holds_scales_its_servers_to_nothing_and_back_when_a_person_lets_it_go_on(
    scene: Scene,
) -> None:
    """M1 is measured by its own servers, which the next iteration would ask: while a person looks, they are no use."""
    namespace = await scene.namespace("gate")
    held_out = {"seedData": {"heldOut": {"source": {"uri": "s3://data/ranked.jsonl", "format": "Ranked"}}}}
    await scene.run(namespace, {**held_out, "gate": {"approval": "Manual"}, "serving": {"replicas": 2}})
    await scene.until("the gate holds", lambda: scene.says(namespace, "Ready", "False", "HeldByGate"))
    assert scene.status(namespace)["stage"] == "Gate"
    await scene.until("no server", lambda: not scene.servers(namespace))
    (deployment,) = scene.objects(DEPLOYMENTS, namespace)
    assert deployment["spec"]["replicas"] == 0
    await scene.until_quiet(namespace)
    assert scene.status(namespace)["gpus"] == 0

    await scene.annotate(namespace, approve="1")
    await scene.until(
        "the gate of M2", lambda: [model.get("gate") for model in _models(scene, namespace)][1:]
    )
    assert computed(scene.census, namespace)["Rollout-2"] == 1
    assert pools(scene, namespace)["policy"].count(deployment["metadata"]["labels"][labels.KEY]) == 1, (
        "the same pool"
    )
    assert mixtures(scene.census, namespace) == []


def _models(scene: Scene, namespace: str) -> list[Raw]:
    return [model for model in scene.status(namespace).get("models", []) if model.get("gate")]
