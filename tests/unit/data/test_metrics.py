"""The judge's agreement with people, against numbers worked out by hand and against scipy."""

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, somersd, spearmanr

from selfrewarding.data.jsonl import read_rows
from selfrewarding.data.metrics import ScoredPrompt, judge_metrics, read_scored_prompts

Pairs = list[tuple[int | str | None, int]]


def metrics(*prompts: Pairs, **options: Any) -> dict[str, Any]:
    options.setdefault("resamples", 50)
    return judge_metrics(
        [
            ScoredPrompt(str(n), tuple((None if s is None else Fraction(s), rank) for s, rank in prompt))
            for n, prompt in enumerate(prompts)
        ],
        **options,
    )


NAMES = (
    "pairwise_accuracy",
    "pairwise_accuracy_without_ties",
    "five_best",
    "exact_match",
    "spearman",
    "kendall_tau",
)


def values(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in NAMES}


def test_a_perfect_judge() -> None:
    assert values(metrics([(5, 0), (3, 1), (1, 2)])) == pytest.approx(
        {
            "pairwise_accuracy": 100,
            "pairwise_accuracy_without_ties": 100,
            "five_best": 100,
            "exact_match": 100,
            "spearman": 1,
            "kendall_tau": 1,
        }
    )


def test_a_judge_that_is_always_wrong() -> None:
    result = values(metrics([(1, 0), (3, 1), (5, 2)]))
    assert result == pytest.approx(
        {
            "pairwise_accuracy": 0,
            "pairwise_accuracy_without_ties": 0,
            "five_best": 0,
            "exact_match": 0,
            "spearman": -1,
            "kendall_tau": -1,
        }
    )


def test_a_judge_that_always_says_the_same_gains_nothing() -> None:
    result = metrics([(4, 0), (4, 1), (4, 2)])
    assert result["pairwise_accuracy"] == 50
    assert result["exact_match"] == 0
    assert (
        {name for name in NAMES if result[name] is None}
        == set(result["undefined"])
        == {
            "pairwise_accuracy_without_ties",
            "five_best",
            "spearman",
            "kendall_tau",
        }
    )
    assert result["undefined"]["five_best"] == "no answer has the highest score"


def test_numbers_worked_out_by_hand() -> None:
    result = metrics([(5, 0), (3, 1), (3, 2), (5, 3)], [(2, 0), (1, 1)])
    # First prompt: pairs 0-1 +, 0-2 +, 0-3 tie, 1-2 tie, 1-3 -, 2-3 -; second prompt: one +.
    assert result["pairwise_accuracy"] == pytest.approx(100 * (3 + 1) / 7)
    assert result["pairwise_accuracy_without_ties"] == pytest.approx(100 * 3 / 5)
    assert result["five_best"] == 50
    assert result["exact_match"] == 50
    assert result["kendall_tau"] == pytest.approx(
        (kendalltau([5, 3, 3, 5], [0, -1, -2, -3]).statistic + 1) / 2
    )
    assert result["spearman"] == pytest.approx((spearmanr([5, 3, 3, 5], [0, -1, -2, -3]).statistic + 1) / 2)
    counts = result["counts"]
    assert (counts["pairs_concordant"], counts["pairs_discordant"], counts["pairs_tied"]) == (3, 2, 2)


def test_answers_that_people_ranked_equal_are_not_compared() -> None:
    result = metrics([(5, 0), (1, 0), (0, 1)])
    assert result["counts"]["pairs_concordant"] == 2
    assert result["exact_match"] == 100


def test_two_best_answers_may_both_have_the_highest_score() -> None:
    assert metrics([(5, 0), (5, 0), (5, 1)])["five_best"] == pytest.approx(200 / 3)


def test_the_highest_score_is_the_scales_own() -> None:
    assert metrics([(9, 0), (5, 1)], maximum=Fraction(9))["five_best"] == 100
    assert metrics([("14/3", 0), (4, 1)])["five_best"] is None


