"""What the adapter finds out and tells: progress from logs, complaints about pods, events."""

import asyncio
import json
from datetime import timedelta

import pytest
from tests.support.api_objects import RUN_UID, at, child, container_status, ended, pod, running
from tests.support.builders import make_run
from tests.support.told_api_server import (
    EVENTS,
    NAME,
    PODS,
    RUN,
    refusal,
)

from selfrewarding.cluster.events import NEW_BURST
from selfrewarding.cluster.protocol import (
    NotFound,
    Unavailable,
)
from selfrewarding.plan.actions import Event

# ---------------------------------------------------------------------- logs and complaints


def line(done, total=10):
    return "SRR-PROGRESS " + json.dumps({"done": done, "total": total})


async def test_progress_comes_from_the_end_of_the_programs_log(cluster, server, inventory):
    inventory.put(child("Job"))
    raw = pod(container_status("proxy", running()), container_status("sampler", running()))
    inventory.put(raw)
    path = f"{PODS}/{raw['metadata']['name']}/log"
    server.say("GET", path, f"{line(1)}\nsomething else\n{line(3)}\n{line(4)[:20]}")
    assert (await cluster.observe(RUN)).pods[0].progress.done == 3
    assert server.asked[0].query == {"container": "sampler", "tailLines": "10", "limitBytes": "4096"}
    await cluster.observe(RUN)
    assert len(server.asked) == 1, "once in 25 seconds"
    server.say("GET", path, line(9))
    inventory.put(
        pod(
            container_status("proxy", running()),
            container_status("sampler", ended(1)),
            phase="Failed",
            version=3000,
        )
    )
    assert (await cluster.observe(RUN)).pods[0].progress.done == 9, (
        "how far a failed pod came is read at its end"
    )


async def test_of_a_training_job_rank_0_tells_for_all(cluster, server, inventory):
    train = child("PyTorchJob", stage="SupervisedFineTune")
    inventory.put(train)
    for rank in ("0", "1"):
        marks = {"training.kubeflow.org/replica-type": "worker", "training.kubeflow.org/replica-index": rank}
        name = f"{NAME}-worker-{rank}"
        inventory.put(
            pod(container_status("pytorch", running()), owner=train, uid=rank, name=name, marks=marks)
        )
        server.say("GET", f"{PODS}/{name}/log", line(5))
    observed = await cluster.observe(RUN)
    assert {one.index: one.progress is not None for one in observed.pods} == {0: True, 1: False}
    assert len(server.asked) == 1


async def test_a_log_that_hangs_does_not_hold_up_the_pass(cluster, server, inventory):
    inventory.put(child("Job"))
    raw = pod(container_status("sampler", running()))
    inventory.put(raw)
    server.hang.add(f"{PODS}/{raw['metadata']['name']}/log")
    started = asyncio.get_running_loop().time()
    assert (await cluster.observe(RUN)).pods[0].progress is None
    assert asyncio.get_running_loop().time() - started < 1.5


async def test_a_job_without_pods_says_why(cluster, server, inventory, clock):
    inventory.put(child("Job"))
    message = 'Error creating: pods "demo-x" is forbidden: exceeded quota: gpus'
    old = {"type": "Warning", "reason": "FailedCreate", "message": "older", "lastTimestamp": at(10)}
    new = {"type": "Warning", "reason": "FailedCreate", "message": message, "lastTimestamp": at(20)}
    server.say("GET", EVENTS, {"kind": "EventList", "items": [new, old]})
    assert (await cluster.observe(RUN)).children[0].message == f"FailedCreate: {message}"
    assert server.asked[0].query == {"fieldSelector": "involvedObject.uid=job-uid,type=Warning"}


async def test_a_pod_whose_volume_is_missing_says_so(cluster, server, inventory):
    inventory.put(child("Job"))
    waiting_for_it = container_status("sampler", {"waiting": {"reason": "ContainerCreating"}})
    inventory.put(pod(waiting_for_it, phase="Pending"))
    event = {
        "reason": "FailedMount",
        "message": 'MountVolume.SetUp failed:\n secret "ca" not found',
        "eventTime": at(9),
    }
    server.say("GET", EVENTS, {"items": [event]})
    [found] = (await cluster.observe(RUN)).pods
    assert (found.waiting_reason, found.waiting_message) == (
        "FailedMount",
        'MountVolume.SetUp failed: secret "ca" not found',
    )


