"""What rows have in common: errors that name the field, keys, prompts."""

import contextlib
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrewarding.data.errors import DataError, shown
from selfrewarding.data.jsonl import Row
from selfrewarding.data.judged_prompts import read_judged_prompts
from selfrewarding.data.rows import Message, content_key, prompt_identity
from selfrewarding.data.scores import as_number, exact, mean

USER = [{"role": "user", "content": "Why?"}]
RESPONSE = {"text": "a", "finish_reason": "stop", "scores": [4, None]}


def error_of(value: dict[str, Any]) -> DataError:
    with pytest.raises(DataError) as caught:
        list(read_judged_prompts([Row("in.jsonl", 3, value)]))
    return caught.value


def judged(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "prompt": USER, "responses": [RESPONSE]} | changes


WRONG: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "a missing field": ({"id": 1, "prompt": USER}, "responses", "no such field", "the field `responses`"),
    "a missing field deep down": (
        judged(responses=[RESPONSE, {"text": "b", "scores": []}]),
        "responses[1].finish_reason",
        "no such field",
        "the field `responses[1].finish_reason`",
    ),
    "a text for a list": (judged(responses="a"), "responses", '"a"', "a list"),
    "a number for a text": (
        judged(responses=[RESPONSE | {"text": 4}]),
        "responses[0].text",
        "4",
        "a text",
    ),
    "a text for a score": (
        judged(responses=[RESPONSE | {"scores": [1, "5"]}]),
        "responses[0].scores[1]",
        '"5"',
        "a number",
    ),
    "true for a score": (
        judged(responses=[RESPONSE | {"scores": [True]}]),
        "responses[0].scores[0]",
        "true",
        "a number",
    ),
    "an unknown role": (
        judged(prompt=[{"role": "tool", "content": "x"}]),
        "prompt[0].role",
        '"tool"',
        "one of 'system', 'user' or 'assistant'",
    ),
    "a prompt of another type": (judged(prompt=5), "prompt", "5", "a text or a list"),
    "an object as prompt": (
        judged(prompt={"content": "x"}),
        "prompt",
        "an object with 1 field",
        "a text or a list",
    ),
    "a prompt that ends with the assistant": (
        judged(prompt=[*USER, {"role": "assistant", "content": "x"}]),
        "prompt[1].role",
        '"assistant"',
        '"user" in the last message of a prompt',
    ),
    "an empty message": (
        judged(prompt=[{"role": "user", "content": " "}]),
        "prompt[0].content",
        "an empty text",
        "a text",
    ),
    "an empty prompt": (judged(prompt=""), "prompt", "an empty text", "a text"),
    "no messages": (judged(prompt=[]), "prompt", "no messages", "at least the user's message"),
    "a list as id": (judged(id=[1]), "id", "a list of 1", "a text or a whole number"),
}


@pytest.mark.parametrize(("value", "field", "found", "expected"), WRONG.values(), ids=WRONG)
def test_a_wrong_field_is_named_with_what_stands_there(
    value: dict[str, Any], field: str, found: str, expected: str
) -> None:
    error = error_of(value)
    assert (error.file, error.line) == ("in.jsonl", 3)
    assert (error.field, error.found, error.expected) == (field, found, expected)
    assert str(error).startswith(f"in.jsonl:3: field `{field}`: found {found}; expected {expected}. ")


def test_an_id_that_stands_twice_is_an_error_with_both_lines() -> None:
    rows = [Row("in.jsonl", 1, judged()), Row("in.jsonl", 4, judged(id="1"))]
    with pytest.raises(DataError, match=r'in.jsonl:4: field `id`: found "1" again \(first on line 1\)'):
        list(read_judged_prompts(rows))


def test_a_score_keeps_the_decimal_value_that_was_written() -> None:
    row = Row("in.jsonl", 1, judged(responses=[RESPONSE | {"scores": [3.217, 4, None]}]))
    scores = next(iter(read_judged_prompts([row]))).responses[0].scores
    assert scores == (Fraction(3217, 1000), Fraction(4), None)


@given(
    st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(allow_nan=False, allow_infinity=False),
            st.text(),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(
                    ["id", "prompt", "responses", "text", "finish_reason", "scores", "role", "content"]
                ),
                inner,
                max_size=5,
            ),
        ),
        max_leaves=20,
    )
)
def test_any_json_gives_prompts_or_one_error(value: Any) -> None:
    row = Row("in.jsonl", 1, value if isinstance(value, dict) else judged(responses=value))
    with contextlib.suppress(DataError):
        list(read_judged_prompts([row]))
        return
    with pytest.raises(DataError) as caught:
        list(read_judged_prompts([row]))
    assert str(caught.value).startswith("in.jsonl:1: ")
    assert "\n" not in str(caught.value)


def test_rule_05_exact_scores_and_means() -> None:
    assert exact(0.1) + exact(0.2) == exact(0.3)
    assert exact(1e-07) == Fraction(1, 10**7)
    assert mean([Fraction(1), None, Fraction(2)]) == Fraction(3, 2)
    assert mean([None]) is mean([]) is None
    assert as_number(Fraction(4)) == 4
    assert isinstance(as_number(Fraction(4)), int)
    assert as_number(Fraction(14, 3)) == 14 / 3


def test_keys_are_stable_across_releases() -> None:
    """A literal: if it changes, finished rows of every run would be generated again."""
    assert content_key({"b": "안", "a": [1]}) == content_key({"a": [1], "b": "안"})
    assert content_key({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


def test_a_prompt_is_the_same_whatever_its_case_spacing_and_system_turn() -> None:
    plain = prompt_identity([Message("user", "Why is ice light?")])
    assert (
        prompt_identity([Message("system", "Be brief."), Message("user", " why  is\nICE light? ")]) == plain
    )
    assert prompt_identity([Message("user", "Why is ice light!")]) != plain


SHOWN = {
    "null": (None, "null"),
    "a boolean": (True, "true"),
    "a long text": ("x" * 200, '"' + "x" * 80 + '…"'),
    "control characters": ("a\nb\x1b[0m", '"a\\nb\\x1b[0m"'),
    "half a surrogate": ("\ud800", '"\\ud800"'),
    "a huge number": (10**5000, "a number of more than 80 digits"),
    "an object": ({"a": 1}, "an object with 1 field"),
}


@pytest.mark.parametrize(("value", "text"), SHOWN.values(), ids=SHOWN)
def test_values_are_shown_on_one_printable_line(value: object, text: str) -> None:
    assert shown(value) == text
