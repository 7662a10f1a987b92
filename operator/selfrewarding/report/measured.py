"""Numbers with their intervals out of the results of Evaluate and Compare.

Must not: compute a metric (the stages do); fail where a result of an older release lacks a field: that number is left out.
Neighbours: `data.metrics` and `data.head_to_head` made the numbers, `data.intervals` knows their names, `collect` puts them
into the story.
"""

from collections.abc import Mapping
from typing import Any

from selfrewarding.contract.result import StageResult
from selfrewarding.data.intervals import JUDGE, Interval, bounds, intervals_of, is_number, mapping
from selfrewarding.report.story import Comparison, JudgeQuality, Measure, Subset

_RATES = {"winRate": "win_rate", "winRateLengthControlled": "length_controlled_win_rate"}
_ROLES = {"previous": "the model before", "initial": "M1", "baseline": "Baseline"}


def judge_quality(result: StageResult, document: Mapping[str, Any]) -> JudgeQuality:
    """What an Evaluate says; `document` is its `metrics.json`, or {} where that could not be read."""
    intervals = intervals_of(result)
    undefined = mapping(document.get("undefined")) or mapping(result.report.get("undefined"))
    return JudgeQuality(
        metrics={
            name: measure(result.metrics[name], intervals.get(name))
            for name in JUDGE
            if is_number(result.metrics.get(name))
        },
        prompts=result.counts.get("prompts"),
        undefined={
            name: str(undefined[source]) for name, (source, _) in JUDGE.items() if source in undefined
        },
        subsets=tuple(
            _subset(str(name), mapping(found))
            for name, found in sorted(mapping(document.get("by_category")).items())
        ),
    )


def measure(value: float, interval: Interval | None = None) -> Measure:
    """A number with its interval."""
    return (
        Measure(value=value) if interval is None else Measure(value=value, low=interval[0], high=interval[1])
    )


def _subset(name: str, found: Mapping[str, Any]) -> Subset:
    intervals, counts = mapping(found.get("intervals")), mapping(found.get("counts"))
    return Subset(
        name=name,
        prompts=counts.get("prompts"),
        metrics={
            metric: measure(found[source] / scale, bounds(intervals.get(source), scale))
            for metric, (source, scale) in JUDGE.items()
            if is_number(found.get(source))
        },
    )


def comparisons(result: StageResult, document: Mapping[str, Any]) -> tuple[Comparison, ...]:
    """What a Compare says, opponent by opponent; `document` is its `metrics.json`, or {} where that could not be read."""
    found = [_comparison(str(role), mapping(raw)) for role, raw in mapping(document.get("opponents")).items()]
    if found:
        return tuple(found)
    # Without its file the result itself still has the numbers.
    summary = {"previous": "winRate", "initial": "winRateInitial", "baseline": "winRateBaseline"}
    if result.parents.get("initial") == result.parents.get("previous"):
        del summary["initial"]  # M1 is the previous model: one comparison, as in the file
    intervals = intervals_of(result)
    return tuple(
        Comparison(
            opponent=role,
            against=_ROLES[role],
            win_rate=measure(result.metrics[metric], intervals.get(metric)),
        )
        for role, metric in summary.items()
        if metric in result.metrics
    )


def position_bias(result: StageResult) -> Measure | None:
    """How the judge of a Compare leans to a place, over all of its comparisons."""
    value = result.metrics.get("positionBias")
    return None if value is None else measure(value, intervals_of(result).get("positionBias"))


def _comparison(role: str, one: Mapping[str, Any]) -> Comparison:
    return Comparison(
        opponent=role,
        against=str(one.get("model", role)),
        win_rate=_percent(one, "win_rate"),
        position_bias=_percent(one, "position_bias"),
        length_controlled=_percent(one, "length_controlled_win_rate"),
        wins=one.get("wins"),
        ties=one.get("ties"),
        losses=one.get("losses"),
        unjudged=one.get("unjudged"),
        prompts=one.get("n"),
        undefined={
            name: str(mapping(one.get("undefined"))[source])
            for name, source in _RATES.items()
            if source in mapping(one.get("undefined"))
        },
        subsets=tuple(
            Subset(
                name=str(name),
                prompts=mapping(found).get("n"),
                metrics={"winRate": rate} if (rate := _percent(mapping(found), "win_rate")) else {},
            )
            for name, found in sorted(mapping(one.get("by_category")).items())
        ),
    )


def _percent(found: Mapping[str, Any], name: str) -> Measure | None:
    value = found.get(name)
    return (
        measure(value / 100, bounds(mapping(found.get("intervals")).get(name), 100.0))
        if is_number(value)
        else None
    )
