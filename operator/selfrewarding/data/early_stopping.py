"""Which of the models that a training saved on its way is taken (arXiv 2401.10020 section 3.1.3).

The paper saves a model every 200 steps and compares each one's generations with those of the one before; training is
stopped where that no longer helps. Here: the first model that does not win more than half of the comparisons with the one
before it, a tie counting one half, ends the walk, and the one before it is taken. Later ones are not looked at.
Must not: ask or count; `head_to_head` has the win rates.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

HALF = 0.5


@dataclass(frozen=True, slots=True)
class Walk:
    """How the walk went.

    Attributes:
        chosen: number of the model that is taken, from 1.
        win_rates: of models 2, 3, … against the one before, as far as was compared; between 0 and 1.
    """

    chosen: int
    win_rates: tuple[float, ...]


async def walk(count: int, win_rate: Callable[[int], Awaitable[float]]) -> Walk:
    """Compare `count` models in order; `win_rate(n)` is that of model n against model n - 1 (n from 2)."""
    rates: list[float] = []
    for number in range(2, count + 1):
        rates.append(await win_rate(number))
        if rates[-1] <= HALF:
            return Walk(number - 1, tuple(rates))
    return Walk(count, tuple(rates))
