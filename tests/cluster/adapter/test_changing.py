"""The adapter scales and deletes this very object and no other, and replaces a status whole."""

import copy

import pytest
from tests.cluster.adapter.scene import Here
from tests.cluster.faults.api_client import DEPLOYMENTS, JOBS, RUNS, Raw
from tests.support.builders import SPEC

from selfrewarding.api.run import SelfRewardingRunStatus, StageAttempts
from selfrewarding.cluster.protocol import Conflict, NameTaken, NotFound


async def test_scale_sets_replicas_and_takes_no_other_field(here: Here) -> None:
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


async def test_scale_neither_makes_nor_takes_a_deployment(here: Here) -> None:
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


async def test_delete_takes_this_very_object_and_no_other(here: Here) -> None:
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


async def test_what_went_unseen_is_found_out(here: Here) -> None:
    run = await here.run()
    config, job = await here.job()
    await here.cluster.create(run, config)
    await here.cluster.create(run, job)
    await here.api.delete(JOBS, here.namespace, job["metadata"]["name"])
    assert len((await here.cluster.observe(run)).children) == 2, "nobody has told"
    here.inventory.doubt("Job")
    here.inventory.doubt("ConfigMap")
    assert [one.kind for one in (await here.cluster.observe(run)).children] == ["ConfigMap"]


async def test_a_status_is_replaced_whole_and_removed_keys_go(here: Here) -> None:
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


async def test_a_status_over_a_newer_one_is_a_conflict(here: Here) -> None:
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


async def test_a_status_of_a_run_that_is_gone(here: Here) -> None:
    run = await here.run()
    await here.api.delete(RUNS, here.namespace, "demo")
    with pytest.raises(NotFound):
        await here.cluster.patch_status(run, SelfRewardingRunStatus(stage="Prepare"))
