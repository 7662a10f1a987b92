"""What scheduler, kubelet, quota and admission say, in plain words. The texts are theirs, of Kubernetes 1.30 to 1.36."""

from dataclasses import replace

import pytest
from tests.support.builders import make_job, make_pod, make_spec

from selfrewarding.plan.graph import outline
from selfrewarding.plan.observed import Phase, Pod
from selfrewarding.plan.waiting import CANNOT_START, for_node, for_pods, for_quota, to_start, why_not_started

STAGE = list(outline(make_spec(), contract=1).stages)[1]
PREEMPTION = " preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."


def pod(**fields: object) -> Pod:
    return replace(make_pod(STAGE, phase=Phase.PENDING, started=None), name="sft-1", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "gpus", "what"),
    [
        pytest.param(
            "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. no new claims to deallocate," + PREEMPTION, 8,
            '8 GPUs: 8 requested by pod "sft-1", no node has them free', id="GPUs",
        ),
        pytest.param(
            "0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient memory, 3 Insufficient nvidia.com/gpu.", 1,
            '1 GPU: 1 requested by pod "sft-1", no node has it free', id="GPUs besides other things",
        ),
        pytest.param(
            "0/1 nodes are available: 2 GPUs wanted, 1 of 1 free", 2,
            "1 GPU: 2 requested, 1 free", id="one machine",
        ),
        pytest.param(
            "0/2 nodes are available: 2 Insufficient cpu, 2 Insufficient memory." + PREEMPTION, 0,
            'CPU and memory on a node for pod "sft-1"', id="CPU and memory",
        ),
        pytest.param(
            "0/2 nodes are available: 2 Insufficient ephemeral-storage.", 0,
            'disk (ephemeral storage) on a node for pod "sft-1"', id="disk",
        ),
        pytest.param(
            "0/1 nodes are available: 1 Too many pods.", 0, 'room for one more pod on a node for pod "sft-1"',
            id="pods per node",
        ),
        pytest.param(
            "0/4 nodes are available: 4 node(s) didn't match Pod's node affinity/selector." + PREEMPTION, 8,
            'a node that takes pod "sft-1"', id="node selector",
        ),
        pytest.param(
            "0/1 nodes are available: 1 node(s) had untolerated taint {nvidia.com/gpu: present}.", 8,
            'a node that takes pod "sft-1"', id="taint",
        ),
        pytest.param(
            '0/1 nodes are available: persistentvolumeclaim "fast" not found. not found', 0,
            'PersistentVolumeClaim "fast" of pod "sft-1"', id="claim",
        ),
        pytest.param(
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found", 0,
            'a volume for pod "sft-1"', id="volume",
        ),
        pytest.param(
            "Scheduling is blocked due to non-empty scheduling gates", 8, 'the queue to admit pod "sft-1"', id="Kueue"
        ),
        pytest.param("no nodes available to schedule pods", 0, 'a node for pod "sft-1"', id="no nodes"),
        pytest.param("something new", 0, 'a node for pod "sft-1"', id="unforeseen"),
        pytest.param(None, 0, 'a node for pod "sft-1"', id="nothing yet"),
    ],
)  # fmt: skip
def test_what_a_pod_without_a_node_waits_for(said: str | None, gpus: int, what: str) -> None:
    found = for_node(pod(scheduled=False, scheduling_message=said, gpus=gpus))
    assert found.what == what
    assert found.remedy.endswith(".")
    assert "preemption" not in found.said, "of no use to people, and different each time"
    if said is not None:
        assert found.said[:30] == said[:30].rstrip(".")


@pytest.mark.parametrize(
    ("reason", "said", "what"),
    [
        ("CreateContainerConfigError", 'secret "s3" not found', 'Secret "s3" in namespace "team-a"'),
        (
            "CreateContainerConfigError", "couldn't find key AWS_SECRET_ACCESS_KEY in Secret team-a/s3",
            'key AWS_SECRET_ACCESS_KEY in Secret "s3" in namespace "team-a"',
        ),
        ("CreateContainerConfigError", 'configmap "site-ca" not found', 'ConfigMap "site-ca" in namespace "team-a"'),
        (
            "CreateContainerConfigError", "couldn't find key ca.crt in ConfigMap team-a/site-ca",
            'key ca.crt in ConfigMap "site-ca" in namespace "team-a"',
        ),
        (
            "FailedMount", 'MountVolume.SetUp failed for volume "ca" : configmap "site-ca" not found',
            'ConfigMap "site-ca" in namespace "team-a"',
        ),
        (
            "CreateContainerConfigError",
            'container has runAsNonRoot and image will run as root (pod: "sft-1_team-a(u1)", container: pytorch)',
            'pod "sft-1", whose image wants to run as root',
        ),
        ("ImagePullBackOff", 'Back-off pulling image "foo:1"', "image foo:1 (cannot be pulled)"),
        (
            "ErrImagePull",
            'failed to pull and unpack image "docker.io/library/foo:1": failed to resolve reference: pull access denied',
            "image foo:1 (cannot be pulled)",
        ),
        (
            "InvalidImageName", 'Failed to apply default image tag "FOO": couldn\'t parse image name "FOO"',
            "image FOO (cannot be pulled)",
        ),
        (
            "ErrImageNeverPull", 'Container image "foo:1" is not present with pull policy of Never',
            "image foo:1 (cannot be pulled)",
        ),
        ("ErrImagePull", None, 'the image of pod "sft-1"'),
        (
            "RunContainerError", 'exec: "python": executable file not found in $PATH: unknown',
            'pod "sft-1" to start (RunContainerError)',
        ),
    ],
)  # fmt: skip
def test_what_a_pod_that_cannot_start_waits_for(reason: str, said: str | None, what: str) -> None:
    assert reason in CANNOT_START
    found = to_start(pod(waiting_reason=reason, waiting_message=said), "team-a")
    assert found.what == what
    assert found.remedy.endswith(".")
    assert found.said