# ---------------------------------------------------------------------- events

EVENT = Event(type="Warning", reason="Stalled", message="No GPUs.")


async def test_an_event_is_posted_once_and_then_counted(cluster, server, clock):
    server.say("POST", EVENTS, {"kind": "Event"})
    await cluster.post_events(RUN, [EVENT])
    made = server.asked[0].body
    name = made["metadata"]["name"]
    assert made["involvedObject"]["uid"] == RUN_UID
    assert (made["type"], made["reason"], made["message"], made["count"]) == (
        "Warning",
        "Stalled",
        "No GPUs.",
        1,
    )
    assert made["reportingInstance"] == "srr-0"
    server.say("PATCH", f"{EVENTS}/{name}", {"kind": "Event"})
    clock.now += timedelta(minutes=1)
    await cluster.post_events(RUN, [EVENT, Event(type="Normal", reason="Stalled", message="No GPUs.")])
    assert [(one.method, one.body.get("count")) for one in server.asked[1:]] == [("PATCH", 2), ("POST", 1)]
    assert server.asked[1].body["lastTimestamp"] == "2026-01-31T11:02:00Z"


async def test_an_operator_that_was_started_again_goes_on_counting(cluster, server):
    server.say("POST", EVENTS, (409, refusal(409, "already exists", "AlreadyExists"), {}))
    first = asyncio.ensure_future(cluster.post_events(RUN, [EVENT]))
    with pytest.raises(NotFound):
        await first  # the server here knows no GET yet, but the name is known now
    name = server.asked[0].body["metadata"]["name"]
    server.say("GET", f"{EVENTS}/{name}", {"kind": "Event", "count": 41})
    server.say("PATCH", f"{EVENTS}/{name}", {"kind": "Event"})
    await cluster.post_events(RUN, [EVENT])
    assert server.asked[-1].body["count"] == 42


async def test_an_event_that_has_expired_is_posted_anew(cluster, server):
    server.say("POST", EVENTS, {"kind": "Event"})
    await cluster.post_events(RUN, [EVENT])
    await cluster.post_events(RUN, [EVENT])
    assert [one.method for one in server.asked] == ["POST", "PATCH", "POST"]


async def test_a_run_cannot_flood_its_namespace_with_events(cluster, server, clock):
    server.say("POST", EVENTS, {"kind": "Event"})
    events = [Event(type="Normal", reason="Odd", message=f"number {number}") for number in range(200)]
    await cluster.post_events(RUN, events)
    assert len(server.asked) == NEW_BURST
    clock.now += timedelta(minutes=2)
    await cluster.post_events(RUN, events[-10:])
    assert len(server.asked) == NEW_BURST + 2, "one in a minute"
    await cluster.post_events(make_run(uid="another", name="other"), events[:1])
    assert len(server.asked) == NEW_BURST + 3, "each run has its own allowance"


async def test_what_is_told_again_and_again_is_counted_25_times_and_leaves_room_for_what_is_new(
    cluster, server, clock
):
    server.say("POST", EVENTS, {"kind": "Event"})
    await cluster.post_events(RUN, [EVENT])
    name = server.asked[0].body["metadata"]["name"]
    server.say("PATCH", f"{EVENTS}/{name}", {"kind": "Event"})
    await cluster.post_events(RUN, [EVENT] * 40)
    assert [one.method for one in server.asked] == ["POST"] + ["PATCH"] * 25
    clock.now += timedelta(minutes=10)
    await cluster.post_events(RUN, [EVENT] * 4)
    assert len(server.asked) == 28, "one in five minutes"
    await cluster.post_events(RUN, [Event(type="Normal", reason="StageDone", message="Rollout is done.")])
    assert server.asked[-1].method == "POST"


async def test_a_lost_event_does_not_lose_the_others(cluster, server):
    server.say("POST", EVENTS, (500, "no", {}), {"kind": "Event"})
    with pytest.raises(Unavailable):
        await cluster.post_events(RUN, [EVENT, Event(type="Normal", reason="B", message="b")])
    assert len(server.asked) == 2
