"""Preference pairs: which answers pair, which never do, and counts that add up."""

from fractions import Fraction
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrewarding.data.judged_prompts import JudgedPrompt, JudgedResponse
from selfrewarding.data.pairs import OUTCOMES, PairSettings, PairSummary, build_pairs
from selfrewarding.data.rows import Message

Scores = list[int | float | None]


def answer(text: str, *scores: int | str | None, finish_reason: str | None = "stop") -> JudgedResponse:
    return JudgedResponse(text, finish_reason, tuple(None if s is None else Fraction(s) for s in scores))


def prompt(*responses: JudgedResponse, identifier: str = "p") -> JudgedPrompt:
    return JudgedPrompt(identifier, (Message("user", "Why?"),), responses)


def chosen(*responses: JudgedResponse, **settings: Any) -> list[tuple[str, str]]:
    result = build_pairs(prompt(*responses), PairSettings(**settings))
    return [
        (
            pair.source.responses[pair.chosen_index].text,
            pair.source.responses[pair.rejected_index].text,
        )
        for pair in result.preferences
    ]


def outcome(*responses: JudgedResponse, **settings: Any) -> str:
    return build_pairs(prompt(*responses), PairSettings(**settings)).outcome


A5, B4, C2, D0 = answer("a", 5, 5, 5), answer("b", 4), answer("c", 2, 2), answer("d", 0, 0, 0)
CUT5 = answer("cut", 5, finish_reason="length")
CUT0 = answer("cut", 0, finish_reason="length")
VOID = answer("void", None, None)


def test_the_best_is_paired_with_the_worst() -> None:
    assert chosen(B4, D0, A5, C2) == [("a", "d")]


def test_rule_02_an_unparsable_judgement_is_never_a_low_score() -> None:
    """In three reproductions -1 stands for an unparsable judgement, and the unjudged answer becomes `rejected`."""
    assert chosen(A5, VOID, C2) == [("a", "c")]
    assert chosen(answer("a", 5, None, None), answer("c", None, 2, 2)) == [("a", "c")]
    assert outcome(A5, VOID) == "too_few_valid"


def test_rule_05_sampled_means_are_exact_fractions() -> None:
    """1/3 + 1/3 + 1/3 in floats, or a rounded mean, would make a pair of a tie, or a tie of a pair."""
    third = answer("x", 1, 2, 2)
    assert outcome(third, answer("y", 2, 1, 2, 2, 1, 2)) == "ties"
    assert outcome(answer("x", *[5] * 999, 4), answer("y", *[5] * 998, 4)) == "pairs"
    pair = build_pairs(prompt(third, D0), PairSettings()).preferences[0]
    assert pair.chosen_score == Fraction(5, 3)
    assert pair.as_row()["provenance"]["means"] == ["5/3", "0"]


def test_equal_means_never_pair() -> None:
    """One reproduction has no tie check, so that chosen and rejected are the same row."""
    assert outcome(answer("a", 3), answer("b", 3), answer("c", 3)) == "ties"


def test_rule_05_identical_texts_never_pair() -> None:
    assert outcome(answer("a", 5), answer("a ", 1)) == "identical"
    assert chosen(answer("a", 5), answer("a", 0), answer("b", 2)) == [("a", "b")]


def test_equally_good_answers_go_by_the_lowest_index() -> None:
    assert chosen(answer("a", 4), answer("b", 4), answer("c", 1), answer("d", 1)) == [("a", "c")]


def test_rule_05_a_margin_is_the_smallest_difference_allowed() -> None:
    exact = {"min_margin": Fraction(1, 4)}
    assert outcome(answer("a", "3.25"), answer("b", 3), **exact) == "pairs"
    assert outcome(answer("a", "3.249"), answer("b", 3), **exact) == "below_margin"


def test_rule_06_cut_answers_pair_on_neither_side_by_default() -> None:
    assert chosen(CUT5, B4, C2) == [("b", "c")]
    assert chosen(CUT0, B4, C2) == [("b", "c")]
    assert outcome(CUT5, D0) == "truncated_only"
    assert outcome(CUT5, CUT0) == "truncated_only"


def test_rule_06_cut_answers_may_only_lose_where_that_is_asked_for() -> None:
    assert chosen(CUT0, B4, truncated="RejectedOnly") == [("b", "cut")]
    assert chosen(CUT5, B4, C2, truncated="RejectedOnly") == [("b", "c")]
    assert outcome(CUT5, C2, truncated="RejectedOnly") == "ties"
    assert outcome(CUT5, CUT0, truncated="RejectedOnly") == "truncated_only"


def test_rule_06_cut_answers_may_win_where_all_is_allowed() -> None:
    assert chosen(CUT5, B4, D0, truncated="Allow") == [("cut", "d")]


def test_an_answer_needs_its_valid_judgements() -> None:
    assert chosen(answer("a", 5, None, None), B4, C2, D0, min_valid=2) == [("c", "d")]
    assert outcome(A5, B4, min_valid=2) == "too_few_valid"


def test_all_above_margin_makes_every_pair() -> None:
    assert chosen(A5, B4, C2, rule="AllAboveMargin", min_margin=Fraction(2)) == [("a", "c"), ("b", "c")]


def test_rule_13_a_random_loser_follows_from_seed_and_row() -> None:
    losers = [answer(f"l{n}", 1) for n in range(20)]

    def loser(seed: int, identifier: str = "p") -> int:
        result = build_pairs(
            prompt(A5, *losers, identifier=identifier), PairSettings(rule="BestRandom", seed=seed)
        )
        return result.preferences[0].rejected_index

    assert loser(1) == loser(1)
    assert len({loser(seed) for seed in range(50)}) > 10
    assert len({loser(1, str(row)) for row in range(50)}) > 10


