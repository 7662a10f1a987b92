"""Rows of new prompts and of the texts they are compared with, as `srr data filter-prompts` takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from selfrewarding.data.jsonl import Row
from selfrewarding.data.judge_prompt import conversation_text
from selfrewarding.data.rows import Fields, Identifiers, PromptFields, parse_prompt, parse_row


class _CandidateFields(Fields):
    id: str | int
    text: str


class _TextFields(Fields):
    text: str


class _InstructionFields(Fields):
    instruction: str


def read_candidates(rows: Iterable[Row]) -> Iterator[tuple[str | int, str]]:
    """(id, text) of rows `{"id", "text"}`.

    Raises:
        DataError: a field is missing or wrong, or an id stands twice.
    """
    ids = Identifiers()
    for row in rows:
        fields = parse_row(row, _CandidateFields)
        ids.claim(row, fields.id)
        yield fields.id, fields.text


def read_texts(rows: Iterable[Row]) -> Iterator[str]:
    """Seed texts from rows with `text`, `instruction` (Self-Instruct) or `prompt` (a text or messages).

    Raises:
        DataError: a row has none of the three.
    """
    for row in rows:
        if "text" in row.value:
            yield parse_row(row, _TextFields).text
        elif "instruction" in row.value:
            yield parse_row(row, _InstructionFields).instruction
        elif "prompt" in row.value:
            yield conversation_text(parse_prompt(row, parse_row(row, PromptFields).prompt))
        else:
            raise row.error(
                found="none of the fields `text`, `instruction` and `prompt`",
                expected="one of them, with a seed prompt",
                remedy="Add it or drop the row.",
            )
