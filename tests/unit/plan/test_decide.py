"""Whole passes: the order of things, conditions, budgets, edits, and what a person reads in status."""

from typing import Any

import pytest
from tests.support.builders import NOW, SPEC, make_run, make_spec, merged
from tests.support.fake_cluster import FakeCluster
from tests.support.planned_runs import GPU, cluster_at

from selfrewarding.contract.result import TerminationMessage
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.actions import Decision
from selfrewarding.plan.decide import decide
from selfrewarding.plan.observed import Observed, Phase, Pod
from selfrewarding.plan.times import moment_of

CONDITIONS = {"Ready", "Reconciling", "Stalled", "Succeeded", "Failed", "Suspended"}


def first_pass(spec: dict[str, Any] | None = None, **metadata: Any) -> Decision:
    return decide(make_run(spec, **metadata), make_spec(spec), Observed(), NOW)


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"annotations": {"selfrewarding.dev/reconcile": "disabled"}}, id="paused by annotation"),
        pytest.param({"deletionTimestamp": "2026-01-31T12:00:00Z"}, id="being deleted"),
    ],
)
def test_a_run_that_is_not_ours_to_touch_is_left_alone(metadata: dict[str, Any]) -> None:
    decision = first_pass(**metadata)
    assert (decision.actions, decision.events, decision.requeue_after) == ((), (), 300)
    assert decision.status == make_run().status


def test_the_first_pass_pins_versions_and_shows_every_condition() -> None:
    status = first_pass({"preset": "small"}).status
    assert status.pinned is not None
    assert (status.pinned.preset, status.pinned.contract) == ("small/1", 1)
    assert {condition.type for condition in status.conditions} == CONDITIONS
    assert {condition.observed_generation for condition in status.conditions} == {1}
    assert (status.stage, status.iteration, status.gpus) == ("Prepare", 0, 0)


def test_a_run_goes_through_its_stages_once_and_ends() -> None:
    cluster = FakeCluster()
    cluster.finish_everything()
    kinds = [cluster.store[key].stage for key in cluster.computed]
    later = ["GeneratePrompts", "Rollout", "BuildPreferences", "PreferenceOptimize", "Evaluate"]
    assert kinds == ["TrainBaseline", "BuildEvaluations", "SupervisedFineTune", "Evaluate", *later, *later]
    assert cluster.condition("Succeeded") == ("True", "AllIterationsDone")
    assert cluster.condition("Ready")[0] == "True"
    assert cluster.condition("Reconciling")[0] == "False"
    assert [model.name for model in cluster.status.models] == ["Baseline", "M1", "M2", "M3"]
    assert cluster.status.attempts == {}
    assert cluster.owned == {}


def test_the_model_of_each_iteration_lies_under_the_key_of_its_stage() -> None:
    cluster = FakeCluster()
    cluster.finish_everything()
    for model in cluster.status.models:
        assert model.uri.startswith("s3://runs/demo/stages/")
        assert model.uri.rpartition("/")[2] in cluster.computed
        assert model.digest == cluster.store[model.uri.rpartition("/")[2]].digest


def test_metrics_of_an_iteration_outlive_its_summaries() -> None:
    cluster = FakeCluster(metrics={"pairwiseAccuracy": 0.61})
    cluster.finish_everything()
    m1 = cluster.status.models[1]
    assert (m1.metrics.pairwise_accuracy, m1.metrics.valid_rate) == (0.61, 0.9)
    early = [one for one in cluster.status.results.values() if 0 < one.iteration < 3]
    assert all(one.metrics == {} for one in early), "status stays small"


@pytest.mark.parametrize(
    ("change", "again"),
    [
        pytest.param({"dpo": {"beta": 0.3}}, {"PreferenceOptimize", "Evaluate"}, id="beta: from DPO on"),
        pytest.param({"evaluation": {"bootstrap": 500}}, {"Evaluate"}, id="evaluation: measurements alone"),
        pytest.param({"serving": {"replicas": 4}}, set(), id="replicas: nothing"),
    ],
)
def test_an_edit_of_a_finished_run_computes_exactly_what_depends_on_it(
    change: dict[str, Any], again: set[str]
) -> None:
    cluster = FakeCluster(spec=merged(SPEC, {"iterations": 2}))
    cluster.finish_everything()
    before = set(cluster.computed)
    cluster.edit(change)
    cluster.finish_everything()
    assert {cluster.store[key].stage for key in cluster.computed if key not in before} == again
    assert cluster.condition("Succeeded")[0] == "True"


