"""What judged answers, and the pairs chosen from them, show of a judge that rewards itself for nothing.

Purpose: the numbers that alarms and gate rules read, and the rows that show each best. Lengths are in characters. A number
that is not defined is left out, never NaN.
Must not: choose pairs or decide anything; import numpy (BuildPreferences starts in well under a second).
Neighbours: Rollout and BuildPreferences call this; `text_measures` looks at texts, `pairs` has chosen.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from selfrewarding.data.evidence import highest, lowest
from selfrewarding.data.judged_prompts import JudgedPrompt
from selfrewarding.data.pairs import Preference, PromptOutcome
from selfrewarding.data.scores import mean
from selfrewarding.data.text_measures import refuses, repeats, repetition

Scoring = Literal["Sampled", "Expected"]
PromptScores = tuple[str, Sequence[Fraction]]
"""Key of a prompt and the scores of those of its answers that have one."""


@dataclass(slots=True)
class Measures:
    """Metrics, and for each the keys of the rows that show it best."""

    metrics: dict[str, float] = field(default_factory=dict)
    evidence: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, name: str, value: float, rows: list[dict[str, Any]]) -> None:
        """Note a metric with its rows."""
        self.metrics[name] = value
        self.evidence[name] = rows


def score_piling(prompts: Iterable[PromptScores], scoring: Scoring, into: Measures) -> None:
    """`scorePiling`: the share of the scored answers that have the most common score.

    Expected scores are real numbers, of which no two are equal: they count by the nearest half. Its rows are prompts by the
    share of their answers that have it.
    """
    binned = [(key, [_bin(score, scoring) for score in scores]) for key, scores in prompts]
    counts = Counter(score for _, scores in binned for score in scores)
    if not counts:
        return
    most = max(sorted(counts), key=lambda score: counts[score])
    into.add(
        "scorePiling",
        counts[most] / counts.total(),
        highest((key, scores.count(most) / len(scores)) for key, scores in binned if most in scores),
    )


def measure_answers(prompts: Sequence[JudgedPrompt], *, min_valid: int, scoring: Scoring) -> Measures:
    """Of all answers: `meanLength`, `refusalRate`, `repetitionRate`, and of the scored ones `scorePiling` and
    `scoreLengthCorrelation` (Pearson). Rows are prompts.

    Args:
        prompts: with their judged answers.
        min_valid: valid judgements that an answer needs to have a score.
        scoring: how scores were made.
    """
    found = Measures()
    answered = [(str(prompt.id), [response.text for response in prompt.responses]) for prompt in prompts]
    answered = [(key, texts) for key, texts in answered if texts]
    if answered:
        lengths = [(key, statistics.fmean(map(len, texts))) for key, texts in answered]
        whole = statistics.fmean(len(text) for _, texts in answered for text in texts)
        found.add("meanLength", whole, highest(lengths))
        found.add("refusalRate", *_share(answered, refuses))
        found.add("repetitionRate", *_share(answered, repeats, degree=repetition))
    scored = [(str(prompt.id), _scored(prompt, min_valid)) for prompt in prompts]
    score_piling(((key, [score for score, _ in one]) for key, one in scored), scoring, found)
    _score_length_correlation(scored, found)
    return found


def measure_pairs(
    prompts: Sequence[JudgedPrompt],
    outcomes: Sequence[PromptOutcome],
    *,
    pairs: bool,
    into: Measures,
) -> None:
    """Of the choice: `tieRate` over prompts; with pairs (not positive examples) `pairYield`, `scoreGap` (mean difference of
    the scores of chosen and rejected) and `lengthRatio` (mean length of the chosen by that of the rejected answers).
    Rows are prompts for the rates, and pairs for the others."""
    if prompts:
        tied = [
            str(prompt.id) for prompt, one in zip(prompts, outcomes, strict=True) if one.outcome == "ties"
        ]
        sizes = {str(prompt.id): len(prompt.responses) for prompt in prompts}
        into.add("tieRate", len(tied) / len(prompts), highest((key, float(sizes[key])) for key in tied))
    chosen = [pair for one in outcomes for pair in one.preferences]
    if not pairs:
        return
    if prompts:
        given = [
            (str(prompt.id), float(len(one.preferences)))
            for prompt, one in zip(prompts, outcomes, strict=True)
        ]
        into.add("pairYield", len(chosen) / len(prompts), lowest(item for item in given if not item[1]))
    if not chosen:
        return
    gaps = [float(pair.chosen_score - pair.rejected_score) for pair in chosen]
    into.add("scoreGap", statistics.fmean(gaps), _of_pairs(lowest, chosen, gaps))
    lengths = [(len(better), len(worse)) for better, worse in map(texts_of, chosen)]
    rejected = statistics.fmean(worse for _, worse in lengths)
    if rejected:
        ratios = [better / max(1, worse) for better, worse in lengths]
        value = statistics.fmean(better for better, _ in lengths) / rejected
        into.add("lengthRatio", value, _of_pairs(highest, chosen, ratios))


def texts_of(pair: Preference) -> tuple[str, str]:
    """The chosen and the rejected answer of a pair."""
    responses = pair.source.responses
    return responses[pair.chosen_index].text, responses[pair.rejected_index].text


def _share(
    answered: Sequence[tuple[str, list[str]]],
    holds: Callable[[str], bool],
    *,
    degree: Callable[[str], float] | None = None,
) -> tuple[float, list[dict[str, Any]]]:
    """The share of the answers for which something holds, and the prompts that have such: by the highest degree of one of
    them, or by the share of them."""
    found = [(key, len(texts), [text for text in texts if holds(text)]) for key, texts in answered]
    rows = highest(
        (key, max(map(degree, texts)) if degree else len(texts) / count)
        for key, count, texts in found
        if texts
    )
    return sum(len(texts) for _, _, texts in found) / sum(count for _, count, _ in found), rows


def _score_length_correlation(
    prompts: Sequence[tuple[str, Sequence[tuple[Fraction, int]]]], into: Measures
) -> None:
    """Pearson's correlation over all scored answers; its rows are the prompts that contribute most to it."""
    scores = [float(score) for _, one in prompts for score, _ in one]
    lengths = [float(length) for _, one in prompts for _, length in one]
    if len(set(scores)) < 2 or len(set(lengths)) < 2:
        return
    value = statistics.correlation(scores, lengths)
    middle, spread = statistics.fmean(scores), statistics.pstdev(scores)
    middle_length, spread_length = statistics.fmean(lengths), statistics.pstdev(lengths)
    sign = 1.0 if value >= 0 else -1.0
    into.add(
        "scoreLengthCorrelation",
        value,
        highest(
            (
                key,
                sign
                * statistics.fmean(
                    (float(score) - middle) / spread * (length - middle_length) / spread_length
                    for score, length in one
                ),
            )
            for key, one in prompts
            if one
        ),
    )


def _scored(prompt: JudgedPrompt, min_valid: int) -> list[tuple[Fraction, int]]:
    """Mean score and length of each answer that has enough valid judgements."""
    return [
        (score, len(response.text))
        for response in prompt.responses
        if response.valid >= min_valid and (score := mean(response.scores)) is not None
    ]


def _bin(score: Fraction, scoring: Scoring) -> Fraction:
    return score if scoring == "Sampled" else Fraction(round(score * 2), 2)


def _of_pairs(
    order: Callable[[Iterable[tuple[str, float]]], list[dict[str, Any]]],
    pairs: Sequence[Preference],
    values: Sequence[float],
) -> list[dict[str, Any]]:
    """Rows named by the pairs' keys; a key is a digest of the texts, so it is made for those few only."""
    places = (f"{place:012d}" for place in range(len(pairs)))
    return [
        {**row, "key": pairs[int(row["key"])].as_row()["key"]}
        for row in order(zip(places, values, strict=True))
    ]
