"""The gate after each iteration, as a table."""

from typing import Any

import pytest

from selfrewarding.api.algorithm import GateSpec
from selfrewarding.api.run import Metrics
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
        'selfrewarding.dev/approve to "2" to go on.'
    )


def test_a_metric_that_was_not_measured_is_named() -> None:
    assert (
        'Metric "loss" of M2 was not measured'
        in decision({"rules": [{"metric": "loss", "maximum": 9}]}).message
    )
