"""The gate after each iteration, as a table."""

import re
from typing import Any

import pytest
from pydantic import ValidationError
from tests.support.builders import SPEC, merged
from tests.support.planned_runs import cluster_at

from selfrewarding.api.evaluation import AT_MOST_ONE, GateSpec
from selfrewarding.api.run import Metrics, SelfRewardingRunSpec
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.gate import Measured, pass_gate

ACCURACY = {"metric": "pairwiseAccuracy"}
BELOW = ACCURACY | {"minimum": 0.8}
LENGTH = {"metric": "meanLength"}
GROWN = {"metrics": Metrics(mean_length=1600), "previous": Metrics(mean_length=1000)}


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
        pytest.param({"rules": [LENGTH | {"maxRise": 500, "action": "RollBack"}]}, GROWN, "RolledBack", id="rose too far"),
        pytest.param({"rules": [LENGTH | {"maxRise": 600}]}, GROWN, "Promoted", id="rose a little"),
        pytest.param({"rules": [LENGTH | {"maxDrop": 0}]}, GROWN, "Promoted", id="a rise is no fall"),
        pytest.param({"rules": [LENGTH | {"maxRise": 0}]}, {"metrics": Metrics(mean_length=9)}, "Promoted", id="nothing to rise from"),
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
        pytest.param(
            {"rules": [{"metric": "winRateInitial", "minimum": 0.5}]}, {"iteration": 1}, "Promoted",
            id="M1 is not compared with itself",
        ),
        pytest.param(
            {"rules": [{"metric": "winRateInitial", "minimum": 0.5, "action": "RollBack"}]},
            {"metrics": Metrics(win_rate_initial=0.4)}, "RolledBack", id="a model that M1 beats",
        ),
        pytest.param(
            {"rules": [{"metric": "positionBias", "maximum": 0.6}]}, {"iteration": 1, "compared": False}, "Promoted",
            id="M1 has nothing to be compared with where the run makes no baseline",
        ),
        pytest.param(
            {"rules": [{"metric": "positionBias", "maximum": 0.6}]}, {"compared": False}, "Held",
            id="a later model without its comparison is held",
        ),
        pytest.param({"approval": "Manual"}, {}, "Held", id="a person decides"),
        pytest.param({"approval": "Manual"}, {"approved": True}, "Promoted", id="a person has decided"),
        pytest.param({"rules": [BELOW]}, {"approved": True}, "Promoted", id="approval goes before rules"),
        pytest.param({"rules": [BELOW | {"action": "Stop"}], "approval": "Manual"}, {}, "Stopped", id="rules before waiting"),
    ],
)  # fmt: skip
def test_gate(gate: dict[str, Any], changes: dict[str, Any], outcome: str) -> None:
    assert decision(gate, **changes).outcome == outcome


def test_a_first_model_that_nothing_is_compared_with_passes_rules_over_comparisons() -> None:
    cluster = cluster_at(
        StageKind.GENERATE_PROMPTS,
        2,
        judge={"modelUri": "s3://models/judge"},  # so that the run makes no baseline
        evaluation={"headToHead": {}},
        gate={"rules": [{"metric": "positionBias", "maximum": 0.6}]},
    )
    assert [(model.name, model.gate) for model in cluster.status.models] == [("M1", "Promoted")]


def test_the_win_rate_against_m1_stands_in_status_and_decides() -> None:
    rules = [{"metric": "winRateInitial", "minimum": 0.5, "action": "Stop"}]
    cluster = cluster_at(
        StageKind.COMPARE,
        2,
        evaluation={"headToHead": {"against": ["Previous", "M1"]}},
        gate={"rules": rules},
    )
    assert [model.gate for model in cluster.status.models if model.name == "M1"] == ["Promoted"]
    cluster.succeed(cluster.job(StageKind.COMPARE), metrics={"winRate": 0.4, "winRateInitial": 0.4})
    cluster.settle()
    model = cluster.status.models[-1]
    assert (model.name, model.metrics.win_rate_initial, model.gate) == ("M2", 0.4, "Stopped")
    assert model.gate_message == (
        '"winRateInitial" of M2 is 0.4, below the minimum of 0.5. The run ends with the models so far.'
    )


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


def test_a_rise_is_told_with_both_numbers() -> None:
    message = decision({"rules": [LENGTH | {"maxRise": 500}]}, **GROWN).message
    assert message.startswith('"meanLength" of M2 rose from 1000 to 1600, by more than 500. ')


@pytest.mark.parametrize(
    ("gate", "ending"),
    [
        ({"rules": [BELOW | {"action": "RollBack"}]}, "below the minimum of 0.8. The run ends with M1."),
        (
            {"rules": [BELOW]},
            "Change the spec, or look at M2 before you use it. Nothing is built upon it: the run ends.",
        ),
        (
            {"approval": "Manual"},
            "gate.approval is Manual: look at M2 before you use it. Nothing is built upon it: the run ends.",
        ),
        (
            {"rules": [{"metric": "loss", "maximum": 9}]},
            "remove the rule from gate.rules, or look at M2 before you use it. Nothing is built upon it: the run ends.",
        ),
    ],
)
def test_after_the_last_iteration_nobody_is_told_of_a_next_one(gate: dict[str, Any], ending: str) -> None:
    assert decision(gate, base="M1", last=True).message.endswith(ending)


