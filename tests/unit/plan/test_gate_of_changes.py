"""Rules over how a metric changes (`maxDrop`, `maxRise`), where the model before has no such number."""

from typing import Any

import pytest
from tests.support.fake_cluster import FakeCluster
from tests.support.planned_runs import cluster_at

from selfrewarding.api.evaluation import GateSpec
from selfrewarding.api.run import Metrics
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.gate import GateDecision, Measured, pass_gate

NEWER = Metrics(spearman=0.5, mean_length=900, win_rate=0.4, win_rate_baseline=0.6, valid_rate=0.9, loss=1.5)


def decision(rule: dict[str, Any], **changes: Any) -> GateDecision:
    fields: dict[str, Any] = {
        "name": "M3", "iteration": 3, "metrics": NEWER, "previous": Metrics(), "roll_backs": 0, "approved": False,
        "base": "M2", "base_iteration": 2,
    }  # fmt: skip
    return pass_gate(GateSpec.model_validate({"rules": [rule]}), Measured(**(fields | changes)))


FIRST: dict[str, Any] = {"name": "M2", "iteration": 2, "base": "M1", "base_iteration": 1}


@pytest.mark.parametrize(
    ("rule", "changes", "outcome"),
    [
        pytest.param({"metric": "spearman", "maxDrop": 0.1}, {}, "Held", id="M2 should have been measured"),
        pytest.param({"metric": "meanLength", "maxRise": 9}, {}, "Held", id="and its round too"),
        pytest.param({"metric": "winRate", "maxDrop": 1}, {}, "Held", id="and its comparison"),
        pytest.param(
            {"metric": "spearman", "maxDrop": 0.1, "action": "RollBack"}, {}, "Held",
            id="nobody rolls back for what is not known",
        ),
        pytest.param({"metric": "spearman", "minimum": 0.4}, {}, "Promoted", id="a bound needs no other model"),
        pytest.param({"metric": "spearman", "minimum": 0.6, "maxDrop": 0.1, "action": "Stop"}, {}, "Stopped", id="bounds first"),
        pytest.param({"metric": "spearman", "maxDrop": 0.1}, {"approved": True}, "Promoted", id="a person has decided"),
        pytest.param({"metric": "spearman", "maxDrop": 0.1}, {"previous": None}, "Promoted", id="there is no model before"),
        pytest.param({"metric": "spearman", "maxDrop": 0.1}, FIRST, "Held", id="the judge of M1 is measured"),
        pytest.param({"metric": "loss", "maxRise": 0.1}, FIRST, "Held", id="M1 is trained"),
        pytest.param({"metric": "meanLength", "maxRise": 9}, FIRST, "Promoted", id="M1 comes before the first round"),
        pytest.param({"metric": "winRate", "maxDrop": 0.1}, FIRST, "Promoted", id="M1 has no model before it"),
        pytest.param({"metric": "validRate", "maxDrop": 0.1}, FIRST, "Promoted", id="M1 may have judged nothing"),
        pytest.param({"metric": "winRateBaseline", "maxDrop": 0.1}, FIRST, "Held", id="M1 was compared with the baseline"),
        pytest.param(
            {"metric": "winRateBaseline", "maxDrop": 0.1}, FIRST | {"base_compared": False}, "Promoted",
            id="M1 was compared with nothing",
        ),
    ],
)  # fmt: skip
def test_a_change_from_a_number_that_is_not_there(
    rule: dict[str, Any], changes: dict[str, Any], outcome: str
) -> None:
    assert decision(rule, **changes).outcome == outcome


def test_the_model_without_the_number_is_named() -> None:
    assert decision({"metric": "spearman", "maxDrop": 0.1}).message == (
        'Metric "spearman" of M2 was not measured, so nobody knows by how much that of M3 (0.5) has changed: remove maxDrop '
        'and maxRise from its rule, or set the annotation selfrewarding.dev/approve to "3" (`srr approve`) to go on.'
    )


