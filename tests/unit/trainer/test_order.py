"""The order of training: every row once per pass, little padding, the same for the same seed."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srr_trainer.order import padding_share, training_order, training_steps


def order(lengths: list[int], *, batch_size: int, epochs: float = 1, seed: int = 7) -> list[int]:
    steps = training_steps(len(lengths), batch_size=batch_size, epochs=epochs)
    return training_order(lengths, batch_size=batch_size, steps=steps, run_seed=seed, stage_key="k")


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs", "steps"),
    [
        (16, 16, 1, 1),
        (17, 16, 1, 2),
        (3, 16, 1, 1),
        (10, 4, 2, 5),
        (10, 4, 1.5, 4),
        (10, 4, 0.1, 1),
        (100, 10, 0.3, 3),
    ],
)
def test_a_part_of_a_batch_is_a_step(rows: int, batch_size: int, epochs: float, steps: int) -> None:
    assert training_steps(rows, batch_size=batch_size, epochs=epochs) == steps


@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=60),
    batch_size=st.integers(1, 20),
    epochs=st.floats(0.1, 3.5),
)
def test_every_pass_has_every_row_once_and_every_step_is_full(
    lengths: list[int], batch_size: int, epochs: float
) -> None:
    found = order(lengths, batch_size=batch_size, epochs=epochs)
    assert len(found) % batch_size == 0
    assert len(found) >= epochs * len(lengths) - 1e-6
    for start in range(0, len(found), len(lengths)):
        assert max(Counter(found[start : start + len(lengths)]).values()) == 1
    assert max(lengths) in [lengths[row] for row in found[:batch_size]], "what does not fit must fail at once"


def test_rule_13_the_order_comes_from_the_seed_alone() -> None:
    lengths = [10 + 7 * row % 50 for row in range(100)]
    assert order(lengths, batch_size=8) == order(lengths, batch_size=8)
    assert order(lengths, batch_size=8) != order(lengths, batch_size=8, seed=8)
    two_passes = order(lengths, batch_size=10, epochs=2)
    assert two_passes[:100] != two_passes[100:], "each pass has its own order"


def test_rows_of_like_length_share_a_batch() -> None:
    lengths = [10 + 7 * row % 490 for row in range(1000)]
    bucketed = order(lengths, batch_size=16)
    assert padding_share(lengths, bucketed, 4) < 0.05
    assert padding_share(lengths, list(range(1000)), 4) > 0.05


def test_padding_is_the_share_of_positions_that_hold_no_token() -> None:
    assert padding_share([4, 2], [0, 1], 2) == 0.25
    assert padding_share([4, 2], [0, 1], 1) == 0.0
