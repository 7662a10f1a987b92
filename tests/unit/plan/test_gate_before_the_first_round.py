"""A rule over a number that nobody measures before the first rollout does not hold M1 for ever."""

from selfrewarding.api.evaluation import GateRule, GateSpec
from selfrewarding.api.run import Metrics
from selfrewarding.plan.gate import Measured, pass_gate

VALID = GateSpec(rules=[GateRule(metric="validRate", minimum=0.5)])


def outcome(iteration: int, metrics: Metrics) -> str:
    measured = Measured(
        name=f"M{iteration}",
        iteration=iteration,
        metrics=metrics,
        previous=None,
        roll_backs=0,
        approved=False,
        compared=False,
    )
    return pass_gate(VALID, measured).outcome


def test_m1_of_own_evaluations_has_judged_nothing_yet() -> None:
    assert outcome(1, Metrics()) == "Promoted"
    assert outcome(1, Metrics(valid_rate=0.4)) == "Held"
    assert outcome(2, Metrics()) == "Held", "a rollout without a judgement is no promotion"
