"""Pods: every way in which one waits, runs, fails or is lost, and the class of failure that the planner makes of it."""

import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.api_objects import (
    CREATED,
    HOLDER,
    KEY,
    at,
    child,
    condition,
    container_status,
    deployment,
    ended,
    pod,
    running,
    waiting,
)

from selfrewarding.cluster.slim import slim
from selfrewarding.cluster.translate_pods import is_orphan, lost, owner_among, pod_of, program_of
from selfrewarding.plan.observed import Phase
from selfrewarding.plan.retries import FailureClass, classify, of_server

GPU = "nvidia.com/gpu"
JOB = child("Job")
TRAINING = child("PyTorchJob", stage="SupervisedFineTune", uid="torch-uid", name="demo-sft-1-a1-0a1b2c3d4e")
POOL = deployment()
LOST = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."


def program(state, **more):
    return container_status("sampler", state, **more)


def read(raw):
    found = pod_of(slim(raw), GPU)
    assert found == pod_of(raw, GPU), "whole objects and slim ones must read alike"
    return found


def told(failure, message, **more):
    return json.dumps({"failure": failure, "message": message} | more)


# ---------------------------------------------------------------------- failures (design 5, rule 6)

OOM_SERVER = [container_status("vllm", waiting("CrashLoopBackOff"), last=ended(137, "OOMKilled"), restarts=3)]

