"""Survival rules 1, 2, 4 and 5 on a cluster in memory: facts first, names, who holds the GPUs, gangs."""

from dataclasses import replace

from tests.support.builders import SPEC, merged
from tests.support.fake_cluster import FakeCluster, Owned
from tests.support.planned_runs import GPU, cluster_at, stage_under_way

from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.actions import Delete, StartHolder, StartStage
from selfrewarding.plan.observed import Phase

# ---------------------------------------------------------------------- 1: facts first


def test_survival_rule_01_a_result_is_durable_before_its_child_is_deleted_or_the_next_stage_starts() -> None:
    cluster = cluster_at(StageKind.TRAIN_BASELINE)
    key = stage_under_way(cluster, StageKind.TRAIN_BASELINE).short
    cluster.succeed(cluster.job(StageKind.TRAIN_BASELINE))

    first = cluster.one_pass()
    assert key in first.status.results
    assert first.actions == ()
    assert first.requeue_after == 0

    second = cluster.one_pass()
    assert {action.kind for action in second.actions if isinstance(action, Delete)} == {
        "ConfigMap",
        "PyTorchJob",
    }


def test_survival_rule_01_a_failure_is_durable_before_its_child_is_deleted() -> None:
    cluster = cluster_at(StageKind.ROLLOUT)
    cluster.fail(cluster.job(StageKind.ROLLOUT), exit_code=75)
    first = cluster.one_pass()
    assert first.actions == ()
    assert [entry.failures for entry in first.status.attempts.values()].count(1) == 1
    deleted = {action.kind for action in cluster.one_pass().actions if isinstance(action, Delete)}
    assert deleted == {"ConfigMap", "Job"}, "the server stays"


def test_survival_rule_01_a_pass_that_dies_before_it_writes_is_repeated() -> None:
    cluster = cluster_at(StageKind.TRAIN_BASELINE)
    cluster.succeed(cluster.job(StageKind.TRAIN_BASELINE))
    for _ in range(3):
        assert cluster.one_pass(lose_status=True).actions == ()
    cluster.finish_everything()
    assert len(cluster.computed) == len(set(cluster.computed))


def test_survival_rule_01_attempt_numbers_are_durable_before_children_carry_them() -> None:
    cluster = FakeCluster()
    first = cluster.one_pass()
    assert [entry.attempt for entry in first.status.attempts.values()] == [1]
    assert first.actions == ()
    assert [type(action) for action in cluster.one_pass().actions] == [StartStage]


# ---------------------------------------------------------------------- 2: names and immutability


def test_survival_rule_02_a_new_attempt_never_carries_the_number_of_what_is_still_there() -> None:
    cluster = cluster_at(StageKind.SUPERVISED_FINE_TUNE)
    key = stage_under_way(cluster, StageKind.SUPERVISED_FINE_TUNE).short
    for epochs in (3, 2):  # there and back, while the first attempt's pods are still ending
        cluster.edit({"sft": {"epochs": epochs}})
        for _ in range(2):  # Prepare, then Resolve
            cluster.settle()
            cluster.run_pods()
            for owned in [one for one in cluster.jobs() if one.child.key != key]:
                cluster.succeed(owned)
        cluster.settle()
    assert {pod.attempt for pod in cluster.live_pods(key)} == {1}
    assert cluster.status.attempts[key].attempt == 2
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"


def test_survival_rule_02_only_the_replicas_of_a_deployment_change() -> None:
    cluster = cluster_at(StageKind.ROLLOUT)
    name = next(cluster.deployments()).child.name
    cluster.edit({"serving": {"replicas": 3, "image": "registry/other", "tensorParallelSize": 2}})
    cluster.settle()
    assert next(cluster.deployments()).child.name == name
    assert next(cluster.deployments()).child.replicas == 3
    assert stage_under_way(cluster, StageKind.ROLLOUT), "the stage goes on"


# ---------------------------------------------------------------------- 4: one holder of the GPUs


def test_survival_rule_04_prompts_and_answers_share_a_server_with_the_evaluation_before_them() -> None:
    cluster = cluster_at(StageKind.EVALUATE, 1)
    name = next(cluster.deployments()).child.name
    for kind in (StageKind.EVALUATE, StageKind.GENERATE_PROMPTS, StageKind.ROLLOUT):
        assert [one.child.name for one in cluster.deployments()] == [name]
        cluster.succeed(cluster.job(kind))
        cluster.settle()
        cluster.run_pods()
        cluster.settle()
    assert list(cluster.deployments()) == [], "gone as soon as the answers are judged, while pairs are built"
    cluster.run_pods()
    assert stage_under_way(cluster, StageKind.BUILD_PREFERENCES)


def test_survival_rule_04_training_starts_when_no_pod_of_the_server_lives() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2, **GPU)
    cluster.succeed(cluster.job(StageKind.ROLLOUT))
    cluster.settle()
    cluster.run_pods()
    assert [pod for pod in cluster.live_pods() if pod.holder], "the servers are still ending"
    cluster.succeed(cluster.job(StageKind.BUILD_PREFERENCES))
    decision = cluster.settle()
    assert not cluster.jobs()
    assert cluster.status.waiting_for == "2 pods of the server of M1 to end"
    assert decision.requeue_after <= 10
    cluster.later(31)
    cluster.settle()
    cluster.run_pods()
    assert stage_under_way(cluster, StageKind.PREFERENCE_OPTIMIZE)


