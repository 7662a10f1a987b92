"""Scores as exact fractions.

Means of a few integer scores are compared for equality (ties), which floats get wrong: (1+2+2)/3 and 5/3 must be the
same number. So a score is a :class:`~fractions.Fraction` from where it is read to where it is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction


def exact(value: int | float) -> Fraction:
    """The exact fraction of a number as written in decimal: 3.217 becomes 3217/1000, not its binary neighbour."""
    return Fraction(value) if isinstance(value, int) else Fraction(repr(value))


def as_number(value: Fraction) -> int | float:
    """A score for JSON: an integer where it is one, else the nearest float."""
    return value.numerator if value.denominator == 1 else float(value)


def mean(scores: Iterable[Fraction | None]) -> Fraction | None:
    """The exact mean of the scores that are there; None if none is (an invalid judgement is dropped, never zero)."""
    valid = [score for score in scores if score is not None]
    return sum(valid, Fraction(0)) / len(valid) if valid else None
