"""The adapter's side of HTTP: what it sends, how long it waits, and what it makes of refusals.

The server here only answers as it is told; whether a real API server takes these requests is for tests/cluster.
"""

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from tests.support.api_objects import RUN_UID, at, child, container_status, deployment, ended, pod, running
from tests.support.builders import SPEC, make_run

from selfrewarding.api.run import SelfRewardingRunStatus
from selfrewarding.cluster import kubernetes
from selfrewarding.cluster.calls import Call
from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.kinds import RUN as RUN_KIND
from selfrewarding.cluster.kubernetes import KubernetesCluster
from selfrewarding.cluster.protocol import (
    Conflict,
    Forbidden,
    InvalidRun,
    KindMissing,
    NameTaken,
    NotFound,
    Refused,
    RunKey,
    Unavailable,
)
from selfrewarding.plan.actions import Event

KEY = RunKey("lab", "demo")
RUN = make_run(uid=RUN_UID, resourceVersion="77")
API = "/apis/selfrewarding.dev/v1alpha1/namespaces/lab/selfrewardingruns/demo"
JOBS, DEPLOYMENTS = "/apis/batch/v1/namespaces/lab/jobs", "/apis/apps/v1/namespaces/lab/deployments"
TORCH, PODS, EVENTS = (
    "/apis/kubeflow.org/v1/namespaces/lab/pytorchjobs",
    "/api/v1/namespaces/lab/pods",
    "/api/v1/namespaces/lab/events",
)
NAME = "demo-rollout-1-a1-0a1b2c3d4e"


def refusal(code: int, message: str, reason: str = "", **details: Any) -> dict[str, Any]:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}
    return status | {"reason": reason, "details": details}


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


@dataclass
class Server:
    """Answers by method and path: a dict is an object, a tuple (status, body, headers); lists are used up in turn."""

    answers: dict[tuple[str, str], list[Any]] = field(default_factory=lambda: defaultdict(list))
    asked: list[Asked] = field(default_factory=list)
    hang: set[str] = field(default_factory=set)

    def say(self, method: str, path: str, *answers: Any) -> None:
        self.answers[method, path] = list(answers)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        body = json.loads(text) if text else None
        self.asked.append(
            Asked(request.method, request.path, dict(request.query), body, dict(request.headers))
        )
        if request.path in self.hang:
            await asyncio.sleep(30)
        found = self.answers.get((request.method, request.path))
        if not found:
            return web.Response(status=404, text="404 page not found\n")
        answer = found.pop(0) if len(found) > 1 else found[0]
        code, content, headers = answer if isinstance(answer, tuple) else (200, answer, {})
        if isinstance(content, str):
            return web.Response(status=code, text=content, headers=headers)
        return web.json_response(content, status=code, headers=headers)

    def paths(self, method: str) -> list[str]:
        return [one.path for one in self.asked if one.method == method]


