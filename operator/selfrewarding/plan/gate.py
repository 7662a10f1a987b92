"""The gate after each iteration: promote the new model, hold for a person, stop, or roll back, by its metrics.

Must not: look at anything but metrics and settings; the stages of the next iteration follow from what it decides.
Neighbours: `models` calls it once a model is measured and keeps what it decided in status.
"""

from dataclasses import dataclass
from typing import Literal

from selfrewarding.api.evaluation import GateRule, GateSpec
from selfrewarding.api.measured import ROUND_METRICS
from selfrewarding.api.run import Metrics

Outcome = Literal["Promoted", "Held", "Stopped", "RolledBack"]

_OUTCOMES: dict[str, Outcome] = {"Hold": "Held", "Stop": "Stopped", "RollBack": "RolledBack"}


@dataclass(frozen=True, kw_only=True)
class GateDecision:
    """What the gate says, and why."""

    outcome: Outcome
    message: str | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A model as the gate sees it."""

    name: str
    iteration: int
    metrics: Metrics
    previous: Metrics | None
    """Metrics of the model that this one was made from, if the run made it."""
    roll_backs: int
    """Roll-backs in earlier iterations."""
    approved: bool
    """A person has approved this iteration."""
    base: str | None = None
    """Name of the model that this one was made from, if the run made it."""


def pass_gate(gate: GateSpec, measured: Measured) -> GateDecision:
    """The first broken rule decides; then manual approval; else the model is promoted."""
    if measured.approved:
        return GateDecision(outcome="Promoted", message="Approved by a person.")
    for rule in gate.rules:
        if measured.iteration == 1 and rule.metric in ROUND_METRICS:
            continue  # M1 comes before the first round: there is nothing to check yet
        why = broken(rule, measured)
        if why is not None:
            return why if isinstance(why, GateDecision) else _carry_out(rule, why, gate, measured)
    if gate.approval == "Manual":
        return GateDecision(outcome="Held", message=f"gate.approval is Manual: {_how_to_approve(measured)}")
    return GateDecision(outcome="Promoted")


def broken(rule: GateRule, measured: Measured) -> GateDecision | str | None:
    """Why a rule is broken, a decision where it cannot be checked, or None where it holds."""
    value = _metric(measured.metrics, rule.metric)
    if value is None:
        return GateDecision(
            outcome="Held",
            message=f'Metric "{rule.metric}" of {measured.name} was not measured, so its rule cannot be checked: '
            f"remove the rule from gate.rules, or {_how_to_approve(measured)}",
        )
    if rule.minimum is not None and value < rule.minimum:
        return f'"{rule.metric}" of {measured.name} is {value:.4g}, below the minimum of {rule.minimum:.4g}'
    if rule.maximum is not None and value > rule.maximum:
        return f'"{rule.metric}" of {measured.name} is {value:.4g}, above the maximum of {rule.maximum:.4g}'
    if rule.max_drop is None or measured.previous is None:
        return None
    before = _metric(measured.previous, rule.metric)
    if before is not None and before - value > rule.max_drop:
        fall = f"fell from {before:.4g} to {value:.4g}, by more than {rule.max_drop:.4g}"
        return f'"{rule.metric}" of {measured.name} {fall}'
    return None


def _carry_out(rule: GateRule, why: str, gate: GateSpec, measured: Measured) -> GateDecision:
    if rule.action == "RollBack" and measured.iteration == 1:
        return GateDecision(
            outcome="Held",
            message=f"{why}. There is no model to roll back to: change the spec, or {_how_to_approve(measured)}",
        )
    if rule.action == "RollBack" and measured.roll_backs >= gate.max_roll_backs:
        return GateDecision(
            outcome="Stopped",
            message=f"{why}. The run has rolled back {measured.roll_backs} times, and gate.maxRollBacks is "
            f"{gate.max_roll_backs}: it ends with the models so far.",
        )
    ending = {
        "Hold": f". Change the spec, or {_how_to_approve(measured)}",
        "Stop": ". The run ends with the models so far.",
        "RollBack": f". The next iteration goes on from {measured.base or 'the model before it'} again.",
    }[rule.action]
    return GateDecision(outcome=_OUTCOMES[rule.action], message=f"{why}{ending}")


def _how_to_approve(measured: Measured) -> str:
    return f'set the annotation selfrewarding.dev/approve to "{measured.iteration}" (`srr approve`) to go on.'


def _metric(metrics: Metrics, name: str) -> float | None:
    return metrics.model_dump(by_alias=True).get(name)