def test_an_unjudged_answer_is_left_out_but_breaks_an_exact_match() -> None:
    result = metrics([(5, 0), (None, 1), (1, 2)])
    assert (result["pairwise_accuracy"], result["exact_match"]) == (100, 0)
    assert result["counts"]["responses_unjudged"] == 1


def test_rule_05_means_that_are_equal_as_fractions_are_ties() -> None:
    assert metrics([("5/3", 0), ("10/6", 1)])["counts"]["pairs_tied"] == 1
    third = Fraction(1, 3)
    assert metrics([(str(third + Fraction(1, 10**30)), 0), (str(third), 1)])["pairwise_accuracy"] == 100


NOTHING: dict[str, list[Pairs]] = {
    "no prompt": [],
    "no answer": [[]],
    "one answer": [[(5, 0)]],
    "nothing judged": [[(None, 0), (None, 1)]],
    "people ranked all equal": [[(5, 0), (1, 0)]],
}


@pytest.mark.parametrize("prompts", NOTHING.values(), ids=NOTHING)
def test_what_is_undefined_is_null_with_a_reason(prompts: list[Pairs]) -> None:
    result = metrics(*prompts)
    assert all(value is None for value in values(result).values())
    assert set(result["undefined"]) == set(NAMES)
    assert result["intervals"] == dict.fromkeys(NAMES)


def test_intervals_hold_the_value_and_follow_from_the_seed() -> None:
    prompts: list[Pairs] = [[(n % 6, 0), (3, 1), (n % 3, 2)] for n in range(40)]
    first, again, other = (metrics(*prompts, seed=seed, resamples=200) for seed in (1, 1, 2))
    assert first == again
    assert first["intervals"] != other["intervals"]
    for name in NAMES:
        low, high = first["intervals"][name]
        assert low <= first[name] <= high
    assert first["intervals"]["pairwise_accuracy"][0] < first["intervals"]["pairwise_accuracy"][1]


def test_intervals_do_not_depend_on_how_resamples_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[Pairs] = [[(n % 6, 0), (3, 1)] for n in range(31)]
    whole = metrics(*prompts, resamples=100)
    monkeypatch.setattr("selfrewarding.data.metrics._GATHERED", 100)
    assert metrics(*prompts, resamples=100) == whole


def test_no_resamples_give_no_intervals() -> None:
    assert metrics([(5, 0), (3, 1)], resamples=0)["intervals"] == dict.fromkeys(NAMES)


def test_the_result_says_how_ties_are_treated() -> None:
    conventions = metrics()["conventions"]
    assert "one half" in conventions["pairwise_accuracy"]
    assert set(NAMES) <= set(conventions)


PROMPT = st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 5)), st.integers(0, 3)), max_size=5)


@settings(max_examples=60)
@given(st.lists(PROMPT, max_size=5))
def test_any_scores_give_json_without_nan(prompts: list[Pairs]) -> None:
    result = metrics(*prompts, resamples=10)
    json.dumps(result, allow_nan=False)
    for name in NAMES:
        assert (result[name] is None) == (name in result["undefined"]) == (result["intervals"][name] is None)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=6))
def test_correlations_are_scipys(pairs: list[tuple[int, int]]) -> None:
    scores, ranks = [score for score, _ in pairs], [rank for _, rank in pairs]
    result = metrics([(score, rank) for score, rank in pairs])
    if len(set(scores)) < 2 or len(set(ranks)) < 2:
        assert result["kendall_tau"] is None
        return
    assert result["kendall_tau"] == pytest.approx(-kendalltau(scores, ranks).statistic)
    assert result["spearman"] == pytest.approx(-spearmanr(scores, ranks).statistic)
    assert math.isfinite(result["spearman"])


