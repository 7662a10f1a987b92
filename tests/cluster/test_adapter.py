"""The Kubernetes adapter against a real API server: what only it can judge.

No kubelet and no operator here: objects are made, changed and taken away by hand.
"""

import asyncio
import copy
import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.cluster.faults.api_client import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    EVENTS,
    JOBS,
    NAMESPACES,
    PODS,
    PYTORCH_JOBS,
    RUNS,
    Api,
    Kind,
    Raw,
)
from tests.cluster.faults.runs import install_crds
from tests.support.builders import SPEC

from selfrewarding.api import labels
from selfrewarding.api.run import SelfRewardingRun, SelfRewardingRunStatus, StageAttempts
from selfrewarding.cluster import kinds
from selfrewarding.cluster.client import make_client
from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.kubernetes import KubernetesCluster
from selfrewarding.cluster.protocol import (
    Conflict,
    Forbidden,
    KindMissing,
    NameTaken,
    NotFound,
    Refused,
    RunKey,
)
from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.manifests import RunContext, holder_objects, stage_objects
from selfrewarding.plan.actions import Event
from selfrewarding.plan.graph import outline
from selfrewarding.plan.observed import Phase

QUOTAS, ROLES = Kind("api/v1", "resourcequotas"), Kind("apis/rbac.authorization.k8s.io/v1", "roles")
BINDINGS = Kind("apis/rbac.authorization.k8s.io/v1", "rolebindings")
POLICIES = Kind("apis/networking.k8s.io/v1", "networkpolicies")
ACCOUNTS = Kind("api/v1", "serviceaccounts")


@dataclass
class Here:
    """A namespace with a run in it, and the adapter."""

    api: Api
    cluster: KubernetesCluster
    inventory: Inventory
    namespace: str
    requests: list[tuple[str, str, int]]
    kubeconfig: Path

    @property
    def key(self) -> RunKey:
        return RunKey(self.namespace, "demo")

    async def run(self) -> SelfRewardingRun:
        found = await self.cluster.get_run(self.key)
        assert found is not None
        return found

    async def context(self) -> RunContext:
        run = await self.run()
        graph = outline(run.spec, contract=CONTRACT_VERSION)
        results = {
            stage.short: {"stage": stage.kind, "iteration": stage.iteration, "digest": "ab" * 8}
            for stage in graph.stages
        }
        status = SelfRewardingRunStatus.model_validate({"results": results})
        return RunContext(
            namespace=self.namespace,
            name="demo",
            uid=run.metadata.uid or "",
            spec=run.spec,
            results=status.results,
            contract=CONTRACT_VERSION,
        )

    async def job(self, attempt: int = 1) -> list[Raw]:
        """ConfigMap and Job of Prepare."""
        context = await self.context()
        return list(stage_objects(context, outline(context.spec, contract=CONTRACT_VERSION).prepare, attempt))

    async def pool(self, attempt: int = 1) -> list[Raw]:
        """ConfigMap, Service, NetworkPolicy and Deployment of the policy's pool."""
        context = await self.context()
        graph = outline(context.spec, contract=CONTRACT_VERSION)
        holder = next(stage.holders["policy"] for stage in graph.stages if "policy" in stage.holders)
        return list(holder_objects(context, holder, 1, attempt))

    async def training(self, attempt: int = 1) -> list[Raw]:
        """ConfigMap and PyTorchJob of the first training stage."""
        context = await self.context()
        graph = outline(context.spec, contract=CONTRACT_VERSION)
        stage = next(stage for stage in graph.stages if stage.trains)
        return list(stage_objects(context, stage, attempt))

    async def pod_of(self, deployment: Raw, name: str = "server") -> Raw:
        """A pod as the Deployment's ReplicaSet would make it, running."""
        template = copy.deepcopy(deployment["spec"]["template"])
        made = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": {**template["metadata"]["labels"], "pod-template-hash": "abc"},
                "ownerReferences": [
                    {
                        "apiVersion": "apps/v1",
                        "kind": "ReplicaSet",
                        "name": f"{deployment['metadata']['name']}-abc",
                        "uid": str(uuid.uuid4()),
                        "controller": True,
                    }
                ],
            },
            "spec": {**template["spec"], "nodeName": "nowhere"},
        }
        await self.api.create(PODS, self.namespace, made)
        return await self.api.patch(PODS, self.namespace, name, {"status": {"phase": "Running"}}, "status")


