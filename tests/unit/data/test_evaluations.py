"""EFT rows: agreement with human ranks, the target judgement, and thinning of the most common score."""

from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrewarding.data.evaluations import (
    EvaluationExample,
    EvaluationSettings,
    RankedJudgedPrompt,
    RankedJudgedResponse,
    RankedJudgement,
    build_evaluations,
    judge_agreement,
    target_text,
    thin_out,
)
from selfrewarding.data.judge_prompt import judge_prompt
from selfrewarding.data.judgements import parse_judgement
from selfrewarding.data.rows import Message

ALL = EvaluationSettings(most_common_share=Fraction(1))


def response(rank: int, *scores: int | str | None, text: str = "") -> RankedJudgedResponse:
    judgements = tuple(
        RankedJudgement(f"Reason {n}.\nScore: {score}", None if score is None else Fraction(score))
        for n, score in enumerate(scores)
    )
    return RankedJudgedResponse(text or f"answer of rank {rank}", rank, judgements)


def prompt(*responses: RankedJudgedResponse, identifier: str = "p") -> RankedJudgedPrompt:
    return RankedJudgedPrompt(identifier, (Message("user", "Why?"),), responses)


AGREEMENT = {
    "the same order": ((response(0, 5), response(1, 3), response(2, 1)), "agrees"),
    "the opposite order": ((response(0, 1), response(1, 5)), "disagrees"),
    "one discordant pair of three": ((response(0, 5), response(1, 2), response(2, 3)), "disagrees"),
    "equal means beside a concordant pair": ((response(0, 4), response(1, 4), response(2, 1)), "agrees"),
    "only equal means": ((response(0, 4), response(1, 4)), "only_score_ties"),
    "people ranked all equal": ((response(0, 4), response(0, 1)), "only_human_ties"),
    "a human tie in any order of scores": ((response(0, 3), response(0, 5), response(1, 1)), "agrees"),
    "means decide, not single judgements": ((response(0, 5, 1, 5), response(1, 3, 3, 4)), "agrees"),
    "an exact tie of thirds": ((response(0, 1, 2, 2), response(1, 2, 1, 2)), "only_score_ties"),
    "an unjudged answer says nothing": ((response(0, 5), response(1, None), response(2, 1)), "agrees"),
    "one judged answer": ((response(0, 5), response(1, None)), "too_few_judged"),
    "no answer": ((), "too_few_judged"),
    "ranks need no order in the row": ((response(2, 1), response(0, 5)), "agrees"),
}


@pytest.mark.parametrize(("responses", "expected"), AGREEMENT.values(), ids=AGREEMENT)
def test_rule_01_a_prompt_is_kept_if_no_pair_is_discordant_and_one_is_concordant(
    responses: tuple[RankedJudgedResponse, ...], expected: str
) -> None:
    assert judge_agreement(prompt(*responses), "NoneDiscordant")[0] == expected


def test_the_strict_rule_takes_no_equal_means() -> None:
    tied = prompt(response(0, 4), response(1, 4), response(2, 1))
    assert judge_agreement(tied, "AllConcordant")[0] == "disagrees"
    assert judge_agreement(prompt(response(0, 4), response(1, 1)), "AllConcordant")[0] == "agrees"


def test_rule_01_the_target_is_the_judgement_nearest_the_mean_the_first_of_several() -> None:
    kept = prompt(response(0, 5, 4, 3, 4), response(1, 0, None, 2))
    examples, _ = build_evaluations([kept], judge_prompt(), ALL)
    assert [(example.response_index, example.judgement_index, example.score) for example in examples] == [
        (0, 1, 4),
        (1, 0, 0),
    ]


def test_all_valid_judgements_can_be_targets() -> None:
    settings = EvaluationSettings(target="All", most_common_share=Fraction(1))
    examples, _ = build_evaluations(
        [prompt(response(0, 5, None, 4), response(1, 0))], judge_prompt(), settings
    )
    assert [example.score for example in examples] == [5, 4, 0]


def test_a_row_is_the_judges_turn_and_its_judgement() -> None:
    examples, _ = build_evaluations(
        [prompt(response(0, 5, text="Because."), response(1, 1))], judge_prompt(), ALL
    )
    row = examples[0].as_row()
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    assert row["messages"][0]["content"] == judge_prompt().render((Message("user", "Why?"),), "Because.")
    assert row["messages"][1]["content"] == "Reason 0.\nScore: 5"
    assert (row["id"], row["score"]) == ("p/0/0", 5)
    assert row["provenance"] == {"prompt": "p", "response_index": 0, "judgement_index": 0}


TARGETS = {
    "a judgement that ends in its score": ("Good.\nScore: 4", 4, "Good.\nScore: 4"),
    "rambling behind the score": ("Good.\nScore: 4\n\nUser: and now?", 4, "Good.\nScore: 4"),
    "spaces around": ("\n Good.\nScore: 4 \n", 4, "Good.\nScore: 4"),
    "a justification alone": ("Good.", 4, "Good.\nScore: 4"),
    "an expected score between two": ("Good.", Fraction("3.217"), "Good.\nScore: 3"),
    "nothing but a score": ("", 2, "Score: 2"),
}


