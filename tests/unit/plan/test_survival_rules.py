"""Each rule of "what keeps it right when anything dies" that is the planner's, driven on a cluster in memory."""

from datetime import timedelta
from typing import Any

import pytest
from selfrewarding.contract.keys import artifact_label
from selfrewarding.contract.result import TerminationMessage
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.actions import Delete, ScaleHolder, StartHolder, StartStage
from selfrewarding.plan.graph import Stage
from selfrewarding.plan.observed import Phase, Rival

from tests.support.builders import SPEC, merged
from tests.support.fake_cluster import FakeCluster

GPU = {"training": {"nodes": 2, "gpusPerNode": 2}, "serving": {"replicas": 2}}


def cluster_at(kind: StageKind, iteration: int | None = None, **spec: Any) -> FakeCluster:
    """A run whose stage of this kind has just been started and runs."""
    cluster = FakeCluster(spec=merged(SPEC, spec))
    for _ in range(60):
        cluster.settle()
        cluster.run_pods()
        cluster.settle()
        cluster.run_pods()
        here = [one for one in cluster.jobs() if one.stage and one.stage.kind is kind]
        if here and iteration in (None, here[0].child.iteration):
            return cluster
        for owned in list(cluster.jobs()):
            cluster.succeed(owned)
        cluster.settle()
        cluster.later(31)
    raise AssertionError(f"{kind} was never reached: {cluster.describe()}")


def stage_under_way(cluster: FakeCluster, kind: StageKind) -> Stage:
    stage = cluster.job(kind).stage
    assert stage is not None
    return stage


def bad_data(message: str = "Row 3 of ranked.jsonl has no answer.") -> TerminationMessage:
    return TerminationMessage(failure="BadData", message=message)


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
    assert {action.kind for action in second.actions if isinstance(action, Delete)} == {"ConfigMap", "PyTorchJob"}


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
    cluster.edit({"sft": {"epochs": 3}})
    cluster.one_pass()
    cluster.edit({"sft": {"epochs": 2}})
    cluster.finish_everything()
    attempts = [one.child.attempt for one in cluster.owned.values() if one.child.key == key]
    assert attempts == []
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
    assert cluster.status.waiting_for is not None
    assert "to leave the GPUs" in cluster.status.waiting_for
    assert decision.requeue_after <= 10
    cluster.later(31)
    cluster.settle()
    cluster.run_pods()
    assert stage_under_way(cluster, StageKind.PREFERENCE_OPTIMIZE)


def test_survival_rule_04_a_server_starts_when_no_training_pod_lives() -> None:
    cluster = cluster_at(StageKind.SUPERVISED_FINE_TUNE, **GPU)
    job = cluster.job(StageKind.SUPERVISED_FINE_TUNE)
    master = next(pod for pod in cluster.pods.values() if pod.key == job.child.key)
    cluster.succeed(job)
    worker = next(pod for pod in cluster.pods.values() if pod.key == job.child.key and pod.uid != master.uid)
    cluster.pods[worker.uid] = master.__class__(**(worker.__dict__ | {"phase": Phase.RUNNING}))
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
    assert cluster.condition("Ready") == ("True", "BackingOff")
    cluster.later(200)
    assert len([action for action in cluster.one_pass().actions if isinstance(action, StartHolder)]) == 1


# ---------------------------------------------------------------------- 6: failures


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"termination": bad_data()}, "BadData"),
        ({"exit_code": 2}, "BadConfiguration"),
        ({"exit_code": 137, "reason": "OOMKilled"}, "OutOfMemory"),
    ],
)
def test_survival_rule_06_what_a_person_must_mend_is_not_tried_again(how: dict[str, Any], reason: str) -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2, **GPU)
    cluster.fail(cluster.job(StageKind.ROLLOUT), **how)
    cluster.settle()
    cluster.later(31)
    cluster.settle()
    assert cluster.condition("Failed") == ("True", reason)
    assert cluster.condition("Ready")[0] == "False"
    assert cluster.condition("Stalled")[0] == "True"
    assert cluster.condition("Reconciling")[0] == "False"
    assert not cluster.live_pods(), "no GPU is held"
    assert [one.child.phase for one in cluster.owned.values()] == [Phase.FAILED], "its log can still be read"
    for _ in range(3):
        cluster.later(3600)
        assert cluster.settle().actions == ()


