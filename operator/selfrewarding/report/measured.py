"""Numbers with their intervals out of the results of Evaluate and Compare.

Must not: compute a metric (the stages do); fail where a result of an older release lacks a field: that number is left out.
Neighbours: `data.metrics` and `data.head_to_head` made the numbers, `collect` puts them into the story.
"""

import math
from collections.abc import Mapping
from typing import Any

from selfrewarding.contract.result import StageResult
from selfrewarding.report.story import Comparison, JudgeQuality, Measure, Subset

_JUDGE = {
    "pairwiseAccuracy": ("pairwise_accuracy", 100.0),
    "fiveBest": ("five_best", 100.0),
    "exactMatch": ("exact_match", 100.0),
    "spearman": ("spearman", 1.0),
    "kendallTau": ("kendall_tau", 1.0),
}
"""Metric → its name in `metrics.json`, and what divides the one (percent) into the other (a share)."""
_ROLES = {"previous": "the model before", "baseline": "Baseline"}


def judge_quality(result: StageResult, document: Mapping[str, Any]) -> JudgeQuality:
    """What an Evaluate says; `document` is its `metrics.json`, or {} where that could not be read."""
    intervals = _mapping(document.get("intervals")) or _mapping(result.report.get("intervals"))
    undefined = _mapping(document.get("undefined")) or _mapping(result.report.get("undefined"))
    metrics = {
        name: measure(result.metrics[name], intervals.get(source), scale)
        for name, (source, scale) in _JUDGE.items()
        if _is_number(result.metrics.get(name))
    }
    if _is_number(result.metrics.get("validRate")):
        metrics["validRate"] = measure(result.metrics["validRate"])
    return JudgeQuality(
        metrics=metrics,
        prompts=result.counts.get("prompts"),
        undefined={
            name: str(undefined[source]) for name, (source, _) in _JUDGE.items() if source in undefined
        },
        subsets=tuple(
            _subset(str(name), _mapping(found))
            for name, found in sorted(_mapping(document.get("by_category")).items())
        ),
    )


def measure(value: float, interval: Any = None, scale: float = 1.0) -> Measure:
    """A share with its interval, whose bounds are divided by `scale`."""
    if isinstance(interval, list | tuple) and len(interval) == 2 and all(map(_is_number, interval)):
        return Measure(value=value, low=interval[0] / scale, high=interval[1] / scale)
    return Measure(value=value)


def _subset(name: str, found: Mapping[str, Any]) -> Subset:
    intervals, counts = _mapping(found.get("intervals")), _mapping(found.get("counts"))
    return Subset(
        name=name,
        prompts=counts.get("prompts"),
        metrics={
            metric: measure(found[source] / scale, intervals.get(source), scale)
            for metric, (source, scale) in _JUDGE.items()
            if _is_number(found.get(source))
        },
    )


def comparisons(result: StageResult, document: Mapping[str, Any]) -> tuple[Comparison, ...]:
    """What a Compare says, opponent by opponent; `document` is its `metrics.json`, or {} where that could not be read."""
    found = []
    for role, raw in _mapping(document.get("opponents")).items():
        one = _mapping(raw)
        intervals = _mapping(one.get("intervals"))
        found.append(
            Comparison(
                opponent=role,
                against=str(one.get("model", role)),
                win_rate=_percent(one.get("win_rate"), intervals.get("win_rate")),
                position_bias=_percent(one.get("position_bias"), intervals.get("position_bias")),
                length_controlled=_percent(
                    one.get("length_controlled_win_rate"), intervals.get("length_controlled_win_rate")
                ),
                wins=one.get("wins"),
                ties=one.get("ties"),
                losses=one.get("losses"),
                unjudged=one.get("unjudged"),
                prompts=one.get("n"),
            )
        )
    if found:
        return tuple(found)
    # Without its file the result itself still has the numbers, without intervals.
    summary = {"previous": "winRate", "baseline": "winRateBaseline"}
    return tuple(
        Comparison(
            opponent=role,
            against=_ROLES[role],
            win_rate=Measure(value=result.metrics[metric]),
        )
        for role, metric in summary.items()
        if metric in result.metrics
    )


def _percent(value: Any, interval: Any) -> Measure | None:
    return measure(value / 100, interval, 100.0) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