def test_more_iterations_go_on_from_the_last_model() -> None:
    cluster = FakeCluster(spec=merged(SPEC, {"iterations": 1}))
    cluster.finish_everything()
    cluster.edit({"iterations": 2})
    cluster.finish_everything()
    assert [model.name for model in cluster.status.models] == ["Baseline", "M1", "M2"]
    assert len(cluster.computed) == len(set(cluster.computed))


def test_a_stage_that_an_edit_does_not_touch_goes_on_while_prepare_looks_again() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2)
    uid = cluster.job(StageKind.ROLLOUT).child.uid
    cluster.edit({"dpo": {"beta": 0.3}})
    cluster.settle()
    cluster.run_pods()
    assert cluster.status.stage == "Prepare"
    assert cluster.job(StageKind.ROLLOUT).child.uid == uid
    cluster.succeed(cluster.job(StageKind.PREPARE))
    cluster.settle()
    assert cluster.job(StageKind.ROLLOUT).child.uid == uid
    assert cluster.status.stage == "Resolve", "the store may know the new keys"


def test_a_stage_that_an_edit_changes_is_stopped_and_started_anew() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2)
    uid = cluster.job(StageKind.ROLLOUT).child.uid
    cluster.edit({"responses": {"samples": 8}})
    cluster.finish_everything()
    assert uid not in cluster.owned
    assert cluster.condition("Succeeded")[0] == "True"


def test_changed_rows_change_what_follows_once_prepare_has_seen_them() -> None:
    cluster = FakeCluster(spec=merged(SPEC, {"iterations": 1}))
    cluster.finish_everything()
    before = len(cluster.computed)
    cluster.edit({"seedData": {"instructions": {"uri": "s3://data/more.jsonl"}}})
    cluster.finish_everything()
    assert [cluster.store[key].stage for key in cluster.computed[before:]] == [
        "TrainBaseline", "BuildEvaluations", "SupervisedFineTune", "Evaluate",
    ]  # fmt: skip


def refuse_the_data(cluster: FakeCluster) -> None:
    cluster.settle()
    cluster.run_pods()
    said = TerminationMessage(failure="BadData", message="i.jsonl:3: response is a number, expected text.")
    cluster.fail(cluster.job(StageKind.PREPARE), termination=said)
    cluster.settle()


def test_refused_data_is_told_and_mended_by_an_edit() -> None:
    cluster = FakeCluster()
    refuse_the_data(cluster)
    assert cluster.condition("Stalled") == ("True", "BadData")
    cluster.edit({"seedData": {"ranked": {"uri": "s3://data/mended.jsonl"}}})
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"


def test_refused_data_is_looked_at_again_until_somebody_has_mended_it_where_it_is() -> None:
    cluster = FakeCluster()
    for attempt in range(1, 9):
        refuse_the_data(cluster)
        assert cluster.condition("Stalled") == ("True", "BadData")
        assert cluster.condition("Failed")[0] == "False", f"attempt {attempt}: nobody need touch the run"
        message = next(one.message for one in cluster.status.conditions if one.type == "Stalled")
        assert "i.jsonl:3: response" in message
        assert "mend it where it is" in message
        (entry,) = cluster.status.attempts.values()
        assert entry.failures == 0, "limits.retries are for the program's own failures"
        assert entry.not_before is not None
        wait = (moment_of(entry.not_before) - cluster.now).total_seconds()
        assert 0 < wait <= 300
        cluster.later(wait + 1)
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"


# ---------------------------------------------------------------------- gates


def test_a_roll_back_goes_on_from_the_model_before_and_keeps_what_was_measured() -> None:
    rules = [{"metric": "pairwiseAccuracy", "maxDrop": 0.05, "action": "RollBack"}]
    cluster = cluster_at(StageKind.EVALUATE, 2, gate={"rules": rules})
    cluster.succeed(cluster.job(StageKind.EVALUATE), metrics={"pairwiseAccuracy": 0.5})
    cluster.finish_everything()
    gates = {model.name: model.gate for model in cluster.status.models}
    assert gates == {"Baseline": None, "M1": "Promoted", "M2": "RolledBack", "M3": "Promoted"}
    assert "GateRolledBack" in cluster.events
    message = next(c.message for c in cluster.status.conditions if c.type == "Succeeded")
    assert message.startswith("The run made M3")


