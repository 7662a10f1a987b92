"""Events: enough to follow a run by, and never a flood (counted as objects and as writes)."""

import asyncio
from typing import Any

import pytest
from tests.cluster.faults.api_client import EVENTS, PODS, Raw
from tests.cluster.faults.kubelet import Failure, Pace
from tests.cluster.faults.runs import NAME, REPORTS, STAGES
from tests.cluster.faults.scenarios import scenario
from tests.cluster.lifecycle.scene import Scene

from selfrewarding.api import labels
from selfrewarding.cluster.events import BURST

pytestmark = pytest.mark.timeout(300)

PER_STAGE = 3
"""Events that a stage may cost in a run that nothing disturbs: begun, its server begun, done."""
FLAPS = 60


async def events(scene: Scene, namespace: str) -> list[Raw]:
    """Our event objects about the run."""
    found = await scene.api.list(EVENTS, namespace)
    return [one for one in found if one.get("reportingComponent") == labels.FIELD_MANAGER]


def event_writes(scene: Scene, namespace: str) -> int:
    """Requests that made or counted an event."""
    return sum(
        call.resource == "events" and call.is_write
        for call in scene.proxy.calls
        if call.namespace == namespace
    )


@scenario
async def test_an_undisturbed_run_tells_each_stage_once_and_nothing_twice(scene: Scene) -> None:
    namespace = await scene.namespace("events")
    await scene.run(namespace)
    await scene.until_succeeded(namespace)
    await scene.until_quiet(namespace)
    told = await events(scene, namespace)
    stages = len(STAGES) + REPORTS
    assert len(told) <= PER_STAGE * stages
    assert {one["count"] for one in told} == {1}
    assert {one["type"] for one in told} == {"Normal"}
    reasons = [one["reason"] for one in told]
    for reason, number in {"StageStarted": stages, "ServerStarted": 1, "AllIterationsDone": 1}.items():
        assert reasons.count(reason) == number
    # Resolve answers a question and has no result of its own.
    assert reasons.count("StageDone") == stages - 1
    assert reasons.count("GatePromoted") == 2
    assert all(one["involvedObject"]["name"] == NAME for one in told)
    assert event_writes(scene, namespace) == len(told)


@scenario
async def test_a_pod_that_flaps_makes_one_event_object_and_a_bounded_number_of_writes(scene: Scene) -> None:
    """An image that cannot be pulled, as kubelets tell it: ErrImagePull, ImagePullBackOff, and creating in between."""
    namespace = await scene.namespace("flapping")
    scene.player.set_pace(namespace, Pace(start=3600))  # no node: the test writes what a kubelet would
    await scene.run(namespace)
    await scene.until("Prepare's pod", lambda: scene.pods(namespace, "Prepare"))
    (pod,) = scene.pods(namespace, "Prepare")
    before = {one["metadata"]["name"] for one in await events(scene, namespace)}
    known = len(scene.census.statuses(namespace))
    for number in range(FLAPS):
        await scene.api.patch(PODS, namespace, pod["metadata"]["name"], _waits(pod, number), "status")
        await asyncio.sleep(0.1)
    await scene.until("PodCannotStart", lambda: scene.says(namespace, "Stalled", "True", "PodCannotStart"))
    assert "cannot be pulled" in scene.status(namespace)["waitingFor"]
    flapped = len(scene.census.statuses(namespace)) - known
    assert flapped >= 6, "the operator saw it flap"
    await scene.until_quiet(namespace)
    new = [one for one in await events(scene, namespace) if one["metadata"]["name"] not in before]
    assert len(new) <= 2
    assert {one["reason"] for one in new} >= {"PodCannotStart"}
    assert event_writes(scene, namespace) <= len(before) + len(new) + BURST
    print(
        f"{FLAPS} flaps: {flapped} status writes, {len(new)} event objects, {event_writes(scene, namespace)} writes"
    )


def _waits(pod: Raw, number: int) -> Raw:
    """The pod's status at the n-th flap."""
    image = pod["spec"]["containers"][0]["image"]
    states: list[dict[str, Any]] = [
        {"reason": "ErrImagePull", "message": f'failed to pull image "{image}": not found'},
        {"reason": "ContainerCreating"},
        {
            "reason": "ImagePullBackOff",
            "message": f'Back-off pulling image "{image}": ErrImagePull: not found',
        },
    ]
    # The last one stays.
    waiting = states[number % 3] if number < FLAPS - 1 else states[2]
    (container,) = pod["spec"]["containers"]
    of_container = {
        "name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0, "ready": False,
        "state": {"waiting": waiting},
    }  # fmt: skip
    scheduled = {"type": "PodScheduled", "status": "True"}
    return {"status": {"phase": "Pending", "conditions": [scheduled], "containerStatuses": [of_container]}}


@scenario
async def test_a_stage_that_fails_again_and_again_is_told_once_for_each_attempt(scene: Scene) -> None:
    namespace = await scene.namespace("failing")
    for _ in range(2):
        scene.player.fail_once(Failure("Prepare", namespace, exit_code=1))
    await scene.run(namespace, {"limits": {"retries": 1}})
    await scene.until("the end", lambda: scene.says(namespace, "Failed", "True", "RetriesExhausted"))
    await scene.until_quiet(namespace)
    told = [(one["reason"], one["type"], one["count"]) for one in await events(scene, namespace)]
    assert sorted(told) == [
        ("AttemptFailed", "Warning", 1),
        ("AttemptFailed", "Warning", 1),
        ("RetriesExhausted", "Warning", 1),
        ("StageStarted", "Normal", 1),
    ]
