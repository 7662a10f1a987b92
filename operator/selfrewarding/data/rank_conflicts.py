"""Human ranks that contradict each other: two rows with one prompt order the same two answers in opposite ways.

Purpose: such rows cannot both be right, and whichever is held out measures noise. Equal ranks contradict nothing.
Must not: decide which row is right. Neighbours: `seed_formats` refuses an answer that stands twice within a row; Prepare
tells people about conflicts across rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from selfrewarding.data.rows import normalised
from selfrewarding.data.seed_rows import RankedPrompt


@dataclass(frozen=True, slots=True)
class RankConflict:
    """Two rows that disagree: their ids, and the two answers, the one that the first row prefers first."""

    first: str
    second: str
    better: str
    worse: str


def rank_conflicts(prompts: Iterable[RankedPrompt]) -> list[RankConflict]:
    """For each row the first earlier row that contradicts it; prompts and answers are compared as a reader would."""
    groups: dict[str, list[RankedPrompt]] = {}
    found = []
    for prompt in prompts:
        earlier = groups.setdefault(prompt.prompt_identity, [])
        conflict = next((one for other in earlier if (one := _between(other, prompt)) is not None), None)
        if conflict is not None:
            found.append(conflict)
        earlier.append(prompt)
    return found


def _between(first: RankedPrompt, second: RankedPrompt) -> RankConflict | None:
    ranks = {normalised(response.text): response.rank for response in second.responses}
    shared = [response for response in first.responses if normalised(response.text) in ranks]
    for one, other in combinations(shared, 2):
        here = one.rank - other.rank
        there = ranks[normalised(one.text)] - ranks[normalised(other.text)]
        if here * there < 0:
            better, worse = (one, other) if here < 0 else (other, one)
            return RankConflict(first.id, second.id, better.text, worse.text)
    return None
