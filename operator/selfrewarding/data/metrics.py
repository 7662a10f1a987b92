"""How well a judge agrees with people, and win rates of head-to-head comparisons.

The five numbers of arXiv 2401.10020 section 2.4 (table 4), each with a bootstrap interval over prompts. The paper does
not say how ties count; what is done here is written into the result under `conventions`. A number that is not defined is
null with a reason beside it, never NaN.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau, spearmanr

from selfrewarding.data.jsonl import Row
from selfrewarding.data.rows import Fields, JsonNumber, identifier, parse_row
from selfrewarding.data.scores import exact

CONVENTIONS = {
    "rank": "lower is better; answers that people ranked equal are not compared with each other",
    "pairwise_accuracy": "percent of pairs with different human ranks that the scores order alike; equal scores count "
    "one half, so a judge that always says the same has 50",
    "pairwise_accuracy_without_ties": "the same over pairs with different scores only",
    "five_best": "percent of answers with the highest score of the scale that no other judged answer of their prompt "
    "beats in human rank",
    "exact_match": "percent of prompts whose whole human order is reproduced: every pair with different ranks strictly "
    "so; a prompt with an unjudged answer does not match",
    "spearman": "mean over prompts of Spearman's rho between score and human order, ties by average rank; prompts whose "
    "scores or ranks are all equal have none and are left out",
    "kendall_tau": "mean over prompts of Kendall's tau-b, prompts left out as for spearman",
    "unjudged": "an answer with score null takes part in nothing but exact_match",
    "prompts": "a prompt counts if at least two judged answers have different human ranks",
    "interval": "95 % percentile bootstrap over prompts, resamples in which the number is not defined left out",
}


@dataclass(frozen=True, slots=True)
class ScoredPrompt:
    """A prompt's answers as (score, human rank); the score is None if no judgement was valid."""

    id: str
    responses: tuple[tuple[Fraction | None, int], ...]


@dataclass(frozen=True, slots=True)
class _PromptCounts:
    concordant: int
    discordant: int
    tied: int
    top: int
    top_best: int
    exact: int
    spearman: float | None
    kendall: float | None


