"""Win rates as AlpacaEval counts them."""

import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrewarding.data.win_rate import win_rate

CASES: dict[str, tuple[list[float | None], float | None, float | None]] = {
    "all won": ([2, 2, 2], 100, 0),
    "all lost": ([1, 1], 0, 0),
    "one of each": ([1, 2], 50, 50),
    "a tie counts one half": ([1.5, 2], 75, 25),
    "degrees of preference": ([1.25, 1.75, 1.5], 50, 100 * 0.25 / 3**0.5),
    "one row has no error": ([2], 100, None),
    "unjudged rows take no part": ([2, None, 1], 50, 50),
    "no verdict": ([None], None, None),
    "no row": ([], None, None),
}


@pytest.mark.parametrize(("preferences", "rate", "error"), CASES.values(), ids=CASES)
def test_win_rate_and_standard_error(
    preferences: list[float | None], rate: float | None, error: float | None
) -> None:
    result = win_rate(preferences)
    assert result["win_rate"] == (None if rate is None else pytest.approx(rate))
    assert result["standard_error"] == (None if error is None else pytest.approx(error))
    assert result["n"] + result["unjudged"] == len(preferences)
    assert result["wins"] + result["ties"] + result["losses"] == result["n"]
    assert ("win_rate" in result["undefined"]) == (rate is None)


@given(st.lists(st.floats(1, 2), min_size=2, max_size=40))
def test_any_preferences_give_the_mean_and_its_standard_error(preferences: list[float]) -> None:
    result = win_rate(preferences)
    json.dumps(result, allow_nan=False)
    assert result["win_rate"] == pytest.approx(100 * (statistics.fmean(preferences) - 1), abs=1e-9)
    expected = 100 * statistics.stdev(preferences) / len(preferences) ** 0.5
    assert result["standard_error"] == pytest.approx(expected, abs=1e-5)
