"""Intervals: of a single ratio by bootstrap, and as they stand in results."""

import pytest

from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.data.bootstrap import ratio_interval
from selfrewarding.data.intervals import intervals_of


def result(intervals: object) -> StageResult:
    return StageResult(
        contract=CONTRACT_VERSION, kind=StageKind.COMPARE, iteration=2, key="a" * 64, seconds=1, pod="p",
        report={"intervals": intervals},
    )  # fmt: skip


def test_an_interval_covers_what_it_is_drawn_from_and_is_reproducible() -> None:
    numerators, denominators = [1.0, 0.0] * 50, [1.0] * 100
    found = ratio_interval(numerators, denominators, resamples=2000, seed=1)
    assert found == ratio_interval(numerators, denominators, resamples=2000, seed=1)
    assert found is not None
    # A binomial share of 100 with standard error 5 %.
    assert found == [pytest.approx(40.2, abs=1.5), pytest.approx(59.8, abs=1.5)]
    assert ratio_interval([2.0] * 9, [2.0] * 9, resamples=100, seed=1) == [100, 100]


@pytest.mark.parametrize(("denominators", "resamples"), [([], 100), ([1.0], 0), ([0.0, 0.0], 100)])
def test_what_is_not_defined_has_no_interval(denominators: list[float], resamples: int) -> None:
    assert ratio_interval([0.0] * len(denominators), denominators, resamples=resamples, seed=0) is None


def test_intervals_are_by_metric_and_in_its_unit() -> None:
    written = {
        "pairwise_accuracy": [51.0, 64.0], "spearman": [-0.1, 0.4], "valid_rate": [90, 100],
        "previous": {"win_rate": [48.0, 60.0], "length_controlled_win_rate": None},
        "initial": {"win_rate": [50.0, 70.0]}, "all": {"position_bias": [5.0, 15.0]},
    }  # fmt: skip
    assert intervals_of(result(written)) == {
        "pairwiseAccuracy": (0.51, 0.64), "spearman": (-0.1, 0.4), "validRate": (0.9, 1),
        "winRate": (0.48, 0.6), "winRateInitial": (0.5, 0.7), "positionBias": (0.05, 0.15),
    }  # fmt: skip


@pytest.mark.parametrize(
    "written", [None, [], "a", {"previous": []}, {"spearman": [1]}, {"spearman": [None, True]}]
)
def test_what_is_no_interval_is_left_out(written: object) -> None:
    assert intervals_of(result(written)) == {}
