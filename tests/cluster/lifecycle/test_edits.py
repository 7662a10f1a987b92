"""Edits under way: what depends on the field runs again, and nothing else does (counted by keys and Jobs)."""

import pytest
from tests.cluster.faults.api_client import DEPLOYMENTS, JOBS, PYTORCH_JOBS, RUNS, ApiError
from tests.cluster.faults.invariants import side_by_side
from tests.cluster.faults.runs import NAME, condition
from tests.cluster.faults.scenarios import scenario
from tests.cluster.lifecycle.executions import computed, jobs_by_stage, keys_of
from tests.cluster.lifecycle.scene import Scene

pytestmark = pytest.mark.timeout(300)

ONCE = {"SupervisedFineTune-1": 1, "GeneratePrompts-2": 1, "Rollout-2": 1, "BuildPreferences-2": 1,
        "PreferenceOptimize-2": 1}  # fmt: skip


def uids(scene: Scene, namespace: str, *kinds: str) -> set[str]:
    """UIDs that Rollout's Jobs and the serving Deployments ever had."""
    return {
        change.uid
        for change in scene.census.of(namespace, (JOBS, DEPLOYMENTS))
        if change.kind in kinds and (change.kind == "deployments" or "rollout" in change.name)
    }


def came_and_went(scene: Scene, namespace: str) -> set[tuple[str, str]]:
    """Children that were ever created, and those that were ever deleted."""
    return {(change.uid, change.type) for change in scene.census.of(namespace) if change.type != "MODIFIED"}


@scenario
async def test_a_dpo_field_edited_while_iteration_2_rolls_out_changes_the_training_alone(
    scene: Scene,
) -> None:
    namespace = await scene.namespace("edit-dpo")
    with scene.holding(namespace, "Rollout"):
        await scene.run(namespace)
        await scene.until_running(namespace, "Rollout")
        await scene.edit(namespace, {"dpo": {"beta": 0.3}})
        # Prepare reads the new settings beside the rollout, which goes on; then it is the stage again.
        await scene.until(
            "Prepare of the edit", lambda: len(keys_of(scene.census, namespace, "Prepare")) == 2
        )
        await scene.until_running(namespace, "Rollout")
    run = await scene.until_succeeded(namespace)
    assert computed(scene.census, namespace) == ONCE
    assert len(uids(scene, namespace, "jobs")) == len(uids(scene, namespace, "deployments")) == 1
    first = run["status"]["models"][-1]

    # Another value after the end: one training; and back again: nothing at all but Prepare and Resolve. The page in the
    # run's folder is of what the run is now: each end is reported, and so is the round that begins again.
    for beta, trained, reports, same_model in (
        (0.5, {"PreferenceOptimize-2": 1}, {"Report-1", "Report-2"}, False),
        (0.3, {}, {"Report-2"}, True),
    ):
        made = len(scene.census.changes)
        await scene.edit(namespace, {"dpo": {"beta": beta}})
        run = await scene.until_succeeded(namespace)
        assert computed(scene.census, namespace, since=made) == trained
        jobs = jobs_by_stage(scene.census, namespace, since=made)
        assert set(jobs) <= {"Prepare-0", "Resolve-0", *trained, *reports}
        assert {name: jobs[name] for name in reports} == dict.fromkeys(reports, 1)
        assert (run["status"]["models"][-1] == first) is same_model
    assert len(set(keys_of(scene.census, namespace, "PreferenceOptimize"))) == 2
    assert not side_by_side(scene.census, namespace)


@scenario
async def test_an_edit_that_is_taken_back_under_way_leaves_no_trace(scene: Scene) -> None:
    namespace = await scene.namespace("edit-back")
    with scene.holding(namespace, "Rollout"):
        await scene.run(namespace, {"dpo": {"beta": 0.1}})
        await scene.until_running(namespace, "Rollout")
        for beta in (0.4, 0.1):
            await scene.edit(namespace, {"dpo": {"beta": beta}})
            await scene.until("the edit is seen", lambda: scene.is_seen(namespace))
        await scene.until_running(namespace, "Rollout")
    run = await scene.until_succeeded(namespace)
    assert computed(scene.census, namespace) == ONCE
    assert len(uids(scene, namespace, "jobs")) == 1

    # The same model as that of a run which never heard of the other value.
    plain = await scene.namespace("never-edited")
    await scene.run(plain, {"dpo": {"beta": 0.1}})
    other = await scene.until_succeeded(plain)
    names = lambda one: [model["uri"].rpartition("/")[2] for model in one["status"]["models"]]  # noqa: E731
    assert names(run) == names(other)


@scenario
async def test_a_field_of_the_stage_under_way_ends_that_stage_and_keeps_what_came_before(
    scene: Scene,
) -> None:
    """The rollout's own temperature: its Job goes and comes with another key, asking the same servers."""
    namespace = await scene.namespace("edit-rollout")
    with scene.holding(namespace, "Rollout"):
        await scene.run(namespace)
        await scene.until_running(namespace, "Rollout")
        await scene.edit(namespace, {"responses": {"temperature": 0.9}})
        await scene.until(
            "another Rollout", lambda: len(set(keys_of(scene.census, namespace, "Rollout"))) == 2
        )
    await scene.until_succeeded(namespace)
    assert computed(scene.census, namespace) == ONCE | {"Rollout-2": 2}
    assert len(uids(scene, namespace, "deployments")) == 1
    assert not side_by_side(scene.census, namespace)


