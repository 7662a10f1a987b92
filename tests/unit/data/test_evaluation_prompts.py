"""Files of evaluation prompts: three formats, and defects named by file, line and field."""

import gzip
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrewarding.data import json_list
from selfrewarding.data.contained_prompts import PromptFinder
from selfrewarding.data.errors import DataError
from selfrewarding.data.evaluation_prompts import EvaluationPrompt, PromptFormat, read_evaluation_prompts
from selfrewarding.data.json_list import is_list, read_content, read_list
from selfrewarding.data.jsonl import read_stream
from selfrewarding.data.rank_conflicts import rank_conflicts
from selfrewarding.data.rows import Message
from selfrewarding.data.seed_rows import RankedPrompt, RankedResponse


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def read(content: bytes, file_format: PromptFormat) -> list[EvaluationPrompt]:
    rows = read_list(content, "f") if is_list(content) else read_stream(io.BytesIO(content), "f")
    return read_evaluation_prompts(rows, file_format, name="bench", source="f")


def test_each_format_becomes_the_same_row() -> None:
    (own,) = read(lines({"prompt": "Why?", "id": 7, "category": "c"}), "Prompts")
    (alpaca,) = read(
        json.dumps([{"instruction": "Why?", "dataset": "c", "output": "x"}]).encode(), "AlpacaEval"
    )
    (bench,) = read(lines({"question_id": 7, "category": "c", "turns": ["Why?"], "reference": []}), "MtBench")
    assert own.as_row() == alpaca.as_row() | {"id": "7"}
    assert bench.as_row() == own.as_row() | {"temperature": 0.7}
    assert alpaca.id == "0"
    assert set(own.as_row()) == {"key", "set", "id", "turns", "category"}
    assert "category" not in read(lines({"prompt": "Why?"}), "Prompts")[0].as_row()


@pytest.mark.parametrize(
    ("question", "temperature"),
    [
        ({"category": "writing"}, 0.7),
        ({"category": "roleplay"}, 0.7),
        ({"category": "extraction"}, 0),
        ({"category": "math"}, 0),
        ({"category": "coding"}, 0),
        ({"category": "reasoning"}, 0),
        ({"category": "stem"}, 0.1),
        ({"category": "humanities"}, 0.1),
        ({"category": "cooking"}, 0.7),
        ({}, 0.7),
        ({"category": "math", "required_temperature": 1}, 1),
    ],
)
def test_questions_of_mt_bench_have_fastchats_temperatures(
    question: dict[str, Any], temperature: float
) -> None:
    (prompt,) = read(lines({"question_id": 7, "turns": ["Why?"], **question}), "MtBench")
    assert prompt.as_row()["temperature"] == temperature


def test_an_alpaca_file_may_be_pretty_printed_and_rows_know_their_lines() -> None:
    content = json.dumps([{"instruction": f"Task {n}", "dataset": "d"} for n in range(3)], indent=4).encode()
    prompts = read(b"\xef\xbb\xbf".removeprefix(b"\xef\xbb\xbf") + content, "AlpacaEval")
    assert [(one.id, one.line) for one in prompts] == [("0", 2), ("1", 6), ("2", 10)]
    assert [
        one.turns for one in read(lines({"instruction": "one"}, {"instruction": "two"}), "AlpacaEval")
    ] == [
        ("one",),
        ("two",),
    ]


def test_published_sets_may_hold_a_prompt_twice_and_keep_both() -> None:
    first, second = read(
        json.dumps([{"instruction": "Same"}, {"instruction": "Same"}]).encode(), "AlpacaEval"
    )
    assert first.key != second.key
    assert (first.id, second.id) == ("0", "1")