def test_a_rule_that_comes_after_the_model_before_was_promoted_without_its_number() -> None:
    """M2's judge could not be measured (its answers all tied), and no rule minded; then somebody adds one."""
    cluster = cluster_at(StageKind.EVALUATE, 2, iterations=4)
    cluster.succeed(cluster.job(StageKind.EVALUATE), metrics={"validRate": 1.0})
    cluster.settle()
    assert cluster.status.models[-1].gate == "Promoted"
    cluster.edit({"gate": {"rules": [{"metric": "spearman", "maxDrop": 0.1}]}})
    until(cluster, StageKind.EVALUATE, 3)
    cluster.succeed(cluster.job(StageKind.EVALUATE), metrics={"spearman": 0.1})
    cluster.settle()
    model = cluster.status.models[-1]
    assert (model.name, model.gate) == ("M3", "Held")
    assert model.gate_message is not None
    assert model.gate_message.startswith('Metric "spearman" of M2 was not measured')


def test_m1_without_numbers_of_a_round_holds_nothing_up() -> None:
    rules = [{"metric": name, "maxDrop": 0.1} for name in ("winRate", "positionBias", "promptDiversity")]
    cluster = cluster_at(
        StageKind.COMPARE,
        2,
        judge={"modelUri": "s3://models/judge"},  # so that the run makes no baseline
        evaluation={"headToHead": {}},
        gate={"rules": rules},
    )
    cluster.succeed(
        cluster.job(StageKind.COMPARE), metrics={"winRate": 0.5, "positionBias": 0.1, "promptDiversity": 0.5}
    )
    cluster.settle()
    assert [(model.name, model.gate) for model in cluster.status.models] == [
        ("M1", "Promoted"),
        ("M2", "Promoted"),
    ]


def test_a_gate_waits_until_the_model_before_is_measured_again() -> None:
    """The store still has M3's comparison of an earlier spec, and no longer M2's."""
    cluster = cluster_at(
        StageKind.COMPARE,
        2,
        iterations=4,
        evaluation={"headToHead": {}},
        gate={"rules": [{"metric": "winRate", "maxDrop": 0.1}]},
    )
    compared = cluster.job(StageKind.COMPARE).stage
    assert compared is not None
    cluster.succeed(cluster.job(StageKind.COMPARE), metrics={"winRate": 0.7})
    until(cluster, StageKind.COMPARE, 3)
    cluster.succeed(cluster.job(StageKind.COMPARE), metrics={"winRate": 0.3})
    cluster.settle()
    assert [model.gate for model in cluster.status.models if model.name == "M3"] == ["Held"]
    cluster.edit({"evaluation": {"headToHead": {"maxTokens": 700}}})
    until(cluster, StageKind.COMPARE, 1)
    del cluster.store[compared.key]
    cluster.edit({"evaluation": {"headToHead": {"maxTokens": None}}})
    until(cluster, StageKind.COMPARE, 2)
    (third,) = [model for model in cluster.status.models if model.name == "M3"]
    assert (third.gate, third.metrics.win_rate) == ("Held", 0.3)
    cluster.succeed(cluster.job(StageKind.COMPARE), metrics={"winRate": 0.7})
    cluster.settle()
    (third,) = [model for model in cluster.status.models if model.name == "M3"]
    assert third.gate == "Held"
    assert third.gate_message is not None
    assert third.gate_message.startswith('"winRate" of M3 fell from 0.7 to 0.3, by more than 0.1')


def until(cluster: FakeCluster, kind: StageKind, iteration: int) -> None:
    """Let stages end until this one runs."""
    for _ in range(40):
        for _ in range(2):
            cluster.run_pods()
            cluster.settle()
        here = [one.stage for one in cluster.jobs() if one.stage is not None]
        if any((stage.kind, stage.iteration) == (kind, iteration) for stage in here):
            return
        for owned in list(cluster.jobs()):
            metrics = {"winRate": 0.5} if owned.stage and owned.stage.kind is StageKind.COMPARE else None
            cluster.succeed(owned, metrics=metrics)
        cluster.later(31)
        cluster.settle()
    raise AssertionError(f"{kind} was never reached: {cluster.describe()}")
