"""A file that is one JSON list of objects, read as rows with lines, as strictly as JSON lines are.

Purpose: benchmarks publish such files (AlpacaEval's evaluation set). What each object must hold is the callers' business.
Must not: read more than a bounded number of bytes. Neighbours: `jsonl` reads JSON lines and checks each object here too.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from selfrewarding.data.errors import DataError
from selfrewarding.data.jsonl import Row, parse_object

MAX_FILE_BYTES = 256 * 1024 * 1024
"""A list is read whole; the largest benchmark in this form has a few megabytes."""
_GZIP_MAGIC = b"\x1f\x8b"
_SPACE = " \t\r\n"


def read_content(stream: BinaryIO, name: str) -> bytes:
    """A whole file, unpacked where it is gz; `name` is what errors call it. Raises DataError."""
    content = stream.read(MAX_FILE_BYTES + 1)
    if content[:2] == _GZIP_MAGIC:
        try:
            with gzip.open(io.BytesIO(content)) as unpacked:
                content = unpacked.read(MAX_FILE_BYTES + 1)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(
                file=name,
                found=f"a damaged gz file ({error})",
                expected="a whole gz file",
                remedy="Copy or download the file again; `gzip -t FILE` tells whether it is whole.",
            ) from None
    if len(content) > MAX_FILE_BYTES:
        raise DataError(
            file=name,
            found=f"more than {MAX_FILE_BYTES} bytes",
            expected="a set of prompts of an ordinary size",
            remedy="Write the rows as JSON lines, or split the file.",
        )
    return content.removeprefix(b"\xef\xbb\xbf")


def is_list(content: bytes) -> bool:
    """Whether a file's content is one JSON list, and no JSON lines."""
    return content.lstrip()[:1] == b"["


def read_list(content: bytes, name: str) -> Iterator[Row]:
    """The objects of a list, each with the line on which it begins. Raises DataError for whatever is no such list."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            file=name,
            line=content.count(b"\n", 0, error.start) + 1,
            found=f"a byte that is not UTF-8 (0x{content[error.start]:02x})",
            expected="UTF-8 text",
            remedy="Convert the file, for example with `iconv -t utf-8`.",
        ) from None
    decoder = json.JSONDecoder()
    line, counted = 1, 0
    place = _skip(text, 0)
    expected = "["
    while True:
        # `place` stands on the bracket or comma before the next object, or on the closing bracket.
        mark, place = text[place : place + 1], _skip(text, place + 1)
        line, counted = line + text.count("\n", counted, place), place
        if mark == "]" and "]" in expected:
            break
        if not mark or mark not in expected:
            raise _broken(
                name, line, "the list has no end" if not mark else f"{mark!r} where `,` or `]` belongs"
            )
        if mark == "[" and text[place : place + 1] == "]":
            expected = "]"
            continue
        try:
            _, end = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise _broken(name, error.lineno, error.msg) from None
        except (RecursionError, ValueError) as error:
            raise _broken(name, line, str(error)) from None
        yield Row(name, line, parse_object(text[place:end].encode("utf-8", "surrogatepass"), name, line))
        place, expected = _skip(text, end), ",]"
    if place < len(text):
        raise _broken(name, line, "text behind the list")


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in _SPACE:
        place += 1
    return place


def _broken(name: str, line: int, found: str) -> DataError:
    return DataError(
        file=name,
        line=line,
        found=f"broken JSON ({found})",
        expected="one JSON list of objects",
        remedy="Repair the file; `python -m json.tool FILE` tells where it breaks.",
    )
