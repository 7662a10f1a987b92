"""A time axis that long pauses do not stretch. Pure.

A run may be suspended for a week, or take over a result that another run made last month: such a pause is drawn short and
marked, so that the stages stay visible.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from selfrewarding.report.wording import duration

_LONGEST_PAUSE = 0.15
"""A pause is drawn as at most this part of all the time in which stages ran."""
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
"""Seconds between two ticks; beyond the last, whole days."""
_TICKS = 7


@dataclass(frozen=True)
class Axis:
    """Places on the axis are seconds of drawn time from the first stage on."""

    starts: tuple[float, ...]
    """Where each stretch without a long pause begins, in seconds since the first stage began."""
    places: tuple[float, ...]
    """Where it begins on the axis."""
    origin: datetime
    width: float

    @classmethod
    def of(cls, spans: Sequence[tuple[datetime, datetime]]) -> "Axis":
        """The axis for these times; at least one."""
        ordered = sorted(spans)
        origin = ordered[0][0]
        stretches: list[list[float]] = []
        for started, finished in ordered:
            start, end = (started - origin).total_seconds(), (finished - origin).total_seconds()
            if stretches and start <= stretches[-1][1]:
                stretches[-1][1] = max(stretches[-1][1], end)
            else:
                stretches.append([start, end])
        busy = sum(end - start for start, end in stretches)
        longest = max(busy * _LONGEST_PAUSE, 1.0)
        starts, places = [0.0], [0.0]
        at, before = 0.0, stretches[0][1]
        for start, end in stretches[1:]:
            pause = start - before
            if pause > longest:
                at = places[-1] + before - starts[-1] + longest
                starts.append(start)
                places.append(at)
            before = end
        return cls(tuple(starts), tuple(places), origin, max(places[-1] + before - starts[-1], 1.0))

    @property
    def cuts(self) -> tuple[float, ...]:
        """Places where a long pause ends."""
        return self.places[1:]

    def at(self, moment: datetime) -> float:
        """The place of a moment; one within a long pause stands at the pause's end."""
        seconds = (moment - self.origin).total_seconds()
        index = max(0, bisect.bisect_right(self.starts, seconds) - 1)
        place = self.places[index] + seconds - self.starts[index]
        return min(place, self.places[index + 1]) if index + 1 < len(self.places) else place

    def ticks(self) -> list[tuple[float, str]]:
        """Places and words of the ticks: elapsed time, pauses included."""
        step = next((one for one in _STEPS if self.width / one <= _TICKS), None)
        if step is None:
            step = 86400 * (1 + int(self.width / 86400 / _TICKS))
        found: list[tuple[float, str]] = []
        for index, (start, place) in enumerate(zip(self.starts, self.places, strict=True)):
            end = self.places[index + 1] if index + 1 < len(self.places) else self.width
            if index:
                found = [one for one in found if one[0] < place - self.width / 12]
                found.append((place, duration(start)))
                first = start - start % step + step
            else:
                first = 0.0
            number = 0
            while (at := place + first + number * step - start) <= end:
                number += 1
                if not found or at - found[-1][0] >= self.width / 12:
                    elapsed = first + (number - 1) * step
                    found.append((at, duration(elapsed) if elapsed else "0"))
        return found