def test_survival_rule_06_a_failed_run_goes_on_by_itself_when_its_spec_changes() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2)
    trained = len(cluster.computed)
    cluster.fail(cluster.job(StageKind.ROLLOUT), exit_code=137, reason="OOMKilled")
    cluster.settle()
    cluster.edit({"sampler": {"resources": {"memory": "8Gi"}}})
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"
    again = [key for key in cluster.computed[trained:] if key in cluster.computed[:trained]]
    assert again == [cluster.computed[trained - 1]], "only the stage that failed ran again"


def test_survival_rule_06_retries_are_counted_and_end_in_a_clear_message() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2, limits={"retries": 2})
    for attempt in (1, 2, 3):
        assert cluster.job(StageKind.ROLLOUT).child.attempt == attempt
        cluster.fail(
            cluster.job(StageKind.ROLLOUT),
            termination=TerminationMessage(failure="Retry", message="The store does not answer."),
        )
        cluster.settle()
        cluster.later(310)
        cluster.settle()
        cluster.run_pods()
    assert cluster.condition("Failed") == ("True", "RetriesExhausted")
    message = next(c.message for c in cluster.status.conditions if c.type == "Failed")
    assert message == (
        "Rollout of iteration 2 failed 3 times, and limits.retries is 2; last: The store does not answer. Change the "
        "spec (limits.retries, for one) to go on."
    )


def test_survival_rule_06_a_higher_limit_lets_the_run_go_on() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2, limits={"retries": 0})
    cluster.fail(cluster.job(StageKind.ROLLOUT))
    cluster.settle()
    assert cluster.is_finished()
    cluster.edit({"limits": {"retries": 1}})
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"


def test_survival_rule_06_lost_nodes_do_not_count_but_five_without_a_new_row_are_stalled() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2, limits={"retries": 0})
    for lost in range(1, 7):
        cluster.show_progress(cluster.job(StageKind.ROLLOUT), 10)
        cluster.fail(cluster.job(StageKind.ROLLOUT), exit_code=None, reason="Evicted")
        cluster.settle()
        # The first counts as progress: ten rows were new then.
        assert cluster.condition("Stalled")[0] == ("True" if lost >= 5 else "False")
        cluster.later(310)
        cluster.settle()
        cluster.run_pods()
    assert cluster.condition("Failed")[0] == "False"
    cluster.finish_everything()
    assert cluster.condition("Stalled")[0] == "False"
    assert cluster.condition("Succeeded")[0] == "True"


def test_survival_rule_06_a_parent_that_the_store_lost_is_computed_again() -> None:
    cluster = cluster_at(StageKind.PREFERENCE_OPTIMIZE, 2)
    rollout = next(key for key in cluster.computed if cluster.store[key].stage == StageKind.ROLLOUT)
    started = list(cluster.computed)
    del cluster.store[rollout]
    gone = TerminationMessage(failure="ParentMissing", message="rollout.jsonl is missing", parent=rollout[:16])
    cluster.fail(cluster.job(StageKind.PREFERENCE_OPTIMIZE), termination=gone)
    cluster.finish_everything()
    again = [key for key in cluster.computed[len(started) :] if key in started]
    kinds = [cluster.store[key].stage for key in again]
    assert kinds == [StageKind.ROLLOUT, StageKind.PREFERENCE_OPTIMIZE], "and nothing else"


def test_survival_rule_06_a_parent_that_is_there_after_all_is_only_asked_for() -> None:
    cluster = cluster_at(StageKind.PREFERENCE_OPTIMIZE, 2)
    started = list(cluster.computed)
    cluster.fail(cluster.job(StageKind.PREFERENCE_OPTIMIZE), exit_code=4)
    cluster.finish_everything()
    again = [key for key in cluster.computed[len(started) :] if key in started]
    assert [cluster.store[key].stage for key in again] == [StageKind.PREFERENCE_OPTIMIZE]


# ---------------------------------------------------------------------- 7: servers


def test_survival_rule_07_a_server_that_never_gets_ready_is_replaced_while_its_stage_waits() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2)
    cluster.crash_servers()
    cluster.settle()
    assert list(cluster.deployments()) == []
    assert cluster.job(StageKind.ROLLOUT).child.attempt == 1, "its clients retry until the stage's deadline"
    cluster.later(60)
    cluster.settle()
    assert [one.child.attempt for one in cluster.deployments()] == [2]
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"


