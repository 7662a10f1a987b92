"""Answers and judgements read back from the store, and counts over them.

Purpose: what a stage's result says comes from the finished rows alone, so a run that was killed says the same as one
that was not.
Must not: ask for anything.
Neighbours: `judged_rows` writes the rows; `rollout` and `ranked_judging` make results of them.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from selfrewarding.store.chunks import read_rows
from srr_sampler.judged_rows import LOG, Question
from srr_sampler.judging import TOO_LONG
from srr_sampler.row_log import RowLog

_ROW_KEY = re.compile(r"(?P<question>.+)/a(?P<answer>\d+)(?:/j\d+)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """An answer read back: its row (None where it was given), and its judgements in their order."""

    answer: dict[str, Any] | None
    judgements: list[dict[str, Any]]

    def judgements_json(self) -> list[dict[str, Any]]:
        """The judgements as they stand in a result's rows."""
        return [
            {name: value for name, value in row.items() if name not in {"key", "type"}}
            for row in self.judgements
        ]


def read_back(log: RowLog, questions: Iterable[Question]) -> Iterator[tuple[Question, list[JudgedAnswer]]]:
    """Each question with its answers and their judgements as the store has them, in the order of the questions."""
    rows: dict[str, dict[int, list[bytes]]] = {}
    for row in read_rows(log.store, log.folder, log=LOG):
        match = _ROW_KEY.fullmatch(row.key)
        if match is not None:
            rows.setdefault(match["question"], {}).setdefault(int(match["answer"]), []).append(row.data)
    for question in questions:
        answers = rows.pop(question.key, {})
        count = len(question.given) if question.given is not None else max(answers, default=-1) + 1
        yield question, [_judged_answer(answers.get(index, [])) for index in range(count)]


def _judged_answer(rows: list[bytes]) -> JudgedAnswer:
    parsed = [json.loads(row) for row in rows]
    judgements = sorted(
        (row for row in parsed if row["type"] == "judgement"), key=lambda row: int(row["sample"])
    )
    return JudgedAnswer(next((row for row in parsed if row["type"] == "answer"), None), judgements)


class JudgementCounts:
    """Counts over the rows that were read back: the same for a run that was killed and one that was not."""

    def __init__(self) -> None:
        self.answers = 0
        self.truncated_answers = 0
        self.judgements = 0
        self.valid = 0
        self.retried = 0
        self.invalid: dict[str, int] = {}
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.histogram: dict[str, int] = {}

    def add(self, answer: JudgedAnswer) -> None:
        """Count one answer and its judgements."""
        self.answers += 1
        if answer.answer is not None:
            self._tokens(answer.answer)
            self.truncated_answers += answer.answer["finishReason"] == "length"
        for row in answer.judgements:
            self.judgements += 1
            self.retried += row["round"] > 0
            self._tokens(row)
            if row["score"] is None:
                self.invalid[row["reason"]] = self.invalid.get(row["reason"], 0) + 1
            else:
                self.valid += 1
                shown = str(row["score"]) if isinstance(row["score"], int) else f"{row['score']:.1f}"
                self.histogram[shown] = self.histogram.get(shown, 0) + 1

    @property
    def valid_rate(self) -> float:
        """Valid judgements among all; 0 if there are none."""
        return self.valid / self.judgements if self.judgements else 0.0

    def counts(self) -> dict[str, int]:
        """For a result: by name, invalid judgements by reason where there are some."""
        named = {
            "missing": "missing",
            "malformed": "malformed",
            "out_of_range": "outOfRange",
            "truncated": "truncated",
        }
        named[TOO_LONG] = "tooLong"
        return {
            "answers": self.answers,
            "judgements": self.judgements,
            "valid": self.valid,
            **{name: self.invalid[reason] for reason, name in named.items() if self.invalid.get(reason)},
            "retried": self.retried,
            "promptTokens": self.prompt_tokens,
            "outputTokens": self.output_tokens,
        }

    def scores(self) -> dict[str, int]:
        """How often each score was given, in order of the scores."""
        return dict(sorted(self.histogram.items(), key=lambda item: float(item[0])))

    def _tokens(self, row: Mapping[str, Any]) -> None:
        self.prompt_tokens += row["tokens"]["prompt"]
        self.output_tokens += row["tokens"]["output"]
