"""JSON lines from a path, a gz file or standard input, with exact errors; and atomic writing.

The only module of this package that touches files. Every defect of a file becomes a :class:`DataError` that names the
line: no traceback for broken UTF-8, a cut gz file, NaN, a lone surrogate or a row of a gigabyte. What the fields of a
row mean is decided by the callers (:mod:`selfrewarding.data.rows`).
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from selfrewarding.data.errors import DataError, ascii_safe, shown

STANDARD_STREAM = "-"
MAX_ROW_BYTES = 16 * 1024 * 1024
"""A row over this is an error: 16 MiB is a hundred times the longest conversation, and one row must fit in memory."""

_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Row:
    """One JSON object with the place it came from."""

    file: str
    line: int
    value: dict[str, Any]

    def error(self, *, field: str | None = None, found: str, expected: str, remedy: str) -> DataError:
        """A :class:`DataError` that points at this row."""
        return DataError(
            file=self.file, line=self.line, field=field, found=found, expected=expected, remedy=remedy
        )


def read_rows(source: str | Path, *, max_row_bytes: int = MAX_ROW_BYTES) -> Iterator[Row]:
    """Read JSON objects, one a line, from a path or from standard input (`-`); gz is recognised by its content.

    Raises:
        DataError: the file is missing or unreadable, or a line is not one JSON object in UTF-8 (see the module).
    """
    name = str(source)
    if name == STANDARD_STREAM:
        yield from read_stream(sys.stdin.buffer, name, max_row_bytes=max_row_bytes)
        return
    try:
        with Path(name).open("rb") as stream:
            yield from read_stream(stream, name, max_row_bytes=max_row_bytes)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise DataError(
            file=ascii_safe(name),
            found=_reason(error),
            expected="a readable file of JSON lines",
            remedy="Check the path and its permissions.",
        ) from None


def read_stream(stream: BinaryIO, name: str, *, max_row_bytes: int = MAX_ROW_BYTES) -> Iterator[Row]:
    """Read JSON objects, one a line, from an open binary stream; `name` is what errors call it.

    Raises:
        DataError: see :func:`read_rows`.
    """
    buffered = cast(io.BufferedReader, stream if hasattr(stream, "peek") else io.BufferedReader(stream))
    lines: BinaryIO = buffered
    if buffered.peek(2)[:2] == _GZIP_MAGIC:
        lines = cast(BinaryIO, gzip.GzipFile(fileobj=buffered))
    blank_line: int | None = None
    number = 0
    while True:
        raw = _read_line(lines, name, number + 1, max_row_bytes)
        if not raw:
            return
        number += 1
        if number == 1 and raw.startswith(_BOM):
            raw = raw[len(_BOM) :]
        if not raw.strip():
            blank_line = blank_line or number
            continue
        if blank_line is not None:
            # Blank lines at the end are how editors close a file; in the middle a row was lost or files were joined.
            raise DataError(
                file=name,
                line=blank_line,
                found="an empty line between rows",
                expected="one JSON object on every line",
                remedy="Delete the line, or put the missing row there.",
            )
        yield Row(name, number, parse_object(raw, name, number))


def _read_line(stream: BinaryIO, name: str, number: int, limit: int) -> bytes:
    try:
        raw = stream.readline(limit + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            file=name,
            line=number,
            found=f"a damaged gz file ({_reason(error)})",
            expected="a whole gz file",
            remedy="Copy or download the file again; `gzip -t FILE` tells whether it is whole.",
        ) from None
    if len(raw) > limit and not (len(raw) == limit + 1 and raw.endswith(b"\n")):
        raise DataError(
            file=name,
            line=number,
            found=f"a row of more than {limit} bytes",
            expected=f"at most {limit} bytes a row",
            remedy="Check that each line is one JSON object (the file may be one big JSON array), or split the row.",
        )
    return raw


def parse_object(raw: bytes, name: str, number: int) -> dict[str, Any]:
    """One JSON object from its bytes; `name` and `number` are file and line for errors. Raises DataError."""

    def fail(found: str, expected: str, remedy: str) -> NoReturn:
        raise DataError(file=name, line=number, found=found, expected=expected, remedy=remedy) from None

    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        fail(
            f"a byte that is not UTF-8 (0x{raw[error.start]:02x} at byte {error.start + 1} of the line)",
            "UTF-8 text",
            "Convert the file, for example with `iconv -t utf-8`, or repair the line.",
        )
    try:
        value = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite_float, object_pairs_hook=_unique_fields
        )
    except json.JSONDecodeError as error:
        fail(
            f"broken JSON at column {error.colno} ({error.msg})",
            "one JSON object on the line",
            "Repair the line; JSON lines cannot be pretty-printed over several lines.",
        )
    except _BadNumber as error:
        fail(f"the number {error}", "finite numbers", "Write null where there is no number.")
    except _DuplicateField as error:
        fail(f"the field `{error}` twice in one object", "each field once", "Delete one of the two.")
    except (RecursionError, ValueError) as error:  # very deep nesting, or an integer of thousands of digits
        fail(
            f"JSON that cannot be read ({_reason(error)})",
            "an object of ordinary depth and numbers",
            "Repair the line.",
        )
    if not isinstance(value, dict):
        fail(
            f"{shown(value)} instead of an object",
            "one JSON object on the line",
            "Wrap the value: {…} with named fields.",
        )
    if "\\u" in text:
        # json.loads lets a lone half of a surrogate pair through; it could never be written or tokenised again.
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            fail(
                "half of a surrogate pair (a \\ud800–\\udfff escape on its own)",
                "whole Unicode characters",
                "Write the character itself, or both halves.",
            )
    return value


class _BadNumber(Exception):
    pass


class _DuplicateField(Exception):
    pass


def _refuse_constant(text: str) -> NoReturn:
    raise _BadNumber(text)


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _BadNumber(shown(text).strip('"'))
    return value


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _DuplicateField(ascii_safe(name[:80]))
            seen.add(name)
    return fields


def read_text(path: Path) -> str:
    """A whole text file in UTF-8.

    Raises:
        DataError: the file is missing, unreadable, not UTF-8, or larger than a row may be.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_ROW_BYTES + 1)
        if len(raw) <= MAX_ROW_BYTES:
            return raw.decode("utf-8-sig")
        found = f"more than {MAX_ROW_BYTES} bytes"
    except UnicodeDecodeError as error:
        found = f"a byte that is not UTF-8 (0x{raw[error.start]:02x} at byte {error.start + 1})"
    except (OSError, ValueError) as error:
        found = _reason(error)
    raise DataError(
        file=ascii_safe(str(path)),
        found=found,
        expected="a readable text file in UTF-8",
        remedy="Check the path, its permissions and its encoding.",
    )


