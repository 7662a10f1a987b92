"""Comparisons in both orders: preferences, win rates with intervals, length control, position bias."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from selfrewarding.data.comparison_prompt import Verdict
from selfrewarding.data.head_to_head import CONVENTIONS, Comparison, head_to_head, position_bias
from selfrewarding.data.length_control import ALL_EQUAL_LENGTHS, SEPARATED, TOO_FEW
from selfrewarding.data.win_rate import win_rate

VERDICTS: list[Verdict | None] = ["A", "B", "Tie", None]
PREFERENCES = {
    ("A", "B"): 2.0,  # the model, whichever place it has
    ("B", "A"): 1.0,
    ("A", "A"): 1.5,  # the first place both times
    ("B", "B"): 1.5,
    ("Tie", "Tie"): 1.5,
    ("A", "Tie"): 1.5,  # any disagreement is a tie
    ("Tie", "B"): 1.5,
    ("B", "Tie"): 1.5,
    ("Tie", "A"): 1.5,
}


def compared(
    first: Verdict | None, second: Verdict | None, *, length: int = 100, other: int = 100, **more: Any
) -> Comparison:
    return Comparison("key", first, second, length, other, **more)


def won(length: int = 100, other: int = 100) -> Comparison:
    return compared("A", "B", length=length, other=other)


def lost(length: int = 100, other: int = 100) -> Comparison:
    return compared("B", "A", length=length, other=other)


@pytest.mark.parametrize("first", VERDICTS)
@pytest.mark.parametrize("second", VERDICTS)
def test_every_two_verdicts_have_one_preference(first: Verdict | None, second: Verdict | None) -> None:
    assert compared(first, second).preference == PREFERENCES.get((first or "", second or ""))


@pytest.mark.parametrize("first", VERDICTS)
@pytest.mark.parametrize("second", VERDICTS)
def test_exchanging_the_models_turns_the_preference_around(
    first: Verdict | None, second: Verdict | None
) -> None:
    exchanged: dict[Verdict | None, Verdict | None] = {"A": "B", "B": "A", "Tie": "Tie", None: None}
    one, other = compared(first, second), compared(exchanged[first], exchanged[second])
    assert (one.preference is None) == (other.preference is None)
    if one.preference is not None and other.preference is not None:
        assert one.preference + other.preference == 3


def test_the_rate_is_alpaca_evals() -> None:
    """Its `get_winrate`: 100 x mean(preference - 1), standard error 100 x std / sqrt(n), draws counted one half."""
    rows = [won(), won(), lost(), compared("A", "A"), compared("Tie", "Tie"), compared("A", None)]
    result = head_to_head(rows, resamples=0)
    assert (result["wins"], result["ties"], result["losses"], result["n"]) == (2, 2, 1, 5)
    assert result["unjudged"] == 1
    assert result["win_rate"] == pytest.approx(100 * (2 + 2 / 2) / 5)
    assert result["standard_error"] == pytest.approx(100 * np.std([1, 1, 0, 0.5, 0.5], ddof=1) / math.sqrt(5))
    assert result["paired_difference"] == pytest.approx(0.6 - 0.5)
    same = win_rate([row.preference for row in rows])
    assert {name: result[name] for name in ("win_rate", "standard_error", "n")} == {
        name: same[name] for name in ("win_rate", "standard_error", "n")
    }


def test_a_judge_that_always_says_the_first_place_has_a_bias_of_one_hundred_and_decides_nothing() -> None:
    result = head_to_head([compared("A", "A")] * 20, resamples=100)
    assert (result["position_bias"], result["first_place"]) == (100, 100)
    assert result["win_rate"] == 50
    assert result["intervals"]["position_bias"] == [100, 100]
    assert result["counts"]["first_in_both_orders"] == 20


def test_position_bias_counts_prompts_with_two_valid_verdicts_only() -> None:
    rows = [
        compared("A", "A"),
        compared("B", "B"),
        won(),
        compared("Tie", "A"),
        compared("A", None),
        compared(None, None),
        compared(None, None, identical=True),
    ]
    result = position_bias(rows)
    assert result["position_bias"] == 50
    assert result["counts"] == {
        "judged_twice": 4,
        "first_in_both_orders": 1,
        "second_in_both_orders": 1,
    }
    # Verdicts for the first place: AA 2, BB 0, won 1, Tie-A 1; for the second: 0, 2, 1, 0.
    assert result["first_place"] == pytest.approx(100 * 4 / 7)


def test_the_comparisons_of_one_prompt_are_drawn_together() -> None:
    """Three opponents of one prompt are no three prompts: the interval is as wide as over the prompts alone."""
    alone = [dataclasses.replace(compared("A", "A" if n % 2 else "B"), prompt=f"p{n}") for n in range(20)]
    once = position_bias(alone, resamples=400, seed=3)["intervals"]["position_bias"]
    thrice = position_bias(alone * 3, resamples=400, seed=3)["intervals"]["position_bias"]
    assert thrice == once
    assert once[0] < 50 < once[1]
    rows = [dataclasses.replace(one, prompt=None, key=f"k{n}") for n, one in enumerate(alone * 3)]
    narrow = position_bias(rows, resamples=400, seed=3)["intervals"]["position_bias"]
    assert narrow[1] - narrow[0] < 0.75 * (once[1] - once[0])
    assert position_bias(alone)["intervals"]["position_bias"] is None


def test_a_category_has_the_interval_that_its_rows_have_alone() -> None:
    rows = [
        dataclasses.replace(
            compared("A" if n % 3 else "B", "B"), key=f"k{n}", category="math" if n % 2 else "art"
        )
        for n in range(40)
    ]
    result = head_to_head(rows, resamples=300, seed=9)["by_category"]
    for name in ("math", "art"):
        alone = head_to_head([row for row in rows if row.category == name], resamples=300, seed=9)
        assert result[name]["win_rate"] == alone["win_rate"]
        assert result[name]["intervals"]["win_rate"] == pytest.approx(alone["intervals"]["win_rate"])
    unjudged = head_to_head([dataclasses.replace(rows[0], shown_first=None, category="x")])["by_category"][
        "x"
    ]
    assert unjudged["intervals"]["win_rate"] is None
    assert "win_rate" in unjudged["undefined"]


def test_identical_answers_are_a_tie_without_a_verdict() -> None:
    result = head_to_head([compared(None, None, identical=True)] * 3)
    assert (result["win_rate"], result["ties"], result["unjudged"]) == (50, 3, 0)
    assert result["position_bias"] is None
    assert "different answers" in result["undefined"]["position_bias"]


def test_nothing_judged_is_named_and_never_a_number() -> None:
    for rows in ([], [compared(None, "A")] * 4):
        result = head_to_head(rows)
        assert result["win_rate"] is None
        assert result["length_controlled_win_rate"] is None
        assert set(result["undefined"]) == {
            "win_rate", "paired_difference", "length_controlled_win_rate", "position_bias", "first_place",
        }  # fmt: skip
        assert set(result["intervals"].values()) == {None}
        json.dumps(result, allow_nan=False)


# Length control


_PATIENT = {"xatol": 1e-10, "fatol": 1e-12, "maxiter": 20_000, "maxfev": 40_000}


def reference_fit(differences: list[int], wins: list[float]) -> float:
    """The same likelihood, maximised by another method."""
    x = np.tanh(np.array(differences) / np.std(differences, ddof=1))
    y = np.array(wins)

    def loss(beta: Any) -> float:
        linear = beta[0] + beta[1] * x
        return float(np.sum(np.logaddexp(0, linear) - y * linear))

    found = minimize(loss, np.zeros(2), method="Nelder-Mead", options=_PATIENT)
    return float(100 / (1 + np.exp(-found.x[0])))


def test_a_judge_that_rewards_nothing_but_length_is_seen_through() -> None:
    """Longer wins nine times of ten; the model is longer on three prompts of four."""
    rows = [won(2000, 1000)] * 27 + [lost(2000, 1000)] * 3 + [won(1000, 2000)] + [lost(1000, 2000)] * 9
    result = head_to_head(rows, resamples=200)
    assert result["win_rate"] == 70
    assert result["length_controlled_win_rate"] == pytest.approx(50, abs=1e-6)
    low, high = result["intervals"]["length_controlled_win_rate"]
    assert low < 50 < high


def test_lengths_that_do_not_matter_change_nothing() -> None:
    rows = [make(length, 1000) for length in (500, 1500) for make in (won, won, won, lost) for _ in range(10)]
    result = head_to_head(rows, resamples=0)
    assert result["win_rate"] == 75
    assert result["length_controlled_win_rate"] == pytest.approx(75, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3000, 3000), st.sampled_from([0.0, 0.5, 1.0])), min_size=8, max_size=40)
)
def test_the_fit_is_that_of_maximum_likelihood_or_has_a_reason(rows: list[tuple[int, float]]) -> None:
    makes = {0.0: ("B", "A"), 0.5: ("Tie", "Tie"), 1.0: ("A", "B")}
    result = head_to_head(
        [compared(*makes[win], length=4000 + d, other=4000) for d, win in rows],  # type: ignore[arg-type]
        resamples=0,
    )
    found = result["length_controlled_win_rate"]
    if found is None:
        assert result["undefined"]["length_controlled_win_rate"] in {ALL_EQUAL_LENGTHS, SEPARATED}
        losing = [d for d, win in rows if win < 1]
        winning = [d for d, win in rows if win > 0]
        assert (
            not losing
            or not winning
            or len({d for d, _ in rows}) == 1
            or max(losing) <= min(winning)
            or max(winning) <= min(losing)
        )
    else:
        assert found == pytest.approx(reference_fit([d for d, _ in rows], [win for _, win in rows]), abs=0.01)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([won(2, 1), lost(1, 2)], TOO_FEW),
        ([won(200, 100), lost(300, 200), won(500, 400)], ALL_EQUAL_LENGTHS),
        ([won(200, 100), won(300, 100), won(100, 500)], SEPARATED),
        ([won(200, 100), won(300, 100), lost(100, 500), lost(100, 110)], SEPARATED),
        ([lost(200, 100), lost(300, 100), won(100, 500), won(100, 110)], SEPARATED),
    ],
)
def test_a_length_control_that_cannot_be_fitted_says_why(rows: list[Comparison], reason: str) -> None:
    result = head_to_head(rows, resamples=50)
    assert result["length_controlled_win_rate"] is None
    assert result["undefined"]["length_controlled_win_rate"] == reason
    assert result["intervals"]["length_controlled_win_rate"] is None
    assert result["win_rate"] is not None


# Bootstrap


def test_intervals_are_those_of_drawing_prompts() -> None:
    """100 prompts, 60 won: the percentile interval of a mean of coin flips, about 60 +- 1.96 x 4.9."""
    result = head_to_head(
        [won(100 + n, 110) for n in range(60)] + [lost(100 + n, 110) for n in range(40)], resamples=4000
    )
    low, high = result["intervals"]["win_rate"]
    assert low == pytest.approx(60 - 1.96 * 4.9, abs=1.1)
    assert high == pytest.approx(60 + 1.96 * 4.9, abs=1.1)
    assert result["intervals"]["paired_difference"] == pytest.approx([low / 100 - 0.5, high / 100 - 0.5])


def test_equal_seeds_give_equal_intervals_and_others_do_not() -> None:
    rows = [won(100 + n, 150) if n % 3 else lost(150, 100 + n) for n in range(50)]
    one, again, other = (head_to_head(rows, resamples=300, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one["intervals"] != other["intervals"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.builds(
            Comparison,
            st.just("k"),
            st.sampled_from(VERDICTS),
            st.sampled_from(VERDICTS),
            st.integers(0, 2000),
            st.integers(0, 2000),
            identical=st.booleans(),
            category=st.sampled_from([None, "writing", "math"]),
        ),
        max_size=30,
    )
)
def test_any_comparisons_add_up_and_are_json(rows: list[Comparison]) -> None:
    result = head_to_head(rows, resamples=60)
    json.dumps(result, allow_nan=False)
    assert result["n"] + result["unjudged"] == len(rows) == result["counts"]["prompts"]
    assert result["wins"] + result["ties"] + result["losses"] == result["n"]
    for name in ("win_rate", "paired_difference", "position_bias", "length_controlled_win_rate"):
        assert (result[name] is None) == (name in result["undefined"])
        bounds = result["intervals"][name]
        if bounds is not None:
            assert bounds[0] <= bounds[1]
    if result["n"]:
        assert result["win_rate"] == pytest.approx(100 * (result["wins"] + result["ties"] / 2) / result["n"])
        low, high = result["intervals"]["win_rate"]
        assert 0 <= low <= high <= 100
    named = [row for row in rows if row.category is not None]
    assert sum(one["n"] + one["unjudged"] for one in result["by_category"].values()) == len(named)


def test_every_number_has_its_convention() -> None:
    result = head_to_head([won(), lost()])
    assert set(result["intervals"]) <= set(CONVENTIONS)