@pytest_asyncio.fixture
async def here(api_server: Any, repository: Path) -> Any:
    namespace, requests = f"adapter-{uuid.uuid4().hex[:8]}", []
    async with Api(api_server.kubeconfig) as api, await make_client(Path(api_server.kubeconfig)) as client:
        await install_crds(api, repository)
        await api.create(NAMESPACES, None, {"metadata": {"name": namespace}})
        run = {
            "apiVersion": labels.API_VERSION,
            "kind": labels.KIND,
            "metadata": {"name": "demo"},
            "spec": SPEC,
        }
        await api.create(RUNS, namespace, run)
        inventory = Inventory()
        cluster = KubernetesCluster(
            client, inventory, on_request=lambda verb, kind, code, _: requests.append((verb, kind, code))
        )
        yield Here(api, cluster, inventory, namespace, requests, Path(api_server.kubeconfig))
        await cluster.aclose()
        await api.delete(NAMESPACES, None, namespace)


# ---------------------------------------------------------------------- reading


async def test_a_run_is_read_and_one_that_is_gone_is_none(here):
    run = await here.run()
    assert (run.metadata.generation, run.spec.iterations) == (1, 3)
    assert run.status == SelfRewardingRunStatus()
    assert await here.cluster.get_run(RunKey(here.namespace, "other")) is None
    assert await here.cluster.get_run(RunKey("no-such-namespace", "demo")) is None


# ---------------------------------------------------------------------- creating


async def test_every_kind_of_child_is_taken_and_owned_by_its_run(here):
    run = await here.run()
    for manifest in [*await here.job(), *await here.pool(), *await here.training()]:
        await here.cluster.create(run, manifest)
    observed = await here.cluster.observe(run)
    found = sorted({child.kind for child in observed.children})
    assert found == ["ConfigMap", "Deployment", "Job", "NetworkPolicy", "PyTorchJob", "Service"]
    for kind in (CONFIG_MAPS, JOBS, DEPLOYMENTS, POLICIES, PYTORCH_JOBS):
        for one in await here.api.list(kind, here.namespace, labelSelector=f"{labels.RUN}=demo"):
            [owner] = one["metadata"]["ownerReferences"]
            assert (owner["uid"], owner["controller"]) == (run.metadata.uid, True)
            managers = {entry["manager"] for entry in one["metadata"]["managedFields"]}
            assert "selfrewarding-operator" in managers


async def test_create_twice_is_once(here):
    run = await here.run()
    for _ in range(2):
        for manifest in await here.job():
            await here.cluster.create(run, manifest)
    assert len(await here.api.list(JOBS, here.namespace)) == 1
    assert [one[2] for one in here.requests if one[:2] == ("create", "Job")] == [201, 409]


async def test_survival_rule_2_a_strangers_object_of_our_name_is_not_ours(here):
    run = await here.run()
    config, job = await here.job()
    await here.api.create(CONFIG_MAPS, here.namespace, {"metadata": {"name": config["metadata"]["name"]}})
    with pytest.raises(NameTaken, match="delete or rename it"):
        await here.cluster.create(run, config)
    # That of an earlier run of this name, which the garbage collector has not come to yet.
    earlier = copy.deepcopy(job)
    earlier["metadata"]["ownerReferences"][0] |= {"uid": run.metadata.uid, "controller": False}
    earlier["metadata"]["ownerReferences"].append(
        {"apiVersion": "v1", "kind": "Namespace", "name": "x", "uid": "another"}
    )
    earlier["metadata"]["finalizers"] = ["example.test/hold"]
    made = await here.api.create(JOBS, here.namespace, earlier)
    await here.cluster.create(run, job)  # ours, and alive
    await here.api.delete(JOBS, here.namespace, made["metadata"]["name"])
    with pytest.raises(Conflict, match="still being deleted"):
        await here.cluster.create(run, job)
    unhold = {"metadata": {"finalizers": None}}
    await here.api.patch(JOBS, here.namespace, made["metadata"]["name"], unhold)


async def test_survival_rule_4_no_pool_beside_the_last_ones_pods(here):
    run = await here.run()
    first = [*await here.pool(1)][-1]
    first["spec"]["replicas"] = 0  # its pod is made by hand
    await here.cluster.create(run, first)
    stored = (await here.api.list(DEPLOYMENTS, here.namespace))[0]
    await here.pod_of(stored)
    second = [*await here.pool(2)][-1]
    second["spec"]["replicas"] = 0
    await here.cluster.create(run, second)  # the planner knows the first: it stands to stay
    for child in (await here.cluster.observe(run)).children:
        await here.cluster.delete(run, child.kind, child.name, child.uid)
        here.inventory.discard(child.uid)  # as the watch tells
    third = [*await here.pool(3)][-1]
    with pytest.raises(Conflict, match='pod "server" may still hold GPUs'):
        await here.cluster.create(run, third)
    with pytest.raises(Conflict, match='pod "server" may still hold GPUs'):
        await here.cluster.create(run, [*await here.training()][-1])
    # Deleted on a node that does not answer: a minute past its time it no longer stands in the way.
    await here.api.call("DELETE", PODS.path(here.namespace, "server"), {"gracePeriodSeconds": 1})
    there = await here.api.get(PODS, here.namespace, "server")
    gone = datetime.fromisoformat(there["metadata"]["deletionTimestamp"])
    with pytest.raises(Conflict):
        await here.cluster.create(run, third)
    late = gone + timedelta(seconds=60)
    here.cluster._clock = lambda: late
    await here.cluster.create(run, third)


