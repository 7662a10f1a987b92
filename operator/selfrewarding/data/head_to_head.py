"""One model against another on the same prompts: what the verdicts in both orders add up to.

Purpose: win rate with its standard error and interval, win/tie/loss, length-controlled win rate and position bias, from
verdicts that a judge gave with the model's answer shown first and shown second (arXiv 2401.10020 section 3.2.1: both
orders, disagreement is a tie; AlpacaEval's scale from 1 to 2).
Must not: ask or parse; turn a missing verdict into one. A number that is not defined is null with its reason, never NaN.
Neighbours: `comparison_prompt` reads verdicts, `win_rate` is the rate itself, `length_control` the regression, `bootstrap`
the interval of a single ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from selfrewarding.data import length_control
from selfrewarding.data.bootstrap import ratio_interval
from selfrewarding.data.comparison_prompt import Verdict
from selfrewarding.data.win_rate import win_rate

Place = Literal["first", "second"]

CONVENTIONS = {
    "preference": "AlpacaEval's scale: 2 the model wins, 1 the other one does, 1.5 a tie. Each prompt is asked in both "
    "orders: equal verdicts count as given, different ones are a tie, also where one of them says tie",
    "win_rate": "percent: 100 x the mean of (preference - 1), so wins + ties / 2 of the judged prompts",
    "standard_error": "100 x the sample standard deviation of the preferences / sqrt(n); null for n < 2",
    "paired_difference": "mean over prompts of (preference - 1.5): above 0 the model is preferred on the same prompts",
    "length_controlled_win_rate": "percent: " + length_control.METHOD,
    "position_bias": "percent of the prompts with two valid verdicts in which the judge prefers the answer that stands in "
    "the same place in both orders; a judge that always prefers the first has 100, one that is consistent has 0",
    "first_place": "percent of all verdicts other than ties that prefer the answer shown first; 50 without a bias",
    "identical": "two answers with the same text are a tie and are not asked about; they take no part in position_bias",
    "unjudged": "a prompt without a valid verdict in either of its orders has no preference and takes part in nothing else; "
    "an invalid verdict is asked for again a few times and never counted as a tie; a prompt that left one of the models no "
    "room for an answer is not asked about",
    "interval": "95 % percentile bootstrap over prompts, resamples in which the number is not defined left out",
}

_RATES = ("win_rate", "paired_difference", "length_controlled_win_rate", "position_bias")
_GATHERED = 500_000  # numbers of one bootstrap step: bounds its memory to some 50 MB


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt, answered by both models.

    Attributes:
        key: of its row.
        shown_first: verdict with the model's answer as A and the other's as B; None if there is no valid one.
        shown_second: verdict with the model's answer as B.
        length: of the model's answer, in characters.
        other_length: of the other's.
        identical: the two answers have the same text: a tie by itself.
        category: of the prompt, if it has one.
        prompt: names the prompt where rows of several opponents are counted together; absent: each row is one.
    """

    key: str
    shown_first: Verdict | None
    shown_second: Verdict | None
    length: int
    other_length: int
    identical: bool = False
    category: str | None = None
    prompt: str | None = None

    @property
    def preference(self) -> float | None:
        """2 the model wins, 1 the other one, 1.5 a tie; None without two valid verdicts."""
        if self.identical:
            return 1.5
        if self.shown_first is None or self.shown_second is None:
            return None
        if (self.shown_first, self.shown_second) == ("A", "B"):
            return 2.0
        return 1.0 if (self.shown_first, self.shown_second) == ("B", "A") else 1.5

    @property
    def place(self) -> Place | None:
        """The place that the judge preferred in both orders; None if it kept to an answer, or said tie."""
        if self.identical or self.shown_first != self.shown_second or self.shown_first not in {"A", "B"}:
            return None
        return "first" if self.shown_first == "A" else "second"

    @property
    def judged_twice(self) -> bool:
        """Whether both orders have a valid verdict."""
        return not self.identical and self.shown_first is not None and self.shown_second is not None


