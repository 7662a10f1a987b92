"""Which metrics a run can measure at all, as far as its spec says: a rule over another one would wait for ever.

Neighbours: `run` refuses gate rules and a calibration that could never be checked; `plan.gate` holds where a metric turns
out not to be there.
"""

from selfrewarding.api.algorithm import JudgeSpec, PreferencesSpec
from selfrewarding.api.data import SeedDataSpec
from selfrewarding.api.evaluation import EvaluationSpec

HEAD_TO_HEAD_METRICS = frozenset({"winRate", "winRateBaseline", "winRateLengthControlled", "positionBias"})
"""Metrics that are measured only with `evaluation.headToHead`."""

JUDGE_METRICS = frozenset({"pairwiseAccuracy", "fiveBest", "exactMatch", "spearman", "kendallTau"})
"""Metrics of Evaluate on held-out ranked rows."""

PAIR_METRICS = frozenset({"pairYield", "scoreGap", "lengthRatio", "rewardMargin"})
"""Metrics that need preference pairs."""

ROUND_METRICS = PAIR_METRICS | {
    "tieRate", "truncatedRate", "scorePiling", "scoreLengthCorrelation", "meanLength", "promptDiversity",
    "promptSimilarity", "refusalRate", "repetitionRate", "winRate", "winRateLengthControlled",
}  # fmt: skip
"""Metrics of rounds with new prompts: M1, which people's rows alone made, has none of them."""


def has_held_out(seed_data: SeedDataSpec) -> bool:
    """Whether there may be held-out ranked rows (Prepare finds out whether there are)."""
    from_trees = seed_data.instructions.format == "OpenAssistant"
    return seed_data.ranked is not None or seed_data.held_out.source is not None or from_trees


def why_not_measured(
    metric: str,
    *,
    seed_data: SeedDataSpec,
    judge: JudgeSpec,
    preferences: PreferencesSpec,
    evaluation: EvaluationSpec,
) -> str | None:
    """Why no model of the run can have this metric, with what to change; None where it may be measured."""
    compared = evaluation.head_to_head
    if metric in HEAD_TO_HEAD_METRICS and compared is None:
        return "which only evaluation.headToHead measures: set evaluation.headToHead"
    if metric in {"winRate", "winRateLengthControlled"} and compared and "Previous" not in compared.against:
        return "which is against the previous model: add Previous to evaluation.headToHead.against"
    if metric == "winRateBaseline" and compared and "Baseline" not in compared.against:
        return "which is against the baseline: add Baseline to evaluation.headToHead.against"
    if metric == "winRateBaseline" and (seed_data.evaluations is not None or judge.model_uri is not None):
        return "and the run makes no baseline, since seedData.evaluations or judge.modelUri is given: use winRate"
    if metric in JUDGE_METRICS and not has_held_out(seed_data):
        return "which is measured on held-out ranked rows: give seedData.ranked or seedData.heldOut.source"
    if metric in PAIR_METRICS and preferences.rule == "PositiveOnly":
        return "which preferences.rule PositiveOnly never measures, since it makes no pairs: use another rule"
    return None
