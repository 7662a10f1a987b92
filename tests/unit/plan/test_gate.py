"""The gate after each iteration, as a table."""

from typing import Any

import pytest
from pydantic import ValidationError
from tests.support.builders import SPEC, merged

from selfrewarding.api.evaluation import GateSpec
from selfrewarding.api.run import Metrics, SelfRewardingRunSpec
from selfrewarding.plan.gate import Measured, pass_gate

ACCURACY = {"metric": "pairwiseAccuracy"}
BELOW = ACCURACY | {"minimum": 0.8}


def decision(gate: dict[str, Any], **changes: Any) -> Any:
    fields: dict[str, Any] = {
        "name": "M2", "iteration": 2, "metrics": Metrics(pairwise_accuracy=0.7), "previous": Metrics(pairwise_accuracy=0.75),
        "roll_backs": 0, "approved": False,
    }  # fmt: skip
    return pass_gate(GateSpec.model_validate(gate), Measured(**(fields | changes)))


@pytest.mark.parametrize(
    ("gate", "changes", "outcome"),
    [
        pytest.param({}, {}, "Promoted", id="no rules: every model is promoted"),
        pytest.param({"rules": [ACCURACY | {"minimum": 0.6}]}, {}, "Promoted", id="above the minimum"),
        pytest.param({"rules": [ACCURACY | {"minimum": 0.7}]}, {}, "Promoted", id="the minimum itself holds"),
        pytest.param({"rules": [BELOW]}, {}, "Held", id="below the minimum: held unless the rule says more"),
        pytest.param({"rules": [ACCURACY | {"maximum": 0.5, "action": "Stop"}]}, {}, "Stopped", id="above the maximum"),
        pytest.param({"rules": [ACCURACY | {"maxDrop": 0.01, "action": "RollBack"}]}, {}, "RolledBack", id="fell too far"),
        pytest.param({"rules": [ACCURACY | {"maxDrop": 0.1}]}, {}, "Promoted", id="fell a little"),
        pytest.param({"rules": [ACCURACY | {"maxDrop": 0}]}, {"previous": None}, "Promoted", id="nothing to fall from"),
        pytest.param({"rules": [{"metric": "loss", "maximum": 9}]}, {}, "Held", id="a metric that was not measured"),
        pytest.param({"rules": [BELOW | {"action": "RollBack"}]}, {"iteration": 1}, "Held", id="no model before the first"),
        pytest.param(
            {"rules": [BELOW | {"action": "RollBack"}], "maxRollBacks": 1}, {"roll_backs": 1}, "Stopped",
            id="rolled back often enough",
        ),
        pytest.param(
            {"rules": [BELOW, BELOW | {"action": "Stop"}]}, {}, "Held", id="the first broken rule decides"
        ),
        pytest.param(
            {"rules": [{"metric": "scorePiling", "maximum": 0.5, "action": "Stop"}]}, {"metrics": Metrics(score_piling=0.6)},
            "Stopped", id="metrics of the round count as well",
        ),
        pytest.param(
            {"rules": [{"metric": "pairYield", "minimum": 0.5, "action": "Stop"}]}, {"iteration": 1}, "Promoted",
            id="M1 comes before the first round: it has no such metrics",
        ),
        pytest.param(
            {"rules": [{"metric": "winRateBaseline", "minimum": 0.5}]}, {"iteration": 1}, "Held",
            id="M1 may be compared with the baseline",
        ),
        pytest.param({"approval": "Manual"}, {}, "Held", id="a person decides"),
        pytest.param({"approval": "Manual"}, {"approved": True}, "Promoted", id="a person has decided"),
        pytest.param({"rules": [BELOW]}, {"approved": True}, "Promoted", id="approval goes before rules"),
        pytest.param({"rules": [BELOW | {"action": "Stop"}], "approval": "Manual"}, {}, "Stopped", id="rules before waiting"),
    ],
)  # fmt: skip
def test_gate(gate: dict[str, Any], changes: dict[str, Any], outcome: str) -> None:
    assert decision(gate, **changes).outcome == outcome


def test_a_held_model_says_how_to_go_on() -> None:
    message = decision({"rules": [BELOW]}).message
    assert message == (
        '"pairwiseAccuracy" of M2 is 0.7, below the minimum of 0.8. Change the spec, or set the annotation '
        'selfrewarding.dev/approve to "2" (`srr approve`) to go on.'
    )


def test_a_metric_that_was_not_measured_is_named() -> None:
    assert (
        'Metric "loss" of M2 was not measured'
        in decision({"rules": [{"metric": "loss", "maximum": 9}]}).message
    )


def test_a_roll_back_says_from_which_model_the_run_goes_on() -> None:
    message = decision({"rules": [BELOW | {"action": "RollBack"}]}, base="M1").message
    assert message.endswith("below the minimum of 0.8. The next iteration goes on from M1 again.")


# ---------------------------------------------------------------------- rules over what is never measured

OWN_EXAMPLES = {
    "seedData": {"ranked": None, "evaluations": {"uri": "s3://d/e.jsonl", "format": "Evaluations"}}
}


@pytest.mark.parametrize(
    ("metric", "spec", "remedy"),
    [
        ("winRate", {}, "set evaluation.headToHead, or remove the rule"),
        ("positionBias", {}, "set evaluation.headToHead"),
        ("winRate", {"evaluation": {"headToHead": {"against": ["M1"]}}}, "add Previous"),
        ("winRateBaseline", {"evaluation": {"headToHead": {"against": ["Previous"]}}}, "add Baseline"),
        (
            "winRateBaseline",
            {"evaluation": {"headToHead": {}}, "judge": {"modelUri": "s3://m/judge"}},
            "use winRate",
        ),
        ("spearman", OWN_EXAMPLES, "give seedData.ranked or seedData.heldOut.source"),
        ("pairYield", {"preferences": {"rule": "PositiveOnly"}}, "use another rule"),
    ],
)
def test_a_rule_over_what_is_never_measured_is_refused(
    metric: str, spec: dict[str, Any], remedy: str
) -> None:
    gate = {"gate": {"rules": [{"metric": metric, "minimum": 0.1}]}}
    SelfRewardingRunSpec.model_validate(merged(SPEC, spec))
    with pytest.raises(ValidationError) as error:
        SelfRewardingRunSpec.model_validate(merged(merged(SPEC, spec), gate))
    assert f"a rule of gate.rules is over {metric}, " in str(error.value)
    assert remedy in str(error.value)


@pytest.mark.parametrize(
    ("metric", "spec"),
    [
        ("winRate", {"evaluation": {"headToHead": {}}}),
        ("winRateBaseline", {"evaluation": {"headToHead": {}}}),
        ("spearman", {}),
        (
            "spearman",
            merged(
                OWN_EXAMPLES, {"seedData": {"heldOut": {"source": {"uri": "s3://d/h", "format": "Ranked"}}}}
            ),
        ),
        ("pairYield", {}),
        ("meanLength", {"preferences": {"rule": "PositiveOnly"}}),
    ],
)
def test_a_rule_over_what_may_be_measured_is_taken(metric: str, spec: dict[str, Any]) -> None:
    gate = {"gate": {"rules": [{"metric": metric, "minimum": 0.1}]}}
    assert (
        SelfRewardingRunSpec.model_validate(merged(merged(SPEC, spec), gate)).gate.rules[0].metric == metric
    )