def test_a_gate_decides_only_when_it_is_its_turn() -> None:
    first = FakeCluster(spec=merged(SPEC, {"iterations": 2}))
    first.finish_everything()
    second = FakeCluster(
        spec=merged(SPEC, {"iterations": 2, "gate": {"approval": "Manual"}}), store=first.store
    )
    for _ in range(6):
        second.settle()
        second.run_pods()
        for owned in list(second.jobs()):
            second.succeed(owned)
    assert [model.name for model in second.status.models] == ["Baseline", "M1", "M2"]
    assert [model.gate for model in second.status.models] == [None, "Held", None]


def test_a_gate_that_stops_ends_the_run_with_the_models_so_far() -> None:
    rules = [{"metric": "pairwiseAccuracy", "minimum": 0.9, "action": "Stop"}]
    cluster = FakeCluster(spec=merged(SPEC, {"gate": {"rules": rules}}))
    cluster.finish_everything()
    assert cluster.condition("Succeeded") == ("True", "StoppedByGate")
    assert [model.name for model in cluster.status.models] == ["Baseline", "M1"]


def test_a_looser_rule_lets_a_held_run_go_on() -> None:
    rule = {"metric": "pairwiseAccuracy", "minimum": 0.9}
    cluster = cluster_at(StageKind.EVALUATE, 1, gate={"rules": [rule]})
    cluster.succeed(cluster.job(StageKind.EVALUATE))
    cluster.settle()
    assert cluster.condition("Ready") == ("False", "HeldByGate")
    cluster.edit({"gate": {"rules": [rule | {"minimum": 0.5}]}})
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"


def test_a_gate_that_holds_the_last_model_ends_the_run_and_says_so() -> None:
    rules = [{"metric": "pairwiseAccuracy", "minimum": 0.9}]
    cluster = FakeCluster(spec=merged(SPEC, {"iterations": 1, "gate": {"rules": rules}}))
    cluster.finish_everything()
    assert cluster.status.models[-1].gate == "Held"
    message = next(c.message for c in cluster.status.conditions if c.type == "Succeeded")
    assert "below the minimum" in message


# ---------------------------------------------------------------------- limits


def test_the_token_budget_stops_the_run_before_the_stage_that_would_pass_it() -> None:
    spec = {
        "iterations": 2,
        "limits": {"maxTokens": 300_000},
        "promptGeneration": {"count": 100, "maxTokens": 512},
    }
    cluster = FakeCluster(spec=merged(SPEC, spec))
    for _ in range(12):
        cluster.settle()
        cluster.run_pods()
        for owned in list(cluster.jobs()):
            cluster.succeed(owned)
        cluster.later(31)
    cluster.settle()
    assert cluster.condition("Stalled") == ("True", "TokenBudgetTooSmall")
    assert cluster.live_pods() == []
    assert "Rollout" not in {cluster.store[key].stage for key in cluster.computed}
    cluster.edit({"limits": {"maxTokens": 10**9}})
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"


def test_the_gpu_budget_stops_the_run_at_the_very_second() -> None:
    cluster = cluster_at(StageKind.SUPERVISED_FINE_TUNE, **GPU, limits={"maxGpuHours": 1.0})
    used = cluster.status.gpu_seconds or 0.0
    decision = cluster.settle()
    assert cluster.status.gpus == 4
    left = (3600 - used) / 4
    assert decision.requeue_after <= 30
    cluster.later(left - 1)
    assert cluster.settle().requeue_after <= 1.5
    cluster.later(2)
    cluster.settle()
    assert cluster.condition("Stalled") == ("True", "GPUBudgetUsed")
    assert not cluster.owned
    cluster.edit({"limits": {"maxGpuHours": 100.0}})
    cluster.finish_everything()


def test_gpu_seconds_add_up() -> None:
    cluster = cluster_at(StageKind.SUPERVISED_FINE_TUNE, **GPU)
    cluster.settle()
    before = cluster.status.gpu_seconds or 0.0
    cluster.later(1000)
    cluster.succeed(cluster.job(StageKind.SUPERVISED_FINE_TUNE))
    cluster.settle()
    assert cluster.status.gpus == 0
    assert (cluster.status.gpu_seconds or 0.0) - before == 4000


def test_a_stage_over_its_deadline_fails_until_the_limit_is_raised() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2, limits={"stageDeadlineSeconds": 100})
    cluster.later(101)
    cluster.settle()
    assert cluster.condition("Failed") == ("True", "DeadlineExceeded")
    cluster.edit({"limits": {"stageDeadlineSeconds": 10_000}})
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"


# ---------------------------------------------------------------------- what people read


def change_pods(cluster: FakeCluster, **fields: Any) -> None:
    cluster.pods = {uid: Pod(**(pod.__dict__ | fields)) for uid, pod in cluster.pods.items()}