def write_rows(target: str | Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write objects as JSON lines (UTF-8, not escaped) and return how many.

    A file appears whole or not at all: rows go to a temporary name beside it, which is renamed at the end. A name that
    ends in `.gz` is compressed. With `-` rows go to standard output as they come.

    Raises:
        DataError: the target cannot be written (no such folder, no permission, disk full). What the iterable itself
            raises passes through, and no file is left.
    """
    return _write(str(target), (encode_row(row) for row in rows))


def write_lines(target: str | Path, lines: Iterable[bytes]) -> int:
    """As :func:`write_rows`, of rows that are encoded already (:func:`encode_row`)."""
    return _write(str(target), lines)


def write_document(target: str | Path, document: dict[str, Any]) -> None:
    """Write one JSON object, indented for reading; otherwise as :func:`write_rows`."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) + "\n"
    _write(str(target), [text.encode("utf-8")])


def encode_row(row: dict[str, Any]) -> bytes:
    """One row as it stands in a file: JSON on one line, UTF-8, ending in a newline."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"


def _write(name: str, parts: Iterable[bytes]) -> int:
    if name == STANDARD_STREAM:
        return _write_standard_output(parts)
    try:
        with _whole_file(Path(name)) as raw:
            if not name.endswith(".gz"):
                return _dump(raw, parts)
            # mtime=0: the same rows give the same bytes, so digests of outputs can be compared.
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as stream:
                return _dump(cast(BinaryIO, stream), parts)
    except (OSError, ValueError) as error:
        raise DataError(
            file=ascii_safe(name),
            found=_reason(error),
            expected="a place that can be written",
            remedy="Check that the folder exists, that you may write there, and that the disk is not full.",
        ) from None


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        # Plain open, not tempfile: the mode must follow the user's umask, so that another user's pod can read it.
        with temporary.open("xb") as raw:
            yield raw
            raw.flush()
            os.fsync(raw.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)
        raise


def _dump(stream: BinaryIO, parts: Iterable[bytes]) -> int:
    count = 0
    for part in parts:
        stream.write(part)
        count += 1
    return count


def _write_standard_output(parts: Iterable[bytes]) -> int:
    stream = sys.stdout.buffer
    try:
        count = _dump(stream, parts)
        stream.flush()
    except BrokenPipeError:
        # The reader (`head`, a closed pager) has what it wants. Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        raise DataError(
            file=STANDARD_STREAM,
            found=_reason(error),
            expected="a standard output that can be written",
            remedy="Check where the output is redirected to.",
        ) from None
    return count


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return ascii_safe(str(error))[:120] or type(error).__name__