def judge_metrics(
    prompts: Sequence[ScoredPrompt], *, maximum: Fraction = Fraction(5), resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """The judge's agreement with human ranks as one JSON object.

    Args:
        prompts: scored and ranked answers.
        maximum: the highest score of the scale, for `five_best`.
        resamples: of the bootstrap; 0 gives no intervals.
        seed: of the bootstrap; equal seeds give equal intervals.
    """
    counts = [
        counted for prompt in prompts if (counted := _count(prompt, maximum)) is not None
    ]
    ratios = {
        "pairwise_accuracy": _ratio(counts, "no pair", lambda c: _half_ties(c), 100),
        "pairwise_accuracy_without_ties": _ratio(
            counts,
            "no pair with different scores",
            lambda c: (c.concordant, c.concordant + c.discordant),
            100,
        ),
        "five_best": _ratio(
            counts, f"no answer has the score {maximum}", lambda c: (c.top_best, c.top), 100
        ),
        "exact_match": _ratio(counts, "no prompt", lambda c: (c.exact, 1), 100),
        "spearman": _ratio(counts, "no prompt with different scores", lambda c: _defined(c.spearman), 1),
        "kendall_tau": _ratio(counts, "no prompt with different scores", lambda c: _defined(c.kendall), 1),
    }
    generator = np.random.default_rng(seed)
    picks = generator.integers(0, len(counts), size=(resamples, len(counts))) if counts and resamples else None
    result: dict[str, Any] = {name: ratio.value() for name, ratio in ratios.items()}
    reasons = {name: ratio.reason for name, ratio in ratios.items() if result[name] is None}
    if not counts:
        reasons = dict.fromkeys(ratios, "no prompt with two judged answers of different human ranks")
    result["undefined"] = reasons
    result["intervals"] = {name: ratio.interval(picks) for name, ratio in ratios.items()}
    result["counts"] = {
        "prompts": len(prompts),
        "prompts_counted": len(counts),
        "prompts_with_correlation": sum(count.spearman is not None for count in counts),
        "responses": sum(len(prompt.responses) for prompt in prompts),
        "responses_unjudged": sum(score is None for prompt in prompts for score, _ in prompt.responses),
        "responses_with_highest_score": sum(count.top for count in counts),
        "pairs_concordant": sum(count.concordant for count in counts),
        "pairs_discordant": sum(count.discordant for count in counts),
        "pairs_tied": sum(count.tied for count in counts),
        "resamples": resamples,
    }
    result["conventions"] = CONVENTIONS
    return result


def _count(prompt: ScoredPrompt, maximum: Fraction) -> _PromptCounts | None:
    judged = [(score, rank) for score, rank in prompt.responses if score is not None]
    if len({rank for _, rank in judged}) < 2:
        return None
    concordant = discordant = tied = 0
    for (score, rank), (other_score, other_rank) in combinations(judged, 2):
        if rank == other_rank:
            continue
        if score == other_score:
            tied += 1
        elif (score > other_score) == (rank < other_rank):
            concordant += 1
        else:
            discordant += 1
    best = min(rank for _, rank in judged)
    top = [rank for score, rank in judged if score == maximum]
    # Dense positions instead of floats: two means that are equal as fractions stay equal in the correlations.
    order = {score: position for position, score in enumerate(sorted({score for score, _ in judged}))}
    scores = [order[score] for score, _ in judged]
    goodness = [-rank for _, rank in judged]
    return _PromptCounts(
        concordant=concordant,
        discordant=discordant,
        tied=tied,
        top=len(top),
        top_best=sum(rank == best for rank in top),
        exact=int(not discordant and not tied and len(judged) == len(prompt.responses)),
        spearman=_correlation(spearmanr, scores, goodness),
        kendall=_correlation(kendalltau, scores, goodness),
    )


def _correlation(function: Any, scores: Sequence[int], goodness: Sequence[int]) -> float | None:
    if len(set(scores)) < 2 or len(set(goodness)) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # p-values of a few answers: not used
        value = float(function(scores, goodness).statistic)
    return value if math.isfinite(value) else None


def _half_ties(count: _PromptCounts) -> tuple[float, float]:
    return count.concordant + count.tied / 2, count.concordant + count.discordant + count.tied


def _defined(value: float | None) -> tuple[float, float]:
    return (0.0, 0.0) if value is None else (value, 1.0)


@dataclass(frozen=True, slots=True)
class _Ratio:
    """A metric as a ratio of sums over prompts, which is what makes its bootstrap one matrix operation."""

    numerators: npt.NDArray[np.float64]
    denominators: npt.NDArray[np.float64]
    scale: float
    reason: str

    def value(self) -> float | None:
        total = float(self.denominators.sum())
        return self.scale * float(self.numerators.sum()) / total if total else None

    def interval(self, picks: npt.NDArray[np.int64] | None) -> list[float] | None:
        if picks is None or not self.denominators.sum():
            return None
        numerators = self.numerators[picks].sum(axis=1)
        denominators = self.denominators[picks].sum(axis=1)
        defined = denominators > 0
        low, high = np.percentile(self.scale * numerators[defined] / denominators[defined], [2.5, 97.5])
        return [float(low), float(high)]


def _ratio(counts: Sequence[_PromptCounts], reason: str, parts: Any, scale: float) -> _Ratio:
    sums = np.array([parts(count) for count in counts], dtype=np.float64).reshape(-1, 2)
    return _Ratio(sums[:, 0], sums[:, 1], scale, reason)


WIN_RATE_CONVENTIONS = {
    "preference": "1: the reference wins, 2: the model wins, 1.5: a tie; values between are degrees of preference",
    "win_rate": "100 x the mean of (preference - 1), so a tie counts one half (AlpacaEval)",
    "standard_error": "100 x the sample standard deviation / sqrt(n); null for n < 2",
    "unjudged": "rows with preference null are counted and take no part",
}


def win_rate(preferences: Sequence[float | None]) -> dict[str, Any]:
    """Win rate of a model against a reference, in percent, from preferences between 1 and 2."""
    values = [preference - 1 for preference in preferences if preference is not None]
    count = len(values)
    average = math.fsum(values) / count if count else None
    error = None
    if average is not None and count > 1:
        variance = math.fsum((value - average) ** 2 for value in values) / (count - 1)
        error = 100 * math.sqrt(variance / count)
    return {
        "win_rate": None if average is None else 100 * average,
        "standard_error": error,
        "n": count,
        "wins": sum(value > 0.5 for value in values),
        "ties": sum(value == 0.5 for value in values),
        "losses": sum(value < 0.5 for value in values),
        "unjudged": len(preferences) - count,
        "undefined": {} if count else {"win_rate": "no row with a preference"},
        "conventions": WIN_RATE_CONVENTIONS,
    }


class _ScoredResponseFields(Fields):
    score: JsonNumber | None
    human_rank: int


class _ScoredFields(Fields):
    id: str | int
    responses: list[_ScoredResponseFields]


class _PreferenceFields(Fields):
    preference: JsonNumber | None


def read_scored_prompts(rows: Iterable[Row]) -> Iterator[ScoredPrompt]:
    """Rows `{"id", "responses": [{"score": number|null, "human_rank": int}]}`.

    Raises:
        DataError: a field is missing or wrong, or an id stands twice.
    """
    seen: dict[str, int] = {}
    for row in rows:
        fields = parse_row(row, _ScoredFields)
        name = identifier(row, fields.id)
        if name in seen:
            raise row.error(
                field="id",
                found=f'"{name}" again (first on line {seen[name]})',
                expected="each id once",
                remedy="Delete one of the rows.",
            )
        seen[name] = row.line
        yield ScoredPrompt(
            name,
            tuple(
                (None if response.score is None else exact(response.score), response.human_rank)
                for response in fields.responses
            ),
        )


def read_preferences(rows: Iterable[Row]) -> Iterator[float | None]:
    """Rows `{"preference": 1..2 or null}`.

    Raises:
        DataError: the field is missing, no number, or outside 1 to 2.
    """
    for row in rows:
        preference = parse_row(row, _PreferenceFields).preference
        if preference is not None and not 1 <= preference <= 2:
            raise row.error(
                field="preference",
                found=str(preference),
                expected="a number from 1 (reference) to 2 (model), or null",
                remedy="Write 1.5 for a tie and null where there is no verdict.",
            )
        yield preference
