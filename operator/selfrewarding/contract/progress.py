"""Progress lines, as the reader sees them: the last one in a log's tail."""

import json

from selfrewarding.api.base import ApiModel
from selfrewarding.contract.program import PROGRESS_PREFIX


class ProgressLine(ApiModel):
    """One progress line of a stage program."""

    done: int
    total: int
    rate: float | None = None
    """Per second."""
    eta_seconds: float | None = None
    unit: str = "rows"
    tokens: int = 0
    """Tokens generated or trained so far."""


def last_progress(tail: str) -> ProgressLine | None:
    """The last whole progress line in the tail of a log, or None."""
    for line in reversed(tail.splitlines()):
        start = line.find(PROGRESS_PREFIX)
        if start < 0:
            continue
        try:
            return ProgressLine.model_validate(json.loads(line[start + len(PROGRESS_PREFIX) :]))
        except ValueError:
            continue
    return None


def summed(lines: list[ProgressLine]) -> ProgressLine | None:
    """The progress of several pods as one."""
    if not lines:
        return None
    done, total = sum(line.done for line in lines), sum(line.total for line in lines)
    rate = sum(line.rate or 0.0 for line in lines) or None
    return ProgressLine(
        done=done,
        total=total,
        rate=rate,
        eta_seconds=(total - done) / rate if rate else None,
        unit=lines[0].unit,
        tokens=sum(line.tokens for line in lines),
    )