async def test_a_kind_that_the_cluster_does_not_know(here, monkeypatch):
    unknown = kinds.Resource("PyTorchJob", "kubeflow.example.test/v9", "pytorchjobs")
    monkeypatch.setitem(kinds.CHILDREN, "PyTorchJob", unknown)
    run = await here.run()
    with pytest.raises(KindMissing, match="does not know the kind PyTorchJob"):
        await here.cluster.create(run, [*await here.training()][-1])
    assert (await here.cluster.observe(run)).missing_kinds == {"PyTorchJob"}
    # Its group is there, the kind is not.
    half = kinds.Resource("PyTorchJob", labels.API_VERSION, "pytorchjobs")
    assert await here.cluster._calls.knows(half) is False
    assert await here.cluster._calls.knows(unknown) is False
    assert await here.cluster._calls.knows(kinds.Resource("PyTorchJob", "kubeflow.org/v1", "pytorchjobs"))
    monkeypatch.undo()


async def test_what_the_api_server_finds_invalid_is_told_as_that(here):
    run = await here.run()
    job = [*await here.job()][-1]
    job["spec"]["template"]["spec"]["restartPolicy"] = "Sometimes"
    with pytest.raises(Refused, match="restartPolicy") as caught:
        await here.cluster.create(run, job)
    assert caught.value.reason == "NotValid"


async def test_a_quota_refuses_by_its_own_name(here):
    run = await here.run()
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    await here.api.create(QUOTAS, here.namespace, quota)
    for _ in range(100):  # the quota controller must have seen it
        if (await here.api.get(QUOTAS, here.namespace, "few") or {}).get("status", {}).get("hard"):
            break
        await asyncio.sleep(0.1)
    with pytest.raises(Refused, match="exceeded quota: few") as caught:
        await here.cluster.create(run, [*await here.job()][-1])
    assert caught.value.reason == "QuotaExceeded"


async def test_a_namespace_on_its_way_out(here):
    run, job = await here.run(), [*await here.job()][-1]
    held = {"metadata": {"name": "held", "finalizers": ["example.test/hold"]}}
    await here.api.create(CONFIG_MAPS, here.namespace, held)
    await here.api.delete(NAMESPACES, None, here.namespace)
    with pytest.raises(Refused) as caught:
        await here.cluster.create(run, job)
    assert caught.value.reason == "NamespaceTerminating"
    await here.api.patch(CONFIG_MAPS, here.namespace, "held", {"metadata": {"finalizers": None}})


