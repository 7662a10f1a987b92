"""The learning rate: linear rise, cosine to a floor, both ends met."""

import math

import pytest

from srr_trainer.schedule import learning_rate_factor, warmup_steps


def rates(steps: int, *, warmup: int = 0, floor: float = 0.2) -> list[float]:
    return [
        learning_rate_factor(step, steps=steps, warmup_steps=warmup, floor=floor) for step in range(steps)
    ]


def test_the_papers_schedule_begins_at_the_peak_and_ends_at_the_floor() -> None:
    peak = 5.5e-6
    found = [peak * factor for factor in rates(11, floor=1.1e-6 / peak)]
    assert found[0] == pytest.approx(5.5e-6)
    assert found[-1] == pytest.approx(1.1e-6)
    assert found[5] == pytest.approx((5.5e-6 + 1.1e-6) / 2), (
        "half-way along a cosine is half-way between its ends"
    )
    assert found == sorted(found, reverse=True)


def test_it_is_a_cosine_and_no_line() -> None:
    found = rates(101, floor=0.0)
    assert found[25] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_the_rise_starts_above_zero_and_ends_at_the_peak() -> None:
    found = rates(12, warmup=3)
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[-1] == pytest.approx(0.2)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_still_have_a_rate(steps: int) -> None:
    found = rates(steps)
    assert found[0] == 1.0
    assert all(0.2 <= rate <= 1.0 for rate in found)


def test_warm_up_leaves_a_step_for_the_peak() -> None:
    assert warmup_steps(0.0, 100) == 0
    assert warmup_steps(0.1, 100) == 10
    assert warmup_steps(0.01, 10) == 1
    assert warmup_steps(0.9, 1) == 0
