"""A store that cannot be used: the run says so, tries by itself, holds no GPU, and goes on once the store is back."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.support.fake_cluster import FakeCluster

from selfrewarding.contract.result import TerminationMessage
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.observed import Phase
from selfrewarding.plan.times import moment_of

SAID = "cannot create object in bucket: the store answered SignatureDoesNotMatch. The access key is wrong."
LOST = TerminationMessage(failure="StoreUnavailable", message=SAID)
REFUSED = TerminationMessage(failure="ServerKeyRefused", message="The servers refuse the key.")


def cluster_at(kind: StageKind) -> FakeCluster:
    """A run whose stage of this kind is under way, its pods running."""
    cluster = FakeCluster()
    for _ in range(200):
        cluster.settle()
        cluster.run_pods()
        cluster.settle()
        if any(owned.child.stage == kind for owned in cluster.jobs()):
            cluster.run_pods()
            return cluster
        for owned in list(cluster.jobs()):
            cluster.succeed(owned)
        cluster.later(31)
    raise AssertionError(f"{kind} never starts")


def accelerators(cluster: FakeCluster) -> list[str]:
    return [pod.name for pod in cluster.live_pods() if pod.gpus]


def stages(cluster: FakeCluster) -> list[str | None]:
    return [
        owned.child.stage for owned in cluster.owned.values() if owned.child.kind in ("Job", "PyTorchJob")
    ]


def message(cluster: FakeCluster, kind: str = "Stalled") -> str:
    return next(one.message for one in cluster.status.conditions if one.type == kind)


def test_a_wrong_secret_is_told_at_once_and_tried_until_it_is_right() -> None:
    cluster = cluster_at(StageKind.PREPARE)
    for attempt in range(1, 16):
        cluster.fail(cluster.job(StageKind.PREPARE), termination=LOST)
        decision = cluster.settle()
        assert cluster.condition("Stalled") == ("True", "StoreUnavailable")
        assert cluster.condition("Failed")[0] == "False", f"attempt {attempt}: nobody need touch the run"
        assert SAID in message(cluster)
        assert SAID in (cluster.status.waiting_for or "")
        (entry,) = cluster.status.attempts.values()
        assert entry.not_before is not None
        wait = moment_of(entry.not_before) - cluster.now
        assert timedelta(0) < wait <= timedelta(seconds=63)
        assert decision.requeue_after <= wait.total_seconds() + 1
        assert entry.failures == 0, "limits.retries are for the program's own failures"
        assert not accelerators(cluster)
        cluster.later(wait.total_seconds() + 1)
        cluster.settle()
        cluster.run_pods()
        cluster.settle()
        assert cluster.condition("Stalled")[0] == "True", "nobody knows yet whether it works"
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"


@pytest.mark.parametrize("kind", [StageKind.TRAIN_BASELINE, StageKind.ROLLOUT])
def test_a_stage_on_gpus_that_loses_the_store_comes_back_after_a_pod_without_gpus_has_reached_it(
    kind: StageKind,
) -> None:
    cluster = cluster_at(kind)
    assert accelerators(cluster)
    cluster.fail(cluster.job(kind), termination=LOST)
    cluster.settle()
    for _ in range(4):
        cluster.later(70)
        cluster.settle()
        cluster.run_pods()
        assert not [owned for owned in cluster.jobs() if owned.child.stage == kind], "first somebody looks"
        cluster.fail(cluster.job(StageKind.RESOLVE), termination=LOST)
        cluster.settle()
        assert cluster.condition("Stalled") == ("True", "StoreUnavailable")
    cluster.later(70)
    cluster.settle()
    assert not accelerators(cluster), "a store that is away for longer: servers give their GPUs back"
    started = len(cluster.computed)
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"
    assert len(cluster.computed) > started


def test_a_server_that_cannot_fetch_its_model_gives_its_gpus_back_at_once() -> None:
    cluster = cluster_at(StageKind.TRAIN_BASELINE)
    cluster.succeed(cluster.job(StageKind.TRAIN_BASELINE))
    for _ in range(20):
        cluster.settle()
        if any(cluster.deployments()):
            break
        for owned in list(cluster.jobs()):
            cluster.succeed(owned)
        cluster.later(31)
    cluster.settle()
    for uid, pod in cluster.pods.items():
        if pod.holder:
            cluster.pods[uid] = replace(pod, scheduled=True, termination=LOST)
    cluster.settle()
    assert cluster.condition("Stalled") == ("True", "StoreUnavailable")
    assert not list(cluster.deployments())
    cluster.later(31)
    cluster.settle()
    assert stages(cluster) == ["Resolve"]
    assert not accelerators(cluster)
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"


def test_servers_that_refuse_the_key_are_started_again_and_the_stage_asks_the_new_ones() -> None:
    cluster = cluster_at(StageKind.ROLLOUT)
    (before,) = [owned.child.uid for owned in cluster.deployments()]
    cluster.fail(cluster.job(StageKind.ROLLOUT), termination=REFUSED)
    cluster.settle()
    assert before not in cluster.owned
    (entry,) = [
        entry for unit, entry in cluster.status.attempts.items() if "-" not in unit and entry.last_failure
    ]
    assert (entry.failure, entry.failures) == ("ServerKeyRefused", 0)
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"


def test_a_hiccup_of_the_store_does_not_add_to_lost_nodes_nor_the_other_way_round() -> None:
    cluster = cluster_at(StageKind.PREPARE)
    failures: list[dict[str, Any]] = [{"termination": LOST}] * 4 + [{"exit_code": 137}]
    for how in failures:
        cluster.run_pods()
        cluster.fail(cluster.job(StageKind.PREPARE), **how)
        cluster.settle()
        cluster.later(400)
        cluster.settle()
    (entry,) = cluster.status.attempts.values()
    assert (entry.failure, entry.infrastructure) == ("Infrastructure", 1)
    assert cluster.condition("Stalled")[0] == "False"


def test_a_cluster_without_pytorchjobs_is_told_while_prepare_still_runs() -> None:
    cluster = FakeCluster(missing_kinds=frozenset({"PyTorchJob"}))
    cluster.settle()
    assert cluster.condition("Stalled") == ("True", "KindMissing")
    assert stages(cluster) == ["Prepare"], "it needs no GPU and goes on"
    cluster.missing_kinds = frozenset()
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"


def test_a_job_that_may_make_no_pods_is_told_with_its_reason() -> None:
    cluster = cluster_at(StageKind.PREPARE)
    owned = cluster.job(StageKind.PREPARE)
    cluster.pods = {}
    quota = "exceeded quota: q, requested: pods=1, used: pods=4, limited: pods=4"
    owned.child = replace(owned.child, phase=Phase.PENDING, message=f"FailedCreate: {quota}")
    cluster.settle()
    assert cluster.condition("Stalled") == ("True", "PodsNotCreated")
    assert cluster.status.waiting_for == '1 pod: 1 requested, 0 free (ResourceQuota "q")'
    owned.child = replace(owned.child, message=None)
    cluster.settle()
    assert cluster.condition("Stalled")[0] == "False"


def test_training_that_has_only_some_of_its_pods_is_told_too() -> None:
    cluster = cluster_at(StageKind.TRAIN_BASELINE)
    owned = cluster.job(StageKind.TRAIN_BASELINE)
    quota = "exceeded quota: q, requested: pods=1, used: pods=4, limited: pods=4"
    owned.child = replace(owned.child, phase=Phase.RUNNING, message=f"FailedCreatePod: {quota}")
    live = sum(pod.key == owned.child.key for pod in cluster.pods.values())
    assert live > 0
    cluster.settle()
    assert cluster.condition("Stalled") == ("True", "PodsNotCreated")
    (stalled,) = (one for one in cluster.status.conditions if one.type == "Stalled")
    assert f"has only {live} of its pods" in stalled.message


def test_a_pod_that_cannot_start_gives_its_gpus_back_after_the_gang_timeout() -> None:
    """The Secret was deleted after Prepare had used it."""
    cluster = cluster_at(StageKind.TRAIN_BASELINE)
    for uid, pod in cluster.pods.items():
        if pod.gpus:
            cluster.pods[uid] = replace(
                pod, phase=Phase.PENDING, waiting_reason="CreateContainerConfigError",
                waiting_message='secret "s3" not found', created=cluster.now,
            )  # fmt: skip
    cluster.settle()
    assert cluster.condition("Stalled") == ("True", "PodCannotStart")
    assert cluster.status.waiting_for == 'Secret "s3" in namespace "lab"'
    cluster.later(601)
    cluster.settle()
    assert not [owned for owned in cluster.jobs() if owned.child.kind == "PyTorchJob"]
    assert cluster.condition("Stalled") == ("True", "PodsNotStarted")
    assert 'secret "s3" not found' in message(cluster)
    cluster.later(200)
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"
    assert not [entry for entry in cluster.status.attempts.values() if entry.failures]


def test_a_wait_for_gpus_that_times_out_again_is_stalled_until_pods_run() -> None:
    cluster = cluster_at(StageKind.TRAIN_BASELINE)
    unscheduled = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."

    def starve() -> None:
        for uid, pod in cluster.pods.items():
            if pod.gpus and pod.deleting_since is None:
                cluster.pods[uid] = replace(
                    pod,
                    phase=Phase.PENDING,
                    scheduled=False,
                    scheduling_message=unscheduled,
                    created=cluster.now,
                )

    starve()
    cluster.settle()
    assert cluster.condition("Ready") == ("True", "WaitingForNodes"), (
        "others are served first: that is no fault"
    )
    cluster.later(601)
    cluster.settle()
    assert cluster.condition("Stalled") == ("True", "PodsNotStarted")
    cluster.later(200)
    cluster.settle()
    starve()
    cluster.settle()
    assert cluster.condition("Stalled") == ("True", "WaitingForNodes")
    assert "1 nvidia.com/gpu free" in message(cluster)
    cluster.run_pods()
    cluster.settle()
    assert cluster.condition("Stalled")[0] == "False"