async def test_missing_rights_are_told_with_what_to_grant(here):
    """As a service account that may read runs and nothing else."""
    account = {"metadata": {"name": "reader"}}
    await here.api.create(ACCOUNTS, here.namespace, account)
    rules = [{"apiGroups": [labels.GROUP], "resources": ["selfrewardingruns"], "verbs": ["get"]}]
    await here.api.create(ROLES, here.namespace, {"metadata": {"name": "reader"}, "rules": rules})
    subject = {"kind": "ServiceAccount", "name": "reader", "namespace": here.namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    binding = {"metadata": {"name": "reader"}, "roleRef": role, "subjects": [subject]}
    await here.api.create(BINDINGS, here.namespace, binding)
    path = ACCOUNTS.path(here.namespace, "reader", "token")
    token = (await here.api.call("POST", path, {"spec": {"expirationSeconds": 600}}))["status"]["token"]
    async with await make_client(here.kubeconfig) as client:
        config = client.configuration
        config.refresh_api_key_hook = None
        config.api_key["BearerToken"] = f"Bearer {token}"
        config.cert_file = config.key_file = None
        async with type(client)(config) as narrow:
            cluster = KubernetesCluster(narrow, Inventory())
            run = await cluster.get_run(here.key)
            for made, verb, plural in (
                (cluster.create(run, (await here.job())[1]), "create", "jobs"),
                (cluster.create(run, (await here.pool())[-1]), "list", "pods"),
                (cluster.patch_status(run, SelfRewardingRunStatus()), "patch", "selfrewardingruns/status"),
                (
                    cluster.post_events(run, [Event(type="Normal", reason="A", message="b")]),
                    "create",
                    "events",
                ),
            ):
                words = f'operator .system:serviceaccount:{here.namespace}:reader. may not {verb} {plural} in namespace "{here.namespace}": grant it the verb "{verb}"'
                with pytest.raises(Forbidden, match=words):
                    await made


# ---------------------------------------------------------------------- scaling and deleting


async def test_scale_sets_replicas_and_takes_no_other_field(here):
    run = await here.run()
    deployment = [*await here.pool()][-1]
    name = deployment["metadata"]["name"]
    await here.cluster.create(run, deployment)
    # Somebody annotates it and gives it another image.
    container = {"name": "vllm", "image": "example.test/vllm:mine"}
    mine: Raw = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "annotations": {"who": "me"}},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }  # fmt: skip
    path = DEPLOYMENTS.path(here.namespace, name)
    await here.api.call(
        "PATCH", path, mine, content="application/apply-patch+yaml", fieldManager="me", force="true"
    )
    for wanted in (0, 2):
        await here.cluster.scale(run, name, wanted)
        stored = await here.api.get(DEPLOYMENTS, here.namespace, name)
        assert stored["spec"]["replicas"] == wanted
        here.inventory.put({**stored, "kind": "Deployment"})
        [child] = (await here.cluster.observe(run)).children
        assert child.replicas == wanted
    assert stored["metadata"]["annotations"]["who"] == "me"
    assert stored["spec"]["template"]["spec"]["containers"][0]["image"] == "example.test/vllm:mine"
    applied = [
        entry["fieldsV1"]
        for entry in stored["metadata"]["managedFields"]
        if entry["manager"] == "selfrewarding-operator" and entry["operation"] == "Apply"
    ]
    assert applied == [{"f:spec": {"f:replicas": {}}}]


async def test_scale_neither_makes_nor_takes_a_deployment(here):
    run = await here.run()
    deployment = [*await here.pool()][-1]
    deployment["spec"]["replicas"] = 0  # no pods, which would keep the next one from being made
    name = deployment["metadata"]["name"]
    with pytest.raises(NotFound):
        await here.cluster.scale(run, name, 1)
    await here.cluster.create(run, deployment)
    # It is deleted and made again by somebody else, and no watch has told yet.
    await here.api.delete(DEPLOYMENTS, here.namespace, name)
    with pytest.raises(NotFound):
        await here.cluster.scale(run, name, 1)
    assert await here.api.get(DEPLOYMENTS, here.namespace, name) is None
    await here.cluster.create(run, deployment)
    await here.api.delete(DEPLOYMENTS, here.namespace, name)
    theirs = copy.deepcopy(deployment)
    theirs["metadata"]["ownerReferences"] = []
    await here.api.create(DEPLOYMENTS, here.namespace, theirs)
    with pytest.raises(NameTaken):
        await here.cluster.scale(run, name, 1)
    stored = await here.api.get(DEPLOYMENTS, here.namespace, name)
    assert stored["spec"]["replicas"] == 0


async def test_delete_takes_this_very_object_and_no_other(here):
    run = await here.run()
    job = [*await here.job()][-1]
    name = job["metadata"]["name"]
    await here.cluster.create(run, job)
    stored = await here.api.get(JOBS, here.namespace, name)
    await here.cluster.delete(run, "Job", name, "00000000-0000-0000-0000-000000000000")
    assert await here.api.get(JOBS, here.namespace, name) is not None
    for _ in range(2):  # twice, as when a pass is repeated
        await here.cluster.delete(run, "Job", name, stored["metadata"]["uid"])
        assert await here.api.get(JOBS, here.namespace, name) is None, "in the background: at once"
    assert [child for child in (await here.cluster.observe(run)).children if child.kind == "Job"] == []


async def test_what_went_unseen_is_found_out(here):
    run = await here.run()
    config, job = await here.job()
    await here.cluster.create(run, config)
    await here.cluster.create(run, job)
    await here.api.delete(JOBS, here.namespace, job["metadata"]["name"])
    assert len((await here.cluster.observe(run)).children) == 2, "nobody has told"
    here.inventory.doubt("Job")
    here.inventory.doubt("ConfigMap")
    assert [one.kind for one in (await here.cluster.observe(run)).children] == ["ConfigMap"]


# ---------------------------------------------------------------------- status


