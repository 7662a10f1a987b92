"""From judged answers to preference pairs (arXiv 2401.10020 section 2.3) or positive examples (appendix A.4).

An answer's score is the exact mean of its valid judgements. Invalid judgements are dropped, never turned into a low
score (in the known reproductions they become -1, so that the answer nobody judged is "rejected"). Answers that were cut
by length are left out by default, else DPO learns "short and complete against long and cut". Answers with the same text
never pair, and equal means never do. Everything is deterministic; where answers are equally good the lowest index wins.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, get_args

from selfrewarding.data.judged_prompts import JudgedPrompt
from selfrewarding.data.rows import content_key, messages_json
from selfrewarding.data.scores import as_number, mean

PairRule = Literal["BestWorst", "AllAboveMargin", "BestRandom", "PositiveOnly"]
Truncated = Literal["Exclude", "RejectedOnly", "Allow"]
Outcome = Literal[
    "pairs",
    "ties",
    "below_margin",
    "identical",
    "too_few_responses",
    "truncated_only",
    "too_few_valid",
    "positives",
    "no_positive",
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True, slots=True)
class PairSettings:
    """How pairs are chosen.

    Attributes:
        rule: BestWorst: highest against lowest mean. AllAboveMargin: every answer against every one that is lower.
            BestRandom: highest against a lower one chosen by a hash of run seed and row id. PositiveOnly: no pairs, the
            answers with at least `positive_score`.
        min_margin: smallest difference of means; any difference above 0 where it is 0.
        min_valid: valid judgements that an answer needs.
        truncated: whether answers cut by length may take part.
        length_control: rho of arXiv 2407.19594 section 2.1, for BestWorst; lengths are in characters.
        positive_score: PositiveOnly: the mean that an answer needs.
        seed: BestRandom: the run's seed.
    """

    rule: PairRule = "BestWorst"
    min_margin: Fraction = Fraction(0)
    min_valid: int = 1
    truncated: Truncated = "Exclude"
    length_control: Fraction | None = None
    positive_score: Fraction = Fraction(5)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.length_control is not None and not 0 <= self.length_control <= 1:
            raise ValueError(f"length_control is {self.length_control}, expected 0 to 1")
        if self.min_margin < 0 or self.min_valid < 1:
            raise ValueError("min_margin must not be negative and min_valid must be at least 1")
        if self.length_control is not None and self.rule != "BestWorst":
            raise ValueError("length_control works with the rule BestWorst only")


@dataclass(frozen=True, slots=True)
class Preference:
    """One preference pair; indices are positions in the judged prompt's answers."""

    source: JudgedPrompt
    means: tuple[Fraction | None, ...]
    chosen_index: int
    rejected_index: int
    rule: PairRule

    @property
    def chosen_score(self) -> Fraction:
        """Exact mean of the chosen answer."""
        return _there(self.means[self.chosen_index])

    @property
    def rejected_score(self) -> Fraction:
        """Exact mean of the rejected answer."""
        return _there(self.means[self.rejected_index])

    def as_row(self) -> dict[str, Any]:
        """TRL's conversational preference format, with scores and provenance."""
        content = {
            "prompt": messages_json(self.source.prompt),
            "chosen": [{"role": "assistant", "content": self.source.responses[self.chosen_index].text}],
            "rejected": [{"role": "assistant", "content": self.source.responses[self.rejected_index].text}],
        }
        return {
            "id": self.source.id,
            "key": content_key(content),
            **content,
            "chosen_score": as_number(self.chosen_score),
            "rejected_score": as_number(self.rejected_score),
            "provenance": {
                "rule": self.rule,
                "chosen_index": self.chosen_index,
                "rejected_index": self.rejected_index,
                **_judging(self.source, self.means),
            },
        }


@dataclass(frozen=True, slots=True)
class Positive:
    """An answer good enough to be an SFT example."""

    source: JudgedPrompt
    means: tuple[Fraction | None, ...]
    index: int

    def as_row(self) -> dict[str, Any]:
        """TRL's conversational prompt-completion format, with score and provenance."""
        content = {
            "prompt": messages_json(self.source.prompt),
            "completion": [{"role": "assistant", "content": self.source.responses[self.index].text}],
        }
        return {
            "id": self.source.id,
            "key": content_key(content),
            **content,
            "score": as_number(_there(self.means[self.index])),
            "provenance": {"rule": "PositiveOnly", "index": self.index, **_judging(self.source, self.means)},
        }


