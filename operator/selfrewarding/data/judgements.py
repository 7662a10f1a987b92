"""The one grammar that reads a score out of a generated judgement.

Only text that the judge itself generated may be given to this module. It must never see the prompt: the known
reproductions search prompt and answer together, so an answer that writes "Score: 5" gives itself a 5.

The text is split into lines (`str.splitlines`). Full-width ASCII (`：`, `４`, `／`) is read as ASCII, zero-width and
direction marks are dropped, spaces are collapsed. Then, without regard to case::

    score line  = opening label ":" number [ "/" maximum ] [ "점" ] [ "." ]
    opening     = heading, quote and list marks in front of the line: # > - + • * and the emphasis marks
    label       = [ "total" | "final" | "overall" ] "score"  |  [ "총" | "최종" ] "점수"
    number      = digits, no leading zero, "-" allowed;  with decimals=True also "." and at most six digits
    maximum     = a number equal to the highest score of the scale

Emphasis marks (`*`, `_`, a back-tick) and spaces may stand between any two of these, and nothing else may stand on
the line: not "Score: 4 because …", not "4 out of 5", not "I would say Score: 4". The **last well-formed line with a
score in range wins**. If there is none the reason is

* `truncated`: the generation was cut (`finish_reason` `length` or `abort`), so the score may have been still to come;
* `out_of_range`: the last line that begins like a score line holds a number outside the scale ("Score: 10");
* `malformed`: the last line that begins like a score line is not one ("Score: 3.5" for whole numbers, "Score: 4/10");
* `missing`: no line begins like a score line.

In a cut generation the last line is never trusted if no line break follows it: "Score: 4" may be the start of
"Score: 45" or of "Score: 4/10". If that line is, or may become, a score line the judge was about to (re)state its
score, so an earlier line is not taken either and the reason is `truncated`.

Text-direction overrides (U+202D, U+202E) are not dropped: such a line shows other digits than it holds, and is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Reason = Literal["missing", "malformed", "out_of_range", "truncated"]

CUT_FINISH_REASONS = frozenset({"length", "abort"})
"""Finish reasons of an OpenAI-compatible server after which a text may lack its end."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a generated judgement says.

    Attributes:
        score: the exact score, or None.
        reason: why there is no score; None exactly when there is one.
        end: offset in the text just behind the winning score line (without its line break); None without a score.
    """

    score: Fraction | None
    reason: Reason | None
    end: int | None = None


_MAX_LINE = 200  # a line on its own with a score is short; also bounds the work of the expressions below
_MAX_INTEGER_DIGITS = 12
_MAX_DECIMALS = 6

_FOLD: dict[int, int | None] = {0xFF01 + offset: 0x21 + offset for offset in range(94)}
_FOLD |= dict.fromkeys([0x00AD, 0x061C, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202D)])
_FOLD |= dict.fromkeys([*range(0x2060, 0x2065), *range(0x2066, 0x206A)])

_OPENING = r"[ *_`#>+•-]*"
_MARKS = r"[ *_`]*"
_LABEL = r"(?:(?:total |final |overall )?score|(?:(?:총|최종) ?)?점수)"
_SCORE_LINE = re.compile(
    rf"{_OPENING}{_LABEL}{_MARKS}:{_MARKS}(?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?)(?P<rest>.*)",
    re.ASCII | re.IGNORECASE,
)
_BEGINS_LIKE_SCORE_LINE = re.compile(
    rf"{_OPENING}{_LABEL}{_MARKS}(?:[:=]|[–—-] |[0-9])", re.ASCII | re.IGNORECASE
)
_REST = re.compile(r"(?: ?/ ?(?P<maximum>[0-9]+(?:\.[0-9]+)?))? ?점? ?[.。]?")
_EMPHASIS = re.compile(r"[*_`]")
_LABELS_IN_FULL = tuple(
    prefix + label
    for label, prefixes in (
        ("score", ("", "total ", "final ", "overall ")),
        ("점수", ("", "총 ", "총", "최종 ", "최종")),
    )
    for prefix in prefixes
)


def parse_judgement(
    text: str,
    *,
    minimum: int | Fraction = 0,
    maximum: int | Fraction = 5,
    decimals: bool = False,
    finish_reason: str | None = None,
) -> Judgement:
    """Read the score out of a generated judgement by the grammar of this module. Never raises for any text.

    Args:
        text: the newly generated text only, never the prompt.
        minimum: the lowest score that counts.
        maximum: the highest score that counts, and the only denominator that is taken ("4/5").
        decimals: whether "3.5" is a score.
        finish_reason: why the generation ended, as the server says it; `length` and `abort` mean that it was cut.
    """
    cut = finish_reason in CUT_FINISH_REASONS
    found: Judgement | None = None
    problem: Reason = "missing"
    offset = 0
    for kept in text.splitlines(keepends=True):
        raw = kept.splitlines()[0]
        end = offset + len(raw)
        offset += len(kept)
        if cut and offset == len(text) and raw == kept and _may_become_score_line(raw):
            return Judgement(None, "truncated")
        score, line_problem = _read_line(raw, Fraction(minimum), Fraction(maximum), decimals)
        if score is not None:
            found = Judgement(score, None, end)
        elif line_problem is not None:
            problem = line_problem
    if found is not None:
        return found
    return Judgement(None, "truncated" if cut else problem)


def _read_line(
    raw: str, minimum: Fraction, maximum: Fraction, decimals: bool
) -> tuple[Fraction | None, Reason | None]:
    line = folded(raw[: 4 * _MAX_LINE])
    if _BEGINS_LIKE_SCORE_LINE.match(line) is None:
        return None, None
    match = _SCORE_LINE.fullmatch(line)
    if match is None or len(raw) > _MAX_LINE:
        return None, "malformed"
    rest = _REST.fullmatch(" ".join(_EMPHASIS.sub("", match["rest"]).split(" ")).strip())
    if rest is None:
        return None, "malformed"
    if (stated := rest["maximum"]) is not None and (
        len(stated) > _MAX_INTEGER_DIGITS or Fraction(stated) != maximum
    ):
        return None, "malformed"
    integer, _, decimal_part = match["number"].partition(".")
    if len(decimal_part) > (_MAX_DECIMALS if decimals else 0):
        return None, "malformed"
    if len(integer) > _MAX_INTEGER_DIGITS:
        return None, "out_of_range"
    score = Fraction(match["number"])
    if not minimum <= score <= maximum:
        return None, "out_of_range"
    return score, None


def _may_become_score_line(raw: str) -> bool:
    line = folded(raw[: 4 * _MAX_LINE])
    if _BEGINS_LIKE_SCORE_LINE.match(line) is not None:
        return True
    begun = " ".join(_EMPHASIS.sub("", line).lstrip(" #>+•-").split()).lower()
    return bool(begun) and any(label.startswith(begun) for label in _LABELS_IN_FULL)


def folded(raw: str) -> str:
    """A line as the grammar sees it: full-width ASCII as ASCII, invisible marks dropped, spaces collapsed."""
    return " ".join(raw.translate(_FOLD).split())
