from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrewarding.manifests.quantities import bytes_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2", 2),
        ("500m", Fraction(1, 2)),
        ("1.5", Fraction(3, 2)),
        ("1k", 1000),
        ("3M", 3_000_000),
        ("2G", 2_000_000_000),
        ("1T", 10**12),
        ("1Ki", 1024),
        ("1.5Gi", 3 * 2**29),
        ("2Ti", 2**41),
    ],
)
def test_quantities_are_read_exactly(text: str, number: Fraction | int) -> None:
    assert parse_quantity(text) == number


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "-1", "1GiB", "1e3", "1.Gi"])
def test_other_texts_are_no_quantities(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        parse_quantity(text)


@given(st.integers(1, 2**50))
def test_bytes_are_written_rounded_up(number: int) -> None:
    written = parse_quantity(bytes_quantity(number))
    assert number <= written < number + 2**30
    if number < 10 * 2**30:
        assert written < number + 2**20
