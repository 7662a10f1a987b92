"""Whether the first judge is good enough to spend rollouts on (`judge.calibration`).

Pure: numbers in, a reason out. The numbers are those of M1's Evaluate, on held-out rows that people ranked: they are
measured anyway, by the judge that the first rollout will ask. Neighbour: `View.pending` stops before the first rollout.
"""

from selfrewarding.api.algorithm import CalibrationSpec
from selfrewarding.api.run import Metrics, StageSummary

NO_HELD_OUT = (
    "judge.calibration is set, but there are no held-out rows to measure the judge on: give seedData.ranked or "
    "seedData.heldOut.source, or remove judge.calibration."
)
_REMEDY = (
    "Try judge.format Structured with judge.scoring Expected, more EFT rows (seedData.ranked), another judge.template or a "
    "dedicated judge (judge.modelUri); or change judge.calibration."
)


def why_not_calibrated(
    calibration: CalibrationSpec, metrics: Metrics, evaluated: StageSummary | None
) -> str | None:
    """What of `judge.calibration` the judge does not reach, with what was measured and what to try; None if it does.

    Args:
        calibration: what is asked for.
        metrics: M1's.
        evaluated: the summary of its Evaluate; what it does not say (any more) is not looked at.
    """
    pairs = evaluated.counts.get("pairs") if evaluated is not None else None
    accuracy, valid = metrics.pairwise_accuracy, metrics.valid_rate
    failings: list[str] = []
    if valid is not None and calibration.min_valid_rate is not None and valid < calibration.min_valid_rate:
        failings.append(
            f"{valid:.3g} of its judgements are valid, minValidRate is {calibration.min_valid_rate:g}"
        )
    if pairs is not None and pairs < calibration.min_pairs:
        failings.append(
            f"only {pairs} pairs of held-out answers could be judged, minPairs is {calibration.min_pairs} (a larger "
            "seedData.heldOut.share or more ranked rows give more)"
        )
    elif accuracy is None and calibration.min_pairwise_accuracy is not None:
        failings.append("its pairwise accuracy is not defined: no pair of held-out answers could be judged")
    lowest = calibration.min_pairwise_accuracy
    if accuracy is not None and lowest is not None and accuracy < lowest:
        failings.append(
            f"its pairwise accuracy is {_measured(accuracy, pairs, evaluated)}, minPairwiseAccuracy is {lowest:g}"
        )
    if not failings:
        return None
    return (
        f"On the held-out rows the judge does not reach judge.calibration: {'; '.join(failings)}. {_REMEDY}"
    )


def _measured(accuracy: float, pairs: int | None, evaluated: StageSummary | None) -> str:
    """The number with its interval and the number of pairs, as far as the summary has them."""
    told = evaluated.metrics if evaluated is not None else {}
    low, high = told.get("pairwiseAccuracyLow"), told.get("pairwiseAccuracyHigh")
    details = [f"95 % interval {low:.3g} to {high:.3g}"] if low is not None and high is not None else []
    details += [f"{pairs} pairs"] if pairs is not None else []
    return f"{accuracy:.3g}" + (f" ({', '.join(details)})" if details else "")
