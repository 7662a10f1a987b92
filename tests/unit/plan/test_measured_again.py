"""A model that stays while the way it is measured changes: numbers of the old way decide nothing any more."""

from typing import Any

import pytest
from tests.support.fake_cluster import FakeCluster, Owned
from tests.support.planned_runs import cluster_at

from selfrewarding.contract.stages import StageKind

OWN_JUDGE: dict[str, Any] = {"evaluation": {"headToHead": {}}}


def held_back(metrics: dict[str, float], **spec: Any) -> FakeCluster:
    """A run whose Compare of M2 has told this, and all that follows from it."""
    cluster = cluster_at(StageKind.COMPARE, 2, **(OWN_JUDGE | spec))
    cluster.succeed(cluster.job(StageKind.COMPARE), metrics=metrics)
    cluster.settle()
    return cluster


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(
            {
                "evaluation": {"headToHead": {"judge": {"modelUri": "s3://models/referee"}}},
                "alarms": {"positionBias": {"action": "Stop"}},
            },
            id="another judge, as the alarm says",
        ),
        pytest.param({"evaluation": {"headToHead": {"maxTokens": 700}}}, id="asked in another way"),
        pytest.param({"evaluation": {"headToHead": None}}, id="no longer compared"),
    ],
)
def test_an_alarm_does_not_outlive_the_comparisons_that_sounded_it(edit: dict[str, Any]) -> None:
    cluster = held_back({"positionBias": 0.9})
    cluster.finish_everything()
    assert cluster.condition("Succeeded") == ("True", "StoppedByAlarm")
    trained = [model.uri for model in cluster.status.models]
    cluster.edit(edit)
    cluster.finish_everything()
    assert cluster.condition("Succeeded") == ("True", "AllIterationsDone")
    assert cluster.status.alarms == []
    assert [model.metrics.position_bias for model in cluster.status.models] == [None] * 4
    assert [model.uri for model in cluster.status.models][:3] == trained, "no model was made again for it"


def test_a_gate_looks_at_what_the_edited_comparison_told_and_at_nothing_older() -> None:
    cluster = held_back({"winRate": 0.3}, gate={"rules": [{"metric": "winRate", "minimum": 0.5}]})
    model = cluster.status.models[-1]
    assert (model.gate, model.metrics.win_rate) == ("Held", 0.3)
    cluster.edit({"evaluation": {"headToHead": {"maxTokens": 700}}})
    cluster.settle()
    assert cluster.status.models[-1].metrics.win_rate is None
    again = run_until(cluster, StageKind.COMPARE, 2)
    cluster.succeed(
        again, metrics={"positionBias": 0.5}
    )  # so many verdicts are invalid that there is no win rate
    cluster.settle()
    model = cluster.status.models[-1]
    assert (model.gate, model.metrics.win_rate, model.metrics.position_bias) == ("Held", None, 0.5)
    assert model.gate_message is not None
    assert model.gate_message.startswith('Metric "winRate" of M2 was not measured')


def test_the_judge_is_measured_again_and_the_numbers_of_training_stay() -> None:
    cluster = cluster_at(
        StageKind.SUPERVISED_FINE_TUNE, gate={"rules": [{"metric": "spearman", "minimum": 0.5}]}
    )
    cluster.succeed(cluster.job(StageKind.SUPERVISED_FINE_TUNE), metrics={"loss": 1.25})
    cluster.settle()
    cluster.succeed(run_until(cluster, StageKind.EVALUATE, 1), metrics={"spearman": 0.4})
    cluster.settle()
    model = cluster.status.models[-1]
    assert (model.gate, model.metrics.loss, model.metrics.spearman) == ("Held", 1.25, 0.4)
    cluster.edit({"evaluation": {"samples": 5}})
    cluster.settle()
    metrics = cluster.status.models[-1].metrics
    assert (metrics.loss, metrics.spearman) == (1.25, None)
    cluster.succeed(run_until(cluster, StageKind.EVALUATE, 1), metrics={"spearman": 0.6})
    cluster.settle()
    model = cluster.status.models[-1]
    assert (model.gate, model.metrics.loss, model.metrics.spearman) == ("Promoted", 1.25, 0.6)


def test_numbers_of_an_iteration_that_is_over_stay_though_its_summaries_are_cut_short() -> None:
    cluster = held_back({"winRate": 0.6, "positionBias": 0.2})
    cluster.finish_everything()
    first, second = cluster.status.models[1:3]
    assert first.metrics.pairwise_accuracy == second.metrics.pairwise_accuracy == 0.7
    assert (second.metrics.win_rate, second.metrics.position_bias) == (0.6, 0.2)


def run_until(cluster: FakeCluster, kind: StageKind, iteration: int) -> Owned:
    """Let stages end until this one runs."""
    for _ in range(10):
        for _ in range(2):
            cluster.run_pods()
            cluster.settle()
        found = [
            one
            for one in cluster.jobs()
            if one.stage and (one.stage.kind, one.stage.iteration) == (kind, iteration)
        ]
        if found:
            return found[0]
        for owned in list(cluster.jobs()):
            cluster.succeed(owned)
        cluster.later(31)
        cluster.settle()
    raise AssertionError(f"{kind} was never reached: {cluster.describe()}")