def test_a_kubelet_that_pulls_and_backs_off_in_turns_is_told_once() -> None:
    """Else status is written at each turn."""
    why = 'failed to pull and unpack image "docker.io/library/foo:1": not found'
    pulling = to_start(pod(waiting_reason="ErrImagePull", waiting_message=why), "team-a")
    waits = f'Back-off pulling image "foo:1": ErrImagePull: {why}'
    assert to_start(pod(waiting_reason="ImagePullBackOff", waiting_message=waits), "team-a") == pulling


QUOTA = 'FailedCreate: Error creating: pods "sft-1-worker-0" is forbidden: exceeded quota: {name}, requested: {rest}'


@pytest.mark.parametrize(
    ("said", "what"),
    [
        pytest.param(
            QUOTA.format(
                name="gpus",
                rest="requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=2, limited: requests.nvidia.com/gpu=8",
            ),
            '2 GPUs: 8 requested, 6 free (ResourceQuota "gpus")', id="GPUs",
        ),
        pytest.param(
            QUOTA.format(
                name="all", rest="pods=1,requests.memory=64Gi, used: pods=0,requests.memory=8Gi, limited: "
                "pods=10,requests.memory=16Gi",
            ),
            'ResourceQuota "all": pods=1,requests.memory=64Gi requested, pods=0,requests.memory=8Gi of '
            "pods=10,requests.memory=16Gi used",
            id="memory",
        ),
        pytest.param(
            'FailedCreate: Error creating: pods "x" is forbidden: failed quota: share: must specify requests.memory '
            "for: vllm",
            'requests.memory in pods of PyTorchJob trainbaseline-1-a1, which ResourceQuota "share" wants to be told',
            id="nothing said",
        ),
        pytest.param(
            'FailedCreate: Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest": '
            "runAsNonRoot != true",
            "the namespace's Pod Security level to admit pods of PyTorchJob trainbaseline-1-a1", id="Pod Security",
        ),
        pytest.param(
            'FailedCreate: Error creating: pods "x" is forbidden: error looking up service account team-a/runs: '
            'serviceaccount "runs" not found',
            'ServiceAccount "runs"', id="ServiceAccount",
        ),
        pytest.param(
            "FailedCreate: something new", "pods of PyTorchJob trainbaseline-1-a1", id="unforeseen"
        ),
    ],
)  # fmt: skip
def test_what_a_child_without_pods_waits_for(said: str, what: str) -> None:
    found = for_pods(make_job(STAGE, phase=Phase.PENDING, message=said))
    assert found.what == what
    assert found.remedy.endswith(".")


def test_texts_are_cut_to_what_a_status_message_bears() -> None:
    assert len(for_node(pod(scheduled=False, scheduling_message="x " * 4000)).said) <= 240


def test_why_a_pod_has_not_started() -> None:
    assert why_not_started(pod(scheduled=False, scheduling_message="no nodes")) == "no nodes"
    assert why_not_started(pod(waiting_reason="ErrImagePull", waiting_message="no")) == "ErrImagePull: no"
    assert why_not_started(pod()) is None
    assert why_not_started(make_pod(STAGE, waiting_reason="CrashLoopBackOff")) is None, "it runs"


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (
            (
                'jobs.batch "a" is forbidden: exceeded quota: team, requested: count/jobs.batch=1, '
                "used: count/jobs.batch=0, limited: count/jobs.batch=0. Raise the quota."
            ),
            '1 job: 1 requested, 0 free (ResourceQuota "team")',
        ),
        (
            (
                "exceeded quota: g, requested: requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=2, "
                "limited: requests.nvidia.com/gpu=8"
            ),
            '2 GPUs: 8 requested, 6 free (ResourceQuota "g")',
        ),
        (
            "exceeded quota: m, requested: memory=8Gi, used: memory=1Gi, limited: memory=4Gi",
            'ResourceQuota "m": memory=8Gi requested, memory=1Gi of memory=4Gi used',
        ),
        ('jobs.batch "a" is forbidden: a policy', None),
    ],
)
def test_what_a_quota_lacks(said: str, what: str | None) -> None:
    assert for_quota(said) == what
