"""The adapter creates children: once, owned, and with a refusal told in words that help."""

import copy
from datetime import datetime, timedelta

import pytest
from tests.cluster.adapter.scene import Here
from tests.cluster.faults.api_client import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    JOBS,
    NAMESPACES,
    PODS,
    PYTORCH_JOBS,
    Kind,
)

from selfrewarding.api import labels
from selfrewarding.api.run import SelfRewardingRunStatus
from selfrewarding.cluster import kinds
from selfrewarding.cluster.client import make_client
from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.kubernetes import KubernetesCluster
from selfrewarding.cluster.protocol import Conflict, Forbidden, KindMissing, NameTaken, Refused
from selfrewarding.plan.actions import Event

QUOTAS = Kind("api/v1", "resourcequotas")
ROLES = Kind("apis/rbac.authorization.k8s.io/v1", "roles")
BINDINGS = Kind("apis/rbac.authorization.k8s.io/v1", "rolebindings")
POLICIES = Kind("apis/networking.k8s.io/v1", "networkpolicies")
ACCOUNTS = Kind("api/v1", "serviceaccounts")


async def test_every_kind_of_child_is_taken_and_owned_by_its_run(here: Here) -> None:
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


async def test_create_twice_is_once(here: Here) -> None:
    run = await here.run()
    for _ in range(2):
        for manifest in await here.job():
            await here.cluster.create(run, manifest)
    assert len(await here.api.list(JOBS, here.namespace)) == 1
    assert [one[2] for one in here.requests if one[:2] == ("create", "Job")] == [201, 409]


async def test_survival_rule_2_a_strangers_object_of_our_name_is_not_ours(here: Here) -> None:
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


async def test_survival_rule_4_no_pool_beside_the_last_ones_pods(here: Here) -> None:
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


async def test_a_kind_that_the_cluster_does_not_know(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_what_the_api_server_finds_invalid_is_told_as_that(here: Here) -> None:
    run = await here.run()
    job = [*await here.job()][-1]
    job["spec"]["template"]["spec"]["restartPolicy"] = "Sometimes"
    with pytest.raises(Refused, match="restartPolicy") as caught:
        await here.cluster.create(run, job)
    assert caught.value.reason == "NotValid"


async def test_a_quota_refuses_by_its_own_name(here: Here) -> None:
    run = await here.run()
    await here.limit("count/jobs.batch", 0)
    with pytest.raises(Refused, match="exceeded quota: few") as caught:
        await here.cluster.create(run, [*await here.job()][-1])
    assert caught.value.reason == "QuotaExceeded"


async def test_a_namespace_on_its_way_out(here: Here) -> None:
    run, job = await here.run(), [*await here.job()][-1]
    held = {"metadata": {"name": "held", "finalizers": ["example.test/hold"]}}
    await here.api.create(CONFIG_MAPS, here.namespace, held)
    await here.api.delete(NAMESPACES, None, here.namespace)
    with pytest.raises(Refused) as caught:
        await here.cluster.create(run, job)
    assert caught.value.reason == "NamespaceTerminating"
    await here.api.patch(CONFIG_MAPS, here.namespace, "held", {"metadata": {"finalizers": None}})


async def test_missing_rights_are_told_with_what_to_grant(here: Here) -> None:
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
