"""The adapter reads: runs, children, pods, and what the cluster complains of; events are counted."""

import json
from datetime import UTC, datetime, timedelta

from tests.cluster.adapter.scene import Here, eventually
from tests.cluster.faults.api_client import EVENTS, NAMESPACES, PODS, Kind

from selfrewarding.api.run import SelfRewardingRunStatus
from selfrewarding.cluster.client import make_client
from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.kubernetes import KubernetesCluster
from selfrewarding.cluster.protocol import RunKey
from selfrewarding.plan.actions import Event
from selfrewarding.plan.observed import Child, Phase

QUOTAS = Kind("api/v1", "resourcequotas")


async def test_a_run_is_read_and_one_that_is_gone_is_none(here: Here) -> None:
    run = await here.run()
    assert (run.metadata.generation, run.spec.iterations) == (1, 3)
    assert run.status == SelfRewardingRunStatus()
    assert await here.cluster.get_run(RunKey(here.namespace, "other")) is None
    assert await here.cluster.get_run(RunKey("no-such-namespace", "demo")) is None


async def test_events_are_counted_not_repeated(here: Here) -> None:
    run = await here.run()
    event = Event(type="Warning", reason="Stalled", message="No GPUs. " * 200)
    for _ in range(3):
        await here.cluster.post_events(run, [event])
    # An operator that was started again counts on.
    async with await make_client(here.kubeconfig) as client:
        await KubernetesCluster(client, Inventory()).post_events(run, [event])
    [stored] = await here.api.list(
        EVENTS, here.namespace, fieldSelector=f"involvedObject.uid={run.metadata.uid}"
    )
    assert (stored["count"], stored["type"], stored["reason"]) == (4, "Warning", "Stalled")
    assert stored["lastTimestamp"] >= stored["firstTimestamp"]
    assert stored["involvedObject"]["name"] == "demo"


async def test_a_job_without_pods_says_why_as_its_controller_told(here: Here) -> None:
    """The real Job controller, in a namespace whose Pod Security level the pods do not meet."""
    run = await here.run()
    level = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    await here.api.patch(NAMESPACES, None, here.namespace, level)
    job = [*await here.job()][-1]
    job["spec"]["template"]["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    await here.cluster.create(run, job)
    late = datetime.now(UTC) + timedelta(seconds=10)
    here.cluster._clock = lambda: late

    async def message() -> str | None:
        here.cluster._complaint_readings.forget(here.key)
        return (await here.child("Job")).message

    told = await eventually(message)
    assert told.startswith("FailedCreate: Error creating: pods")
    assert 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false' in told


async def test_a_quota_that_refuses_a_pools_pods_stands_in_its_condition(here: Here) -> None:
    run = await here.run()
    await here.limit("pods", 0)
    deployment = [*await here.pool()][-1]
    await here.cluster.create(run, deployment)

    async def message() -> str | None:
        here.inventory.doubt("Deployment")
        return (await here.child("Deployment")).message

    told = await eventually(message)
    assert told.startswith("FailedCreate: ")
    assert "exceeded quota: few" in told


async def test_pods_are_seen_as_the_api_server_tells_of_them(here: Here) -> None:
    """A pod of the real Job controller, ended by hand as a kubelet would."""
    run = await here.run()
    for manifest in await here.job():
        await here.cluster.create(run, manifest)
    found = await eventually(lambda: here.api.list(PODS, here.namespace))
    name = found[0]["metadata"]["name"]
    here.inventory.put({**found[0], "kind": "Pod"})
    [pod] = (await here.cluster.observe(run)).pods
    assert (pod.name, pod.phase, pod.stage, pod.attempt) == (name, Phase.PENDING, "Prepare", 1)
    told = json.dumps({"failure": "BadData", "message": "line 7"})
    ended = {
        "exitCode": 3,
        "reason": "Error",
        "message": told,
        "startedAt": "2026-01-31T12:00:00Z",
        "finishedAt": "2026-01-31T12:00:09Z",
    }
    container = {
        "name": "sampler",
        "image": "x",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"terminated": ended},
    }
    status = {"status": {"phase": "Failed", "containerStatuses": [container]}}
    here.inventory.put(await here.api.patch(PODS, here.namespace, name, status, "status"))
    [pod] = (await here.cluster.observe(run)).pods
    assert (pod.phase, pod.exit_code, pod.termination.failure) == (Phase.FAILED, 3, "BadData")

    async def failed() -> Child | None:
        here.inventory.doubt("Job")
        job = await here.child("Job")
        return job if job.phase is Phase.FAILED else None

    job = await eventually(failed)  # the Job controller takes note: FailureTarget, then Failed
    assert job.message.startswith("BackoffLimitExceeded: ")
