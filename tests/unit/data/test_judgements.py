"""The grammar of judgements: a table of what is taken and what is not, and properties over any text."""

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from selfrewarding.data.judgements import parse_judgement

TAKEN = {
    "a plain score line": ("Score: 4", 4),
    "a justification before it": ("Helpful and short.\n\nScore: 3", 3),
    "the lowest score": ("Score: 0", 0),
    "the highest score": ("Score: 5", 5),
    "a bold label": ("**Score:** 4", 4),
    "a bold label with the colon outside": ("**Score**: 4", 4),
    "a bold line": ("**Score: 4**", 4),
    "a bold number": ("Score: **4**", 4),
    "italics": ("_Score: 2_", 2),
    "code marks": ("`Score: 2`", 2),
    "a heading": ("### Score: 1", 1),
    "a list item": ("- Score: 1", 1),
    "a quotation": ("> Score: 1", 1),
    "the scale's own denominator": ("Score: 4/5", 4),
    "a denominator with spaces": ("Score: 4 / 5", 4),
    "a bold number with denominator": ("Score: **4**/5", 4),
    "a full stop and a small letter": ("score: 4.", 4),
    "capitals": ("SCORE: 4", 4),
    "no space": ("Score:4", 4),
    "a space before the colon": ("Score : 4", 4),
    "spaces around": ("   Score:   4   ", 4),
    "a tab": ("Score:\t4", 4),
    "a non-breaking space": ("Score:\u00a04", 4),
    "carriage returns": ("Good.\r\nScore: 4\r\n", 4),
    "old line ends": ("Good.\rScore: 4\r", 4),
    "a full-width colon": ("Score：4", 4),
    "full-width digits and slash": ("Score：４／５", 4),
    "the Korean label": ("좋은 답변입니다.\n점수: 4", 4),
    "the Korean label with its counter": ("총점수: 4점", 4),
    "the Korean total with a space": ("최종 점수：3점.", 3),
    "total score": ("Total score: 4", 4),
    "final score": ("**Final Score: 4/5**", 4),
    "a left-to-right mark": ("Score: \u200e4", 4),
    "a right-to-left mark at the start": ("\u200fScore: 4", 4),
    "a byte order mark": ("\ufeffScore: 4", 4),
    "text after it": ("Score: 4\nThe user may also like to know more.", 4),
    "the last of two": ("Score: 2\nOn second thought:\nScore: 4", 4),
    "the last well-formed one, a broken one after it": ("Score: 2\nScore: four", 2),
    "the last in range, one out of range after it": ("Score: 2\nScore: 50", 2),
    "the last line is a sentence": ("Score: 2\nI would give it Score: 5 if it were longer.", 2),
}

NOT_TAKEN = {
    "nothing": ("", "missing"),
    "only spaces": (" \n\t\n", "missing"),
    "no score": ("A helpful answer.", "missing"),
    "a number alone": ("4", "missing"),
    "a denominator alone": ("4/10", "missing"),
    "a score amid a sentence": ("I would say Score: 4", "missing"),
    "scores in the plural": ("Scores: 4", "missing"),
    "a word that begins alike": ("Scored: 4", "missing"),
    "another score": ("Accuracy score: 4", "missing"),
    "score-wise": ("Score-wise it is good", "missing"),
    "Korean prose": ("점수는 4점입니다.", "missing"),
    "a table cell": ("| Score: 4 |", "missing"),
    "another scale": ("Score: 4/10", "malformed"),
    "a fraction where whole numbers are asked for": ("Score: 3.5", "malformed"),
    "a fraction that is whole": ("Score: 4.0", "malformed"),
    "a decimal comma": ("Score: 3,5", "malformed"),
    "a range": ("Score: 3-4", "malformed"),
    "words": ("Score: four", "malformed"),
    "no number": ("Score:", "malformed"),
    "a sentence behind the number": ("Score: 4 because it is short", "malformed"),
    "out of": ("Score: 4 out of 5", "malformed"),
    "two numbers": ("Score: 4 5", "malformed"),
    "digits split by emphasis": ("Score: 1**0**", "malformed"),
    "a plus sign": ("Score: +4", "malformed"),
    "a leading zero": ("Score: 04", "malformed"),
    "an exponent": ("Score: 4e0", "malformed"),
    "superscript": ("Score: 4²", "malformed"),
    "Arabic digits": ("Score: ٤", "malformed"),
    "an equals sign": ("Score = 4", "malformed"),
    "a dash": ("Score - 4", "malformed"),
    "no colon": ("Score 4", "malformed"),
    "a direction override that shows another number": ("Score: \u202e4", "malformed"),
    "a direction override behind the number": ("Score: 4\u202e", "malformed"),
    "placeholder brackets": ("Score: <4>", "malformed"),
    "a denominator that is zero": ("Score: 4/0", "malformed"),
    "a denominator with a space in its digits": ("Score: 4/5 0", "malformed"),
    "a line as long as a page": ("Score: 4" + " " * 300 + ".", "malformed"),
    "ten": ("Score: 10", "out_of_range"),
    "six": ("Score: 6", "out_of_range"),
    "six of five": ("Score: 6/5", "out_of_range"),
    "minus one": ("Score: -1", "out_of_range"),
    "ten with a zero-width space inside": ("Score: 1\u200b0", "out_of_range"),
    "a hundred digits": ("Score: " + "9" * 100, "out_of_range"),
}