@pytest.mark.parametrize(("text", "score", "expected"), TARGETS.values(), ids=TARGETS)
def test_a_target_always_ends_in_its_score_line(text: str, score: int | Fraction, expected: str) -> None:
    assert target_text(text, Fraction(score), ALL) == expected
    assert parse_judgement(expected).score is not None


def examples_of(histogram: dict[int, int]) -> list[EvaluationExample]:
    return [
        EvaluationExample(f"p{score}-{n}", 0, 0, f"judge {score} {n}", f"x\nScore: {score}", Fraction(score))
        for score, count in histogram.items()
        for n in range(count)
    ]


def histogram(examples: list[EvaluationExample]) -> dict[int, int]:
    return dict(Counter(int(example.score) for example in examples))


THINNING: dict[str, tuple[dict[int, int], str, dict[int, int], int | None]] = {
    "the most common score": ({4: 80, 5: 10, 1: 10}, "0.5", {4: 20, 5: 10, 1: 10}, 4),
    "the default share": ({4: 90, 3: 6}, "0.4", {4: 4, 3: 6}, 4),
    "nothing over its share": ({4: 4, 5: 4, 1: 4}, "0.4", {4: 4, 5: 4, 1: 4}, None),
    "the higher of two equally common": ({4: 50, 5: 50}, "0.4", {4: 50, 5: 33}, 5),
    "one score only": ({4: 50}, "0.4", {4: 50}, None),
    "all allowed": ({4: 50, 1: 1}, "1", {4: 50, 1: 1}, None),
    "no rows": ({}, "0.4", {}, None),
}


@pytest.mark.parametrize(("before", "share", "after", "thinned"), THINNING.values(), ids=THINNING)
def test_the_most_common_score_is_thinned_to_its_share(
    before: dict[int, int], share: str, after: dict[int, int], thinned: int | None
) -> None:
    settings = EvaluationSettings(most_common_share=Fraction(share))
    kept, score = thin_out(examples_of(before), settings)
    assert (histogram(kept), score) == (after, thinned)


def test_rule_13_thinning_follows_from_seed_and_content_not_from_order() -> None:
    examples = examples_of({4: 60, 1: 6})
    settings = EvaluationSettings(seed=1)
    kept, _ = thin_out(examples, settings)
    backwards, _ = thin_out(examples[::-1], settings)
    assert {example.key for example in kept} == {example.key for example in backwards}
    assert [example.key for example in kept] == [example.key for example in examples if example in kept]
    other, _ = thin_out(examples, EvaluationSettings(seed=2))
    assert {example.key for example in kept} != {example.key for example in other}


def test_the_report_adds_up() -> None:
    prompts = [
        prompt(response(0, 5), response(1, 1), identifier="agrees"),
        prompt(response(0, 1), response(1, 5), identifier="disagrees"),
        prompt(response(0, 3), response(1, 3), identifier="ties"),
        prompt(response(0, 3), response(0, 1), identifier="human ties"),
        prompt(response(0, None), response(1, 5), identifier="unjudged"),
    ]
    _, report = build_evaluations(prompts, judge_prompt(), ALL)
    summary = report.as_json()
    assert sum(summary["dispositions"].values()) == summary["prompts"] == 5
    assert report.agreement_rate == Fraction(1, 3)
    assert summary["pairs"] == {"concordant": 1, "discordant": 1, "score_ties": 1, "human_ties": 1}
    assert summary["histogram_before"] == summary["histogram_after"] == {"1": 1, "5": 1}


def test_no_prompt_gives_no_rate() -> None:
    examples, report = build_evaluations([], judge_prompt(), ALL)
    assert (examples, report.as_json()["agreement_rate"]) == ([], None)


@pytest.mark.parametrize("share", ["0", "-1", "1.1"])
def test_an_impossible_share_is_refused(share: str) -> None:
    with pytest.raises(ValueError, match="most_common_share"):
        EvaluationSettings(most_common_share=Fraction(share))


RANKED = st.builds(
    lambda rank, scores: response(rank, *scores),
    st.integers(0, 3),
    st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=3),
)


@given(st.lists(st.lists(RANKED, max_size=5), max_size=6), st.sampled_from(["0.2", "0.4", "0.9"]))
def test_kept_prompts_never_contradict_people_and_no_score_exceeds_its_share(
    prompts: list[list[Any]], share: str
) -> None:
    settings = EvaluationSettings(most_common_share=Fraction(share))
    sources = [prompt(*responses, identifier=str(n)) for n, responses in enumerate(prompts)]
    examples, report = build_evaluations(sources, judge_prompt(), settings)
    for example in examples:
        source = sources[int(example.prompt_id)]
        judged = [(item.mean, item.human_rank) for item in source.responses if item.mean is not None]
        assert not any(m > n and r > s for m, r in judged for n, s in judged)
        assert any(m > n and r < s for m, r in judged for n, s in judged)
    if report.thinned_score is not None:
        assert Fraction(report.histogram_after.get(report.thinned_score, 0), len(examples)) <= Fraction(share)
    assert sum(report.histogram_after.values()) == len(examples)