FAILURES = {
    "evicted by the kubelet": (
        pod(program(ended(137)), phase="Failed", status={"reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."},
            conditions=[condition("DisruptionTarget", reason="TerminationByKubelet")]),
        False, FailureClass.INFRASTRUCTURE, "Evicted",
    ),
    "evicted by the API (kubectl drain)": (
        pod(program(ended(143)), phase="Failed", conditions=[condition("DisruptionTarget", reason="EvictionByEvictionAPI", message="Eviction API: evicting")]),
        False, FailureClass.INFRASTRUCTURE, "EvictionByEvictionAPI",
    ),
    "preempted by a pod of higher priority": (
        pod(program(ended(143)), phase="Failed", conditions=[condition("DisruptionTarget", reason="PreemptionByScheduler")]),
        False, FailureClass.INFRASTRUCTURE, "PreemptionByScheduler",
    ),
    "its node was tainted": (
        pod(program(ended(1)), phase="Failed", conditions=[condition("DisruptionTarget", reason="DeletionByTaintManager")]),
        False, FailureClass.INFRASTRUCTURE, "DeletionByTaintManager",
    ),
    "its node came back without the container": (
        pod(program(ended(137, "ContainerStatusUnknown")), phase="Failed"), False, FailureClass.INFRASTRUCTURE, "ContainerStatusUnknown",
    ),
    "its node is lost, said by the node controller": (
        pod(program(running()), phase="Failed", status={"reason": "NodeLost"}), False, FailureClass.INFRASTRUCTURE, "NodeLost",
    ),
    "its node shut down": (
        pod(program(ended(137)), phase="Failed", status={"reason": "Terminated", "message": "Pod was terminated in response to imminent node shutdown."}),
        False, FailureClass.INFRASTRUCTURE, "Terminated",
    ),
    "refused by the kubelet for want of GPUs": (
        pod(phase="Failed", status={"reason": "OutOfnvidia.com/gpu", "containerStatuses": None}), False, FailureClass.INFRASTRUCTURE, "OutOfnvidia.com/gpu",
    ),
    "an unhealthy device": (
        pod(phase="Failed", status={"reason": "UnexpectedAdmissionError"}), False, FailureClass.INFRASTRUCTURE, "UnexpectedAdmissionError",
    ),
    "killed from outside": (pod(program(ended(137)), phase="Failed"), False, FailureClass.INFRASTRUCTURE, "Error"),
    "ended from outside": (pod(program(ended(143)), phase="Failed"), False, FailureClass.INFRASTRUCTURE, "Error"),
    "out of memory": (pod(program(ended(137, "OOMKilled")), phase="Failed"), False, FailureClass.OUT_OF_MEMORY, "OOMKilled"),
    "out of memory in one of several pods": (
        pod(container_status("pytorch", ended(137, "OOMKilled")), owner=TRAINING, phase="Failed"), True, FailureClass.OUT_OF_MEMORY, "OOMKilled",
    ),
    "bad configuration, told": (
        pod(program(ended(2, message=told("BadConfiguration", "Bucket is read-only."))), phase="Failed"),
        False, FailureClass.BAD_CONFIGURATION, "Error",
    ),
    "bad configuration by exit code alone": (pod(program(ended(2)), phase="Failed"), False, FailureClass.BAD_CONFIGURATION, "Error"),
    "bad configuration under torchrun, which makes it 1": (
        pod(container_status("pytorch", ended(1, message=told("BadConfiguration", "zeroStage"))), owner=TRAINING, phase="Failed"),
        True, FailureClass.BAD_CONFIGURATION, "Error",
    ),
    "bad data, told": (pod(program(ended(3, message=told("BadData", "line 7"))), phase="Failed"), False, FailureClass.BAD_DATA, "Error"),
    "a parent's result is gone": (
        pod(program(ended(4, message=told("ParentMissing", "gone", parent=KEY))), phase="Failed"), False, FailureClass.PARENT_MISSING, "Error",
    ),
    "the store did not answer": (pod(program(ended(75, message=told("Retry", "S3"))), phase="Failed"), False, FailureClass.RETRY, "Error"),
    "a crash": (pod(program(ended(139)), phase="Failed"), False, FailureClass.UNKNOWN, "Error"),
    "a crash whose log stands in the message": (
        pod(program(ended(1, message="Traceback (most recent call last): …")), phase="Failed"), False, FailureClass.UNKNOWN, "Error",
    ),
    "NCCL or gloo timed out: one rank says no more than that a peer is gone": (
        pod(container_status("pytorch", ended(1)), owner=TRAINING, phase="Failed"), True, FailureClass.INFRASTRUCTURE, "Error",
    ),
    "NCCL timed out, and the rank could say so": (
        pod(container_status("pytorch", ended(1, message=told("Retry", "NCCL timed out"))), owner=TRAINING, phase="Failed"),
        True, FailureClass.RETRY, "Error",
    ),
    "an init container of somebody's, in a training pod": (
        pod(container_status("pytorch", waiting("PodInitializing")), inits=[container_status("istio-init", ended(1))], owner=TRAINING, phase="Failed"),
        True, FailureClass.INFRASTRUCTURE, None,
    ),
    "a side container that ends badly beside a program that was told to retry": (
        pod(container_status("istio-proxy", ended(2)), program(ended(75, message=told("Retry", "S3"))), phase="Failed"),
        False, FailureClass.RETRY, "Error",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
def test_survival_rule_6_a_failed_pod_falls_into_its_class(case):
    raw, multi_pod, kind, reason = FAILURES[case]
    found = read(raw)
    assert found.phase is Phase.FAILED
    assert found.reason == reason
    assert classify([found], multi_pod=multi_pod, said=None).kind is kind


def test_a_failures_message_reaches_people():
    found = read(
        pod(program(ended(2, message=told("BadConfiguration", "Bucket is read-only."))), phase="Failed")
    )
    assert classify([found], multi_pod=False, said=None).message == "Bucket is read-only."


def test_a_summary_comes_from_the_programs_container_alone():
    done = {"done": {KEY: {"stage": "Rollout", "iteration": 1, "digest": "ab" * 8, "counts": {"rows": 9}}}}
    forged = {"done": {"ffffffffffffffff": {"stage": "Rollout", "iteration": 1, "digest": "00" * 8}}}
    sidecar = container_status("sidecar", ended(0, message=json.dumps(forged)))
    found = read(pod(sidecar, program(ended(0, message=json.dumps(done))), phase="Succeeded"))
    assert (found.phase, found.exit_code, found.reason) == (Phase.SUCCEEDED, 0, "Completed")
    assert found.termination.done[KEY].counts == {"rows": 9}
    assert list(found.termination.done) == [KEY]


# ---------------------------------------------------------------------- servers

FETCHING = container_status("vllm", waiting("PodInitializing"))


def test_a_server_that_fetches_its_model_is_told_by_the_init_container():
    message = told("BadConfiguration", "The model does not fit.")
    fetch = container_status(
        "fetch-model", waiting("CrashLoopBackOff", "back-off 10s"), last=ended(2, message=message), restarts=1
    )
    found = read(pod(FETCHING, inits=[fetch], owner=POOL, phase="Pending"))
    assert (found.exit_code, found.restarts, found.ready) == (2, 1, False)
    assert (found.waiting_reason, found.holder, found.stage) == ("CrashLoopBackOff", HOLDER, None)
    assert of_server([found]).kind is FailureClass.BAD_CONFIGURATION


def test_a_server_whose_init_container_tries_again_still_tells_why_it_failed():
    message = told("ParentMissing", "M1 is gone", parent=KEY)
    fetch = container_status("fetch-model", running(), last=ended(4, message=message), restarts=2)
    failure = of_server([read(pod(FETCHING, inits=[fetch], owner=POOL, phase="Pending"))])
    assert (failure.kind, failure.parent) == (FailureClass.PARENT_MISSING, KEY)


def test_a_server_that_ran_is_told_by_itself():
    fetch = container_status("fetch-model", ended(0, message=told("Retry", "long over")))
    crash = container_status(
        "vllm", waiting("CrashLoopBackOff"), last=ended(1, message="CUDA error"), restarts=3
    )
    found = read(pod(crash, inits=[fetch], owner=POOL))
    assert (found.exit_code, found.restarts, found.termination) == (1, 3, None)
    assert of_server([found]).kind is FailureClass.UNKNOWN


def test_a_server_out_of_memory_says_so_after_three_restarts():
    found = read(pod(*OOM_SERVER, inits=[container_status("fetch-model", ended(0))], owner=POOL))
    assert (found.reason, of_server([found]).kind) == ("OOMKilled", FailureClass.OUT_OF_MEMORY)


def test_a_server_that_answers_is_ready():
    server = container_status("vllm", running(), ready=True)
    found = read(
        pod(
            server,
            inits=[container_status("fetch-model", ended(0))],
            owner=POOL,
            gpus=4,
            conditions=[condition("Ready")],
        )
    )
    assert (found.ready, found.phase, found.gpus, found.exit_code) == (True, Phase.RUNNING, 4, None)
    assert of_server([found]) is None


# ---------------------------------------------------------------------- waiting

WAITING = {
    "no node has room": (
        pod(phase="Pending", node=None, conditions=[condition("PodScheduled", "False", "Unschedulable", LOST)]), (False, LOST, None),
    ),
    "gated by Kueue": (
        pod(phase="Pending", node=None, conditions=[condition("PodScheduled", "False", "SchedulingGated", "gated")]), (False, "gated", None),
    ),
    "not yet seen by the scheduler": (pod(phase="Pending", node=None), (False, None, None)),
    "being made": (pod(program(waiting("ContainerCreating")), phase="Pending"), (True, None, None)),
    "an image that does not exist": (
        pod(program(waiting("ImagePullBackOff", 'Back-off pulling image "example.test/x:2"')), phase="Pending"), (True, None, "ImagePullBackOff"),
    ),
    "an image of an init container that does not exist": (
        pod(FETCHING, inits=[container_status("fetch-model", waiting("ErrImagePull"))], owner=POOL, phase="Pending"), (True, None, "ErrImagePull"),
    ),
    "a Secret that does not exist": (
        pod(program(waiting("CreateContainerConfigError", 'secret "s3" not found')), phase="Pending"), (True, None, "CreateContainerConfigError"),
    ),
    "an init container of the training operator's": (
        pod(container_status("pytorch", waiting("PodInitializing")), inits=[container_status("init-pytorch", running())], owner=TRAINING, phase="Pending"),
        (True, None, None),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WAITING)
def test_why_a_pod_waits(case):
    raw, expected = WAITING[case]
    found = read(raw)
    assert (found.scheduled, found.scheduling_message, found.waiting_reason) == expected
    assert found.phase is Phase.PENDING


def test_a_pod_whose_node_does_not_answer_may_still_run():
    assert read(pod(program(running()), phase="Unknown")).phase is Phase.RUNNING


def test_times_of_a_pod():
    found = read(pod(program(running()), deletionTimestamp=at(90)))
    assert found.created == CREATED + timedelta(seconds=1)
    assert found.started == CREATED + timedelta(seconds=2)
    assert found.deleting_since == CREATED + timedelta(seconds=90)


# ---------------------------------------------------------------------- index and GPUs


@pytest.mark.parametrize(
    ("raw", "index"),
    [
        (pod(), 0),
        (pod(marks={"batch.kubernetes.io/job-completion-index": "3"}), 3),
        (pod(annotations={"batch.kubernetes.io/job-completion-index": "5"}), 5),
        (
            pod(
                owner=TRAINING,
                marks={
                    "training.kubeflow.org/replica-type": "worker",
                    "training.kubeflow.org/replica-index": "0",
                },
            ),
            0,
        ),
        (
            pod(
                owner=TRAINING,
                marks={
                    "training.kubeflow.org/replica-type": "worker",
                    "training.kubeflow.org/replica-index": "1",
                },
            ),
            1,
        ),
        (
            pod(
                owner=TRAINING,
                marks={
                    "training.kubeflow.org/replica-type": "worker",
                    "training.kubeflow.org/replica-index": "6",
                },
            ),
            6,
        ),
    ],
)
def test_index_of_a_pod(raw, index):
    assert read(raw).index == index


def test_gpus_are_those_of_the_resource_that_the_run_names():
    raw = pod(container_status("vllm"), container_status("helper"), owner=POOL, gpus=2)
    raw["spec"]["containers"][1]["resources"] = {"limits": {"amd.com/gpu": 1, GPU: 1}}
    raw["spec"]["initContainers"] = [{"name": "warm-up", "resources": {"requests": {GPU: "2"}}}]
    assert read(raw).gpus == 3
    assert pod_of(slim(raw), "amd.com/gpu").gpus == 1
    assert pod_of(slim(raw), "intel.com/gpu").gpus == 0


# ---------------------------------------------------------------------- whose pod


def test_a_pod_belongs_to_the_child_that_controls_it():
    job, train = child("Job", uid="a"), child("PyTorchJob", uid="b")
    assert owner_among(pod(owner=job), [train, job]) is job
    assert owner_among(slim(pod(owner=train)), [slim(train), slim(job)]) == slim(train)
    assert owner_among(pod(owner=child("Job", uid="an older one of this name")), [job, train]) is None


def test_a_servers_pod_belongs_to_the_deployment_that_its_replica_set_is_named_for():
    raw = pod(owner=POOL)
    assert owner_among(raw, [JOB, POOL]) is POOL
    other = deployment(name="demo-policy-1-a2-0a1b2c3d4e", attempt=2)
    assert owner_among(raw, [other]) is None
    raw["metadata"]["ownerReferences"][0]["name"] = "somebody-elses-6b7f5c9d4"
    assert owner_among(raw, [POOL]) is None


def test_a_pod_with_copied_labels_is_nobodys():
    bare = pod(owner=JOB, ownerReferences=[])
    assert owner_among(bare, [JOB]) is None
    assert not is_orphan(bare | {"metadata": bare["metadata"] | {"deletionTimestamp": at(9)}})


def test_a_pod_of_a_child_that_was_never_seen_counts_only_on_its_way_out():
    assert not is_orphan(pod(owner=JOB))
    assert is_orphan(slim(pod(owner=JOB, deletionTimestamp=at(9))))


def test_a_pod_is_lost_a_minute_after_it_should_have_ended():
    stuck = read(pod(program(running()), deletionTimestamp=at(30)))
    over = read(pod(program(ended(0)), phase="Succeeded", deletionTimestamp=at(30)))
    assert lost([over, stuck], CREATED + timedelta(seconds=89)) is None
    assert lost([over, stuck], CREATED + timedelta(seconds=90)) is stuck
    assert lost([over], CREATED + timedelta(hours=1)) is None


def test_the_container_that_a_log_is_read_from():
    assert program_of(slim(pod(container_status("proxy"), container_status("sampler")))) == "sampler"
    assert program_of(slim(pod(owner=TRAINING))) == "pytorch"
    assert program_of(slim(pod(container_status("proxy")))) is None


# ---------------------------------------------------------------------- whatever is missing

text = st.none() | st.sampled_from(["", "OOMKilled", "Evicted", "{", '{"failure": 3}', '{"done": {}}', "x"])
terminated = st.fixed_dictionaries(  # core/v1: the exit code is its one required field
    {"exitCode": st.integers(0, 255)}, optional={"reason": text, "message": text}
)
state = st.none() | st.fixed_dictionaries(
    {}, optional={"waiting": st.none() | st.fixed_dictionaries({}, optional={"reason": text, "message": text}),
                  "running": st.none() | st.just({}), "terminated": st.none() | terminated}
)  # fmt: skip
container = st.fixed_dictionaries(
    {}, optional={"name": st.none() | st.sampled_from(["sampler", "vllm", "fetch-model", "x"]), "state": state, "lastState": state,
                  "restartCount": st.none() | st.integers(0, 9), "ready": st.none() | st.booleans()}
)  # fmt: skip
statuses = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "phase": st.none() | st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown", "Odd"]),
        "reason": text, "message": text, "startTime": st.none() | st.just(at(2)),
        "conditions": st.none() | st.lists(st.fixed_dictionaries({}, optional={"type": text, "status": text, "reason": text})),
        "containerStatuses": st.none() | st.lists(container), "initContainerStatuses": st.none() | st.lists(container),
    },
)  # fmt: skip
pod_specs = st.none() | st.fixed_dictionaries(
    {}, optional={"nodeName": text, "initContainers": st.none(), "containers": st.none() | st.lists(st.fixed_dictionaries(
        {"name": st.sampled_from(["sampler", "x"])}, optional={"resources": st.none() | st.fixed_dictionaries(
            {}, optional={"requests": st.none() | st.just({GPU: "1", "cpu": "1"}), "limits": st.none() | st.just({GPU: 2})})}), max_size=3)}
)  # fmt: skip


@given(spec=pod_specs, status=statuses)
def test_translation_of_a_pod_takes_every_optional_field_as_optional(spec, status):
    raw = pod() | {"spec": spec, "status": status}
    found = pod_of(raw, GPU)
    assert found == pod_of(slim(raw), GPU)
    assert found.phase in Phase
    classify([found], multi_pod=True, said=None)
    of_server([found])
    assert program_of(slim(raw)) == program_of(raw)