def test_a_run_whose_last_model_is_held_or_rolled_back_says_how_it_ends() -> None:
    for action, ending in (
        ("Hold", "Nothing is built upon it: the run ends."),
        ("RollBack", "ends with M1."),
    ):
        rules = [{"metric": "scorePiling", "maximum": 0.5, "action": action}]
        cluster = cluster_at(StageKind.EVALUATE, 2, iterations=2, gate={"rules": rules})
        cluster.succeed(cluster.job(StageKind.EVALUATE), metrics={"scorePiling": 0.8})
        cluster.finish_everything()
        assert cluster.condition("Succeeded") == ("True", "AllIterationsDone")
        message = next(c.message for c in cluster.status.conditions if c.type == "Succeeded")
        assert message.endswith(ending)
        assert "srr approve" not in message


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
        ("winRateInitial", {}, "set evaluation.headToHead"),
        ("winRateInitial", {"evaluation": {"headToHead": {"against": ["Previous", "Baseline"]}}}, "add M1"),
        ("winRateInitial", {"iterations": 1, "evaluation": {"headToHead": {}}}, "raise iterations"),
        ("winRateBaseline", {"evaluation": {"headToHead": {"against": ["Previous"]}}}, "add Baseline"),
        (
            "fiveBest",
            {"judge": {"format": "Structured", "scoring": "Expected"}},
            "use pairwiseAccuracy, or set judge.scoring Sampled, or remove the rule",
        ),
        (
            "winRateBaseline",
            {"evaluation": {"headToHead": {}}, "judge": {"modelUri": "s3://m/judge"}},
            "use winRate",
        ),
        ("spearman", OWN_EXAMPLES, "give seedData.ranked or seedData.heldOut.source"),
        ("pairYield", {"preferences": {"rule": "PositiveOnly"}}, "use another rule"),
        (
            "winRate",
            {"iterations": 1, "evaluation": {"headToHead": {}}},
            "raise iterations, or remove the rule",
        ),
        ("scorePiling", {"iterations": 1}, "raise iterations"),
        (
            "positionBias",
            {"iterations": 1, "evaluation": {"headToHead": {"against": ["M1"]}}},
            "compared with none: raise iterations",
        ),
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
        ("winRateInitial", {"evaluation": {"headToHead": {"against": ["M1"]}}}),
        ("winRateBaseline", {"evaluation": {"headToHead": {}}}),
        ("fiveBest", {"judge": {"format": "Structured", "scoring": "Sampled"}}),
        ("pairwiseAccuracy", {"judge": {"format": "Structured", "scoring": "Expected"}}),
        ("spearman", {}),
        (
            "spearman",
            merged(
                OWN_EXAMPLES, {"seedData": {"heldOut": {"source": {"uri": "s3://d/h", "format": "Ranked"}}}}
            ),
        ),
        ("pairYield", {}),
        ("positionBias", {"iterations": 1, "evaluation": {"headToHead": {}}}),
        ("loss", {"iterations": 1}),
        ("meanLength", {"preferences": {"rule": "PositiveOnly"}}),
    ],
)
def test_a_rule_over_what_may_be_measured_is_taken(metric: str, spec: dict[str, Any]) -> None:
    gate = {"gate": {"rules": [{"metric": metric, "minimum": 0.1}]}}
    assert (
        SelfRewardingRunSpec.model_validate(merged(merged(SPEC, spec), gate)).gate.rules[0].metric == metric
    )


def test_comparisons_on_held_out_prompts_that_cannot_be_are_refused() -> None:
    compared = merged(OWN_EXAMPLES, {"evaluation": {"headToHead": {}}})
    with pytest.raises(
        ValidationError, match=r"name a set of evaluation\.prompts in evaluation\.headToHead\.set"
    ):
        SelfRewardingRunSpec.model_validate(merged(SPEC, compared))
    own = {"headToHead": {"set": "chat"}, "prompts": [{"name": "chat", "uri": "s3://d/chat"}]}
    SelfRewardingRunSpec.model_validate(merged(SPEC, merged(OWN_EXAMPLES, {"evaluation": own})))


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"metric": "loss", "action": "Stop"}, "give minimum, maximum, maxDrop or maxRise"),
        ({"metric": "loss", "minimum": 2, "maximum": 1}, "minimum above its maximum"),
        ({"metric": "winRate", "minimum": 50}, r"write 0.9 for 90 %, and not 50 \(winRate\)"),
        ({"metric": "spearman", "maxDrop": 5}, r"and not 5 \(spearman\)"),
        ({"metric": "refusalRate", "maxRise": 10}, r"and not 10 \(refusalRate\)"),
    ],
)
def test_a_rule_that_nothing_breaks_or_everything_is_refused(rule: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        GateSpec.model_validate({"rules": [rule]})


def test_shares_and_correlations_are_told_apart_from_other_metrics_by_their_texts() -> None:
    """Every metric whose text says that it is a share or a correlation has this limit."""
    texts = {field.alias or name: field.description or "" for name, field in Metrics.model_fields.items()}
    said = {
        name
        for name, text in texts.items()
        if re.match("Share|Spearman|Kendall|Correlation|Distinct|Mean ROUGE", text)
    }
    same = {"fiveBest", "winRateInitial", "winRateBaseline", "winRateLengthControlled"}
    assert said | same == set(AT_MOST_ONE)
