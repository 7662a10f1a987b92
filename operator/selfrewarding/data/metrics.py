"""How well a judge agrees with people who ranked the same answers.

The five numbers of arXiv 2401.10020 (table 4), each with a bootstrap interval over prompts. The paper does not say how
ties count; what is done here is written into the result under `conventions`. A number that is not defined is null with
a reason beside it, never NaN.
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
from selfrewarding.data.rows import Fields, Identifiers, JsonNumber, parse_row
from selfrewarding.data.scores import exact

_METRICS: dict[str, tuple[float, str]] = {
    "pairwise_accuracy": (100, "no pair of different human ranks"),
    "pairwise_accuracy_without_ties": (100, "no pair with different scores"),
    "five_best": (100, "no answer has the highest score"),
    "exact_match": (100, "no prompt"),
    "spearman": (1, "no prompt with different scores"),
    "kendall_tau": (1, "no prompt with different scores"),
}
"""Each metric's scale and why it may be undefined."""

_GATHERED = 500_000  # rows of one bootstrap step: bounds its memory to some 50 MB

CONVENTIONS = {
    "rank": "lower is better; answers that people ranked equal are not compared with each other",
    "pairwise_accuracy": "percent of pairs with different human ranks that the scores order alike; equal scores count "
    "one half, so a judge that always says the same has 50",
    "pairwise_accuracy_without_ties": "the same over pairs with different scores only",
    "five_best": "percent of answers with the highest score of the scale that no other judged answer of their prompt "
    "beats in human rank",
    "exact_match": "percent of prompts whose whole human order is reproduced: every pair with different ranks strictly "
    "so; a prompt with an unjudged answer does not match",
    "spearman": "mean over prompts of Spearman's rho between score and human order, ties by average rank; "
    "prompts whose scores or ranks are all equal have none and are left out",
    "kendall_tau": "mean over prompts of Kendall's tau-b, prompts left out as for spearman",
    "unjudged": "an answer with score null takes part in nothing but exact_match",
    "category": "a prompt of a category counts in the whole and in `by_category`; one without counts in the whole alone",
    "prompts": "a prompt counts if at least two judged answers have different human ranks",
    "interval": "95 % percentile bootstrap over prompts, resamples in which the number is not defined left out",
}


@dataclass(frozen=True, slots=True)
class ScoredPrompt:
    """A prompt's answers as (score, human rank); the score is None if no judgement was valid."""

    id: str | int
    responses: tuple[tuple[Fraction | None, int], ...]
    category: str | None = None
    """The subset that it belongs to, if rows carry one (LLMBar's subsets, MT-Bench's categories)."""


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
    """The judge's agreement with human ranks as one JSON object; where prompts have categories, `by_category` has the same
    numbers for each.

    Args:
        prompts: scored and ranked answers.
        maximum: the highest score of the scale, for `five_best`.
        resamples: of the bootstrap; 0 gives no intervals.
        seed: of the bootstrap; equal seeds give equal intervals.
    """
    result = _measured(prompts, maximum, resamples, seed)
    grouped: dict[str, list[ScoredPrompt]] = {}
    for prompt in prompts:
        if prompt.category is not None:
            grouped.setdefault(prompt.category, []).append(prompt)
    if grouped:
        result["by_category"] = {
            name: _measured(group, maximum, resamples, seed) for name, group in sorted(grouped.items())
        }
    result["conventions"] = CONVENTIONS
    return result


def _measured(
    prompts: Sequence[ScoredPrompt], maximum: Fraction, resamples: int, seed: int
) -> dict[str, Any]:
    counts = [counted for prompt in prompts if (counted := _count(prompt, maximum)) is not None]
    # Every metric is a ratio of two sums over prompts, which makes its bootstrap a matter of array sums.
    numerators = np.array([_numerators(count) for count in counts], dtype=np.float64).reshape(
        -1, len(_METRICS)
    )
    denominators = np.array([_denominators(count) for count in counts], dtype=np.float64).reshape(
        -1, len(_METRICS)
    )
    totals, bases = numerators.sum(axis=0), denominators.sum(axis=0)
    result: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for column, (name, (scale, reason)) in enumerate(_METRICS.items()):
        result[name] = scale * float(totals[column]) / float(bases[column]) if bases[column] else None
        if result[name] is None:
            reasons[name] = reason if counts else "no prompt with two judged answers of different human ranks"
    result["undefined"] = reasons
    result["intervals"] = _intervals(numerators, denominators, resamples, seed)
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
    return result


def rank_correlations(prompts: Sequence[ScoredPrompt]) -> list[tuple[str, float]]:
    """Spearman's rho with the human order of each prompt that has one, with the prompt's id: where a judge goes wrong."""
    # `five_best` alone asks for the highest score: any will do here.
    counted = ((prompt, _count(prompt, Fraction(0))) for prompt in prompts)
    return [
        (str(prompt.id), count.spearman) for prompt, count in counted if count and count.spearman is not None
    ]


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


def _numerators(count: _PromptCounts) -> list[float]:
    return [
        count.concordant + count.tied / 2,
        count.concordant,
        count.top_best,
        count.exact,
        count.spearman or 0.0,
        count.kendall or 0.0,
    ]


def _denominators(count: _PromptCounts) -> list[float]:
    return [
        count.concordant + count.discordant + count.tied,
        count.concordant + count.discordant,
        count.top,
        1,
        count.spearman is not None,
        count.kendall is not None,
    ]


def _intervals(
    numerators: npt.NDArray[np.float64], denominators: npt.NDArray[np.float64], resamples: int, seed: int
) -> dict[str, list[float] | None]:
    prompts = len(numerators)
    if not prompts or not resamples:
        return dict.fromkeys(_METRICS)
    generator = np.random.default_rng(seed)
    drawn_numerators, drawn_denominators = [], []
    chunk = max(1, _GATHERED // prompts)
    for start in range(0, resamples, chunk):
        picks = generator.integers(0, prompts, size=(min(chunk, resamples - start), prompts))
        drawn_numerators.append(numerators[picks].sum(axis=1))
        drawn_denominators.append(denominators[picks].sum(axis=1))
    sums, bases = np.concatenate(drawn_numerators), np.concatenate(drawn_denominators)
    intervals: dict[str, list[float] | None] = {}
    for column, (name, (scale, _)) in enumerate(_METRICS.items()):
        defined = bases[:, column] > 0
        if not defined.any():
            intervals[name] = None
            continue
        values = scale * sums[defined, column] / bases[defined, column]
        intervals[name] = [float(bound) for bound in np.percentile(values, [2.5, 97.5])]
    return intervals


class _ScoredResponseFields(Fields):
    score: JsonNumber | None
    human_rank: int


class _ScoredFields(Fields):
    id: str | int
    responses: list[_ScoredResponseFields]
    category: str | None = None
    subset: str | None = None


def read_scored_prompts(rows: Iterable[Row]) -> Iterator[ScoredPrompt]:
    """Rows `{"id", "responses": [{"score": number|null, "human_rank": int}], "category"?}` (or `subset`).

    Raises:
        DataError: a field is missing or wrong, or an id stands twice.
    """
    ids = Identifiers()
    for row in rows:
        fields = parse_row(row, _ScoredFields)
        ids.claim(row, fields.id)
        yield ScoredPrompt(
            fields.id,
            tuple(
                (None if response.score is None else exact(response.score), response.human_rank)
                for response in fields.responses
            ),
            fields.category or fields.subset or None,
        )
