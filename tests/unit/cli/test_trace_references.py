"""FILE:LINE means the row that Prepare made of that line, by the id that its format gives it."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from selfrewarding.cli.trace import _reference
from selfrewarding.data.evaluation_prompts import read_evaluation_prompts
from selfrewarding.data.jsonl import read_rows
from selfrewarding.data.openassistant import read_trees
from selfrewarding.data.seed_formats import read_instructions

TREE = {
    "message_tree_id": "tree-7",
    "prompt": {
        "text": "Why is the sky blue?",
        "role": "prompter",
        "replies": [
            {"text": "It scatters.", "role": "assistant", "rank": 0},
            {"text": "No idea.", "role": "assistant", "rank": 1},
        ],
    },
}


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_tree_of_open_assistant(tmp_path: Path) -> None:
    file = written(
        tmp_path, {**TREE, "message_tree_id": "tree-6", "prompt": TREE["prompt"] | {"text": "Why?"}}, TREE
    )
    trees = read_trees(read_rows(str(file)), source=str(file))
    assert [tree.id for tree in trees.rows] == ["tree-6", "tree-7"]
    assert _reference(f"{file}:2") == ("tree-7", "rows.jsonl")


def test_a_question_of_mt_bench(tmp_path: Path) -> None:
    file = written(tmp_path, {"question_id": 81, "category": "math", "turns": ["2 + 2?", "Why?"]})
    (prompt,) = read_evaluation_prompts(read_rows(str(file)), "MtBench", name="mt-bench", source=str(file))
    assert _reference(f"{file}:1") == (prompt.id, "rows.jsonl") == ("81", "rows.jsonl")


def test_a_row_with_and_one_without_an_id(tmp_path: Path) -> None:
    row = {"prompt": "Why?", "response": "Because."}
    file = written(tmp_path, row | {"id": 0}, {"prompt": "How?", "response": "So."})
    found = read_instructions(read_rows(str(file)), "PromptResponse", language="Any", source=str(file)).rows
    references = [_reference(f"{file}:{line}")[0] for line in (1, 2)]
    assert references == [one.id for one in found] == ["0", "line-2"]


def test_a_line_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(typer.Exit):
        _reference(f"{written(tmp_path, TREE)}:2")