def test_survival_rule_07_a_gate_that_holds_scales_the_server_to_zero_and_back() -> None:
    cluster = cluster_at(StageKind.EVALUATE, 1, gate={"approval": "Manual"}, **GPU)
    name = next(cluster.deployments()).child.name
    cluster.succeed(cluster.job(StageKind.EVALUATE))
    cluster.settle()
    cluster.later(31)
    cluster.settle()
    assert (cluster.status.stage, cluster.status.iteration) == ("Gate", 1)
    assert cluster.condition("Ready") == ("False", "HeldByGate")
    assert cluster.condition("Stalled")[0] == "False"
    assert (next(cluster.deployments()).child.replicas, cluster.live_pods()) == (0, [])

    cluster.annotations = {"selfrewarding.dev/approve": "1"}
    cluster.one_pass()
    actions = cluster.one_pass().actions
    assert ScaleHolder(name=name, replicas=2) in actions
    assert cluster.status.models[1].gate == "Promoted"


def test_survival_rule_07_a_server_whose_address_was_deleted_gets_it_back() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2)
    service = next(one for one in cluster.owned.values() if one.child.kind == "Service")
    cluster.delete(service.child.uid)
    cluster.settle()
    assert [one.child.kind for one in cluster.owned.values()].count("Service") == 1
    assert len(list(cluster.deployments())) == 1


# ---------------------------------------------------------------------- 8: two runs, one key


def test_survival_rule_08_the_second_run_waits_and_then_uses_the_firsts_result() -> None:
    cluster = cluster_at(StageKind.GENERATE_PROMPTS, 2, **GPU)
    run = cluster.run
    prompts = stage_under_way(cluster, StageKind.GENERATE_PROMPTS)
    rollout = _next_stage(cluster)
    cluster.rivals = (Rival(run="lab/other", artifact=artifact_label(run.spec.artifacts.uri, rollout.key)),)
    cluster.succeed(cluster.job(StageKind.GENERATE_PROMPTS))
    cluster.settle()
    assert cluster.condition("Ready") == ("True", "ComputedByAnotherRun")
    assert cluster.status.waiting_for == 'run "lab/other", which computes the same Rollout'
    assert next(cluster.deployments()).child.replicas == 0, "no GPU waits"
    assert prompts.short in cluster.status.results

    cluster.store[rollout.key] = cluster.store[prompts.key].model_copy(update={"stage": "Rollout"})
    cluster.rivals = ()
    cluster.finish_everything()
    assert rollout.key not in cluster.computed


def test_survival_rule_08_the_second_run_takes_over_if_the_first_goes_without_a_result() -> None:
    cluster = cluster_at(StageKind.GENERATE_PROMPTS, 2)
    rollout = _next_stage(cluster)
    cluster.rivals = (Rival(run="lab/other", artifact=artifact_label("s3://runs/demo", rollout.key)),)
    cluster.succeed(cluster.job(StageKind.GENERATE_PROMPTS))
    cluster.settle()
    cluster.rivals = ()
    cluster.finish_everything()
    assert cluster.computed.count(rollout.key) == 1


def test_survival_rule_08_a_run_that_computes_already_does_not_wait() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2)
    rollout = stage_under_way(cluster, StageKind.ROLLOUT)
    cluster.rivals = (Rival(run="lab/other", artifact=artifact_label("s3://runs/demo", rollout.key)),)
    cluster.settle()
    assert cluster.condition("Ready") == ("True", "Progressing")


# ---------------------------------------------------------------------- 9: suspension


def test_survival_rule_09_suspension_frees_everything_and_counts_no_attempt() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2, **GPU)
    cluster.edit({"suspend": True})
    cluster.settle()
    assert cluster.condition("Suspended") == ("False", "Suspending"), "its pods still live"
    cluster.later(31)
    cluster.settle()
    assert cluster.condition("Suspended") == ("True", "Suspended")
    assert cluster.condition("Ready")[0] == "True"
    assert cluster.owned == {}

    cluster.edit({"suspend": False})
    cluster.finish_everything()
    assert cluster.condition("Suspended")[0] == "False"
    assert cluster.condition("Succeeded")[0] == "True"


def test_survival_rule_09_suspension_stops_the_clock_of_the_stage() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2, limits={"stageDeadlineSeconds": 600})
    cluster.later(500)
    cluster.edit({"suspend": True})
    cluster.settle()
    cluster.later(100_000)
    cluster.edit({"suspend": False})
    cluster.settle()
    cluster.later(20)
    cluster.settle()
    assert cluster.condition("Failed")[0] == "False"
    cluster.later(100)
    cluster.settle()
    assert cluster.condition("Failed") == ("True", "DeadlineExceeded")


