"""The gate after each iteration: promote the new model, hold for a person, stop, or roll back, by its metrics.

Must not: look at anything but metrics and settings; the stages of the next iteration follow from what it decides.
Neighbours: `models` calls it once a model is measured and keeps what it decided in status.
"""

from dataclasses import dataclass
from typing import Literal

from selfrewarding.api.evaluation import GateRule, GateSpec
from selfrewarding.api.measured import HEAD_TO_HEAD_METRICS, ROUND_METRICS
from selfrewarding.api.run import Metrics

Outcome = Literal["Promoted", "Held", "Stopped", "RolledBack"]

_OUTCOMES: dict[str, Outcome] = {"Hold": "Held", "Stop": "Stopped", "RollBack": "RolledBack"}
_BEFORE = "the model before it"


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
    compared: bool = True
    """The model is compared with another one."""
    base: str | None = None
    """Name of the model that this one was made from, if the run made it."""
    base_iteration: int = 1
    """Of that model."""
    base_compared: bool = True
    """That model is compared with another one."""
    last: bool = False
    """No iteration comes after this one: the run ends, whatever the gate says."""


def pass_gate(gate: GateSpec, measured: Measured) -> GateDecision:
    """The first broken rule decides; then manual approval; else the model is promoted."""
    if measured.approved:
        return GateDecision(outcome="Promoted", message="Approved by a person.")
    for rule in gate.rules:
        if measured.iteration == 1 and _comes_later(rule, measured.metrics, measured.compared):
            continue
        why = broken(rule, measured)
        if why is not None:
            return why if isinstance(why, GateDecision) else _carry_out(rule, why, gate, measured)
    if gate.approval == "Manual":
        return GateDecision(outcome="Held", message=f"gate.approval is Manual: {_how_to_approve(measured)}")
    return GateDecision(outcome="Promoted")


def _comes_later(rule: GateRule, metrics: Metrics, compared: bool) -> bool:
    """Whether there is nothing to check of M1 yet: it comes before the first round, may have no baseline to beat, and with
    EFT rows of one's own and no held-out ones nobody has judged anything."""
    if rule.metric in HEAD_TO_HEAD_METRICS and not compared:
        return True
    unjudged = rule.metric == "validRate" and metrics.valid_rate is None
    return rule.metric in ROUND_METRICS or unjudged


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
    if measured.previous is None or (rule.max_drop is None and rule.max_rise is None):
        return None
    before = _metric(measured.previous, rule.metric)
    if before is None:
        if measured.base_iteration == 1 and _comes_later(rule, measured.previous, measured.base_compared):
            return None
        return GateDecision(
            outcome="Held",
            message=f'Metric "{rule.metric}" of {measured.base or _BEFORE} was not measured, so nobody knows by how much '
            f"that of {measured.name} ({value:.4g}) has changed: remove maxDrop and maxRise from its rule, or "
            f"{_how_to_approve(measured)}",
        )
    for how, change, most in (
        ("fell", before - value, rule.max_drop),
        ("rose", value - before, rule.max_rise),
    ):
        if most is not None and change > most:
            by = f"{how} from {before:.4g} to {value:.4g}, by more than {most:.4g}"
            return f'"{rule.metric}" of {measured.name} {by}'
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
    base = measured.base or _BEFORE
    ending = {
        "Hold": f". Change the spec, or {_how_to_approve(measured)}",
        "Stop": ". The run ends with the models so far.",
        "RollBack": f". The run ends with {base}."
        if measured.last
        else f". The next iteration goes on from {base} again.",
    }[rule.action]
    return GateDecision(outcome=_OUTCOMES[rule.action], message=f"{why}{ending}")


def _how_to_approve(measured: Measured) -> str:
    if measured.last:
        return f"look at {measured.name} before you use it. Nothing is built upon it: the run ends."
    return f'set the annotation selfrewarding.dev/approve to "{measured.iteration}" (`srr approve`) to go on.'


def _metric(metrics: Metrics, name: str) -> float | None:
    return metrics.model_dump(by_alias=True).get(name)