def head_to_head(
    comparisons: Sequence[Comparison], *, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """One model against another as one JSON object; the conventions of all numbers stand in `CONVENTIONS`.

    Args:
        comparisons: one for each prompt that both answered.
        resamples: of the bootstrap over prompts; 0 gives no intervals.
        seed: of the bootstrap; equal seeds give equal intervals.
    """
    rate = win_rate([one.preference for one in comparisons])
    judged = [one for one in comparisons if one.preference is not None]
    wins = np.array([(one.preference or 0.0) - 1 for one in judged], dtype=np.float64)
    undefined: dict[str, str] = {}
    if not judged:
        undefined = dict.fromkeys(("win_rate", "paired_difference"), "no prompt with two valid verdicts")
    regressor, reason = length_control.standardised([one.length - one.other_length for one in judged])
    controlled = None
    if regressor is not None:
        (found,) = length_control.controlled_rates(regressor, wins, np.ones((1, len(wins))))
        controlled = None if np.isnan(found) else 100 * float(found)
        reason = length_control.SEPARATED if controlled is None else None
    if reason is not None:
        undefined["length_controlled_win_rate"] = reason
    bias = position_bias(comparisons)
    undefined |= bias["undefined"]
    result: dict[str, Any] = {
        **{
            name: rate[name]
            for name in ("win_rate", "standard_error", "n", "wins", "ties", "losses", "unjudged")
        },
        "paired_difference": None if rate["win_rate"] is None else rate["win_rate"] / 100 - 0.5,
        "length_controlled_win_rate": controlled,
        "position_bias": bias["position_bias"],
        "first_place": bias["first_place"],
        "mean_length": float(np.mean([one.length for one in judged])) if judged else None,
        "mean_other_length": float(np.mean([one.other_length for one in judged])) if judged else None,
    }
    result["counts"] = {
        "prompts": len(comparisons),
        "identical": sum(one.identical for one in comparisons),
        "judged_in_one_order_only": sum(
            not one.identical and (one.shown_first is None) != (one.shown_second is None)
            for one in comparisons
        ),
        **bias["counts"],
        "resamples": resamples,
    }
    result["by_category"] = _by_category(comparisons, resamples, seed)
    result["undefined"] = undefined
    result["intervals"] = _intervals(comparisons, wins, regressor, resamples, seed)
    return result


def position_bias(comparisons: Sequence[Comparison], *, resamples: int = 0, seed: int = 0) -> dict[str, Any]:
    """How the judge leans to a place, over any comparisons; in percent, null with the reason where undefined. The interval
    is over prompts: the comparisons of one prompt are drawn together."""
    twice = [one for one in comparisons if one.judged_twice]
    first = sum(one.shown_first == "A" for one in twice) + sum(one.shown_second == "A" for one in twice)
    second = sum(one.shown_first == "B" for one in twice) + sum(one.shown_second == "B" for one in twice)
    same = [one.place for one in twice if one.place is not None]
    undefined = {}
    if not twice:
        undefined["position_bias"] = "no prompt with two valid verdicts on different answers"
    if not first + second:
        undefined["first_place"] = "no verdict other than ties"
    return {
        "position_bias": 100 * len(same) / len(twice) if twice else None,
        "first_place": 100 * first / (first + second) if first + second else None,
        "counts": {
            "judged_twice": len(twice),
            "first_in_both_orders": same.count("first"),
            "second_in_both_orders": same.count("second"),
        },
        "undefined": undefined,
        "intervals": {"position_bias": _bias_interval(comparisons, resamples, seed)},
    }


def _bias_interval(comparisons: Sequence[Comparison], resamples: int, seed: int) -> list[float] | None:
    counted: dict[str, tuple[int, int]] = {}
    for one in comparisons:
        same, twice = counted.get(one.prompt or one.key, (0, 0))
        counted[one.prompt or one.key] = same + (one.place is not None), twice + one.judged_twice
    return ratio_interval(
        [same for same, _ in counted.values()],
        [twice for _, twice in counted.values()],
        resamples=resamples,
        seed=seed,
    )


def _by_category(comparisons: Sequence[Comparison], resamples: int, seed: int) -> dict[str, Any]:
    """Win rates alone, each with its interval: a category has few prompts."""
    grouped: dict[str, list[float | None]] = {}
    for one in comparisons:
        if one.category is not None:
            grouped.setdefault(one.category, []).append(one.preference)
    kept = ("win_rate", "standard_error", "n", "wins", "ties", "losses", "unjudged", "undefined")
    return {
        category: {
            **{name: value for name, value in win_rate(preferences).items() if name in kept},
            "intervals": {"win_rate": _rate_interval(preferences, resamples, seed)},
        }
        for category, preferences in sorted(grouped.items())
    }


def _rate_interval(preferences: Sequence[float | None], resamples: int, seed: int) -> list[float] | None:
    return ratio_interval(
        [0.0 if preference is None else preference - 1 for preference in preferences],
        [float(preference is not None) for preference in preferences],
        resamples=resamples,
        seed=seed,
    )


def _intervals(
    comparisons: Sequence[Comparison],
    wins: npt.NDArray[np.float64],
    regressor: npt.NDArray[np.float64] | None,
    resamples: int,
    seed: int,
) -> dict[str, list[float] | None]:
    """Prompts are drawn, judged or not, and every number is computed anew on each draw."""
    prompts = len(comparisons)
    if not prompts or not resamples:
        return dict.fromkeys(_RATES)
    judged = np.array([one.preference is not None for one in comparisons])
    twice = np.array([one.judged_twice for one in comparisons], dtype=np.float64)
    same = np.array([one.place is not None for one in comparisons], dtype=np.float64)
    generator = np.random.default_rng(seed)
    found: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in _RATES}
    chunk = max(1, _GATHERED // prompts)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        weights = generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=size).astype(np.float64)
        of_judged = weights[:, judged]
        share = _ratio(of_judged @ wins, of_judged.sum(axis=1))
        found["win_rate"].append(100 * share)
        found["paired_difference"].append(share - 0.5)
        found["position_bias"].append(100 * _ratio(weights @ same, weights @ twice))
        if regressor is not None:
            found["length_controlled_win_rate"].append(
                100 * length_control.controlled_rates(regressor, wins, of_judged)
            )
    return {name: _interval(values) for name, values in found.items()}


def _ratio(sums: npt.NDArray[np.float64], bases: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.divide(sums, bases, out=np.full(len(sums), np.nan), where=bases > 0))


def _interval(values: list[npt.NDArray[np.float64]]) -> list[float] | None:
    whole = np.concatenate(values) if values else np.empty(0)
    defined = whole[~np.isnan(whole)]
    return [float(bound) for bound in np.percentile(defined, [2.5, 97.5])] if len(defined) else None
