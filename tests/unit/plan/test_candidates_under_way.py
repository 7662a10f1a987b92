"""A run in the middle of Answer and Select (`dpo.earlyStopping`): what people see, and what an interruption costs."""

from typing import Any

import pytest
from tests.support.builders import SPEC, make_spec, merged, prepared, summary
from tests.support.fake_cluster import FakeCluster
from tests.support.planned_runs import GPU, cluster_at

from selfrewarding.contract.stages import StageKind
from selfrewarding.manifests import RunContext, holder_objects, stage_objects
from selfrewarding.plan.graph import build_graph
from selfrewarding.plan.units import title

EARLY: dict[str, Any] = GPU | {
    "dpo": {"earlyStopping": {"candidates": 3}},
    "evaluation": {"headToHead": {"prompts": 64}},
    "iterations": 2,
}


def at(kind: StageKind) -> FakeCluster:
    return cluster_at(kind, 2, **EARLY)


def next_candidate(cluster: FakeCluster) -> None:
    """The candidate that answers now has answered; the next one's server is up and its Job runs."""
    cluster.succeed(cluster.job(StageKind.ANSWER))
    for _ in range(3):
        cluster.settle()
        cluster.later(31)
        cluster.run_pods()
    cluster.settle()


def kinds_of(cluster: FakeCluster, keys: list[str]) -> list[str]:
    return [cluster.store[key].stage for key in keys]


def test_a_candidate_does_not_begin_with_the_progress_of_the_one_before() -> None:
    cluster = at(StageKind.ANSWER)
    cluster.show_progress(cluster.job(StageKind.ANSWER), 64, 64)
    cluster.later(31)
    cluster.settle()
    assert cluster.status.progress is not None
    assert cluster.status.progress.done == 64
    cluster.succeed(cluster.job(StageKind.ANSWER))
    cluster.settle()
    assert (cluster.status.stage, cluster.status.iteration) == ("Answer", 2)
    assert cluster.status.progress is None


def test_infrastructure_failures_of_a_candidate_are_counted_by_its_own_rows() -> None:
    """Rows of the one before are no rows of this one, which would then seem to come no further."""
    cluster = at(StageKind.ANSWER)
    cluster.show_progress(cluster.job(StageKind.ANSWER), 64, 64)
    cluster.later(31)
    cluster.settle()
    next_candidate(cluster)
    job = cluster.job(StageKind.ANSWER)
    cluster.show_progress(job, 10, 64)
    cluster.fail(job, reason="Evicted", exit_code=None)
    cluster.settle()
    assert cluster.status.attempts[job.child.key].progress == 10


def test_no_two_stages_or_servers_of_a_plan_share_a_title_a_name_or_an_address() -> None:
    against = {"evaluation": {"headToHead": {"against": ["Previous", "Baseline"], "prompts": 64}}}
    spec = make_spec(merged(EARLY, against))
    graph = build_graph(spec, run_uid="run-uid", contract=1, prepare=prepared())
    stages = list(graph.stages)
    titles = [title(stage) for stage in stages]
    assert len(set(titles)) == len(titles), titles
    done = {stage.short: summary(stage) for stage in stages} | {graph.prepare.short: prepared()}
    context = RunContext(namespace="lab", name="demo", uid="run-uid", spec=spec, contract=1, results=done)
    asked = {holder.name: holder for stage in stages for holder in stage.holders.values()}
    made = [one for stage in stages for one in stage_objects(context, stage, 1)]
    made += [one for holder in asked.values() for one in holder_objects(context, holder, 2, 1)]
    names = [(one["kind"], one["metadata"]["name"]) for one in made]
    assert len(set(names)) == len(names)
    selected = [str(one["spec"]["selector"]) for one in made if one["kind"] == "Service"]
    assert len(set(selected)) == len(selected) == len(asked)


def test_each_candidate_has_events_of_its_own() -> None:
    cluster = FakeCluster(spec=merged(SPEC, EARLY))
    told: list[tuple[str, str]] = []
    one_pass = cluster.one_pass

    def listening(**how: Any) -> Any:
        decision = one_pass(**how)
        told.extend((event.reason, event.message) for event in decision.events)
        return decision

    cluster.one_pass = listening  # type: ignore[method-assign]
    cluster.finish_everything()
    assert len(set(told)) == len(told)
    assert ("StageDone", "Answer of iteration 2 (M2.1) is done.") in told
    assert ("StageDone", "Answer of iteration 2 (M2.3) is done.") in told


def test_the_baseline_and_m1_are_told_apart() -> None:
    against = {"evaluation": {"headToHead": {"against": ["Baseline"], "prompts": 64}}}
    cluster = cluster_at(StageKind.EVALUATE, 1, **against)
    ready = next(one for one in cluster.status.conditions if one.type == "Ready")
    assert ready.message == "Evaluate of iteration 1 (Baseline) is under way."


