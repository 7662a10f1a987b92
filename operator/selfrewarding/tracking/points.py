"""A run's numbers as points: name, iteration, value.

Pure. Neighbours: `sending` hands them to trackers; `contract.result` holds the numbers.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from selfrewarding.contract.config import Story
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import SLUGS, StageKind
from selfrewarding.data.intervals import intervals_of

_UNTRACKED = frozenset({StageKind.PREPARE, StageKind.RESOLVE, StageKind.REPORT})


@dataclass(frozen=True, slots=True)
class Point:
    """One number.

    Attributes:
        name: `<stage>/<metric>`, as `evaluate/pairwiseAccuracy` or `rollout/seconds`; stages by their short names. A metric
            with a 95 % interval has `…Low` and `…High` beside it.
        iteration: its step; 0 is the baseline.
        value: finite. Shares are between 0 and 1, times in seconds.
        time: when the stage was done, seconds since 1970: the same however often it is sent.
    """

    name: str
    iteration: int
    value: float
    time: float

    def as_json(self) -> list[Any]:
        """The point for another process."""
        return [self.name, self.iteration, self.value, self.time]


def points(results: Mapping[str, StageResult], story: Story) -> list[Point]:
    """The points of all finished stages by role (`<kind>-<iteration>`, `Evaluate-0`: the baseline's), sorted."""
    found = {(point.name, point.iteration): point for point in _all(results, story)}
    return [found[place] for place in sorted(found, key=lambda place: (place[1], place[0]))]


def _all(results: Mapping[str, StageResult], story: Story) -> Iterator[Point]:
    times: dict[int, float] = {}
    for role, result in results.items():
        if result.kind in _UNTRACKED:
            continue
        iteration = _iteration(role, result)
        time = _time(result)
        times[iteration] = max(times.get(iteration, 0.0), time)
        slug = SLUGS[result.kind]
        if result.kind is StageKind.ANSWER:
            slug += f"-{role.rpartition('.')[2]}"  # one for each candidate
        numbers = {**result.counts, **result.metrics, "seconds": result.seconds}
        for name, (low, high) in intervals_of(result).items():
            numbers |= {f"{name}Low": low, f"{name}High": high}
        if role in story.gpus:
            numbers["gpuSeconds"] = story.gpus[role] * result.seconds
        if role in story.handover_seconds:
            numbers["handoverSeconds"] = story.handover_seconds[role]
        for name, value in numbers.items():
            if math.isfinite(value):
                yield Point(f"{slug}/{name}", iteration, float(value), time)
    for alarm in story.alarms:
        if math.isfinite(alarm.value):
            yield Point(f"alarm/{alarm.name}", alarm.iteration, alarm.value, times.get(alarm.iteration, 0.0))


def _iteration(role: str, result: StageResult) -> int:
    """The baseline is trained and measured within the first iteration, before its model: it is step 0 here."""
    if result.kind is StageKind.TRAIN_BASELINE:
        return 0
    number = role.rpartition("-")[2]
    return int(number) if number.isdigit() else result.iteration


def _time(result: StageResult) -> float:
    return datetime.fromisoformat(result.finished).timestamp() if result.finished else 0.0


def by_iteration(found: Iterable[Point]) -> dict[int, dict[str, float]]:
    """Values by name, of each iteration."""
    grouped: dict[int, dict[str, float]] = {}
    for point in found:
        grouped.setdefault(point.iteration, {})[point.name] = point.value
    return dict(sorted(grouped.items()))
