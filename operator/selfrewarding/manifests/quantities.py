"""Kubernetes quantities ("500m", "1.5Gi") to numbers and back.

Source: apimachinery `resource.Quantity`; the suffixes are those that `api.execution.Quantity` lets in.
"""

import re
from fractions import Fraction

KIB, MIB, GIB = 2**10, 2**20, 2**30

_FACTORS = {
    "": Fraction(1),
    "m": Fraction(1, 1000),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "Ki": Fraction(KIB),
    "Mi": Fraction(MIB),
    "Gi": Fraction(GIB),
    "Ti": Fraction(2**40),
}
_PATTERN = re.compile(r"([0-9]+(?:\.[0-9]+)?)([a-zA-Z]*)")


def parse_quantity(text: str) -> Fraction:
    """The number that a quantity stands for, exactly. Raises ValueError for any other text."""
    match = _PATTERN.fullmatch(text)
    if match is None or match[2] not in _FACTORS:
        raise ValueError(
            f"{text!r} is no quantity: expected a number with one of {sorted(_FACTORS)[1:]} behind it"
        )
    return Fraction(match[1]) * _FACTORS[match[2]]


def bytes_quantity(number: float) -> str:
    """A number of bytes, rounded up to whole Mi, or to whole Gi from 10 Gi on: sizes here are estimates."""
    unit, suffix = (GIB, "Gi") if number >= 10 * GIB else (MIB, "Mi")
    return f"{-(-int(number) // unit)}{suffix}"