@pytest.mark.parametrize(("text", "score"), TAKEN.values(), ids=TAKEN)
def test_a_score_line_is_taken(text: str, score: int) -> None:
    judgement = parse_judgement(text)
    assert (judgement.score, judgement.reason) == (score, None)


@pytest.mark.parametrize(("text", "reason"), NOT_TAKEN.values(), ids=NOT_TAKEN)
def test_anything_else_is_not_taken_and_says_why(text: str, reason: str) -> None:
    judgement = parse_judgement(text)
    assert (judgement.score, judgement.reason) == (None, reason)


DECIMAL = {
    "a decimal": ("Score: 3.5", Fraction(7, 2)),
    "a whole number": ("Score: 3", Fraction(3)),
    "a decimal of the scale": ("Score: 3.25/5", Fraction(13, 4)),
    "a decimal denominator": ("Score: 3.5/5.0", Fraction(7, 2)),
    "a decimal and a full stop": ("Score: 3.5.", Fraction(7, 2)),
}


@pytest.mark.parametrize(("text", "score"), DECIMAL.values(), ids=DECIMAL)
def test_decimals_are_exact_where_they_are_allowed(text: str, score: Fraction) -> None:
    assert parse_judgement(text, decimals=True).score == score


@pytest.mark.parametrize("text", ["Score: 5.1", "Score: -0.5"])
def test_decimals_keep_to_the_range(text: str) -> None:
    assert parse_judgement(text, decimals=True).reason == "out_of_range"


def test_too_many_decimals_are_no_score() -> None:
    assert parse_judgement("Score: 3.1234567", decimals=True).reason == "malformed"


def test_another_scale_takes_its_own_numbers() -> None:
    assert parse_judgement("Score: 10", minimum=1, maximum=10).score == 10
    assert parse_judgement("Score: 4/10", minimum=1, maximum=10).score == 4
    assert parse_judgement("Score: 4/5", minimum=1, maximum=10).reason == "malformed"
    assert parse_judgement("Score: 0", minimum=1, maximum=10).reason == "out_of_range"


CUT = {
    "a number at the cut may go on": ("Fine.\nScore: 4", None),
    "a full stop at the cut may become a decimal point": ("Fine.\nScore: 4.", None),
    "a space at the cut may be followed by a denominator": ("Fine.\nScore: 4 ", None),
    "no score yet": ("Fine, and", None),
    "the label was just begun": ("Score: 2\nBut then\nSco", None),
    "the bold label was just begun": ("Score: 2\nBut then\n**S", None),
    "a second score was about to come": ("Score: 2\nBut then\nScore: ", None),
    "nothing was written": ("", None),
    "a line break after the number ends it": ("Fine.\nScore: 4\n", 4),
    "text after the score was cut": ("Fine.\nScore: 4\nThe answer also", 4),
}


@pytest.mark.parametrize("finish_reason", ["length", "abort"])
@pytest.mark.parametrize(("text", "score"), CUT.values(), ids=CUT)
def test_a_cut_generation_is_only_trusted_up_to_its_last_line_break(
    text: str, score: int | None, finish_reason: str
) -> None:
    judgement = parse_judgement(text, finish_reason=finish_reason)
    assert (judgement.score, judgement.reason) == (score, None if score is not None else "truncated")


@pytest.mark.parametrize("finish_reason", [None, "stop", "eos"])
def test_a_generation_that_ended_is_trusted_to_its_end(finish_reason: str | None) -> None:
    assert parse_judgement("Fine.\nScore: 4", finish_reason=finish_reason).score == 4


def test_the_end_of_the_winning_line_is_told() -> None:
    text = "Good.\r\n**Score:** 4\r\nUser: and now?"
    end = parse_judgement(text).end
    assert text[:end] == "Good.\r\n**Score:** 4"


FRAGMENTS = st.sampled_from(
    [
        "Score",
        ":",
        " ",
        "4",
        "5",
        "10",
        ".",
        "/",
        "**",
        "\n",
        "\r",
        "점수",
        "점",
        "：",
        "４",
        "\u202e",
        "\u200f",
        "-",
        "#",
        "e9",
    ]
)
ANY_TEXT = st.one_of(st.text(st.characters(), max_size=200), st.lists(FRAGMENTS, max_size=30).map("".join))


@given(ANY_TEXT, st.booleans(), st.sampled_from([None, "stop", "length", "nonsense"]))
@example("Score: " + "9" * 10_000, True, None)
@example("Score: 4/" + "9" * 10_000, True, None)
@example("*" * 100_000 + "Score: 4", False, None)
@example("Score: " + "*" * 100_000, False, "length")
@example("Score: 4" + "* " * 50_000, False, None)
@example("Score: \ud800", False, None)
def test_rule_02_no_text_ever_raises(text: str, decimals: bool, finish_reason: str | None) -> None:
    judgement = parse_judgement(text, decimals=decimals, finish_reason=finish_reason)
    assert (judgement.score is None) == (judgement.reason is not None) == (judgement.end is None)
    if judgement.score is not None:
        assert 0 <= judgement.score <= 5
        assert decimals or judgement.score.denominator == 1


@given(ANY_TEXT, st.integers(0, 5))
def test_rule_02_the_last_line_wins_whatever_stands_before_it(before: str, score: int) -> None:
    assert parse_judgement(f"{before}\nScore: {score}").score == score


@given(ANY_TEXT, st.integers(0, 5))
def test_a_cut_right_behind_the_number_is_never_trusted(before: str, score: int) -> None:
    assert parse_judgement(f"{before}\nScore: {score}", finish_reason="length").reason == "truncated"
