"""What the adapter asks for: a run, kinds that are missing, what a watch has missed. How long it waits, and what refusals mean."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from tests.support.api_objects import child, condition, container_status, ended, pod
from tests.support.builders import SPEC
from tests.support.told_api_server import (
    API,
    EVENTS,
    JOBS,
    KEY,
    NAME,
    PODS,
    RUN,
    refusal,
    stored_run,
)

from selfrewarding.cluster import kubernetes
from selfrewarding.cluster.calls import Call
from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.kinds import RUN as RUN_KIND
from selfrewarding.cluster.kubernetes import KubernetesCluster
from selfrewarding.cluster.protocol import (
    Forbidden,
    InvalidRun,
    KindMissing,
    NotFound,
    Refused,
    Unavailable,
)
from selfrewarding.plan.observed import Phase

# ---------------------------------------------------------------------- reading a run


async def test_a_pass_over_an_idle_run_is_one_get(cluster, server, inventory, requests):
    server.say("GET", API, stored_run())
    inventory.put(child("ConfigMap"))
    run = await cluster.get_run(KEY)
    observed = await cluster.observe(run)
    assert [(one.method, one.path) for one in server.asked] == [("GET", API)]
    assert server.asked[0].headers["Authorization"] == "bearer t0ken"
    assert [one.kind for one in observed.children] == ["ConfigMap"]
    [(verb, kind, code, seconds)] = requests
    assert (verb, kind, code) == ("get", "SelfRewardingRun", 200)
    assert 0 < seconds < 10


async def test_a_run_that_is_gone_is_none(cluster, server):
    gone = refusal(
        404, 'selfrewardingruns "demo" not found', "NotFound", name="demo", kind="selfrewardingruns"
    )
    server.say("GET", API, (404, gone, {}))
    assert await cluster.get_run(KEY) is None


async def test_a_cluster_without_our_crd_is_no_run_that_is_gone(cluster):
    with pytest.raises(KindMissing, match="SelfRewardingRun"):
        await cluster.get_run(KEY)


async def test_a_spec_that_cannot_be_read(cluster, server):
    server.say("GET", API, stored_run(spec=SPEC | {"iterations": 0}))
    with pytest.raises(InvalidRun):
        await cluster.get_run(KEY)


# ---------------------------------------------------------------------- errors

RBAC = 'jobs.batch is forbidden: User "system:serviceaccount:srr:operator" cannot create resource "jobs" in API group "batch" in the namespace "lab"'
QUOTA = f'jobs.batch "{NAME}" is forbidden: exceeded quota: jobs, requested: count/jobs.batch=1, used: count/jobs.batch=5, limited: count/jobs.batch=5'
WEBHOOK = 'Internal error occurred: failed calling webhook "validator.pytorchjob.training-operator.kubeflow.org": connection refused'
DENIED = 'admission webhook "policy.example.test" denied the request: image is not signed'
ENDING = f'jobs.batch "{NAME}" is forbidden: unable to create new content in namespace lab because it is being terminated'

REFUSALS = {
    "missing rights": ((403, refusal(403, RBAC, "Forbidden"), {}), Forbidden, None,
        'The operator (system:serviceaccount:srr:operator) may not create jobs in namespace "lab": grant it the verb "create" on "jobs" of API group "batch"'),
    "a ResourceQuota": ((403, refusal(403, QUOTA, "Forbidden"), {}), Refused, "QuotaExceeded", "limited: count/jobs.batch=5. Raise the quota"),
    "a policy": ((403, refusal(403, f'jobs.batch "{NAME}" is forbidden: violates PodSecurity "restricted:latest"', "Forbidden"), {}),
        Refused, "NotAdmitted", "violates PodSecurity"),
    "a policy's webhook": ((400, refusal(400, DENIED, "BadRequest"), {}), Refused, "NotAdmitted", "image is not signed"),
    "a namespace on its way out": ((403, refusal(403, ENDING, "Forbidden", causes=[{"reason": "NamespaceTerminating"}]), {}),
        Refused, "NamespaceTerminating", 'Namespace "lab" is being deleted'),
    "its own validation": ((422, refusal(422, f'Job.batch "{NAME}" is invalid: spec.template.spec.priorityClassName: no', "Invalid"), {}),
        Refused, "NotValid", "podTemplate"),
    "a webhook that does not answer": ((500, refusal(500, WEBHOOK, "InternalError"), {}), Refused, "WebhookFails", "connection refused"),
    "no such namespace": ((404, refusal(404, 'namespaces "lab" not found', "NotFound", name="lab", kind="namespaces"), {}),
        NotFound, None, 'namespace "lab" does not exist'),
    "a kind that nobody serves": ((404, "404 page not found\n", {}), KindMissing, None, "does not know the kind Job"),
    "credentials that have expired": ((401, refusal(401, "Unauthorized", "Unauthorized"), {}), Unavailable, None, "credentials"),
    "an internal error": ((500, refusal(500, "etcdserver: request timed out", "InternalError"), {}), Unavailable, None, "etcdserver"),
    "a proxy's page": ((502, "<html>Bad Gateway</html>", {}), Unavailable, None, "502"),
    "an answer that is no JSON": ((200, "<html>hello</html>", {}), Unavailable, None, "no JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
async def test_each_refusal_has_its_error_and_says_what_to_do(cluster, server, case):
    answer, error, reason, words = REFUSALS[case]
    server.say("POST", JOBS, answer)
    with pytest.raises(error) as caught:
        await cluster.create(RUN, child("Job"))
    assert type(caught.value) is error
    assert getattr(caught.value, "reason", None) == reason
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"Retry-After": "7"}, 7), ({}, 0), ({"Retry-After": "soon"}, 0), ({"Retry-After": "99999"}, 300)],
)
async def test_too_many_requests_says_how_long_to_wait(cluster, server, headers, seconds):
    busy = refusal(429, "The apiserver is currently overloaded", "TooManyRequests")
    server.say("GET", API, (429, busy, headers))
    with pytest.raises(Unavailable) as caught:
        await cluster.get_run(KEY)
    assert caught.value.retry_after == seconds
    assert len(server.asked) == 1, "the next pass is the retry"


async def test_retry_after_may_be_a_date(cluster, server):
    soon = (datetime.now(UTC) + timedelta(seconds=60)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    server.say("GET", API, (503, "busy", {"Retry-After": soon}))
    with pytest.raises(Unavailable) as caught:
        await cluster.get_run(KEY)
    assert 50 < caught.value.retry_after <= 60


async def test_a_server_that_does_not_answer_is_left_in_time(cluster, server, requests):
    server.hang.add(API)
    started = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable, match=f"did not answer GET {API} within 0.2 s"):
        await cluster._calls.ask(
            Call(verb="get", resource=RUN_KIND, namespace="lab", name="demo", timeout=0.2)
        )
    assert asyncio.get_running_loop().time() - started < 2
    assert requests[0][:3] == ("get", "SelfRewardingRun", 0)
    assert Call(verb="get", resource=RUN_KIND, namespace="lab").timeout == 10


async def test_a_server_that_is_not_there(inventory):
    async with ApiClient(Configuration(host="http://127.0.0.1:9")) as client:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await KubernetesCluster(client, inventory).get_run(KEY)


# ---------------------------------------------------------------------- missing kinds


async def test_a_missing_kind_is_noticed_and_noticed_again_when_it_comes(
    cluster, server, inventory, monkeypatch
):
    server.say("GET", PODS, {"items": []})
    train = child("PyTorchJob", stage="SupervisedFineTune")
    with pytest.raises(KindMissing):
        await cluster.create(RUN, train)
    server.say("GET", "/apis/kubeflow.org/v1", {"kind": "APIResourceList", "resources": [{"kind": "MPIJob"}]})
    assert (await cluster.observe(RUN)).missing_kinds == {"PyTorchJob"}
    served = {"kind": "APIResourceList", "resources": [{"kind": "PyTorchJob", "name": "pytorchjobs"}]}
    server.say("GET", "/apis/kubeflow.org/v1", served)
    assert (await cluster.observe(RUN)).missing_kinds == {"PyTorchJob"}, "asked once in half a minute"
    monkeypatch.setattr(kubernetes, "PROBE_EVERY", 0.0)
    assert (await cluster.observe(RUN)).missing_kinds == frozenset()
    before = len(server.asked)
    await cluster.observe(RUN)
    assert len(server.asked) == before


# ---------------------------------------------------------------------- what a watch has missed


async def test_what_nothing_was_heard_of_is_asked_for(server, clock):
    now = [0.0]
    inventory = Inventory(lambda: now[0])
    async with ApiClient(Configuration(host=server.url)) as client:
        cluster = KubernetesCluster(client, inventory, clock=clock)
        job = child("Job", status={"active": 1, "ready": 1})
        for raw in (job, child("ConfigMap", uid="map", name="map"), pod(uid="p")):
            inventory.put(raw)
        server.say("GET", f"{JOBS}/{NAME}", job)
        server.say("GET", PODS, {"items": []})
        server.say("GET", f"{PODS}/{pod()['metadata']['name']}/log", "")
        server.say("GET", EVENTS, {"kind": "EventList", "items": []})
        now[0] = kubernetes.VERIFY_EVERY + 1
        observed = await cluster.observe(RUN)
        assert ([one.kind for one in observed.children], observed.pods) == (["Job", "ConfigMap"], ())
        assert sorted(server.paths("GET")) == sorted([f"{JOBS}/{NAME}", PODS, EVENTS]), (
            "and why it has no pod"
        )
        server.asked.clear()
        await cluster.observe(RUN)
        assert server.asked == []

        missing = (404, refusal(404, "not found", "NotFound", name=NAME, kind="jobs"), {})
        server.say("GET", f"{JOBS}/{NAME}", missing)
        inventory.doubt("Job")
        assert [one.kind for one in (await cluster.observe(RUN)).children] == ["ConfigMap"]

        # A map of that name is there, and is another one by now.
        server.say("GET", "/api/v1/namespaces/lab/configmaps/map", child("ConfigMap", uid="new", name="map"))
        inventory.doubt("ConfigMap")
        assert [one.uid for one in (await cluster.observe(RUN)).children] == ["new"]
        await cluster.aclose()


async def test_an_api_server_that_cannot_say_takes_nothing_away(cluster, server, inventory):
    inventory.put(child("Job"))
    inventory.doubt("Job")
    server.say("GET", f"{JOBS}/{NAME}", (503, "busy", {}))
    assert len((await cluster.observe(RUN)).children) == 1


COMPLETE = child("Job", status={"conditions": [condition("Complete")]}, version=3000)
TOLD = container_status("sampler", ended(0, message='{"missing": ["00aa00aa00aa00aa"]}'))


async def test_of_a_job_that_has_ended_the_pods_are_listed_once_where_their_watch_is_behind(
    cluster, server, inventory
):
    """Else its result would be taken for lost, and the store asked for it."""
    inventory.put(COMPLETE)
    server.say("GET", PODS, {"items": [pod(TOLD, phase="Succeeded")]})
    for _ in range(2):
        assert [one.termination.missing for one in (await cluster.observe(RUN)).pods] == [
            ["00aa00aa00aa00aa"]
        ]
    assert server.paths("GET").count(PODS) == 1


async def test_a_job_that_ends_while_a_pass_looks_is_seen_with_what_its_pods_told(cluster, server, inventory):
    inventory.put(child("Job"))  # without pods for long: the pass waits a moment for events that say why
    server.hang.add(EVENTS)
    server.say("GET", PODS, {"items": [pod(TOLD, phase="Succeeded")]})
    looking = asyncio.create_task(cluster.observe(RUN))
    while EVENTS not in server.paths("GET"):  # noqa: ASYNC110 - the server has no event for it
        await asyncio.sleep(0.01)
    inventory.put(COMPLETE)
    observed = await looking
    assert [one.phase for one in observed.children] == [Phase.SUCCEEDED]
    assert [one.termination.missing for one in observed.pods] == [["00aa00aa00aa00aa"]]