class Clock:
    now = datetime(2026, 1, 31, 11, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
async def server():
    told = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", told.handle)
    async with TestServer(app) as running_server:
        told.url = str(running_server.make_url("")).rstrip("/")
        yield told


@pytest.fixture
def inventory():
    return Inventory()


@pytest.fixture
def requests():
    return []


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def cluster(server, inventory, requests, clock):
    configuration = Configuration(host=server.url)
    configuration.api_key["BearerToken"] = "bearer t0ken"
    async with ApiClient(configuration) as client:
        made = KubernetesCluster(
            client, inventory, on_request=lambda *told: requests.append(told), clock=clock, instance="srr-0"
        )
        yield made
        await made.aclose()


def stored_run(**more):
    metadata = {"name": "demo", "namespace": "lab", "uid": RUN_UID, "resourceVersion": "77", "generation": 1}
    return {
        "apiVersion": "selfrewarding.dev/v1alpha1",
        "kind": "SelfRewardingRun",
        "metadata": metadata,
        "spec": SPEC,
    } | more


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


# ---------------------------------------------------------------------- creating

TAKEN = refusal(409, f'jobs.batch "{NAME}" already exists', "AlreadyExists", name=NAME, kind="jobs")


async def test_a_created_child_has_its_owner_and_is_known_at_once(cluster, server, inventory):
    server.say("POST", JOBS, child("Job"))
    manifest = child("Job", ownerReferences=[])
    await cluster.create(RUN, manifest)
    [asked] = server.asked
    assert asked.query == {"fieldManager": "selfrewarding-operator"}
    assert asked.body["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "selfrewarding.dev/v1alpha1",
            "kind": "SelfRewardingRun",
            "name": "demo",
            "uid": RUN_UID,
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    assert manifest["metadata"]["ownerReferences"] == [], "the manifest is the caller's"
    assert [one.uid for one in (await cluster.observe(RUN)).children] == ["job-uid"]


async def test_survival_rule_2_an_equal_name_counts_as_ours_only_with_our_owner_and_alive(
    cluster, server, inventory
):
    server.say("POST", JOBS, (409, TAKEN, {}))
    server.say("GET", f"{JOBS}/{NAME}", child("Job", uid="ours"))
    await cluster.create(RUN, child("Job"))
    assert inventory.put(child("Job", uid="ours")) == KEY, "the watch's word of it wakes the run"

    server.say("GET", f"{JOBS}/{NAME}", child("Job", uid="going", deletionTimestamp=at(9)))
    with pytest.raises(Conflict, match="still being deleted"):
        await cluster.create(RUN, child("Job"))

    server.say("GET", f"{JOBS}/{NAME}", child("Job", uid="theirs", run_uid="another"))
    with pytest.raises(NameTaken, match="does not belong to this run: delete or rename it"):
        await cluster.create(RUN, child("Job"))


async def test_what_comes_without_an_owner_is_made_without_one(cluster, server):
    server.say("POST", JOBS, child("Job"))
    manifest = child("Job")
    del manifest["metadata"]["ownerReferences"]
    await cluster.create(RUN, manifest)
    assert "ownerReferences" not in server.asked[0].body["metadata"]


async def test_a_conflict_that_is_not_about_the_name_is_a_conflict(cluster, server):
    busy = refusal(409, "Operation cannot be fulfilled on resourcequotas", "Conflict")
    server.say("POST", JOBS, (409, busy, {}))
    server.say("GET", f"{JOBS}/{NAME}", (404, refusal(404, "no", "NotFound", name=NAME, kind="jobs"), {}))
    with pytest.raises(Conflict, match="resourcequotas"):
        await cluster.create(RUN, child("Job"))


SERVER = container_status("vllm", running())
PODS_LEFT = {
    "nothing": ([], None),
    "a server of the last pool": ([pod(SERVER, owner=deployment(), deletionTimestamp=at(70))], "x7k2p"),
    "a server of the last pool that nobody has told to end": ([pod(SERVER, owner=deployment())], "x7k2p"),
    "a server that should have ended a minute ago": ([pod(SERVER, owner=deployment(), deletionTimestamp=at(-5))], None),
    "a trainer of the last attempt": (
        [pod(owner=child("PyTorchJob", stage="SupervisedFineTune", uid="old"), deletionTimestamp=at(70))], "x7k2p",
    ),
    "a trainer that has ended": ([pod(owner=child("PyTorchJob", stage="SupervisedFineTune"), phase="Failed")], None),
    "a data job, which holds no GPU": ([pod(owner=child("Job"))], None),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["Deployment", "PyTorchJob"])
@pytest.mark.parametrize("case", PODS_LEFT)
async def test_survival_rule_4_gpus_are_asked_for_when_a_live_list_shows_none_in_use(
    cluster, server, inventory, kind, case
):
    pods, left = PODS_LEFT[case]
    # As in a list: items have no kind.
    items = [
        {name: value for name, value in one.items() if name not in ("kind", "apiVersion")} for one in pods
    ]
    server.say("GET", PODS, {"kind": "PodList", "apiVersion": "v1", "items": items})
    made = deployment(name="next", uid="n") if kind == "Deployment" else child(kind, name="next", uid="n")
    server.say("POST", DEPLOYMENTS if kind == "Deployment" else TORCH, made)
    if left is None:
        await cluster.create(RUN, made)
    else:
        with pytest.raises(Conflict, match=f'pod ".*{left}" may still hold GPUs'):
            await cluster.create(RUN, made)
        assert not server.paths("POST")
        assert [raw["metadata"]["uid"] for raw in inventory.of(KEY).pods] == ["pod-uid"], (
            "the next pass sees it too"
        )
    [listed] = [one for one in server.asked if one.method == "GET"]
    assert listed.query == {
        "labelSelector": "app.kubernetes.io/managed-by=selfrewarding-operator,selfrewarding.dev/run=demo"
    }


async def test_the_pools_of_one_stage_come_beside_each_other(cluster, server, inventory):
    """A pod of a child that is there to stay is the planner's affair: it lets a judge's pool come beside the policy's."""
    policy = deployment()
    finished = pod(uid="finished", phase="Succeeded", version=2001)
    inventory.put(pod(uid="finished", phase="Running"))
    server.say("POST", DEPLOYMENTS, policy, deployment(name="demo-judge-1-a1-0a1b2c3d4e", uid="judge"))
    server.say("GET", PODS, {"items": []}, {"items": [pod(SERVER, owner=policy), finished]})
    await cluster.create(RUN, policy)
    await cluster.create(RUN, deployment(name="demo-judge-1-a1-0a1b2c3d4e", uid="judge"))
    assert len(server.paths("POST")) == 2
    assert inventory.put(finished) == KEY, "what the list showed still wakes the run when the watch tells"


async def test_data_jobs_ask_for_no_list(cluster, server):
    server.say("POST", JOBS, child("Job"))
    await cluster.create(RUN, child("Job"))
    assert server.paths("GET") == []


async def test_a_live_list_takes_away_what_is_gone_and_nothing_that_came_since(cluster, server, inventory):
    inventory.put(pod(uid="gone"))
    server.say("GET", PODS, {"items": [pod(uid="there", name="there")]})
    await cluster._refresh_pods(KEY)
    assert [raw["metadata"]["uid"] for raw in inventory.of(KEY).pods] == ["there"]


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


# ---------------------------------------------------------------------- scaling and deleting


async def test_scale_sends_the_replicas_alone_and_for_this_very_object(cluster, server, inventory):
    inventory.put(deployment(replicas=2))
    name = "demo-policy-1-a1-0a1b2c3d4e"
    server.say("PATCH", f"{DEPLOYMENTS}/{name}", deployment(replicas=0, version=1001))
    await cluster.scale(RUN, name, 0)
    [asked] = server.asked
    assert asked.headers["Content-Type"] == "application/apply-patch+yaml"
    assert asked.query == {"fieldManager": "selfrewarding-operator", "force": "true"}
    assert asked.body == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "lab", "uid": "deployment-uid"},
        "spec": {"replicas": 0},
    }
    assert inventory.put(deployment(replicas=0, version=1001)) == KEY, "the watch's word of it wakes the run"


