"""Runs on a `FakeCluster` that have come as far as a test wants them."""

from typing import Any

from tests.support.builders import SPEC, merged
from tests.support.fake_cluster import FakeCluster

from selfrewarding.api.presets import effective
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.facts import gather_facts
from selfrewarding.plan.stage import Stage

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


def next_rollout(cluster: FakeCluster) -> Stage:
    """The Rollout that follows the stage under way."""
    view = gather_facts(cluster.run, effective(cluster.spec), cluster.observed(), cluster.now)
    return next(s for s in view.graph.stages if (s.kind, s.iteration) == (StageKind.ROLLOUT, 2))
