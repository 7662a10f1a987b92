"""The walk over a training's models: where it ends, and what is taken."""

import asyncio

import pytest

from selfrewarding.data.early_stopping import walk


@pytest.mark.parametrize(
    ("rates", "chosen", "asked"),
    [
        ([0.6, 0.7, 0.51], 4, [2, 3, 4]),
        ([0.6, 0.5, 0.9], 2, [2, 3]),
        ([0.4, 0.9, 0.9], 1, [2]),
        ([0.5], 1, [2]),
        ([0.75], 2, [2]),
    ],
)
def test_the_first_that_does_not_win_more_than_half_ends_it(
    rates: list[float], chosen: int, asked: list[int]
) -> None:
    compared: list[int] = []

    async def win_rate(number: int) -> float:
        compared.append(number)
        return rates[number - 2]

    found = asyncio.run(walk(len(rates) + 1, win_rate))
    assert found.chosen == chosen
    assert compared == asked, "later ones are not paid for"
    assert found.win_rates == tuple(rates[: len(asked)])