@dataclass(frozen=True, slots=True)
class PromptOutcome:
    """What one prompt gave."""

    outcome: Outcome
    preferences: tuple[Preference, ...] = ()
    positives: tuple[Positive, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """The output rows of this prompt."""
        return [
            *(preference.as_row() for preference in self.preferences),
            *(positive.as_row() for positive in self.positives),
        ]


@dataclass(slots=True)
class PairSummary:
    """Counts over prompts; the outcomes add up to the prompts read."""

    prompts: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    responses: Counter[str] = field(default_factory=Counter)
    judgements: Counter[str] = field(default_factory=Counter)

    def add(self, source: JudgedPrompt, outcome: PromptOutcome, settings: PairSettings) -> None:
        """Count one prompt."""
        self.prompts += 1
        self.outcomes[outcome.outcome] += 1
        self.rows += len(outcome.preferences) + len(outcome.positives)
        for response in source.responses:
            self.responses["total"] += 1
            self.responses["truncated"] += response.truncated
            self.responses["too_few_valid"] += response.valid < settings.min_valid
            self.judgements["total"] += len(response.scores)
            self.judgements["valid"] += response.valid

    def as_json(self) -> dict[str, Any]:
        """The summary file of `srr data build-pairs`."""
        return {
            "prompts": self.prompts,
            "outcomes": {name: self.outcomes[name] for name in OUTCOMES},
            "rows": self.rows,
            "responses": {name: self.responses[name] for name in ("total", "truncated", "too_few_valid")},
            "judgements": {
                "total": self.judgements["total"],
                "valid": self.judgements["valid"],
                "invalid": self.judgements["total"] - self.judgements["valid"],
            },
        }


def build_pairs(source: JudgedPrompt, settings: PairSettings) -> PromptOutcome:
    """Choose the pairs, or the positive examples, of one prompt."""
    means = tuple(
        mean(response.scores) if response.valid >= settings.min_valid else None
        for response in source.responses
    )
    needed = 1 if settings.rule == "PositiveOnly" else 2
    if len(source.responses) < needed:
        return PromptOutcome("too_few_responses")
    everything = list(range(len(source.responses)))
    whole = [index for index in everything if not source.responses[index].truncated]
    winners = everything if settings.truncated == "Allow" else whole
    losers = whole if settings.truncated == "Exclude" else everything
    taking_part = winners if settings.rule == "PositiveOnly" else losers
    if len(taking_part) < needed or not winners:
        return PromptOutcome("truncated_only")
    winners, losers, taking_part = (
        [index for index in indices if means[index] is not None] for indices in (winners, losers, taking_part)
    )
    if len(taking_part) < needed or not winners:
        return PromptOutcome("too_few_valid")
    if settings.rule == "PositiveOnly":
        return _positives(source, means, winners, settings)
    return _preferences(source, means, winners, losers, settings)


def _positives(
    source: JudgedPrompt, means: tuple[Fraction | None, ...], winners: Sequence[int], settings: PairSettings
) -> PromptOutcome:
    seen: set[str] = set()
    chosen = []
    for index in winners:
        text = _identity(source, index)
        if _there(means[index]) >= settings.positive_score and text and text not in seen:
            seen.add(text)
            chosen.append(Positive(source, means, index))
    return PromptOutcome("positives", positives=tuple(chosen)) if chosen else PromptOutcome("no_positive")


def _preferences(
    source: JudgedPrompt,
    means: tuple[Fraction | None, ...],
    winners: Sequence[int],
    losers: Sequence[int],
    settings: PairSettings,
) -> PromptOutcome:
    better = [
        (winner, loser)
        for winner in winners
        for loser in losers
        if _there(means[winner]) > _there(means[loser])
    ]
    if not better:
        return PromptOutcome("ties")
    different = [
        (winner, loser)
        for winner, loser in better
        if _identity(source, winner) != _identity(source, loser) and _identity(source, winner)
    ]
    if not different:
        return PromptOutcome("identical")
    allowed = [
        (winner, loser)
        for winner, loser in different
        if _there(means[winner]) - _there(means[loser]) >= settings.min_margin
    ]
    if allowed and settings.length_control is not None:
        allowed = _length_controlled(source, means, allowed, settings.length_control)
    if not allowed:
        return PromptOutcome("below_margin")
    pairs = tuple(
        Preference(source, means, winner, loser, settings.rule)
        for winner, loser in _by_rule(source, means, allowed, settings)
    )
    return PromptOutcome("pairs", pairs)


def _by_rule(
    source: JudgedPrompt,
    means: tuple[Fraction | None, ...],
    allowed: Sequence[tuple[int, int]],
    settings: PairSettings,
) -> list[tuple[int, int]]:
    if settings.rule == "AllAboveMargin":
        return list(allowed)
    best = max(_there(means[winner]) for winner, _ in allowed)
    if settings.rule == "BestRandom":
        winner = min(winner for winner, _ in allowed if means[winner] == best)
        losers = [loser for other, loser in allowed if other == winner]
        digest = hashlib.sha256(f"{settings.seed}\x1f{source.id}".encode()).digest()
        return [(winner, losers[int.from_bytes(digest[:8], "big") % len(losers)])]
    if settings.length_control is not None:
        return list(allowed[:1])
    # The widest pair is best against worst, except where these two have one text; ties go to the lowest indices.
    return [min(allowed, key=lambda pair: (_there(means[pair[1]]) - _there(means[pair[0]]), pair))]


def _length_controlled(
    source: JudgedPrompt,
    means: tuple[Fraction | None, ...],
    allowed: Sequence[tuple[int, int]],
    rho: Fraction,
) -> list[tuple[int, int]]:
    """The shortest of the near-best against the longest of the near-worst (arXiv 2407.19594 section 2.1)."""
    present = [
        score
        for index, score in enumerate(means)
        if score is not None and any(index in pair for pair in allowed)
    ]
    highest, lowest = max(present), min(present)
    winner_floor = (1 - rho) * highest + rho * lowest
    loser_ceiling = (1 - rho) * lowest + rho * highest
    tiers = [
        (winner, loser)
        for winner, loser in allowed
        if _there(means[winner]) >= winner_floor and _there(means[loser]) <= loser_ceiling
    ]
    return sorted(
        tiers,
        key=lambda pair: (len(source.responses[pair[0]].text), -len(source.responses[pair[1]].text), pair),
    )


def _identity(source: JudgedPrompt, index: int) -> str:
    return source.responses[index].text.strip()


def _there(value: Fraction | None) -> Fraction:
    if value is None:
        raise AssertionError("only answers with a mean are compared")
    return value


def _judging(source: JudgedPrompt, means: Sequence[Fraction | None]) -> dict[str, Any]:
    return {
        "means": [None if value is None else str(value) for value in means],
        "valid": [response.valid for response in source.responses],
        "finish_reasons": [response.finish_reason for response in source.responses],
    }
