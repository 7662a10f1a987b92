"""Reading and writing JSON lines: every defect of a file is one exact error, never a traceback."""

import gzip
import io
import json
import os
import random
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrewarding.data.errors import DataError
from selfrewarding.data.jsonl import read_rows, read_stream, write_document, write_rows


def read(content: bytes, **options: Any) -> list[dict[str, Any]]:
    return [row.value for row in read_stream(io.BytesIO(content), "rows.jsonl", **options)]


def error_of(content: bytes, **options: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        read(content, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def test_rows_come_with_their_line() -> None:
    rows = list(read_stream(io.BytesIO(b'{"a": 1}\n{"a": 2}\n'), "rows.jsonl"))
    assert [(row.file, row.line, row.value) for row in rows] == [
        ("rows.jsonl", 1, {"a": 1}),
        ("rows.jsonl", 2, {"a": 2}),
    ]


READABLE = {
    "no rows": (b"", 0),
    "no line break at the end": (b'{"a": 1}\n{"a": 2}', 2),
    "Windows line ends": (b'{"a": 1}\r\n{"a": 2}\r\n', 2),
    "a byte order mark": (b'\xef\xbb\xbf{"a": 1}\n', 1),
    "empty lines at the end": (b'{"a": 1}\n\n  \n', 1),
    "gz": (gzip.compress(b'{"a": 1}\n{"a": 2}\n'), 2),
    "two gz files in a row": (gzip.compress(b'{"a": 1}\n') + gzip.compress(b'{"a": 2}\n'), 2),
    "a whole pair of surrogates": (b'{"a": "\\ud83d\\ude00"}\n', 1),
}


@pytest.mark.parametrize(("content", "count"), READABLE.values(), ids=READABLE)
def test_what_can_be_read_is_read(content: bytes, count: int) -> None:
    assert len(read(content)) == count


GOOD = b'{"a": 1}\n'
BROKEN = {
    "broken UTF-8": (GOOD + b'{"a": "\xff"}\n', 2, "not UTF-8 (0xff at byte 8 of the line)"),
    "cut JSON": (GOOD + b'{"a": \n', 2, "broken JSON at column"),
    "a list": (GOOD + b"[1, 2]\n", 2, "a list of 2 instead of an object"),
    "a number": (b"17\n", 1, "17 instead of an object"),
    "a text": (b'"text"\n', 1, '"text" instead of an object'),
    "null": (b"null\n", 1, "null instead of an object"),
    "NaN": (b'{"a": NaN}\n', 1, "the number NaN"),
    "minus infinity": (b'{"a": -Infinity}\n', 1, "the number -Infinity"),
    "a number beyond floats": (b'{"a": 1e999}\n', 1, "the number 1e999"),
    "a field twice": (b'{"a": 1, "a": 2}\n', 1, "the field `a` twice"),
    "half a surrogate pair": (b'{"a": "\\ud800"}\n', 1, "half of a surrogate pair"),
    "half a surrogate pair as a name": (b'{"\\udfff": 1}\n', 1, "half of a surrogate pair"),
    "an empty line between rows": (GOOD + b"\n" + GOOD, 2, "an empty line"),
    "very deep nesting": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", 1, "cannot be read"),
    "an integer of ten thousand digits": (b'{"a": ' + b"9" * 10_000 + b"}\n", 1, "cannot be read"),
    "two objects on a line": (b'{"a": 1}{"a": 2}\n', 1, "broken JSON at column 9"),
    "NUL bytes": (b"\x00\x00\x00\n", 1, "broken JSON"),
    "UTF-16": ('{"a": 1}\n'.encode("utf-16"), 1, "not UTF-8"),
    "a gz file that was cut": (gzip.compress(GOOD * 100)[:-12], None, "a damaged gz file"),
    "a gz file with a broken end": (gzip.compress(GOOD)[:-8] + bytes(8), None, "a damaged gz file"),
    "a gz file with rubbish behind it": (gzip.compress(GOOD) + b"rubbish!", None, "a damaged gz file"),
    "broken UTF-8 within gz": (gzip.compress(GOOD + b'{"a": "\xc3("}\n'), 2, "not UTF-8"),
}


@pytest.mark.parametrize(("content", "line", "found"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_one_error_with_its_line(content: bytes, line: int | None, found: str) -> None:
    error = error_of(content)
    assert found in error.found
    assert line is None or error.line == line
    assert str(error).startswith(f"rows.jsonl:{error.line}: found ")
    assert error.expected
    assert error.remedy


def test_a_huge_row_is_refused_before_it_fills_the_memory() -> None:
    assert read(b'{"a": "%s"}\n' % (b"x" * 90), max_row_bytes=100)
    error = error_of(b'{"a": "%s"}\n' % (b"x" * 94), max_row_bytes=100)
    assert error.found == "a row of more than 100 bytes"


UNREADABLE: dict[str, Callable[[Path], Path]] = {
    "a missing file": lambda folder: folder / "nothing.jsonl",
    "a folder": lambda folder: folder,
    "a name with a NUL": lambda folder: folder / "a\0b",
    "a name that is too long": lambda folder: folder / ("x" * 5000),
}


@pytest.mark.parametrize("make", UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_cannot_be_opened_is_an_error(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a readable file"):
        list(read_rows(make(tmp_path)))


def test_standard_input_is_read_as_gz_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BufferedReader(io.BytesIO(gzip.compress(GOOD))))
    monkeypatch.setattr(sys, "stdin", stream)
    assert [row.value for row in read_rows("-")] == [{"a": 1}]


ROWS = [{"id": 1, "text": "안녕\u2028"}, {"id": 2, "text": 'a "quote"\nand a break'}]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_what_is_written_can_be_read_again(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert write_rows(path, ROWS) == 2
    assert [row.value for row in read_rows(path)] == ROWS
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_equal_rows_give_equal_bytes_in_gz(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.gz", ROWS)
    write_rows(tmp_path / "b.gz", ROWS)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("old")

    def rows() -> Any:
        yield {"id": 1}
        raise DataError(file="in", found="x", expected="y", remedy="z")

    with pytest.raises(DataError):
        write_rows(path, rows())
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_written_file_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_rows(tmp_path / "rows.jsonl", ROWS)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "rows.jsonl").stat().st_mode) == 0o644


@pytest.mark.parametrize("target", ["missing/rows.jsonl", "rows\0.jsonl", "", "x" * 5000])
def test_a_place_that_cannot_be_written_is_an_error(target: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a place that can be written"):
        write_rows(f"{tmp_path}/{target}" if target else tmp_path, ROWS)


def test_a_full_disk_on_standard_output_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(full)))
        with pytest.raises(DataError, match="no space left on device"):
            write_rows("-", ROWS)


def test_a_document_is_indented_and_ends_in_a_line_break(tmp_path: Path) -> None:
    write_document(tmp_path / "summary.json", {"a": 1})
    assert (tmp_path / "summary.json").read_text() == '{\n  "a": 1\n}\n'


def message_of(content: bytes) -> str:
    """The error, or nothing if the rows could be read."""
    try:
        assert all(isinstance(row, dict) for row in read(content))
    except DataError as error:
        return str(error)
    return ""


@given(st.binary(max_size=400))
def test_any_bytes_give_rows_or_one_error(content: bytes) -> None:
    assert "\n" not in message_of(content)


def test_a_thousand_damaged_files_give_rows_or_one_error() -> None:
    source = random.Random(7)
    good = b"".join(
        json.dumps({"id": n, "text": "ok \u00e9 안녕", "n": [1.5, None]}).encode() + b"\n" for n in range(6)
    )
    for _ in range(1000):
        content = bytearray(gzip.compress(good) if source.random() < 0.3 else good)
        for _ in range(source.randint(1, 4)):
            place = source.randrange(len(content))
            match source.randrange(4):
                case 0:
                    content[place] = source.randrange(256)
                case 1:
                    del content[place : place + source.randint(1, 9)]
                case 2:
                    content[place:place] = source.choice(
                        [b"NaN", b"\n\n", b"\xff", b"[[[", b'"', b"\\ud800", b"1e999"]
                    )
                case _:
                    del content[place:]
            content = content or bytearray(b"\n")
        assert "\n" not in message_of(bytes(content))