@scenario
async def test_how_a_stage_is_run_may_change_under_way_and_nothing_is_computed_again(scene: Scene) -> None:
    namespace = await scene.namespace("edit-execution")
    with scene.holding(namespace, "Rollout"):
        await scene.run(namespace)
        await scene.until_running(namespace, "Rollout")
        execution = {
            "serving": {"replicas": 2, "resources": {"memory": "48Gi"}, "gpuMemoryUtilization": 0.8},
            "training": {"resources": {"cpu": "2"}, "nodes": 2},
            "sampler": {"resources": {"memory": "2Gi"}, "parallelism": 2},
            "limits": {"retries": 7},
        }
        await scene.edit(namespace, execution)
        await scene.until("the edit is seen", lambda: scene.is_seen(namespace))
        # The pool grows in place.
        await scene.until("two servers", lambda: len(scene.servers(namespace)) == 2)
        await scene.until_quiet(namespace)
    await scene.until_succeeded(namespace)
    assert computed(scene.census, namespace) == ONCE
    assert jobs_by_stage(scene.census, namespace)["Prepare-0"] == 1
    assert len(uids(scene, namespace, "jobs")) == len(uids(scene, namespace, "deployments")) == 1
    # What began after the edit is run as it says.
    training = [
        change.object for change in scene.census.of(namespace, (PYTORCH_JOBS,)) if change.type == "ADDED"
    ]
    pods = [sum(one["replicas"] for one in job["spec"]["pytorchReplicaSpecs"].values()) for job in training]
    assert pods == [1, 2]


@scenario
async def test_more_iterations_for_a_finished_run_are_those_alone(scene: Scene) -> None:
    namespace = await scene.namespace("edit-iterations")
    await scene.run(namespace)
    await scene.until_succeeded(namespace)
    made = len(scene.census.changes)
    await scene.edit(namespace, {"iterations": 3})
    run = await scene.until_succeeded(namespace)
    expected = dict.fromkeys(
        ("GeneratePrompts-3", "Rollout-3", "BuildPreferences-3", "PreferenceOptimize-3"), 1
    )
    assert computed(scene.census, namespace, since=made) == expected
    assert [model["name"] for model in run["status"]["models"]] == ["M1", "M2", "M3"]


@scenario
async def test_an_edit_that_the_api_server_refuses_changes_nothing(scene: Scene) -> None:
    namespace = await scene.namespace("edit-refused")
    with scene.holding(namespace, "Rollout"):
        await scene.run(namespace)
        await scene.until_running(namespace, "Rollout")
        with pytest.raises(ApiError, match=r"spec\.dpo\.beta"):
            await scene.edit(namespace, {"dpo": {"beta": -1}})
        with pytest.raises(ApiError, match="preset cannot be changed"):
            await scene.edit(namespace, {"preset": "small"})
        run = await scene.api.get(RUNS, namespace, NAME)
        assert run is not None
        assert run["metadata"]["generation"] == 1
    await scene.until_succeeded(namespace)
    assert computed(scene.census, namespace) == ONCE


@scenario
async def test_an_edit_that_cannot_work_is_told_with_field_and_remedy_while_the_stage_goes_on(
    scene: Scene,
) -> None:
    """The API server takes it (no CEL rule multiplies three fields), the operator does not: until it is mended."""
    namespace = await scene.namespace("edit-invalid")
    with scene.holding(namespace, "Rollout"):
        await scene.run(namespace)
        await scene.until_running(namespace, "Rollout")
        await scene.until_quiet(namespace)
        children, pods = (
            came_and_went(scene, namespace),
            {pod["metadata"]["uid"] for pod in scene.pods(namespace)},
        )
        await scene.edit(namespace, {"dpo": {"batchSize": 6}, "training": {"gpusPerNode": 4}})
        await scene.until("InvalidSpec", lambda: scene.says(namespace, "Failed", "True", "InvalidSpec"))
        for words in (
            "dpo.batchSize (6)",
            "change dpo.batchSize or training.microBatchSize",
            "Edit the spec",
        ):
            assert words in scene.message(namespace, "Failed")
        # For kstatus it has failed; a GitOps tool shows the message.
        run = scene.look(namespace)
        truths = {kind: condition(run, kind)[0] for kind in ("Ready", "Reconciling", "Stalled", "Succeeded")}
        assert truths == {"Ready": "False", "Reconciling": "False", "Stalled": "True", "Succeeded": "False"}
        await scene.until_quiet(namespace)
        assert {pod["metadata"]["uid"] for pod in scene.pods(namespace)} == pods
        assert came_and_went(scene, namespace) == children

    # The stage ends while nobody reads the spec; mended, the run finds its result where it is.
    await scene.until("the rollout's end", lambda: scene.pods(namespace, "Rollout", phase="Succeeded"))
    await scene.edit(namespace, {"dpo": {"batchSize": 16}})
    await scene.until_succeeded(namespace)
    assert computed(scene.census, namespace) == ONCE
    told = {change.uid for change in scene.census.of(namespace, (JOBS,)) if "rollout" in change.name}
    assert len(told) == 1
