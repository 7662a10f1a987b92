"""The 95 % intervals that a result's report holds, by the names of its metrics (`api.run.Metrics`).

Purpose: one place that knows under which name, and in which unit, Evaluate and Compare write an interval.
Must not: compute one; fail where a result of an older release lacks it.
Neighbours: the report's page, model cards and trackers show these beside the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from selfrewarding.contract.result import StageResult

JUDGE = {
    "pairwiseAccuracy": ("pairwise_accuracy", 100.0),
    "fiveBest": ("five_best", 100.0),
    "exactMatch": ("exact_match", 100.0),
    "spearman": ("spearman", 1.0),
    "kendallTau": ("kendall_tau", 1.0),
    "validRate": ("valid_rate", 100.0),
}
"""Metric of Evaluate → its name in `metrics.json`, and what divides the one (percent) into the other (a share)."""
POOLED = "all"
"""Under this name Compare writes what is over all of its comparisons; the others are opponents."""
_COMPARED = {
    "winRate": ("previous", "win_rate"),
    "winRateLengthControlled": ("previous", "length_controlled_win_rate"),
    "winRateInitial": ("initial", "win_rate"),
    "winRateBaseline": ("baseline", "win_rate"),
    "positionBias": (POOLED, "position_bias"),
}

Interval = tuple[float, float]


def intervals_of(result: StageResult) -> dict[str, Interval]:
    """Lowest and highest value of each metric that has an interval, in the metric's own unit (shares, not percent)."""
    return dict(_found(mapping(result.report.get("intervals"))))


def _found(written: Mapping[str, Any]) -> Iterator[tuple[str, Interval]]:
    for metric, (name, scale) in JUDGE.items():
        yield from _named(metric, written.get(name), scale)
    for metric, (opponent, name) in _COMPARED.items():
        yield from _named(metric, mapping(written.get(opponent)).get(name), 100.0)


def _named(metric: str, written: Any, scale: float) -> Iterator[tuple[str, Interval]]:
    if (found := bounds(written, scale)) is not None:
        yield metric, found


def bounds(written: Any, scale: float) -> Interval | None:
    """Two numbers as they stand in a file, divided by `scale`; None for anything else."""
    match written:
        case [low, high] if is_number(low) and is_number(high):
            return low / scale, high / scale
        case _:
            return None


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value of a JSON file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def mapping(value: Any) -> Mapping[str, Any]:
    """A value of a JSON file as an object; empty for anything else."""
    return value if isinstance(value, Mapping) else {}