def by_scipy(prompts: list[Pairs]) -> dict[str, float | None]:
    """The same numbers from scipy's own, prompt by prompt. Somers' D of the scores on the human order is (concordant -
    discordant) / pairs of different ranks, and so twice the accuracy, with ties as one half, less one."""
    right = comparable = 0.0
    tau: list[float] = []
    rho: list[float] = []
    for prompt in prompts:
        judged = [(int(score), rank) for score, rank in prompt if score is not None]
        scores, order = [score for score, _ in judged], [-rank for _, rank in judged]
        if len(set(order)) < 2:
            continue
        pairs = sum(one != other for n, one in enumerate(order) for other in order[:n])
        difference = somersd(order, scores).statistic * pairs if len(set(scores)) > 1 else 0.0
        right, comparable = right + (pairs + difference) / 2, comparable + pairs
        if len(set(scores)) > 1:
            tau.append(float(kendalltau(scores, order).statistic))
            rho.append(float(spearmanr(scores, order).statistic))
    return {
        "pairwise_accuracy": 100 * right / comparable if comparable else None,
        "kendall_tau": sum(tau) / len(tau) if tau else None,
        "spearman": sum(rho) / len(rho) if rho else None,
    }


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # p-values of a few answers: not used
def test_1000_random_cases_with_ties_and_invalid_rows_are_equal_to_scipy() -> None:
    generator = np.random.default_rng(20240118)
    undefined = 0
    for case in range(1000):
        prompts: list[Pairs] = [
            [
                (
                    None if generator.random() < 0.15 else int(generator.integers(0, 6)),
                    int(generator.integers(0, 4)),
                )
                for _ in range(generator.integers(1, 7))
            ]
            for _ in range(generator.integers(1, 5))
        ]
        found, expected = metrics(*prompts, resamples=0), by_scipy(prompts)
        for name, value in expected.items():
            if value is None:
                assert found[name] is None, (case, name)
                undefined += 1
            else:
                assert found[name] == pytest.approx(value, abs=1e-9), (case, name)
    assert 20 < undefined < 1500, "both kinds of case are among them"


# ---------------------------------------------------------------------- by subset


def test_every_metric_is_told_for_each_category_with_its_interval() -> None:
    rows: list[tuple[str | None, Pairs]] = [
        ("Natural", [(5, 0), (1, 1)]),
        ("Natural", [(4, 0), (2, 1)]),
        ("Neighbor", [(1, 0), (5, 1)]),
        ("Neighbor", [(3, 0), (3, 1)]),
        (None, [(5, 0), (4, 1)]),
    ]
    prompts = [
        ScoredPrompt(n, tuple((Fraction(s), rank) for s, rank in pairs if s is not None), category)
        for n, (category, pairs) in enumerate(rows)
    ]
    whole = judge_metrics(prompts, resamples=200, seed=3)
    assert whole["counts"]["prompts"] == 5
    assert {name: one["pairwise_accuracy"] for name, one in whole["by_category"].items()} == {
        "Natural": 100,
        "Neighbor": 25,
    }
    alone = judge_metrics(prompts[2:4], resamples=200, seed=3)
    for name in NAMES:
        assert whole["by_category"]["Neighbor"][name] == alone[name]
        assert whole["by_category"]["Neighbor"]["intervals"][name] == alone["intervals"][name]
    assert "spearman" not in whole["by_category"]["Neighbor"]["undefined"]
    assert "five_best" in whole["by_category"]["Neighbor"]["intervals"]
    assert "by_category" not in judge_metrics([prompts[4]], resamples=0), (
        "rows without categories have no subsets"
    )


@pytest.mark.parametrize("field", ["category", "subset"])
def test_rows_carry_their_category(field: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    row = {
        "id": 1,
        "responses": [{"score": 5, "human_rank": 0}, {"score": 1, "human_rank": 1}],
        field: "GPTInst",
    }
    file.write_text(json.dumps(row) + "\n")
    (prompt,) = read_scored_prompts(read_rows(file))
    assert prompt.category == "GPTInst"
