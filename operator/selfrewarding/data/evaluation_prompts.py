"""Prompts that models are compared or benchmarked on: three file formats, one row.

==========  =======================================================================================================
format      file
==========  =======================================================================================================
Prompts     JSON lines `{"prompt": text}`, with `id` and `category` if wanted
AlpacaEval  its evaluation set: a JSON list (or JSON lines) of `{"instruction": text, "dataset": text}`
MtBench     its `question.jsonl`: `{"question_id", "category", "turns": [text, …]}`; every turn is answered, at the
            temperature of its category
==========  =======================================================================================================

Further fields are allowed and left behind (reference answers are not for the models). Any defect is a
:class:`DataError` with file, line and field. Must not: say what is done with the prompts; Prepare writes them, Evaluate
has them answered, the exports give them back under their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from selfrewarding.api.algorithm import Temperature
from selfrewarding.data.errors import DataError
from selfrewarding.data.jsonl import Row
from selfrewarding.data.rows import (
    Fields,
    Identifiers,
    Message,
    content_key,
    parse_row,
    prompt_identity,
    require_text,
)

PromptFormat = Literal["Prompts", "AlpacaEval", "MtBench"]

MT_BENCH_TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
    "arena-hard-200": 0.0,
}
"""What FastChat answers each category with (fastchat/llm_judge/common.py, `temperature_config`)."""
MT_BENCH_TEMPERATURE = 0.7
"""Of any other category (fastchat/llm_judge/gen_model_answer.py)."""


@dataclass(frozen=True, slots=True)
class EvaluationPrompt:
    """A prompt of a set.

    Attributes:
        set: name of the set.
        id: as its file has it; the number of its line or place where it has none.
        turns: what the user says, turn by turn.
        category: of the prompt, or None.
        line: of the file.
        temperature: that its benchmark answers it with; None: as the run's answers are.
        copy: number of equal prompts before it in its set (published sets hold a few).
    """

    set: str
    id: str
    turns: tuple[str, ...]
    category: str | None
    line: int
    temperature: float | None = None
    copy: int = 0

    @property
    def key(self) -> str:
        """The row's stable key: its content, whatever set it is in; no two rows of a set share one."""
        content: dict[str, Any] = {"turns": list(self.turns)}
        return content_key(content | ({"copy": self.copy} if self.copy else {}))

    @property
    def prompt_identity(self) -> str:
        """Shared with seed rows that have the first turn as their prompt."""
        return prompt_identity((Message("user", self.turns[0]),))

    def as_row(self) -> dict[str, Any]:
        """The row as Prepare writes it."""
        row: dict[str, Any] = {"key": self.key, "set": self.set, "id": self.id, "turns": list(self.turns)}
        further = {"category": self.category, "temperature": self.temperature}
        return row | {name: value for name, value in further.items() if value is not None}


class _PromptFields(Fields):
    prompt: str
    id: str | int | None = None
    category: str | None = None


class _AlpacaFields(Fields):
    instruction: str
    dataset: str | None = None


class _MtBenchFields(Fields):
    question_id: int | str
    category: str | None = None
    turns: list[str]
    required_temperature: Temperature | None = None


@dataclass(slots=True)
class _Reading:
    """The set that is read, its ids so far, and how many rows are behind."""

    set: str
    ids: Identifiers
    rows: int = 0


def read_evaluation_prompts(
    rows: Iterable[Row], file_format: PromptFormat, *, name: str, source: str
) -> list[EvaluationPrompt]:
    """The prompts of a file.

    Args:
        rows: the file's rows.
        file_format: see the module.
        name: of the set.
        source: what errors about the file as a whole call it.

    Raises:
        DataError: a defective row, an id twice, a prompt twice (in a file of one's own), or no row at all.
    """
    readers: dict[PromptFormat, Callable[[Row, _Reading], EvaluationPrompt]] = {
        "Prompts": _prompt,
        "AlpacaEval": _alpaca_eval,
        "MtBench": _mt_bench,
    }
    reading = _Reading(name, Identifiers())
    lines: dict[str, list[int]] = {}
    found = []
    for row in rows:
        prompt = readers[file_format](row, reading)
        before = lines.setdefault(prompt.key, [])
        if before and file_format == "Prompts":
            raise row.error(
                field="prompt",
                found=f"the same prompt as on line {before[0]}",
                expected="each prompt once in a set",
                remedy="Delete one of the two: a prompt that stands twice counts double.",
            )
        found.append(replace(prompt, copy=len(before)))
        before.append(row.line)
        reading.rows += 1
    if not found:
        raise DataError(
            file=source,
            found="no row",
            expected="at least one prompt",
            remedy="Check the file and the `format` of the set.",
        )
    return found


def _prompt(row: Row, reading: _Reading) -> EvaluationPrompt:
    fields = parse_row(row, _PromptFields)
    text = require_text(row, "prompt", fields.prompt)
    return EvaluationPrompt(
        reading.set, reading.ids.claim(row, fields.id), (text,), fields.category, row.line
    )


def _alpaca_eval(row: Row, reading: _Reading) -> EvaluationPrompt:
    """Its rows have no id: their place in the list says which is which."""
    fields = parse_row(row, _AlpacaFields)
    text = require_text(row, "instruction", fields.instruction)
    return EvaluationPrompt(
        reading.set, reading.ids.claim(row, reading.rows), (text,), fields.dataset, row.line
    )


def _mt_bench(row: Row, reading: _Reading) -> EvaluationPrompt:
    fields = parse_row(row, _MtBenchFields)
    if not fields.turns:
        raise row.error(
            field="turns",
            found="an empty list",
            expected="at least one turn",
            remedy="Add it or drop the row.",
        )
    turns = tuple(require_text(row, f"turns[{index}]", turn) for index, turn in enumerate(fields.turns))
    temperature = fields.required_temperature
    if temperature is None:
        temperature = MT_BENCH_TEMPERATURES.get(fields.category or "", MT_BENCH_TEMPERATURE)
    identifier = reading.ids.claim(row, fields.question_id)
    return EvaluationPrompt(reading.set, identifier, turns, fields.category, row.line, temperature)