def test_survival_rule_04_a_server_starts_when_no_training_pod_lives() -> None:
    cluster = cluster_at(StageKind.SUPERVISED_FINE_TUNE, **GPU)
    job = cluster.job(StageKind.SUPERVISED_FINE_TUNE)
    first = next(pod for pod in cluster.pods.values() if pod.key == job.child.key)
    cluster.succeed(job)
    last = next(pod for pod in cluster.pods.values() if pod.key == job.child.key and pod.uid != first.uid)
    cluster.pods[last.uid] = first.__class__(**(last.__dict__ | {"phase": Phase.RUNNING}))
    cluster.settle()
    assert list(cluster.deployments()) == []
    cluster.later(31)
    cluster.settle()
    assert len(list(cluster.deployments())) == 1


def test_survival_rule_04_a_pod_sixty_seconds_past_its_deletion_no_longer_blocks() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2)
    cluster.succeed(cluster.job(StageKind.ROLLOUT))
    cluster.settle()
    cluster.run_pods()
    server = next(pod for pod in cluster.live_pods() if pod.holder)
    cluster.succeed(cluster.job(StageKind.BUILD_PREFERENCES))
    cluster.settle()
    lost = server.__class__(**(server.__dict__ | {"deleting_since": cluster.now, "reason": "NodeLost"}))
    cluster.pods = {lost.uid: lost}
    cluster.settle()
    cluster.later(59)
    assert 0 < cluster.settle().requeue_after <= 1
    assert not [one for one in cluster.owned.values() if one.child.kind == "PyTorchJob"]
    cluster.later(1)
    cluster.settle()
    assert [one for one in cluster.owned.values() if one.child.kind == "PyTorchJob"]


def test_survival_rule_04_training_waits_for_a_deployment_that_is_being_deleted() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2)
    server = next(cluster.deployments())
    cluster.succeed(cluster.job(StageKind.ROLLOUT))
    cluster.settle()
    cluster.run_pods()
    cluster.succeed(cluster.job(StageKind.BUILD_PREFERENCES))
    cluster.later(31)
    lingering = replace(server.child, deleting=True)
    cluster.owned[lingering.uid] = Owned(child=lingering, holder=server.holder)
    cluster.settle()
    assert not [one for one in cluster.owned.values() if one.child.kind == "PyTorchJob"]
    del cluster.owned[lingering.uid]
    cluster.settle()
    assert [one for one in cluster.owned.values() if one.child.kind == "PyTorchJob"]


def test_survival_rule_04_the_time_of_a_hand_over_is_in_status() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2)
    cluster.succeed(cluster.job(StageKind.ROLLOUT))
    cluster.settle()
    cluster.run_pods()
    cluster.succeed(cluster.job(StageKind.BUILD_PREFERENCES))
    cluster.settle()
    cluster.later(40)
    cluster.settle()
    assert cluster.status.handover_seconds != 42
    cluster.later(2)
    cluster.run_pods()
    cluster.settle()
    assert cluster.status.handover_seconds == 42
    assert cluster.status.handover_since is None
    dpo = cluster.job(StageKind.PREFERENCE_OPTIMIZE)
    assert cluster.status.attempts[dpo.child.key].handover_seconds == 42
    cluster.succeed(dpo)
    cluster.settle()
    assert cluster.status.results[dpo.child.key].handover_seconds == 42, (
        "of each stage, for as long as it is known"
    )
    others = [one for one in cluster.status.results.values() if one.stage == StageKind.BUILD_PREFERENCES]
    assert others
    assert all(one.handover_seconds is None for one in others), "it used none"


# ---------------------------------------------------------------------- 5: gangs


def test_survival_rule_05_all_pods_go_if_one_finds_no_node_in_time_and_it_is_no_failure() -> None:
    cluster = cluster_at(StageKind.BUILD_PREFERENCES, 2, **GPU, limits={"gangTimeoutSeconds": 60})
    cluster.succeed(cluster.job(StageKind.BUILD_PREFERENCES))
    cluster.settle()
    cluster.later(31)
    cluster.settle()
    cluster.schedule_one()
    cluster.later(59)
    cluster.settle()
    assert len(cluster.live_pods()) == 2
    cluster.later(1)
    decision = cluster.settle()
    assert not [one for one in cluster.owned.values() if one.child.kind == "PyTorchJob"]
    (entry,) = cluster.status.attempts.values()
    assert (entry.attempt, entry.failures, entry.infrastructure) == (1, 0, 0)
    assert decision.requeue_after <= 165
    cluster.later(170)
    cluster.settle()
    cluster.run_pods()
    assert cluster.job(StageKind.PREFERENCE_OPTIMIZE).child.attempt == 1


def test_survival_rule_05_a_server_that_finds_no_node_goes_too() -> None:
    cluster = FakeCluster(spec=merged(SPEC, GPU | {"limits": {"gangTimeoutSeconds": 60}}))
    while not list(cluster.deployments()):
        cluster.settle()
        for owned in list(cluster.jobs()):
            cluster.succeed(owned)
        cluster.later(31)
        cluster.settle()
        if not list(cluster.deployments()):
            cluster.run_pods()
    cluster.later(61)
    cluster.settle()
    assert list(cluster.deployments()) == []
    assert cluster.condition("Ready") == ("False", "PodsNotStarted")
    cluster.later(200)
    assert len([action for action in cluster.one_pass().actions if isinstance(action, StartHolder)]) == 1