def test_survival_rule_09_a_stage_that_ended_in_its_last_moment_is_found_without_a_gpu() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2, **GPU)
    rollout = stage_under_way(cluster, StageKind.ROLLOUT)
    cluster.edit({"suspend": True})
    job = cluster.job(StageKind.ROLLOUT)
    cluster.settle()
    cluster.succeed(job)
    assert rollout.key in cluster.store
    cluster.later(31)
    cluster.settle()
    cluster.edit({"suspend": False})
    cluster.finish_everything()
    assert cluster.computed.count(rollout.key) == 1


# ---------------------------------------------------------------------- 10: PyTorchJob appears later


def test_survival_rule_10_a_missing_kind_is_told_and_noticed_when_it_appears() -> None:
    cluster = FakeCluster(missing_kinds=frozenset({"PyTorchJob"}))
    for _ in range(6):
        cluster.settle()
        cluster.run_pods()
        for owned in list(cluster.jobs()):
            cluster.succeed(owned)
    decision = cluster.settle()
    assert cluster.condition("Stalled") == ("True", "KindMissing")
    assert decision.requeue_after <= 60
    cluster.missing_kinds = frozenset()
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"


# ---------------------------------------------------------------------- 11: writes


def test_survival_rule_11_progress_is_written_every_thirty_seconds_while_it_changes() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2)
    cluster.show_progress(cluster.job(StageKind.ROLLOUT), 1)
    cluster.settle()
    assert cluster.status.progress is not None
    before = cluster.status_writes
    for second in range(1, 91):
        cluster.later(1)
        cluster.show_progress(cluster.job(StageKind.ROLLOUT), second)
        cluster.settle()
    assert cluster.status_writes - before == 3
    assert cluster.status.progress.done == 90
    cluster.later(600)
    cluster.settle()
    assert cluster.status_writes - before == 3, "nothing changed"


def test_survival_rule_11_all_other_writes_are_at_most_five_a_stage() -> None:
    cluster = FakeCluster(spec=merged(SPEC, GPU))
    cluster.finish_everything()
    stages = len(cluster.status.results) + 1  # and Resolve
    assert cluster.status_writes / stages <= 5


def test_survival_rule_11_nothing_is_written_when_nothing_changes() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2)
    cluster.settle()
    before = cluster.status_writes
    for _ in range(20):
        cluster.later(300)
        cluster.one_pass()
    assert cluster.status_writes == before


# ---------------------------------------------------------------------- 12: finished work stays


def test_survival_rule_12_a_lost_message_is_asked_from_the_store_instead_of_computed_again() -> None:
    cluster = cluster_at(StageKind.PREFERENCE_OPTIMIZE, 2)
    key = stage_under_way(cluster, StageKind.PREFERENCE_OPTIMIZE).key
    cluster.succeed(cluster.job(StageKind.PREFERENCE_OPTIMIZE), message=False)
    cluster.finish_everything()
    assert cluster.computed.count(key) == 1


def test_survival_rule_12_an_indexed_job_without_a_telling_pod_is_closed_by_resolve() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2, sampler={"parallelism": 4})
    rollout = stage_under_way(cluster, StageKind.ROLLOUT)
    assert len(cluster.live_pods(rollout.short)) == 4
    cluster.succeed(cluster.job(StageKind.ROLLOUT), message=False)
    cluster.settle()
    cluster.run_pods()
    assert cluster.job(StageKind.RESOLVE)
    cluster.finish_everything()
    assert cluster.computed.count(rollout.key) == 1


def test_survival_rule_12_a_run_that_is_made_again_finds_everything() -> None:
    first = FakeCluster()
    first.finish_everything()
    second = FakeCluster(store=first.store)
    second.finish_everything()
    assert second.computed == []
    assert {model.name for model in second.status.models} == {"Baseline", "M1", "M2", "M3"}


def _next_stage(cluster: FakeCluster) -> Stage:
    """The Rollout that follows the stage under way."""
    from selfrewarding.api.presets import effective
    from selfrewarding.plan.facts import gather_facts

    view = gather_facts(cluster.run, effective(cluster.spec), cluster.observed(), cluster.now)
    return next(s for s in view.graph.stages if (s.kind, s.iteration) == (StageKind.ROLLOUT, 2))


def test_time_in_these_tests_is_the_clusters_own() -> None:
    cluster = FakeCluster()
    start = cluster.now
    cluster.later(5)
    assert cluster.now - start == timedelta(seconds=5)
