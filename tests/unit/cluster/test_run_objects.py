"""Runs from raw objects: strict about the spec, forgiving about a status of another release."""

import pytest
from tests.support.builders import SPEC, make_run

from selfrewarding.api.run import SelfRewardingRunStatus, StageAttempts
from selfrewarding.cluster.protocol import InvalidRun
from selfrewarding.cluster.run_objects import read_run, read_status, status_patch, write_status


def raw(**more):
    metadata = {
        "name": "demo", "namespace": "lab", "uid": "run-uid", "generation": 3, "resourceVersion": "77",
        "creationTimestamp": "2026-01-31T11:00:00Z", "managedFields": [{"manager": "kubectl"}],
    }  # fmt: skip
    found = {
        "apiVersion": "selfrewarding.dev/v1alpha1",
        "kind": "SelfRewardingRun",
        "metadata": metadata,
        "spec": SPEC,
    }
    return found | more


def test_a_run_is_read_as_the_user_wrote_it():
    run = read_run(raw())
    assert run.spec == make_run().spec
    assert run.spec.model_fields_set == make_run().spec.model_fields_set, "defaults must not look like wishes"
    assert (run.metadata.resource_version, run.metadata.generation) == ("77", 3)
    assert run.metadata.model_extra == {"creationTimestamp": "2026-01-31T11:00:00Z"}


def test_a_spec_that_cannot_be_read_comes_with_what_is_needed_to_say_so():
    broken = raw(spec=SPEC | {"iterations": 99}, status={"stage": "Rollout"})
    with pytest.raises(InvalidRun) as caught:
        read_run(broken)
    assert caught.value.run.metadata.name == "demo"
    assert caught.value.run.status.stage == "Rollout"
    assert caught.value.error.errors()[0]["loc"] == ("iterations",)


def test_a_run_that_is_being_deleted_needs_no_spec():
    going = raw(spec={})
    going["metadata"] = going["metadata"] | {"deletionTimestamp": "2026-01-31T12:00:00Z"}
    assert read_run(going).metadata.deletion_timestamp is not None


def test_of_a_run_that_is_being_deleted_what_becomes_of_its_artifacts_is_read_whatever_else_is_wrong():
    going = raw(spec=SPEC | {"iterations": 99, "retention": {"onDelete": "Delete"}})
    going["metadata"] = going["metadata"] | {"deletionTimestamp": "2026-01-31T12:00:00Z"}
    spec = read_run(going).spec
    assert (spec.retention.on_delete, spec.artifacts.uri) == ("Delete", SPEC["artifacts"]["uri"])
    # Nobody knows where they are: nothing can be deleted there.
    going["spec"] |= {"artifacts": {"uri": 7}}
    assert read_run(going).spec.retention.on_delete == "Keep"


def test_a_stale_status_of_an_older_version_is_picked_up(caplog):
    older = {
        "observedGeneration": 2, "stage": "Rollout", "iteration": 1,
        "phase": "Running",
        "attempts": {"aa": {"attempt": 2, "tries": 5}},
        "resolved": ["bb"],
    }  # fmt: skip
    status = read_status(older)
    assert (status.observed_generation, status.stage, status.resolved, status.attempts) == (
        2,
        "Rollout",
        ["bb"],
        {},
    )
    assert "status.phase" in caplog.text
    assert "status.attempts" in caplog.text


def test_a_status_is_written_whole_so_that_removed_keys_go():
    status = SelfRewardingRunStatus(stage="Rollout", attempts={"aa": StageAttempts(attempt=2)})
    assert write_status(status)["attempts"] == {
        "aa": {"attempt": 2, "failures": 0, "infrastructure": 0, "progress": 0}
    }
    assert "waitingFor" not in write_status(status)
    assert read_status(write_status(status)) == status
    version, whole = status_patch(status, "77")
    assert version == {"op": "replace", "path": "/metadata/resourceVersion", "value": "77"}
    assert whole == {"op": "add", "path": "/status", "value": write_status(status)}
