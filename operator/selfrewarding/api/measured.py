"""Which metrics a run can measure at all, as far as its spec says: a rule over another one would wait for ever.

Each reason is said once and checked twice: as CEL by the API server, and here, so that `srr validate` says it too.
Neighbours: `run` refuses gate rules, comparisons and a calibration that could never be made; `plan.gate` holds where a
metric turns out not to be there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from selfrewarding.api.base import Rule
from selfrewarding.api.data import SeedDataSpec
from selfrewarding.api.evaluation import HELD_OUT_SET

if TYPE_CHECKING:
    from selfrewarding.api.run import SelfRewardingRunSpec

HEAD_TO_HEAD_METRICS = frozenset(
    {"winRate", "winRateInitial", "winRateBaseline", "winRateLengthControlled", "positionBias"}
)
"""Metrics that are measured only with `evaluation.headToHead`."""

JUDGE_METRICS = frozenset({"pairwiseAccuracy", "fiveBest", "exactMatch", "spearman", "kendallTau"})
"""Metrics of Evaluate on held-out ranked rows."""

PAIR_METRICS = frozenset({"pairYield", "scoreGap", "lengthRatio", "rewardMargin"})
"""Metrics that need preference pairs."""

ROUND_METRICS = PAIR_METRICS | {
    "tieRate", "truncatedRate", "scorePiling", "scoreLengthCorrelation", "meanLength", "promptDiversity",
    "promptSimilarity", "refusalRate", "repetitionRate", "winRate", "winRateInitial", "winRateLengthControlled",
}  # fmt: skip
"""Metrics of rounds with new prompts: M1, which people's rows alone made, has none of them."""

_GIVE_RANKED = "give seedData.ranked or seedData.heldOut.source"
_HAS_HELD_OUT = (
    "(has(self.seedData.ranked) || (has(self.seedData.heldOut) && has(self.seedData.heldOut.source)) || "
    "self.seedData.instructions.format == 'OpenAssistant')"
)
_COMPARES = "(has(self.evaluation) && has(self.evaluation.headToHead))"
_NO_BASELINE = "(has(self.seedData.evaluations) || (has(self.judge) && has(self.judge.modelUri)))"
_ONE_ITERATION = "(has(self.iterations) && self.iterations == 1)"


def has_held_out(seed_data: SeedDataSpec) -> bool:
    """Whether there may be held-out ranked rows (Prepare finds out whether there are)."""
    from_trees = seed_data.instructions.format == "OpenAssistant"
    return seed_data.ranked is not None or seed_data.held_out.source is not None or from_trees


def _makes_no_baseline(spec: "SelfRewardingRunSpec") -> bool:
    return spec.seed_data.evaluations is not None or spec.judge.model_uri is not None


def _spares(opponent: str) -> str:
    """CEL: models are compared, but not with this one."""
    listed = "self.evaluation.headToHead.against"
    return f"({_COMPARES} && has({listed}) && !('{opponent}' in {listed}))"


def _is_spared(opponent: str, spec: "SelfRewardingRunSpec") -> bool:
    compared = spec.evaluation.head_to_head
    return compared is not None and opponent not in compared.against


@dataclass(frozen=True)
class _Unmeasured:
    """Why some metrics are never measured."""

    metrics: frozenset[str]
    cel: str
    """True of such a spec, as the API server sees it: what is absent, a preset or a default may say."""
    holds: Callable[["SelfRewardingRunSpec"], bool]
    """The same of the effective spec."""
    why: str
    """What is the matter, and what to do."""

    @property
    def rule(self) -> Rule:
        """Refuses gate rules over these metrics."""
        names = sorted(self.metrics)
        listed = ", ".join(f"'{name}'" for name in names)
        over = f"has(self.gate) && has(self.gate.rules) && self.gate.rules.exists(rule, rule.metric in [{listed}])"
        named = names[0] if len(names) == 1 else f"one of {', '.join(names)}"
        return Rule(f"!({over} && {self.cel})", _refusal(named, self.why))


def _refusal(metrics: str, why: str) -> str:
    return f"a rule of gate.rules is over {metrics}, {why}, or remove the rule"