def test_a_candidates_server_is_gone_before_the_next_ones_comes_and_the_time_between_is_told() -> None:
    cluster = at(StageKind.ANSWER)
    (first,) = cluster.deployments()
    assert first.holder is not None
    assert first.holder.model.name == "M2.1"
    cluster.succeed(cluster.job(StageKind.ANSWER))
    cluster.settle()
    assert not list(cluster.deployments())
    assert cluster.status.waiting_for == "2 pods of the server of M2.1 to end"
    cluster.later(31)
    cluster.settle()
    cluster.run_pods()
    cluster.settle()
    (second,) = cluster.deployments()
    assert second.holder is not None
    assert second.holder.model.name == "M2.2"
    assert cluster.status.handover_seconds == pytest.approx(31, abs=1)
    cluster.run_pods()
    entry = cluster.status.attempts[cluster.job(StageKind.ANSWER).child.key]
    assert entry.handover_seconds == cluster.status.handover_seconds


def test_the_last_candidates_server_stays_for_the_choice_that_asks_it() -> None:
    cluster = at(StageKind.ANSWER)
    next_candidate(cluster)
    next_candidate(cluster)
    (last,) = cluster.deployments()
    cluster.succeed(cluster.job(StageKind.ANSWER))
    cluster.settle()
    cluster.run_pods()
    assert cluster.job(StageKind.SELECT)
    assert [one.child.uid for one in cluster.deployments()] == [last.child.uid]


@pytest.mark.parametrize("kind", [StageKind.ANSWER, StageKind.SELECT])
def test_suspended_it_frees_all_and_goes_on_in_the_same_attempt(kind: StageKind) -> None:
    cluster = at(kind)
    key, done = cluster.job(kind).child.key, list(cluster.computed)
    results = cluster.status.results
    cluster.edit({"suspend": True})
    cluster.settle()
    assert cluster.status.waiting_for == "the run's pods to end"
    cluster.later(31)
    cluster.settle()
    assert cluster.condition("Suspended") == ("True", "Suspended")
    assert not cluster.owned
    assert cluster.status.gpus == 0
    assert cluster.status.results == results
    cluster.later(3600)
    cluster.edit({"suspend": False})
    cluster.settle()
    assert cluster.status.attempts[key].attempt == 1
    cluster.finish_everything()
    again = kinds_of(cluster, [one for one in cluster.computed[len(done) :] if one in done])
    assert again == [kind.value], "what was under way, and nothing that was finished"


def test_another_judge_in_the_middle_of_the_choice_asks_for_verdicts_alone() -> None:
    cluster = at(StageKind.SELECT)
    done = list(cluster.computed)
    cluster.edit({"evaluation": {"headToHead": {"judge": {"modelUri": "s3://models/referee"}}}})
    cluster.settle()
    assert not [one for one in cluster.jobs() if one.stage and one.stage.kind is StageKind.SELECT]
    cluster.finish_everything()
    assert kinds_of(cluster, cluster.computed[len(done) :]) == ["Compare", "Select", "Evaluate", "Compare"]


def test_more_candidates_in_the_middle_of_the_choice_are_trained_and_no_other_model_is() -> None:
    cluster = at(StageKind.ANSWER)
    done = list(cluster.computed)
    cluster.edit({"dpo": {"earlyStopping": {"candidates": 4}}})
    cluster.finish_everything()
    assert kinds_of(cluster, cluster.computed[len(done) :]) == [
        "PreferenceOptimize", *["Answer"] * 4, "Select", "Evaluate", "Compare",
    ]  # fmt: skip


def test_without_early_stopping_in_the_middle_of_it_the_training_is_done_anew_and_is_the_model() -> None:
    cluster = at(StageKind.SELECT)
    done = list(cluster.computed)
    cluster.edit({"dpo": {"earlyStopping": None}})
    cluster.finish_everything()
    assert kinds_of(cluster, cluster.computed[len(done) :]) == ["PreferenceOptimize", "Evaluate", "Compare"]
    assert cluster.status.models[-1].uri.split("/")[-2] == "PreferenceOptimize"


def test_survival_rule_11_all_writes_but_progress_are_at_most_five_a_stage() -> None:
    cluster = FakeCluster(spec=merged(SPEC, EARLY))
    cluster.finish_everything()
    assert cluster.status_writes / (len(cluster.status.results) + 1) <= 5


def test_gpu_seconds_of_every_candidate_are_counted() -> None:
    cluster = at(StageKind.ANSWER)
    assert cluster.status.gpus == 2
    before = cluster.status.gpu_seconds or 0.0
    cluster.later(100)
    cluster.succeed(cluster.job(StageKind.ANSWER))
    cluster.settle()
    cluster.later(31)
    cluster.settle()
    assert cluster.status.gpus == 0
    assert (cluster.status.gpu_seconds or 0.0) - before >= 200


def test_survival_rule_01_an_operator_that_dies_before_each_of_its_writes_makes_nothing_twice() -> None:
    whole, dying = FakeCluster(spec=merged(SPEC, EARLY)), FakeCluster(spec=merged(SPEC, EARLY))
    one_pass = dying.one_pass

    def twice(**how: Any) -> Any:
        one_pass(lose_status=True)
        return one_pass(**how)

    dying.one_pass = twice  # type: ignore[method-assign]
    for cluster in (whole, dying):
        cluster.finish_everything()
    assert dying.computed == whole.computed
    assert dying.status.results.keys() == whole.status.results.keys()
    assert dying.status.models == whole.status.models
