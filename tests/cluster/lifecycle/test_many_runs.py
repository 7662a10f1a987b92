"""Many runs in many namespaces, as a shared cluster has them: `restricted` Pod Security, and a ResourceQuota in each.

Every pod here is made through the API server, so admission judges every pod template that the operator ever wrote.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from tests.cluster.faults.api_client import EVENTS, PODS, Kind, Raw
from tests.cluster.faults.invariants import created_twice, side_by_side
from tests.cluster.faults.scenarios import scenario
from tests.cluster.lifecycle.executions import computed
from tests.cluster.lifecycle.scene import Scene, stage_of

from selfrewarding.api import labels

pytestmark = pytest.mark.timeout(300)

QUOTAS = Kind("api/v1", "resourcequotas")
RUNS_IN_EACH = 2
RANKED = {"uri": "s3://data/ranked.jsonl", "format": "Ranked"}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "two-nodes": {"training": {"nodes": 2, "gpusPerNode": 2, "deepspeed": {"zeroStage": 3}}},
    "shards": {"sampler": {"parallelism": 3}, "serving": {"replicas": 2}},
    "streamer": {"serving": {"load": "Streamer", "tensorParallelSize": 2}},
    "cpu": {"serving": {"device": "Cpu"}, "training": {"device": "Cpu"}},
    # A quota on memory wants every container to ask for some, and nobody knows the size of these models.
    "judge": {
        "judge": {"modelUri": "s3://models/judge"},
        "serving": {"judge": {"resources": {"memory": "16Gi"}}},
    },
    "writer": {
        "promptGeneration": {"writer": {"modelUri": "hf://lab/writer"}},
        "serving": {"promptWriter": {"resources": {"memory": "16Gi"}}},
    },
    "baseline": {"seedData": {"ranked": RANKED, "evaluations": None}},
    "held-out": {"seedData": {"heldOut": {"source": RANKED}}},
    "credentials": {
        "artifacts": {
            "credentials": {"secretName": "s3"},
            "caBundle": {"configMapName": "ca", "key": "ca.crt"},
        },
    },
}
"""Specs that between them have every kind of pod that the operator makes."""
ROOM = {"pods": "12", "requests.nvidia.com/gpu": "12", "requests.cpu": "40", "requests.memory": "2Ti"}
"""Enough for two runs at once."""


async def set_quota(scene: Scene, namespace: str, **hard: str) -> None:
    """A ResourceQuota that the API server already counts by."""
    await scene.api.create(QUOTAS, namespace, {"metadata": {"name": "share"}, "spec": {"hard": hard}})

    async def counted() -> bool:
        found = await scene.api.get(QUOTAS, namespace, "share")
        return bool(found and found.get("status", {}).get("used"))

    while not await counted():  # noqa: ASYNC110 - the quota controller's, which tells nobody
        await asyncio.sleep(0.05)


async def refusals(scene: Scene, namespace: str) -> list[str]:
    """What admission said against pods."""
    events = await scene.api.list(EVENTS, namespace)
    return [one["message"] for one in events if "violates PodSecurity" in (one.get("message") or "")]


@scenario
async def test_20_runs_in_10_restricted_namespaces_with_quotas_all_end(scene: Scene) -> None:
    namespaces = {shape: await scene.namespace(shape) for shape in SHAPES}
    for namespace in namespaces.values():
        await set_quota(scene, namespace, **ROOM)
    for number in range(RUNS_IN_EACH):
        for shape, namespace in namespaces.items():
            # Stores of their own: every run makes all of its pods.
            await scene.run(namespace, SHAPES[shape], store=f"{namespace}-{number}", name=f"run-{number}")
    for number in range(RUNS_IN_EACH):
        for namespace in namespaces.values():
            await scene.until_succeeded(namespace, seconds=220, name=f"run-{number}")
    for shape, namespace in namespaces.items():
        assert await refusals(scene, namespace) == [], shape
        assert created_twice(scene.census, namespace) == {}, shape
        again = {
            name: count for name, count in computed(scene.census, namespace).items() if count != RUNS_IN_EACH
        }
        assert again == {}, shape
        for number in range(RUNS_IN_EACH):
            assert side_by_side_of(scene, namespace, f"run-{number}") == [], shape
    made = {
        stage_of(change.object) or "server"
        for name in namespaces.values()
        for change in scene.census.of(name, (PODS,))
    }
    assert made == {
        "server", "Prepare", "Resolve", "TrainBaseline", "BuildEvaluations", "SupervisedFineTune", "GeneratePrompts",
        "Rollout", "BuildPreferences", "PreferenceOptimize", "Evaluate", "Report",
    }  # fmt: skip


def side_by_side_of(scene: Scene, namespace: str, run: str) -> list[str]:
    """As `invariants.side_by_side`, for one of several runs of a namespace; two pools that one stage asks belong together."""
    pools = ("-policy-", "-judge-", "-writer-")
    return [
        text
        for text in side_by_side(scene.census, namespace)
        if text.startswith(f"{run}-") and f"while {run}-" in text
        if not all(any(pool in pod for pool in pools) for pod in text.split(" while "))
    ]


@scenario
async def test_a_pod_template_that_restricted_forbids_is_told_in_plain_words_and_mended_by_an_edit(
    scene: Scene,
) -> None:
    """The control of the test above: admission does look."""
    namespace = await scene.namespace("forbidden")
    template = {"spec": {"hostNetwork": True}}
    await scene.run(namespace, {"sampler": {"podTemplate": template}})
    await scene.until("PodsNotCreated", lambda: scene.says(namespace, "Stalled", "True", "PodsNotCreated"))
    assert "the namespace's Pod Security level to admit pods" in scene.status(namespace)["waitingFor"]
    assert "podTemplate" in scene.message(namespace, "Stalled")
    assert await refusals(scene, namespace) != []
    await scene.edit(namespace, {"sampler": {"podTemplate": None}})
    await scene.until_succeeded(namespace)


@scenario
async def test_a_quota_on_gpus_that_is_too_small_is_told_in_plain_words_and_waited_for(scene: Scene) -> None:
    """The training's pods may not be made: 4 GPUs wanted, 3 there. It goes on by itself when the quota is raised."""
    namespace = await scene.namespace("small-share")
    await set_quota(scene, namespace, **{"requests.nvidia.com/gpu": "3"})
    await scene.run(namespace, {"training": {"gpusPerNode": 4}})
    await scene.until("PodsNotCreated", lambda: scene.says(namespace, "Stalled", "True", "PodsNotCreated"))
    assert scene.status(namespace)["waitingFor"] == '1 GPU: 4 requested, 3 free (ResourceQuota "share")'
    assert "Raise the quota, or wait until others free their share" in scene.message(namespace, "Stalled")
    assert scene.status(namespace)["gpus"] == 0
    await _raise_and_end(scene, namespace, **{"requests.nvidia.com/gpu": "4"})
    attempts = [
        entry
        for run in scene.census.statuses(namespace)
        for entry in run.get("status", {}).get("attempts", {}).values()
    ]
    assert {(entry["attempt"], entry.get("failures", 0)) for entry in attempts} == {(1, 0)}