def test_a_random_loser_is_always_lower_than_the_best() -> None:
    for seed in range(30):
        assert chosen(A5, answer("e", 5), C2, rule="BestRandom", seed=seed) == [("a", "c")]


def test_length_control_takes_the_shortest_good_and_the_longest_bad() -> None:
    answers = (
        answer("the very best but long", 5),
        answer("good", 4),
        answer("bad and quite long indeed", 1),
        answer("worst", 0),
    )
    assert chosen(*answers, length_control=Fraction(1, 5)) == [("good", "bad and quite long indeed")]
    assert chosen(*answers, length_control=Fraction(0)) == [("the very best but long", "worst")]
    assert chosen(*answers) == [("the very best but long", "worst")]


def test_length_control_with_overlapping_tiers_still_pairs_better_with_worse() -> None:
    for rho in ("0.5", "0.8", "1"):
        result = build_pairs(prompt(A5, B4, C2, D0), PairSettings(length_control=Fraction(rho)))
        assert result.preferences[0].chosen_score > result.preferences[0].rejected_score


def positives(*responses: JudgedResponse, **settings: Any) -> list[str]:
    result = build_pairs(prompt(*responses), PairSettings(rule="PositiveOnly", **settings))
    return [positive.as_row()["completion"][0]["content"] for positive in result.positives]


def test_positive_only_takes_perfect_answers_once_each() -> None:
    assert positives(A5, B4, answer("a", 5), answer("e", 5, 5), CUT5, VOID) == ["a", "e"]
    assert positives(A5, B4, positive_score=Fraction(4)) == ["a", "b"]
    assert outcome(B4, rule="PositiveOnly") == "no_positive"
    assert outcome(A5, rule="PositiveOnly") == "positives"
    assert outcome(CUT5, rule="PositiveOnly") == "truncated_only"
    assert outcome(VOID, rule="PositiveOnly") == "too_few_valid"
    assert outcome(rule="PositiveOnly") == "too_few_responses"


def test_too_few_answers_are_their_own_outcome() -> None:
    assert outcome() == outcome(A5) == "too_few_responses"


def test_a_row_is_a_conversation_for_trl_with_its_provenance() -> None:
    row = build_pairs(prompt(A5, D0), PairSettings()).rows()[0]
    assert row["prompt"] == [{"role": "user", "content": "Why?"}]
    assert row["chosen"] == [{"role": "assistant", "content": "a"}]
    assert row["rejected"] == [{"role": "assistant", "content": "d"}]
    assert (row["chosen_score"], row["rejected_score"]) == (5, 0)
    assert row["provenance"] == {
        "rule": "BestWorst",
        "chosen_index": 0,
        "rejected_index": 1,
        "means": ["5", "0"],
        "valid": [3, 3],
        "finish_reasons": ["stop", "stop"],
    }
    assert len(row["key"]) == 64


WRONG: list[dict[str, Any]] = [
    {"length_control": Fraction(2)},
    {"min_margin": Fraction(-1)},
    {"min_valid": 0},
    {"length_control": Fraction(1, 2), "rule": "BestRandom"},
]


@pytest.mark.parametrize("settings", WRONG)
def test_contradictory_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        PairSettings(**settings)


SCORE = st.one_of(st.none(), st.integers(0, 5).map(Fraction), st.fractions(0, 5, max_denominator=7))
RESPONSES = st.lists(
    st.builds(
        JudgedResponse,
        st.sampled_from(["", "a", "b", "c", "dd", "eee"]),
        st.sampled_from(["stop", "length", None]),
        st.lists(SCORE, max_size=3).map(tuple),
    ),
    max_size=6,
)
SETTINGS = st.builds(
    PairSettings,
    rule=st.sampled_from(["BestWorst", "AllAboveMargin", "BestRandom", "PositiveOnly"]),
    min_margin=st.sampled_from([Fraction(0), Fraction(1, 4), Fraction(2)]),
    min_valid=st.integers(1, 2),
    truncated=st.sampled_from(["Exclude", "RejectedOnly", "Allow"]),
)


@given(st.lists(RESPONSES, max_size=5), SETTINGS)
def test_pairs_are_always_sound_and_outcomes_add_up(
    prompts: list[list[JudgedResponse]], settings: PairSettings
) -> None:
    summary = PairSummary()
    for responses in prompts:
        source = prompt(*responses)
        result = build_pairs(source, settings)
        summary.add(source, result, settings)
        assert bool(result.preferences) == (result.outcome == "pairs")
        assert bool(result.positives) == (result.outcome == "positives")
        for pair in result.preferences:
            good, bad = responses[pair.chosen_index], responses[pair.rejected_index]
            assert pair.chosen_score - pair.rejected_score >= settings.min_margin
            assert pair.chosen_score > pair.rejected_score
            assert good.text.strip() != bad.text.strip()
            assert good.text
            assert min(good.valid, bad.valid) >= settings.min_valid
            assert settings.truncated == "Allow" or not good.truncated
            assert settings.truncated != "Exclude" or not bad.truncated
    counts = summary.as_json()
    assert sum(counts["outcomes"].values()) == counts["prompts"] == len(prompts)
    assert list(counts["outcomes"]) == list(OUTCOMES)
    assert counts["judgements"]["valid"] + counts["judgements"]["invalid"] == counts["judgements"]["total"]


def test_the_order_of_answers_changes_no_pair_of_different_scores() -> None:
    for order in permutations([A5, B4, C2, D0]):
        assert chosen(*order) == [("a", "d")]