_REASONS = (
    _Unmeasured(
        HEAD_TO_HEAD_METRICS,
        f"!{_COMPARES}",
        lambda spec: spec.evaluation.head_to_head is None,
        "which only evaluation.headToHead measures: set evaluation.headToHead",
    ),
    _Unmeasured(
        frozenset({"winRate", "winRateLengthControlled"}),
        _spares("Previous"),
        lambda spec: _is_spared("Previous", spec),
        "which is against the previous model: add Previous to evaluation.headToHead.against",
    ),
    _Unmeasured(
        frozenset({"winRateInitial"}),
        _spares("M1"),
        lambda spec: _is_spared("M1", spec),
        "which is against M1: add M1 to evaluation.headToHead.against",
    ),
    _Unmeasured(
        frozenset({"winRateBaseline"}),
        _spares("Baseline"),
        lambda spec: _is_spared("Baseline", spec),
        "which is against the baseline: add Baseline to evaluation.headToHead.against",
    ),
    _Unmeasured(
        frozenset({"winRateBaseline"}),
        _NO_BASELINE,
        _makes_no_baseline,
        "and the run makes no baseline, since seedData.evaluations or judge.modelUri is given: use winRate",
    ),
    _Unmeasured(
        JUDGE_METRICS,
        f"!{_HAS_HELD_OUT}",
        lambda spec: not has_held_out(spec.seed_data),
        f"which is measured on held-out ranked rows: {_GIVE_RANKED}",
    ),
    _Unmeasured(
        frozenset({"fiveBest"}),
        "(has(self.judge) && has(self.judge.scoring) && self.judge.scoring == 'Expected')",
        lambda spec: spec.judge.scoring == "Expected",
        "which is about answers with exactly the highest score, and with judge.scoring Expected, a mean by "
        "probabilities, none has it: use pairwiseAccuracy, or set judge.scoring Sampled",
    ),
    _Unmeasured(
        PAIR_METRICS,
        "(has(self.preferences) && has(self.preferences.rule) && self.preferences.rule == 'PositiveOnly')",
        lambda spec: spec.preferences.rule == "PositiveOnly",
        "which preferences.rule PositiveOnly never measures, since it makes no pairs: use another rule",
    ),
    _Unmeasured(
        ROUND_METRICS,
        _ONE_ITERATION,
        lambda spec: spec.iterations == 1,
        "which is measured from the second iteration on, and there is one: raise iterations",
    ),
    _Unmeasured(
        frozenset({"positionBias"}),
        f"{_ONE_ITERATION} && ({_NO_BASELINE} || {_spares('Baseline')})",
        lambda spec: spec.iterations == 1 and (_makes_no_baseline(spec) or _is_spared("Baseline", spec)),
        "and the only model is compared with none: raise iterations",
    ),
)
_NOT_CALIBRATED = (
    f"judge.calibration measures the judge on held-out ranked rows, and there are none: {_GIVE_RANKED}, or remove "
    "judge.calibration"
)
_NOT_COMPARED = (
    f"evaluation.headToHead compares answers to the held-out prompts, and there are none: {_GIVE_RANKED}, or name a set "
    "of evaluation.prompts in evaluation.headToHead.set"
)

RULES = (
    *(reason.rule for reason in _REASONS),
    Rule(f"!(has(self.judge) && has(self.judge.calibration)) || {_HAS_HELD_OUT}", _NOT_CALIBRATED),
    Rule(
        f"!{_COMPARES} || (has(self.evaluation.headToHead.set) && self.evaluation.headToHead.set != '{HELD_OUT_SET}') || "
        f"{_HAS_HELD_OUT}",
        _NOT_COMPARED,
    ),
)
"""What the API server refuses of a run's spec."""


def why_refused(spec: "SelfRewardingRunSpec") -> str | None:
    """The same of the effective spec: what it asks for that is never measured, with what to change; None if nothing."""
    for rule in spec.gate.rules:
        for reason in _REASONS:
            if rule.metric in reason.metrics and reason.holds(spec):
                return _refusal(rule.metric, reason.why)
    if has_held_out(spec.seed_data):
        return None
    compared = spec.evaluation.head_to_head
    if compared is not None and compared.set == HELD_OUT_SET:
        return _NOT_COMPARED
    return _NOT_CALIBRATED if spec.judge.calibration is not None else None
