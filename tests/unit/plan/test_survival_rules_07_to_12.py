"""Survival rules 7 to 12 on a cluster in memory: servers, two runs, suspension, writes, finished work."""

from tests.support.builders import SPEC, merged
from tests.support.fake_cluster import FakeCluster
from tests.support.planned_runs import GPU, cluster_at, next_rollout, stage_under_way

from selfrewarding.contract.keys import artifact_label
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.actions import ScaleHolder
from selfrewarding.plan.observed import Rival

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
    assert next(cluster.deployments()).child.replicas == 0
    assert [pod.stage for pod in cluster.live_pods()] == [StageKind.REPORT], "what the person is to look at"

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
    rollout = next_rollout(cluster)
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
    rollout = next_rollout(cluster)
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


def test_survival_rule_09_a_job_that_fails_while_it_is_suspended_is_no_failed_attempt() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2)
    rollout = stage_under_way(cluster, StageKind.ROLLOUT)
    cluster.edit({"suspend": True})
    cluster.fail(cluster.job(StageKind.ROLLOUT), exit_code=1)
    cluster.settle()
    cluster.later(31)
    cluster.settle()
    entry = cluster.status.attempts[rollout.short]
    assert (entry.attempt, entry.failures, entry.infrastructure) == (1, 0, 0)


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


def test_survival_rule_11_the_fraction_of_a_second_that_status_leaves_out_makes_no_write_early() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2)
    cluster.later(0.9)
    cluster.show_progress(cluster.job(StageKind.ROLLOUT), 1)
    cluster.settle()
    before = cluster.status_writes
    for seconds, written in ((29.6, 0), (0.5, 1)):
        cluster.later(seconds)
        cluster.show_progress(cluster.job(StageKind.ROLLOUT), 2)
        cluster.settle()
        assert cluster.status_writes - before == written


def test_survival_rule_11_the_next_look_comes_when_progress_may_be_written_and_not_before() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2)
    cluster.show_progress(cluster.job(StageKind.ROLLOUT), 1)
    cluster.settle()
    cluster.later(10)
    # A tenth more than the 20 s that are left: the loop's jitter may take it away again.
    assert round(cluster.settle().requeue_after * 0.9) in (20, 21)


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