async def test_a_strangers_deployment_is_not_scaled(cluster, server, inventory):
    theirs = deployment(run_uid="another")
    inventory.put(theirs)
    server.say("GET", f"{DEPLOYMENTS}/{theirs['metadata']['name']}", theirs)
    with pytest.raises(NameTaken):
        await cluster.scale(RUN, theirs["metadata"]["name"], 0)
    assert server.paths("PATCH") == []


async def test_delete_names_the_uid_and_leaves_it_to_the_watch_to_tell(cluster, server, inventory):
    inventory.put(child("Job"))
    server.say("DELETE", f"{JOBS}/{NAME}", {"kind": "Status", "status": "Success"})
    await cluster.delete(RUN, "Job", NAME, "job-uid")
    assert server.asked[0].body == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": "Background",
        "preconditions": {"uid": "job-uid"},
    }
    assert inventory.remove(child("Job")) == KEY, "the watch's word of it wakes the run"


GONE = refusal(404, "not found", "NotFound", name=NAME, kind="jobs")
OTHER = refusal(409, "Precondition failed: UID in precondition: a, UID in object meta: b", "Conflict")


@pytest.mark.parametrize("answer", [(404, GONE, {}), (409, OTHER, {})])
async def test_what_is_gone_already_is_deleted_and_found_out_by_the_next_pass(
    cluster, server, inventory, answer
):
    inventory.put(child("Job"))
    server.say("DELETE", f"{JOBS}/{NAME}", answer)
    await cluster.delete(RUN, "Job", NAME, "job-uid")
    server.say("GET", f"{JOBS}/{NAME}", (404, GONE, {}))
    assert (await cluster.observe(RUN)).children == ()


# ---------------------------------------------------------------------- status


async def test_the_status_goes_out_whole_with_the_version_that_was_read(cluster, server):
    server.say("PATCH", f"{API}/status", stored_run())
    await cluster.patch_status(RUN, SelfRewardingRunStatus(stage="Rollout"))
    [asked] = server.asked
    assert asked.headers["Content-Type"] == "application/json-patch+json"
    assert asked.body[0] == {"op": "replace", "path": "/metadata/resourceVersion", "value": "77"}
    assert asked.body[1]["value"]["stage"] == "Rollout"


async def test_a_status_over_a_newer_one_is_a_conflict(cluster, server):
    newer = refusal(
        409, "the object has been modified; please apply your changes to the latest version", "Conflict"
    )
    server.say("PATCH", f"{API}/status", (409, newer, {}))
    with pytest.raises(Conflict):
        await cluster.patch_status(RUN, SelfRewardingRunStatus(stage="Rollout"))


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
        assert sorted(server.paths("GET")) == sorted([f"{JOBS}/{NAME}", PODS, EVENTS]), "and why it has no pod"
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
    events = [Event(type="Normal", reason="Odd", message=f"number {number}") for number in range(40)]
    await cluster.post_events(RUN, events)
    assert len(server.asked) == 25
    clock.now += timedelta(minutes=10)
    await cluster.post_events(RUN, events[30:])
    assert len(server.asked) == 27, "one in five minutes"
    await cluster.post_events(make_run(uid="another", name="other"), events[:1])
    assert len(server.asked) == 28, "each run has its own allowance"


async def test_a_lost_event_does_not_lose_the_others(cluster, server):
    server.say("POST", EVENTS, (500, "no", {}), {"kind": "Event"})
    with pytest.raises(Unavailable):
        await cluster.post_events(RUN, [EVENT, Event(type="Normal", reason="B", message="b")])
    assert len(server.asked) == 2