@scenario
async def test_a_quota_on_servers_that_is_too_small_is_told_in_plain_words_and_waited_for(
    scene: Scene,
) -> None:
    """The same for a Deployment, whose ReplicaSet complains."""
    namespace = await scene.namespace("small-pool")
    await set_quota(scene, namespace, **{"requests.nvidia.com/gpu": "1"})
    await scene.run(namespace, {"serving": {"tensorParallelSize": 2}})
    await scene.until("PodsNotCreated", lambda: scene.says(namespace, "Stalled", "True", "PodsNotCreated"))
    assert scene.status(namespace)["waitingFor"] == '1 GPU: 2 requested, 1 free (ResourceQuota "share")'
    await _raise_and_end(scene, namespace, **{"requests.nvidia.com/gpu": "2"})


@scenario
async def test_a_quota_that_wants_to_be_told_the_memory_is_told_in_plain_words_and_mended_by_an_edit(
    scene: Scene,
) -> None:
    """Nobody knows the size of a judge that the run does not make, so its servers ask for no memory of their own."""
    namespace = await scene.namespace("unsaid")
    await set_quota(scene, namespace, **{"requests.memory": "2Ti"})
    await scene.run(namespace, SHAPES["judge"] | {"serving": {}})
    await scene.until("PodsNotCreated", lambda: scene.says(namespace, "Stalled", "True", "PodsNotCreated"))
    waiting = scene.status(namespace)["waitingFor"]
    assert waiting.startswith("requests.memory in pods of Deployment demo-judge-2-a1-")
    assert 'ResourceQuota "share"' in waiting
    assert "serving.judge" in scene.message(namespace, "Stalled")
    await scene.edit(namespace, SHAPES["judge"])
    await scene.until_succeeded(namespace)


@scenario
async def test_a_quota_on_jobs_refuses_the_child_itself_which_is_tried_again(scene: Scene) -> None:
    namespace = await scene.namespace("small-jobs")
    await set_quota(scene, namespace, **{"count/jobs.batch": "0"})
    await scene.run(namespace)
    await scene.until("QuotaExceeded", lambda: scene.says(namespace, "Stalled", "True", "QuotaExceeded"))
    assert scene.status(namespace)["waitingFor"] == '1 job: 1 requested, 0 free (ResourceQuota "share")'
    await _raise_and_end(scene, namespace, **{"count/jobs.batch": "4"})


async def _raise_and_end(scene: Scene, namespace: str, **hard: str) -> None:
    await scene.api.patch(QUOTAS, namespace, "share", {"spec": {"hard": hard}})
    run = await scene.until_succeeded(namespace)
    stalled = [one for one in run["status"]["conditions"] if one["type"] == "Stalled"]
    assert [one["status"] for one in stalled] == ["False"]
    assert _servers_left(scene, namespace) == []


def _servers_left(scene: Scene, namespace: str) -> list[Raw]:
    return [pod for pod in scene.servers(namespace) if labels.HOLDER in pod["metadata"]["labels"]]
