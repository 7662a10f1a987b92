"""A thousand hostile rows through every command of `srr data`: an answer or one error, never a traceback."""

import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.testing
from typer.testing import CliRunner

from selfrewarding.cli.data import app

JUDGED = {
    "id": "p",
    "prompt": [{"role": "user", "content": "Why?"}],
    "responses": [
        {"text": "good", "finish_reason": "stop", "scores": [5, 4.5]},
        {"text": "bad", "finish_reason": None, "scores": [1, None]},
    ],
}
RANKED = {
    "id": "r",
    "prompt": "Why?",
    "responses": [
        {"text": "good", "human_rank": 0, "judgements": [{"text": "Fine.\nScore: 5", "score": 5}]},
        {"text": "bad", "human_rank": 1, "judgements": [{"text": "", "score": None}]},
    ],
}


def hostile_value(source: random.Random, depth: int = 0) -> Any:
    leaves: list[Callable[[], Any]] = [
        lambda: None,
        lambda: source.choice([True, False]),
        lambda: source.choice([0, -1, 5, 10**400, 1e308, 0.1, -0.0]),
        lambda: source.choice(
            ["", " ", "Score: 4", "안녕", "\u202e", "\x00", "x" * 5000, "{response}", "\ud83d\ude00"]
        ),
        list,
        dict,
    ]
    if depth > 3 or source.random() < 0.5:
        return source.choice(leaves)()
    if source.random() < 0.4:
        return [hostile_value(source, depth + 1) for _ in range(source.randint(0, 4))]
    names = [
        "id",
        "text",
        "prompt",
        "role",
        "content",
        "responses",
        "finish_reason",
        "scores",
        "score",
        "human_rank",
    ]
    return {name: hostile_value(source, depth + 1) for name in source.sample(names, source.randint(0, 4))}


GOOD_ROWS: dict[str, list[dict[str, Any]]] = {
    "parse-judgements": [{"id": 1, "text": "Score: 4", "finish_reason": "stop"}],
    "build-pairs": [JUDGED],
    "filter-prompts": [{"id": 1, "text": "Name the longest river of Asia."}],
    "build-evaluations": [RANKED],
    "judge-metrics": [
        {"id": 1, "responses": [{"score": 5, "human_rank": 0}, {"score": None, "human_rank": 1}]}
    ],
    "win-rate": [{"preference": 1.5}],
}


COMMANDS = list(GOOD_ROWS)


def hostile_line(source: random.Random, command: str) -> bytes:
    row: Any = json.loads(json.dumps(source.choice(GOOD_ROWS[command])))
    for _ in range(source.randint(0, 3)):
        place = row
        while isinstance(place, dict | list) and place:
            key = source.choice(list(place)) if isinstance(place, dict) else source.randrange(len(place))
            if source.random() < 0.4 or not isinstance(place[key], dict | list):
                place[key] = hostile_value(source)
                break
            place = place[key]
    line = bytearray(json.dumps(row if source.random() < 0.9 else hostile_value(source)).encode())
    if source.random() < 0.3:
        place = source.randrange(len(line))
        line[place : place + source.randint(0, 3)] = source.choice(
            [b"", b"\xff\xfe", b"NaN", b"1e999", b'"', b"\\ud800", b"[" * 3000]
        )
    return bytes(line).replace(b"\n", b"") + b"\n"


def test_a_thousand_hostile_rows_never_end_in_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise half of the time goes into building the same command a thousand times.
    monkeypatch.setattr(typer.testing, "_get_command", functools.cache(typer.testing._get_command))
    source = random.Random(2401_10020)
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text('{"text": "Name the longest river of Europe."}\n')
    codes: dict[int, int] = {}
    for number in range(1000):
        command = COMMANDS[number % len(COMMANDS)]
        options = ["--seeds", str(seeds)] if command == "filter-prompts" else []
        options += ["--bootstrap", "5"] if command == "judge-metrics" else []
        result = CliRunner().invoke(app, [command, *options], input=hostile_line(source, command))
        assert result.exit_code in {0, 2}, (command, result.exception, result.output)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert result.exit_code == 0 or result.stderr.startswith("error: ")
        codes[result.exit_code] = codes.get(result.exit_code, 0) + 1
    assert min(codes[0], codes[2]) > 50  # both ways are really walked
