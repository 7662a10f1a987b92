"""What judged answers and the pairs chosen from them show, by hand."""

from fractions import Fraction
from typing import Any

import pytest

from selfrewarding.data.judged_measures import Measures, measure_answers, measure_pairs, score_piling
from selfrewarding.data.judged_prompts import JudgedPrompt, JudgedResponse
from selfrewarding.data.pairs import PairRule, PairSettings, build_pairs
from selfrewarding.data.rows import Message

Answers = list[tuple[str, list[Any]]]


def prompt(key: str, answers: Answers) -> JudgedPrompt:
    """A prompt with answers and the scores of their judgements."""
    return JudgedPrompt(
        key,
        (Message("user", f"Question {key}?"),),
        tuple(
            JudgedResponse(text, "stop", tuple(None if s is None else Fraction(s) for s in scores))
            for text, scores in answers
        ),
    )


def answers_of(*prompts: JudgedPrompt, scoring: Any = "Sampled", min_valid: int = 1) -> Measures:
    return measure_answers(prompts, min_valid=min_valid, scoring=scoring)


def pairs_of(*prompts: JudgedPrompt, rule: PairRule = "BestWorst") -> Measures:
    outcomes = [build_pairs(one, PairSettings(rule=rule)) for one in prompts]
    found = Measures()
    measure_pairs(prompts, outcomes, pairs=rule != "PositiveOnly", into=found)
    return found


def test_a_judge_that_always_says_five_piles_up() -> None:
    found = answers_of(*(prompt(f"p{n}", [("one", [5, 5]), ("other", [5, 5])]) for n in range(8)))
    assert found.metrics["scorePiling"] == 1
    assert "scoreLengthCorrelation" not in found.metrics, "a constant has no correlation"
    assert len(found.evidence["scorePiling"]) == 5


def test_piling_counts_exact_means() -> None:
    """(1 + 2 + 2) / 3 and 5 / 3 are one score; answers without enough valid judgements have none."""
    found = answers_of(
        prompt("a", [("x", [1, 2, 2]), ("y", [Fraction(5, 3)])]), prompt("b", [("z", [3]), ("w", [None])])
    )
    assert found.metrics["scorePiling"] == pytest.approx(2 / 3)
    assert found.evidence["scorePiling"] == [{"key": "a", "value": 1.0}]


def test_expected_scores_pile_up_at_the_nearest_half() -> None:
    scores = ["4.02", "3.97", "4.11", "2.6"]
    found = answers_of(
        *(prompt(f"p{n}", [("x", [score])]) for n, score in enumerate(scores)), scoring="Expected"
    )
    assert found.metrics["scorePiling"] == pytest.approx(3 / 4)


def test_min_valid_decides_what_is_scored() -> None:
    one = prompt("a", [("x", [5, None]), ("y", [1, 1])])
    assert answers_of(one, min_valid=2).metrics["scorePiling"] == 1
    assert answers_of(one, min_valid=1).metrics["scorePiling"] == pytest.approx(1 / 2)


def test_a_judge_that_rewards_length_is_seen_with_the_rows_that_show_it() -> None:
    rows = [prompt(f"p{n}", [("x" * 10, [1]), ("x" * (20 + n), [4])]) for n in range(6)]
    found = answers_of(*rows)
    assert found.metrics["scoreLengthCorrelation"] > 0.9
    assert found.evidence["scoreLengthCorrelation"][0]["key"] == "p5", "the longest contributes most"
    contributions = sum(row["value"] for row in found.evidence["scoreLengthCorrelation"])
    assert contributions / 5 > 0.8


def test_a_negative_correlation_shows_rows_that_are_negative() -> None:
    rows = [prompt(f"p{n}", [("x" * 10, [4]), ("x" * (20 + n), [1])]) for n in range(6)]
    found = answers_of(*rows)
    assert found.metrics["scoreLengthCorrelation"] < -0.9
    assert found.evidence["scoreLengthCorrelation"][0]["key"] == "p5"


def test_lengths_refusals_and_repetition_are_shares_of_all_answers() -> None:
    found = answers_of(
        prompt("a", [("I'm sorry, but I can't help with that.", [1]), ("Yes.", [None])]),
        prompt("b", [("I like cats a lot. " * 20, [5])]),
    )
    assert found.metrics["meanLength"] == pytest.approx((38 + 4 + 19 * 20) / 3)
    assert found.metrics["refusalRate"] == pytest.approx(1 / 3)
    assert found.evidence["refusalRate"] == [{"key": "a", "value": 0.5}]
    assert found.metrics["repetitionRate"] == pytest.approx(1 / 3)
    assert [row["key"] for row in found.evidence["repetitionRate"]] == ["b"]
    assert found.evidence["repetitionRate"][0]["value"] > 0.9
    assert [row["key"] for row in found.evidence["meanLength"]] == ["b", "a"]


def test_pairs_by_gap_and_length() -> None:
    rows = (
        prompt("wide", [("long answer", [5]), ("no", [1])]),
        prompt("near", [("four", [3]), ("three", ["2.5"])]),
        prompt("tie", [("one", [2]), ("two", [2])]),
    )
    found = pairs_of(*rows)
    assert found.metrics == pytest.approx(
        {"tieRate": 1 / 3, "pairYield": 2 / 3, "scoreGap": (4 + 0.5) / 2, "lengthRatio": (11 + 4) / (2 + 5)}
    )
    keys = {str(one.id): build_pairs(one, PairSettings()).preferences[0].as_row()["key"] for one in rows[:2]}
    assert found.evidence["scoreGap"] == [
        {"key": keys["near"], "value": 0.5},
        {"key": keys["wide"], "value": 4.0},
    ]
    assert found.evidence["lengthRatio"][0] == {"key": keys["wide"], "value": 5.5}
    assert found.evidence["tieRate"] == [{"key": "tie", "value": 2.0}]
    assert found.evidence["pairYield"] == [{"key": "tie", "value": 0.0}]


def test_positive_examples_have_no_pair_measures() -> None:
    found = pairs_of(prompt("a", [("good", [5]), ("bad", [1])]), rule="PositiveOnly")
    assert set(found.metrics) == {"tieRate"}


def test_what_is_not_defined_is_left_out() -> None:
    assert answers_of().metrics == {}
    assert pairs_of().metrics == {}
    assert set(pairs_of(prompt("a", [("x", [1]), ("y", [1])])).metrics) == {"tieRate", "pairYield"}
    assert "lengthRatio" not in pairs_of(prompt("a", [("x", [2]), ("", [1])])).metrics
    piled = Measures()
    score_piling([("a", [])], "Sampled", piled)
    assert piled.metrics == {}