@pytest.mark.parametrize(
    ("content", "file_format", "said"),
    [
        (lines({"prompt": "a"}, {"text": "b"}), "Prompts", "f:2: field `prompt`: found no such field"),
        (lines({"prompt": "  "}), "Prompts", "f:1: field `prompt`: found only spaces"),
        (lines({"prompt": ["a"]}), "Prompts", "f:1: field `prompt`: found a list of 1; expected a text"),
        (
            lines({"prompt": "a"}, {"prompt": "a"}),
            "Prompts",
            "f:2: field `prompt`: found the same prompt as on line 1",
        ),
        (lines({"prompt": "a", "id": 1}, {"prompt": "b", "id": "1"}), "Prompts", "again (first on line 1)"),
        (b"", "Prompts", "f: found no row"),
        (b"[]", "AlpacaEval", "f: found no row"),
        (b'[\n{"instruction": "a"},\n{"instruct": "b"}]', "AlpacaEval", "f:3: field `instruction`"),
        (lines({"question_id": 1, "turns": []}), "MtBench", "f:1: field `turns`: found an empty list"),
        (
            lines({"question_id": 1, "turns": ["a", ""]}),
            "MtBench",
            "f:1: field `turns[1]`: found an empty text",
        ),
        (lines({"turns": ["a"]}), "MtBench", "f:1: field `question_id`"),
        (
            lines({"question_id": 1, "turns": ["a"], "required_temperature": 2.5}),
            "MtBench",
            "f:1: field `required_temperature`",
        ),
    ],
)
def test_a_defect_is_named_by_file_line_and_field(
    content: bytes, file_format: PromptFormat, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(content, file_format)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (b'[\n{"a": 1}\n{"a": 2}]', 3, "where `,` or `]` belongs"),
        (b'[\n{"a": 1},\n', 3, "Expecting value"),
        (b'[{"a": 1}', 1, "the list has no end"),
        (b'[{"a": 1},]', 1, "Expecting value"),
        (b'[{"a": 1}] x', 1, "text behind the list"),
        (b"[1]", 1, "instead of an object"),
        (b'[{"a": NaN}]', 1, "the number NaN"),
        (b'[{"a": 1, "a": 2}]', 1, "twice in one object"),
        (b'[{"a": "\\ud800"}]', 1, "half of a surrogate pair"),
        (b'[\n{"a": "\xff"}]', 2, "not UTF-8"),
        (b"[" * 100_000, 1, ""),
    ],
)
def test_a_broken_list_is_one_error_with_its_line(content: bytes, line: int, said: str) -> None:
    with pytest.raises(DataError) as caught:
        list(read_list(content, "f"))
    assert caught.value.line == line
    assert said in str(caught.value)


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text() | st.integers(), max_size=3), max_size=5),
    st.integers(0, 4),
)
def test_any_list_is_read_as_json_reads_it(values: list[dict[str, Any]], indent: int) -> None:
    content = json.dumps(values, indent=indent or None, ensure_ascii=False).encode("utf-8", "replace")
    assert [row.value for row in read_list(content, "f")] == json.loads(content)


def test_gz_is_unpacked_and_a_cut_one_is_told() -> None:
    packed = gzip.compress(b'[{"a": 1}]' * 200)
    assert read_content(io.BytesIO(packed), "f") == b'[{"a": 1}]' * 200
    for damaged in (packed[:-12], packed[:-8] + bytes(8), packed + b"rubbish!"):
        with pytest.raises(DataError, match="a damaged gz file"):
            read_content(io.BytesIO(damaged), "f")


def test_a_gz_file_of_several_parts_is_read_to_its_end_and_no_further_than_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = gzip.compress(b'[{"a": 1},') + gzip.compress(b'{"a": 2}]')
    assert read_content(io.BytesIO(parts), "f") == b'[{"a": 1},{"a": 2}]'
    monkeypatch.setattr(json_list, "MAX_FILE_BYTES", 60)
    with pytest.raises(DataError, match="more than 60 bytes"):
        read_content(io.BytesIO(gzip.compress(bytes(50)) + gzip.compress(bytes(10**6))), "f")


# Ranks


def ranked(name: str, prompt: str, *answers: tuple[str, int]) -> RankedPrompt:
    return RankedPrompt(
        name, (Message("user", prompt),), tuple(RankedResponse(text, rank) for text, rank in answers)
    )


def test_two_rows_that_order_the_same_answers_differently_contradict_each_other() -> None:
    rows = [
        ranked("1", "Why?", ("A", 0), ("B", 1), ("C", 2)),
        ranked("2", "why? ", ("C", 0), ("D", 1)),
        ranked("3", "Why?", (" b", 0), ("a", 1)),
        ranked("4", "How?", ("B", 0), ("A", 1)),
    ]
    (found,) = rank_conflicts(rows)
    assert (found.first, found.second, found.better, found.worse) == ("1", "3", "A", "B")


def test_equal_ranks_and_other_answers_contradict_nothing() -> None:
    rows = [
        ranked("1", "Why?", ("A", 0), ("B", 1)),
        ranked("2", "Why?", ("A", 3), ("B", 3), ("C", 0)),
        ranked("3", "Why?", ("A", 5), ("B", 9)),
    ]
    assert rank_conflicts(rows) == []


# Prompts within texts

LONG = "Please explain to me how tides come about."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"Grade this.\n<question>\n{LONG}\n</question>", 1),
        (f"… {LONG.upper().replace(' ', '  ')} …", 1),
        (LONG[:-8], None),
        ("Why?", None),
        ("", None),
    ],
)
def test_a_prompt_is_found_within_a_longer_text(text: str, found: int | None) -> None:
    assert PromptFinder(["Why?", LONG, f"{LONG} And ebbs?"]).find(text) == found
