"""Prompts with judged answers, as Rollout makes them: what preference pairs are chosen from.

Neighbours: :mod:`selfrewarding.data.pairs` chooses; judged answers that people ranked, which train or measure the
judge, are in :mod:`selfrewarding.data.evaluations`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from selfrewarding.data.jsonl import Row
from selfrewarding.data.judgements import CUT_FINISH_REASONS
from selfrewarding.data.rows import (
    Fields,
    Identifiers,
    JsonNumber,
    Message,
    PromptFields,
    parse_prompt,
    parse_row,
)
from selfrewarding.data.scores import exact


@dataclass(frozen=True, slots=True)
class JudgedResponse:
    """An answer and its judgements' scores; None for an invalid judgement."""

    text: str
    finish_reason: str | None
    scores: tuple[Fraction | None, ...]

    @property
    def truncated(self) -> bool:
        """Whether the answer was cut before its end."""
        return self.finish_reason in CUT_FINISH_REASONS

    @property
    def valid(self) -> int:
        """Number of valid judgements."""
        return sum(score is not None for score in self.scores)


@dataclass(frozen=True, slots=True)
class JudgedPrompt:
    """A prompt with its judged answers."""

    id: str | int
    prompt: tuple[Message, ...]
    responses: tuple[JudgedResponse, ...]


class _ResponseFields(Fields):
    text: str
    finish_reason: str | None
    scores: list[JsonNumber | None]


class _JudgedFields(PromptFields):
    id: str | int
    responses: list[_ResponseFields]


def read_judged_prompts(rows: Iterable[Row]) -> Iterator[JudgedPrompt]:
    """Rows `{"id", "prompt", "responses": [{"text", "finish_reason", "scores": [number|null]}]}`.

    Raises:
        DataError: a field is missing or wrong, or an id stands twice.
    """
    ids = Identifiers()
    for row in rows:
        fields = parse_row(row, _JudgedFields)
        ids.claim(row, fields.id)
        yield JudgedPrompt(
            fields.id,
            parse_prompt(row, fields.prompt),
            tuple(
                JudgedResponse(
                    response.text,
                    response.finish_reason,
                    tuple(None if score is None else exact(score) for score in response.scores),
                )
                for response in fields.responses
            ),
        )
