"""Children: what the API says of a Job, a PyTorchJob and a Deployment, and what the planner makes of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.api_objects import CREATED, HOLDER, KEY, RUN_UID, at, child, condition, deployment

from selfrewarding.api import labels
from selfrewarding.cluster.slim import slim
from selfrewarding.cluster.translate import child_of, is_owned_by, rivals_of, wanted_pods
from selfrewarding.plan.observed import Child, Phase, Rival

QUOTA = (
    'pods "demo-policy-6b7f5c9d4-" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=4'
)

PHASES = {
    "a Job that was just made": (child("Job"), Phase.PENDING, None),
    "a Job whose pod starts": (child("Job", status={"active": 1, "ready": 0}), Phase.PENDING, None),
    "a Job whose pod is ready": (child("Job", status={"active": 1, "ready": 1}), Phase.RUNNING, None),
    "a Job that is done": (
        child("Job", status={"succeeded": 1, "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]}),
        Phase.SUCCEEDED, None,
    ),
    "a Job whose last pods are ending after success": (
        child("Job", status={"active": 1, "ready": 1, "conditions": [condition("SuccessCriteriaMet")]}), Phase.SUCCEEDED, None,
    ),
    "a Job that failed": (
        child("Job", status={"failed": 1, "conditions": [
            condition("FailureTarget", reason="BackoffLimitExceeded", message="soon"),
            condition("Failed", reason="BackoffLimitExceeded", message="Job has reached the specified backoff limit"),
        ]}),
        Phase.FAILED, "BackoffLimitExceeded: Job has reached the specified backoff limit",
    ),
    "a Job that will fail once its other pods have ended": (
        child("Job", status={"failed": 1, "active": 1, "ready": 1, "conditions": [condition("FailureTarget", reason="DeadlineExceeded")]}),
        Phase.FAILED, "DeadlineExceeded",
    ),
    "a Job that Kueue holds back": (
        child("Job", status={"conditions": [condition("Suspended", reason="JobSuspended", message="Job suspended")]}), Phase.PENDING, None,
    ),
    "a Job whose failure was taken back": (child("Job", status={"conditions": [condition("Failed", "False")]}), Phase.PENDING, None),
    "a PyTorchJob without status": (child("PyTorchJob", stage="SupervisedFineTune", status={}), Phase.PENDING, None),
    "a PyTorchJob that was just seen": (
        child("PyTorchJob", status={"conditions": [condition("Created", reason="PyTorchJobCreated")]}), Phase.PENDING, None,
    ),
    "a PyTorchJob that runs": (
        child("PyTorchJob", status={"conditions": [condition("Created"), condition("Running", reason="PyTorchJobRunning")],
                                    "replicaStatuses": {"Worker": {"active": 2}}}),
        Phase.RUNNING, None,
    ),
    "a PyTorchJob whose pod is started again": (
        child("PyTorchJob", status={"conditions": [condition("Running", "False"), condition("Restarting")]}), Phase.PENDING, None,
    ),
    "a PyTorchJob that is done": (
        child("PyTorchJob", status={"conditions": [condition("Running", "False"), condition("Succeeded", reason="PyTorchJobSucceeded")]}),
        Phase.SUCCEEDED, None,
    ),
    "a PyTorchJob that failed": (
        child("PyTorchJob", status={"conditions": [
            condition("Running", "False"),
            condition("Failed", reason="PyTorchJobFailed", message="PyTorchJob demo is failed because 1 Worker replica(s) failed."),
        ]}),
        Phase.FAILED, "PyTorchJobFailed: PyTorchJob demo is failed because 1 Worker replica(s) failed.",
    ),
    "a Deployment whose server starts": (deployment(), Phase.PENDING, None),
    "a Deployment with a server": (deployment(replicas=2, ready=1), Phase.RUNNING, None),
    "a Deployment whose pods a quota refuses": (
        deployment(conditions=[condition("ReplicaFailure", reason="FailedCreate", message=QUOTA)]), Phase.PENDING, f"FailedCreate: {QUOTA}",
    ),
    "a Deployment that takes too long": (
        deployment(conditions=[condition("Progressing", "False", "ProgressDeadlineExceeded", "ReplicaSet has timed out progressing.")]),
        Phase.PENDING, "ProgressDeadlineExceeded: ReplicaSet has timed out progressing.",
    ),
    "a Deployment that is not available yet": (
        deployment(conditions=[condition("Available", "False", "MinimumReplicasUnavailable", "no"), condition("Progressing", reason="x")]),
        Phase.PENDING, None,
    ),
    "a ConfigMap": (child("ConfigMap"), Phase.PENDING, None),
}  # fmt: skip


@pytest.mark.parametrize("case", PHASES)
def test_phase_and_message(case):
    raw, phase, message = PHASES[case]
    found = child_of(slim(raw))
    assert (found.phase, found.message) == (phase, message)
    assert child_of(raw) == found, "whole objects and slim ones must read alike"


def test_a_child_has_what_its_labels_and_metadata_say():
    raw = deployment(replicas=3, ready=2, attempt=4, iteration=2, deletionTimestamp=at(5))
    assert child_of(slim(raw)) == Child(
        kind="Deployment", name="demo-policy-1-a1-0a1b2c3d4e", uid="deployment-uid", key=KEY, stage=None, holder=HOLDER,
        iteration=2, attempt=4, phase=Phase.RUNNING, deleting=True, replicas=3, ready_replicas=2, created=CREATED,
    )  # fmt: skip


def test_a_deployment_shrunk_to_zero_has_no_replicas():
    found = child_of(slim(deployment(replicas=0)))
    assert (found.replicas, found.ready_replicas) == (0, 0)


def test_why_pods_cannot_be_made_stands_behind_what_the_object_says_itself():
    assert child_of(child("Job"), message="FailedCreate: quota").message == "FailedCreate: quota"
    failed = child("Job", status={"conditions": [condition("Failed", reason="DeadlineExceeded")]})
    assert child_of(failed, message="FailedCreate: quota").message == "DeadlineExceeded"


@pytest.mark.parametrize("attempt", ["", "one", "-1", "1.5", "²", None])
def test_an_object_whose_labels_are_not_ours_is_no_child(attempt):
    raw = child("Job")
    raw["metadata"]["labels"]["selfrewarding.dev/attempt"] = attempt
    assert child_of(raw) is None


def test_ownership_is_by_uid_not_by_name():
    assert is_owned_by(child("Job"), RUN_UID)
    assert not is_owned_by(child("Job", run_uid="that of an earlier run of this name"), RUN_UID)
    assert not is_owned_by({"metadata": {"name": "x"}}, RUN_UID)


def test_a_job_that_outlives_its_run_belongs_to_it_by_a_label():
    def job(kind="Job", **more):
        raw = child(kind, **more)
        raw["metadata"]["labels"][labels.RUN_UID] = RUN_UID
        return raw

    assert is_owned_by(slim(job(ownerReferences=[])), RUN_UID)
    assert not is_owned_by(job(ownerReferences=[]), "another")
    assert not is_owned_by(job(run_uid="another"), RUN_UID), "an owner goes before a label"
    assert not is_owned_by(job("Deployment", ownerReferences=[]), RUN_UID)


def test_pods_that_a_workload_wants():
    replicas = {"Worker": {"replicas": 8, "template": {}}}
    assert wanted_pods(slim(child("PyTorchJob", spec={"pytorchReplicaSpecs": replicas}))) == 8
    assert wanted_pods(slim(child("Job", spec={"parallelism": 4, "completions": 4}))) == 4
    assert wanted_pods(slim(child("Job"))) == 1
    assert wanted_pods(slim(deployment(replicas=2))) == 2
    assert wanted_pods(slim(child("Service"))) == 0


def test_rivals_are_other_runs_jobs_that_are_under_way():
    done = {"conditions": [condition("Complete")]}
    objects = [
        child("Job", uid="own"),
        child("Job", uid="a", run="other", run_uid="u2", namespace="team-b", artifact="aa"),
        child("PyTorchJob", uid="b", run="third", run_uid="u3", artifact="bb"),
        child("Job", uid="c", run="done", run_uid="u4", status=done),
        child("Job", uid="d", run="deleted", run_uid="u5", deletionTimestamp=at(9)),
        child("Job", uid="e", run="nobody", run_uid="u6", ownerReferences=[]),
    ]
    assert rivals_of([slim(one) for one in objects], RUN_UID) == (
        Rival(run="team-b/other", artifact="aa"),
        Rival(run="lab/third", artifact="bb"),
    )


# Whatever optional parts are missing or null, a child is read.
maybe_text = st.none() | st.sampled_from(["", "True", "False", "Failed", "Complete", "Running", "x"])
conditions = st.none() | st.lists(
    st.fixed_dictionaries(
        {}, optional={"type": maybe_text, "status": maybe_text, "reason": maybe_text, "message": maybe_text}
    )
)
statuses = st.none() | st.fixed_dictionaries(
    {}, optional={"conditions": conditions, "ready": st.none() | st.integers(0, 3), "readyReplicas": st.none() | st.integers(0, 3)}
)  # fmt: skip
specs = st.none() | st.fixed_dictionaries(
    {}, optional={"replicas": st.none() | st.integers(0, 3), "parallelism": st.none(), "pytorchReplicaSpecs": st.none() | st.just({"Worker": {}})}
)  # fmt: skip


@given(kind=st.sampled_from(["Job", "PyTorchJob", "Deployment", "Service"]), spec=specs, status=statuses)
def test_translation_of_a_child_takes_every_optional_field_as_optional(kind, spec, status):
    raw = child(kind) | {"spec": spec, "status": status}
    found = child_of(raw)
    assert found == child_of(slim(raw))
    assert found.created == CREATED
    assert wanted_pods(slim(raw)) == wanted_pods(raw) >= 0
