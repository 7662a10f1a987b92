"""Rows of generated judgements, as `srr data parse-judgements` takes and gives them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from selfrewarding.data.jsonl import Row
from selfrewarding.data.judgements import parse_judgement
from selfrewarding.data.rows import Fields, parse_row
from selfrewarding.data.scores import as_number


class _JudgementFields(Fields):
    id: str | int
    text: str
    finish_reason: str | None = None


def parsed_rows(
    rows: Iterable[Row], *, minimum: int = 0, maximum: int = 5, decimals: bool = False
) -> Iterator[dict[str, Any]]:
    """`{"id", "text", "finish_reason"?}` to `{"id", "score", "reason"}`, in order; other fields are not looked at.

    Raises:
        DataError: a field is missing or wrong.
    """
    for row in rows:
        fields = parse_row(row, _JudgementFields)
        judgement = parse_judgement(
            fields.text,
            minimum=minimum,
            maximum=maximum,
            decimals=decimals,
            finish_reason=fields.finish_reason,
        )
        score = None if judgement.score is None else as_number(judgement.score)
        yield {"id": fields.id, "score": score, "reason": judgement.reason}
