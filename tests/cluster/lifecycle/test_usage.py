"""Hand-over seconds and GPU-seconds in status, held against when the player's pods really began and ended.

Status writes times in whole seconds and the operator sees a change a moment later: `TOLERANCE` is what that may make.
"""

import pytest
from tests.cluster.faults.api_client import PODS
from tests.cluster.faults.census import Change
from tests.cluster.faults.kubelet import Pace
from tests.cluster.faults.runs import NAME
from tests.cluster.faults.scenarios import scenario
from tests.cluster.lifecycle.scene import Scene

from selfrewarding.api import labels

pytestmark = pytest.mark.timeout(300)

TOLERANCE = 1.5
"""Seconds for each number that is measured from one time to another."""
PACE = Pace(start=0.5, run=4.0, grace=2.0)
GPUS = {"training": {"gpusPerNode": 4}, "serving": {"tensorParallelSize": 2, "replicas": 2}}


def moments(scene: Scene, namespace: str) -> dict[str, dict[str, float]]:
    """When pods were bound, ready and over, by UID; seconds of the monotonic clock."""
    found: dict[str, dict[str, float]] = {}
    for change in scene.census.of(namespace, (PODS,)):
        of_pod = found.setdefault(change.uid, {"gpus": _gpus(change)})
        status = change.object.get("status", {})
        if change.object["spec"].get("nodeName"):
            of_pod.setdefault("bound", change.at)
        if any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ())):
            of_pod.setdefault("ready", change.at)
        if change.type == "DELETED" or status.get("phase") in ("Succeeded", "Failed"):
            of_pod.setdefault("over", change.at)
    return found


def _gpus(change: Change) -> float:
    containers = change.object["spec"]["containers"]
    return float(sum(int(one["resources"].get("limits", {}).get("nvidia.com/gpu", 0)) for one in containers))


def uids(scene: Scene, namespace: str, stage: str | None) -> set[str]:
    """UIDs of a stage's pods; None: of the serving pool's."""
    return {
        change.uid
        for change in scene.census.of(namespace, (PODS,))
        if (change.label(labels.STAGE) == stage if stage else change.label(labels.HOLDER))
    }


@scenario
async def test_gpu_seconds_and_handovers_are_those_that_the_pods_took(scene: Scene) -> None:
    namespace = await scene.namespace("accounting")
    scene.player.set_pace(namespace, PACE)
    await scene.run(namespace, GPUS)
    run = await scene.until_succeeded(namespace)
    pods = moments(scene, namespace)
    status = run["status"]

    # GPU-seconds: from a node until the end, for every pod that has GPUs.
    spans = [pod["gpus"] * (pod["over"] - pod["bound"]) for pod in pods.values() if pod["gpus"]]
    assert len(spans) == 4, "two trainings, two servers"
    held = [pod["gpus"] for pod in pods.values() if pod["gpus"]]
    print(f"GPU-seconds: {status['gpuSeconds']} in status, {sum(spans):.1f} by the pods")
    assert status["gpus"] == 0
    assert abs(status["gpuSeconds"] - sum(spans)) <= TOLERANCE * sum(held)

    # While a stage ran, status showed its GPUs.
    shown = {
        (version["status"].get("stage"), version["status"].get("gpus"))
        for version in scene.census.statuses(namespace)
        if "status" in version
    }
    assert {("SupervisedFineTune", 4), ("GeneratePrompts", 4), ("PreferenceOptimize", 4)} <= shown
    assert max(gpus or 0 for _, gpus in shown) == 4, "never two holders at once"

    # Hand-overs: from the last stage's end until the next servers answer, or the next training pods run.
    ended = {
        stage: max(pods[uid]["over"] for uid in uids(scene, namespace, stage))
        for stage in ("SupervisedFineTune", "Rollout")
    }
    to_servers = min(pods[uid]["ready"] for uid in uids(scene, namespace, None)) - ended["SupervisedFineTune"]
    to_training = (
        min(pods[uid]["ready"] for uid in uids(scene, namespace, "PreferenceOptimize")) - ended["Rollout"]
    )
    told = {
        summary["stage"]: summary["handoverSeconds"]
        for summary in status["results"].values()
        if "handoverSeconds" in summary
    }
    print(f"hand-overs: {told} in status; {to_servers:.1f} s and {to_training:.1f} s by the pods")
    assert set(told) == {"GeneratePrompts", "PreferenceOptimize"}, (
        "the rollout took over servers that were there"
    )
    assert abs(told["GeneratePrompts"] - to_servers) <= TOLERANCE
    assert abs(told["PreferenceOptimize"] - to_training) <= TOLERANCE
    assert status["handoverSeconds"] == told["PreferenceOptimize"]
    # What the player alone makes of them: pods that start and load, and a CPU stage in between.
    assert to_servers >= PACE.start + PACE.run
    assert to_training >= PACE.start + PACE.run + PACE.start


@scenario
async def test_gpus_that_were_given_back_by_a_suspension_are_not_counted(scene: Scene) -> None:
    namespace = await scene.namespace("accounting-suspended")
    scene.player.set_pace(namespace, Pace(grace=0.2))
    with scene.holding(namespace, "SupervisedFineTune"):
        await scene.run(namespace, GPUS)
        await scene.until("4 GPUs", lambda: scene.status(namespace).get("gpus") == 4)
        await scene.edit(namespace, {"suspend": True})
        await scene.until("Suspended", lambda: scene.says(namespace, "Suspended", "True"))
        held = dict(scene.status(namespace))
        assert held["gpus"] == 0
        await scene.until_quiet(namespace, 5.0)
    await scene.edit(namespace, {"suspend": False})
    run = await scene.until_succeeded(namespace)
    pods = moments(scene, namespace)
    by_pods = sum(pod["gpus"] * (pod["over"] - pod["bound"]) for pod in pods.values() if pod["gpus"])
    number = sum(pod["gpus"] for pod in pods.values())
    assert abs(run["status"]["gpuSeconds"] - by_pods) <= TOLERANCE * number
    # Five seconds without a GPU would be 20 more.
    assert run["metadata"]["name"] == NAME