async def test_a_status_is_replaced_whole_and_removed_keys_go(here):
    first = SelfRewardingRunStatus.model_validate(
        {
            "stage": "Rollout", "waitingFor": "2 GPUs", "resolved": ["aa", "bb"],
            "attempts": {"aa": {"attempt": 1, "lastFailure": "x"}, "bb": {"attempt": 2}},
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-31T12:00:00Z", "reason": "A", "message": ""}],
        }
    )  # fmt: skip
    await here.cluster.patch_status(await here.run(), first)
    run = await here.run()
    assert run.status == first
    assert run.metadata.generation == 1, "a status is no edit"
    second = first.model_copy(
        update={"waiting_for": None, "resolved": [], "attempts": {"aa": StageAttempts(attempt=1)}}
    )
    await here.cluster.patch_status(run, second)
    assert (await here.run()).status == second
    stored = await here.api.get(RUNS, here.namespace, "demo")
    assert "waitingFor" not in stored["status"]
    assert stored["status"]["attempts"] == {
        "aa": {"attempt": 1, "failures": 0, "infrastructure": 0, "progress": 0}
    }
    assert stored["spec"] == SPEC, "the operator never writes the spec"


async def test_a_status_over_a_newer_one_is_a_conflict(here):
    stale = await here.run()
    await here.cluster.patch_status(stale, SelfRewardingRunStatus(stage="Prepare"))
    with pytest.raises(Conflict):
        await here.cluster.patch_status(stale, SelfRewardingRunStatus(stage="Resolve"))
    await here.api.patch(RUNS, here.namespace, "demo", {"spec": {"suspend": True}})
    edited = await here.run()
    assert edited.status.stage == "Prepare"
    assert edited.metadata.generation == 2
    await here.cluster.patch_status(edited, SelfRewardingRunStatus(stage="Resolve"))
    assert (await here.run()).status.stage == "Resolve"


async def test_a_status_of_a_run_that_is_gone(here):
    run = await here.run()
    await here.api.delete(RUNS, here.namespace, "demo")
    with pytest.raises(NotFound):
        await here.cluster.patch_status(run, SelfRewardingRunStatus(stage="Prepare"))


# ---------------------------------------------------------------------- events, logs


async def test_events_are_counted_not_repeated(here):
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


async def test_a_job_without_pods_says_why_as_its_controller_told(here):
    """The real Job controller, in a namespace whose Pod Security level the pods do not meet."""
    run = await here.run()
    level = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    await here.api.patch(NAMESPACES, None, here.namespace, level)
    job = [*await here.job()][-1]
    job["spec"]["template"]["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    await here.cluster.create(run, job)
    late = datetime.now(UTC) + timedelta(seconds=10)
    here.cluster._clock = lambda: late
    message = None
    for _ in range(100):
        await asyncio.sleep(0.2)
        here.cluster._complaint_readings.forget(here.key)
        [child] = [one for one in (await here.cluster.observe(run)).children if one.kind == "Job"]
        if message := child.message:
            break
    assert message is not None
    assert message.startswith("FailedCreate: Error creating: pods")
    assert 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false' in message


async def test_a_quota_that_refuses_a_pools_pods_stands_in_its_condition(here):
    run = await here.run()
    quota = {"metadata": {"name": "gpus"}, "spec": {"hard": {"pods": "0"}}}
    await here.api.create(QUOTAS, here.namespace, quota)
    await asyncio.sleep(0.5)
    deployment = [*await here.pool()][-1]
    await here.cluster.create(run, deployment)
    message = None
    for _ in range(100):
        await asyncio.sleep(0.2)
        here.inventory.doubt("Deployment")
        [child] = [one for one in (await here.cluster.observe(run)).children if one.kind == "Deployment"]
        if message := child.message:
            break
    assert message is not None
    assert message.startswith("FailedCreate: ")
    assert "exceeded quota: gpus" in message


async def test_pods_are_seen_as_the_api_server_tells_of_them(here):
    """A pod of the real Job controller, ended by hand as a kubelet would."""
    run = await here.run()
    for manifest in await here.job():
        await here.cluster.create(run, manifest)
    found: list[Raw] = []
    for _ in range(100):
        await asyncio.sleep(0.1)
        if found := await here.api.list(PODS, here.namespace):
            break
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
    # The Job controller takes note: FailureTarget, then Failed.
    for _ in range(100):
        await asyncio.sleep(0.1)
        here.inventory.doubt("Job")
        [job] = [one for one in (await here.cluster.observe(run)).children if one.kind == "Job"]
        if job.phase is Phase.FAILED:
            break
    assert job.message.startswith("BackoffLimitExceeded: ")