def test_an_image_that_cannot_be_pulled_is_told_while_the_run_waits() -> None:
    cluster = FakeCluster()
    cluster.settle()
    change_pods(
        cluster,
        scheduled=True,
        waiting_reason="ImagePullBackOff",
        waiting_message='Back-off pulling image "trainer:1"',
    )
    cluster.settle()
    assert cluster.condition("Stalled") == ("True", "PodCannotStart")
    assert cluster.condition("Failed")[0] == "False"
    assert cluster.status.waiting_for == "image trainer:1 (cannot be pulled)"
    ready = next(one for one in cluster.status.conditions if one.type == "Ready")
    assert 'Back-off pulling image "trainer:1". Check the image' in ready.message
    change_pods(cluster, waiting_reason=None, waiting_message=None)
    cluster.finish_everything()
    assert cluster.condition("Stalled")[0] == "False"


def test_pods_without_a_node_tell_what_the_scheduler_says() -> None:
    cluster = FakeCluster()
    cluster.settle()
    change_pods(cluster, scheduling_message="0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    cluster.settle()
    assert cluster.condition("Ready") == ("True", "WaitingForNodes")
    assert (cluster.status.waiting_for or "").startswith("1 GPU: 1 requested by pod ")
    ready = next(one for one in cluster.status.conditions if one.type == "Ready")
    assert "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. It starts by itself" in ready.message


def test_progress_is_the_sum_over_the_pods_of_the_stage() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2, sampler={"parallelism": 2})
    cluster.show_progress(cluster.job(StageKind.ROLLOUT), 10, total=50)
    first, second = (uid for uid, pod in cluster.pods.items() if pod.stage == "Rollout")
    progress = cluster.pods[first].progress
    cluster.pods[second] = Pod(**(cluster.pods[second].__dict__ | {"progress": progress}))
    cluster.settle()
    assert cluster.status.progress is not None
    assert (cluster.status.progress.done, cluster.status.progress.total) == (20, 100)
    assert (cluster.status.progress.rate, cluster.status.progress.eta_seconds) == (4.0, 20)


def test_transition_times_stay_unless_a_condition_flips() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2)
    ready = next(c for c in cluster.status.conditions if c.type == "Ready")
    assert ready.last_transition_time == "2026-01-31T12:00:00Z"
    cluster.fail(cluster.job(StageKind.ROLLOUT), exit_code=3)
    cluster.settle()
    failed = next(c for c in cluster.status.conditions if c.type == "Failed")
    assert failed.last_transition_time == f"{cluster.now:%Y-%m-%dT%H:%M:%SZ}"


def test_events_are_told_once() -> None:
    cluster = FakeCluster(spec=merged(SPEC, {"iterations": 1}))
    cluster.finish_everything()
    for _ in range(5):
        cluster.later(300)
        cluster.one_pass()
    assert cluster.events.count("StageDone") == 4 + 2  # four stages, Prepare and Report; Resolve is no news
    assert cluster.events.count("AllIterationsDone") == 1
    assert cluster.events.count("StageStarted") == 7
    assert cluster.events.count("ServerStarted") == 2


def test_requeue_times_are_never_longer_than_five_minutes() -> None:
    cluster = FakeCluster()
    cluster.finish_everything()
    assert cluster.one_pass().requeue_after == 300


def test_a_pod_that_is_gone_before_its_message_was_read_is_no_failure_of_the_program() -> None:
    cluster = cluster_at(StageKind.TRAIN_BASELINE)
    job = cluster.job(StageKind.TRAIN_BASELINE)
    cluster.succeed(job, message=False)
    cluster.pods = {}
    cluster.settle()
    (entry,) = [one for one in cluster.status.attempts.values() if one.last_failure]
    assert (entry.failures, entry.infrastructure, entry.attempt) == (0, 1, 2)


def test_the_end_of_a_job_waits_for_the_end_of_its_pods_to_be_seen() -> None:
    cluster = cluster_at(StageKind.TRAIN_BASELINE)
    job = cluster.job(StageKind.TRAIN_BASELINE)
    before = dict(cluster.pods)
    cluster.succeed(job)
    told, cluster.pods = cluster.pods, before  # the list of pods was read a moment earlier
    assert cluster.settle().actions == ()
    assert {entry.attempt for entry in cluster.status.attempts.values()} == {1}
    cluster.pods = told
    cluster.finish_everything()
    assert len(cluster.computed) == len(set(cluster.computed))
    assert {pod.phase for pod in before.values()} == {Phase.RUNNING}
