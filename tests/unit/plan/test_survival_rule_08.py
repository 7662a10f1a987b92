"""Survival rule 8 where one run follows another: what the store lacked when it was asked may be there by now."""

from tests.support.fake_cluster import FakeCluster
from tests.support.planned_runs import cluster_at

from selfrewarding.api.presets import effective
from selfrewarding.api.run import StageSummary
from selfrewarding.contract.keys import artifact_label, digest
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.facts import gather_facts
from selfrewarding.plan.observed import Rival
from selfrewarding.plan.stage import Stage


def stages_of(cluster: FakeCluster) -> list[Stage]:
    view = gather_facts(cluster.run, effective(cluster.spec), cluster.observed(), cluster.now)
    return list(view.graph.stages)


def other_computes(cluster: FakeCluster, stage: Stage) -> None:
    """Another run is at this stage, so that the store has everything before it."""
    stages = stages_of(cluster)
    for done in stages[: stages.index(stage)]:
        summary = StageSummary(stage=done.kind, iteration=done.iteration, digest=digest(done.key)[:16])
        if done.kind is not StageKind.PREPARE:
            cluster.store.setdefault(done.key, summary)
    cluster.rivals = (Rival(run="lab/other", artifact=artifact_label("s3://runs/demo", stage.key)),)


def ask_the_store(cluster: FakeCluster) -> None:
    cluster.settle()
    cluster.later(31)
    cluster.settle()
    cluster.run_pods()
    cluster.succeed(cluster.job(StageKind.RESOLVE))
    cluster.settle()


def test_survival_rule_08_a_run_that_follows_another_computes_nothing_that_was_missing_only_at_first() -> (
    None
):
    cluster = cluster_at(StageKind.RESOLVE)
    first, *_, last = [stage for stage in stages_of(cluster) if stage.iteration == 1]
    other_computes(cluster, first)
    ask_the_store(cluster)
    assert cluster.condition("Ready") == ("True", "ComputedByAnotherRun")

    # The other run goes through its whole first iteration while ours sits and waits for the first stage of it.
    following = next(stage for stage in stages_of(cluster) if stage.iteration == 2)
    other_computes(cluster, following)
    ask_the_store(cluster)
    assert last.short in cluster.status.results
    assert cluster.condition("Ready") == ("True", "ComputedByAnotherRun")
    assert cluster.status.waiting_for == f'run "lab/other", which computes the same {following.kind}'

    cluster.rivals = ()
    cluster.finish_everything()
    assert cluster.computed[0] == following.key, "the first that nobody had computed"
    assert not any(entry.failures for entry in cluster.status.attempts.values())
