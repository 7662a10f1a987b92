"""Answers as FastChat's MT-Bench reads them (github.com/lm-sys/FastChat, fastchat/llm_judge).

Purpose: `question.jsonl` and `model_answer/<model>.jsonl` below `data/<bench>/`, so that `gen_judgment.py --bench-name` goes on
from there. The temperatures are FastChat's by category where the set's format was MtBench (`data.evaluation_prompts`).
Must not: import that package; invent a question's number.
Neighbours: `answers` reads them.
"""

import hashlib
import json
from datetime import datetime
from typing import Any

from selfrewarding.exports.answers import ModelAnswers, NothingToExport

_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
"""Of shortuuid, which FastChat makes its answer ids with."""
_ID_LENGTH = 22


def questions(answers: ModelAnswers) -> list[dict[str, Any]]:
    """Rows of `question.jsonl`, by number."""
    found = [
        {
            "question_id": _number(answers, row),
            "category": row.get("category") or answers.set,
            "turns": row["turns"],
        }
        for row in answers.rows
    ]
    return sorted(found, key=lambda row: int(row["question_id"]))


def model_answer(answers: ModelAnswers) -> list[dict[str, Any]]:
    """Rows of `model_answer/<model>.jsonl`, by the question's number."""
    finished = datetime.fromisoformat(answers.finished).timestamp() if answers.finished else 0.0
    found = [
        {
            "question_id": _number(answers, row),
            "answer_id": _answer_id(answers.generator, str(row["key"])),
            "model_id": answers.generator,
            "choices": [{"index": 0, "turns": [answer["text"] for answer in row["answers"]]}],
            "tstamp": finished,
        }
        for row in answers.rows
    ]
    return sorted(found, key=lambda row: int(row["question_id"]))


def files(answers: ModelAnswers) -> dict[str, str]:
    """All files of the export by relative path."""
    folder = f"data/{answers.set.replace('-', '_')}"
    return {
        f"{folder}/question.jsonl": _lines(questions(answers)),
        f"{folder}/model_answer/{answers.generator}.jsonl": _lines(model_answer(answers)),
    }


def _number(answers: ModelAnswers, row: dict[str, Any]) -> int:
    identifier = str(row["id"])
    if not (identifier.isascii() and identifier.isdigit()):
        raise NothingToExport(
            f"the set {answers.set} has a prompt with the id {identifier!r}, MT-Bench's questions have numbers: name a set "
            "of the format MtBench with --set"
        )
    return int(identifier)


def _answer_id(generator: str, key: str) -> str:
    """The same for the same answer, however often it is exported."""
    number = int.from_bytes(hashlib.sha256(f"{generator}\x1f{key}".encode()).digest(), "big")
    digits = []
    for _ in range(_ID_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits)


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
