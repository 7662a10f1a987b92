"""Win rates of head-to-head comparisons, as AlpacaEval counts them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from selfrewarding.data.jsonl import Row
from selfrewarding.data.rows import Fields, JsonNumber, parse_row

WIN_RATE_CONVENTIONS = {
    "preference": "1: the reference wins, 2: the model wins, 1.5: a tie; values between are degrees of preference",
    "win_rate": "100 x the mean of (preference - 1), so a tie counts one half (AlpacaEval)",
    "standard_error": "100 x the sample standard deviation / sqrt(n); null for n < 2",
    "unjudged": "rows with preference null are counted and take no part",
}


def win_rate(preferences: Sequence[float | None]) -> dict[str, Any]:
    """Win rate of a model against a reference, in percent, from preferences between 1 and 2."""
    values = [preference - 1 for preference in preferences if preference is not None]
    count = len(values)
    average = math.fsum(values) / count if count else None
    error = None
    if average is not None and count > 1:
        variance = math.fsum((value - average) ** 2 for value in values) / (count - 1)
        error = 100 * math.sqrt(variance / count)
    return {
        "win_rate": None if average is None else 100 * average,
        "standard_error": error,
        "n": count,
        "wins": sum(value > 0.5 for value in values),
        "ties": sum(value == 0.5 for value in values),
        "losses": sum(value < 0.5 for value in values),
        "unjudged": len(preferences) - count,
        "undefined": {} if count else {"win_rate": "no row with a preference"},
        "conventions": WIN_RATE_CONVENTIONS,
    }


class _PreferenceFields(Fields):
    preference: JsonNumber | None


def read_preferences(rows: Iterable[Row]) -> Iterator[float | None]:
    """Rows `{"preference": 1..2 or null}`.

    Raises:
        DataError: the field is missing, no number, or outside 1 to 2.
    """
    for row in rows:
        preference = parse_row(row, _PreferenceFields).preference
        if preference is not None and not 1 <= preference <= 2:
            raise row.error(
                field="preference",
                found=str(preference),
                expected="a number from 1 (reference) to 2 (model), or null",
                remedy="Write 1.5 for a tie and null where there is no verdict.",
            )
        yield preference
