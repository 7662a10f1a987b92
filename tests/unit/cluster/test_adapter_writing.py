"""What the adapter writes: children, their scale, their deletion, the status of a run."""

import pytest
from tests.support.api_objects import RUN_UID, at, child, container_status, deployment, pod, running
from tests.support.told_api_server import (
    API,
    DEPLOYMENTS,
    JOBS,
    KEY,
    NAME,
    PODS,
    RUN,
    TORCH,
    refusal,
    stored_run,
)

from selfrewarding.api.run import SelfRewardingRunStatus
from selfrewarding.cluster.protocol import (
    Conflict,
    NameTaken,
)

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
