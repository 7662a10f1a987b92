"""The comparison prompt and the verdict's grammar."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrewarding.data.comparison_prompt import comparison_prompt, parse_verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Because.\nPreference: A", "A"),
        ("preference: b.", "B"),
        ("**Preference:** Tie\n\n", "Tie"),
        ("Preference: [[B]]", "B"),
        ("Preference: **A**", "A"),
        ("## Final preference: Answer B", "B"),
        ("Ｐｒｅｆｅｒｅｎｃｅ： Ａ", "A"),
        ("이유입니다.\nPreference: B", "B"),
        ("최종 선호: 답변 A", "A"),
        ("> Preference: <Tie>", "Tie"),
        ("Preference: A\nOn second thought both are alike.\nPreference: Tie", "Tie"),
        ("Preference: B\nPreference: 7", "B"),
    ],
)
def test_verdicts_that_are_taken(text: str, verdict: str) -> None:
    found = parse_verdict(text)
    assert (found.verdict, found.reason) == (verdict, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "missing"),
        ("A", "missing"),
        ("I would say Preference: A", "missing"),
        ("Answer A is better.", "missing"),
        ("Preference: C", "malformed"),
        ("Preference: A or B", "malformed"),
        ("Preference: <A, B or Tie>", "malformed"),
        ("Preference: A, since it is longer", "malformed"),
        ("Preference:", "malformed"),
        ("Preference: A" + " " * 300 + ".", "malformed"),
        ("Preference: \u202eA", "malformed"),
    ],
)
def test_texts_without_a_verdict_have_a_reason(text: str, reason: str) -> None:
    found = parse_verdict(text)
    assert (found.verdict, found.reason) == (None, reason)


@pytest.mark.parametrize("finish", ["length", "abort", "content_filter", "None", None])
def test_half_a_verdict_is_none(finish: str | None) -> None:
    for text in (
        "Long reasoning without",
        "Preference: A",
        "Preference: A\nPrefer",
        "Preference: B\n**Final pref",
    ):
        assert parse_verdict(text, finish_reason=finish).reason == "truncated", text
    assert parse_verdict("Preference: A\n", finish_reason=finish).verdict == "A"
    assert parse_verdict("Preference: A\nAnd then I", finish_reason=finish).verdict == "A"


@given(st.text(max_size=300), st.sampled_from(["stop", "length", None]))
def test_any_text_is_read_without_an_error(text: str, finish: str | None) -> None:
    found = parse_verdict(text, finish_reason=finish)
    assert (found.verdict is None) == (found.reason is not None)


@pytest.mark.parametrize("language", ["English", "Korean", "Any"])
def test_the_texts_stand_in_their_places_once_and_are_never_read_again(language: str) -> None:
    prompt = comparison_prompt(language)  # type: ignore[arg-type]
    text = prompt.render(["Say {first}."], ["one {second} {instruction}"], ["two {first}"])
    assert text.count("Say {first}.") == 1
    assert text.index("Say {first}.") < text.index("one {second} {instruction}") < text.index("two {first}")
    both = prompt.render(["Q"], ["X"], ["Y"]), prompt.render(["Q"], ["Y"], ["X"])
    assert len(both[0]) == len(both[1])
    assert both[0] != both[1]
    assert parse_verdict(text).verdict is None


def test_several_turns_stand_in_order_under_their_numbers() -> None:
    text = comparison_prompt().render(["first?", "second?"], ["one", "two"], ["uno", "due"])
    assert "Turn 1:\nfirst?\n\nTurn 2:\nsecond?" in text
    assert "Answer to turn 1:\none\n\nAnswer to turn 2:\ntwo" in text
    assert "2번째 말:\nb" in comparison_prompt("Korean").render(["a", "b"], ["c", "d"], ["e", "f"])


def test_the_two_languages_have_digests_of_their_own() -> None:
    assert comparison_prompt("English").digest != comparison_prompt("Korean").digest
    assert len(comparison_prompt().digest) == 64
