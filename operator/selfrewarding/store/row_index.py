"""Where each row of a JSONL artifact stands, so that one of 100,000 is read without reading the file.

Purpose: a small file beside the rows, with a line of fixed width for each, sorted by key; a lookup is a few ranged reads.
Must not: know what a row means; hold a whole artifact in memory.
Neighbours: GeneratePrompts, Rollout and BuildPreferences write it; `lineage` reads it.

A line: 16 hex digits of the row's key, the row's first byte and its length in bytes without the line's end, in decimal:
`9f86d081884c7d65 00000000012345 0000001234\\n`. Keys are digests, so 16 digits are enough to find a row; the row itself
says its whole key. A key that is no digest stands under the digest of its text.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from selfrewarding.contract.artifacts import stage_prefix
from selfrewarding.contract.result import StageResult
from selfrewarding.store.errors import Corrupt
from selfrewarding.store.protocol import ArtifactStore

DIGITS = 16
_WIDTH = DIGITS + 1 + 14 + 1 + 10 + 1
_LINE = re.compile(rb"([0-9a-f]{16}) ([0-9]{14}) ([0-9]{10})\n")
_HEX = re.compile(r"[0-9a-f]+")
_DIGEST = re.compile(r"[0-9a-f]{16,}")
_BLOCK = 1024
"""Lines of one ranged read: 43 KiB, about the size below which a request to a bucket costs its round trip."""


class IndexWriter:
    """Collects rows in the order of their file."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._at = 0

    def add(self, key: str, line: bytes) -> bytes:
        """Note one row; `line` is the row as it stands in the file, its line end included. Returns the line."""
        length = len(line.rstrip(b"\n"))
        self._lines.append(f"{digits_of(key)} {self._at:014d} {length:010d}\n".encode())
        self._at += len(line)
        return line

    def content(self) -> bytes:
        """The index file."""
        return b"".join(sorted(self._lines))


@dataclass(frozen=True, slots=True)
class Found:
    """A row that an index or a whole file gave: its content and the bytes that stand in the store."""

    row: dict[str, Any]
    start: int
    length: int


def digits_of(key: str) -> str:
    """The 16 hex digits that a row is sorted by."""
    return key[:DIGITS] if _DIGEST.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()[:DIGITS]


def find_rows(
    store: ArtifactStore, result: StageResult, name: str, index: str, wanted: str, *, limit: int = 20
) -> list[Found]:
    """The rows of a result's file whose key is `wanted` or, for hex digits, begins with it; at most `limit`.

    Without an index (a result of an older release, or another artifact) the file is read to its end. Raises NotFound if the
    artifact is gone, Corrupt if index and rows do not fit together.
    """
    if name not in result.files:
        return []
    where = f"{stage_prefix(result.kind, result.key)}/{result.files[name].path}"
    if index not in result.files:
        return list(_scanned(store, where, wanted, limit))
    index_at = f"{stage_prefix(result.kind, result.key)}/{result.files[index].path}"
    low, high = _range(wanted)
    found: list[Found] = []
    for start, length in _between(store, index_at, result.files[index].size, low, high):
        row = _row(store.read_range(where, start, length), f"{store.uri}/{where}", start)
        if _matches(str(row["key"]), wanted):
            found.append(Found(row, start, length))
            if len(found) >= limit:
                break
    return found


def _matches(key: str, wanted: str) -> bool:
    return key == wanted or (_HEX.fullmatch(wanted) is not None and key.startswith(wanted))


def _range(wanted: str) -> tuple[bytes, bytes]:
    """Lowest and highest digits that a wanted key or prefix may stand under."""
    if _HEX.fullmatch(wanted) and len(wanted) < DIGITS:
        return wanted.ljust(DIGITS, "0").encode(), wanted.ljust(DIGITS, "f").encode()
    digits = digits_of(wanted).encode()
    return digits, digits


def _row(data: bytes, place: str, start: int) -> dict[str, Any]:
    try:
        row = json.loads(data)
    except ValueError:
        row = None
    if not isinstance(row, dict) or "key" not in row:
        raise Corrupt(
            f"{place}: no row begins at byte {start}: the file or its index is damaged. Delete the stage's result.json, "
            "and it is made again."
        )
    return row


def _scanned(store: ArtifactStore, where: str, wanted: str, limit: int) -> Iterator[Found]:
    at = count = 0
    with store.read_stream(where) as stream:
        for line in stream:
            if wanted.encode() in line:
                row = _row(line, f"{store.uri}/{where}", at)
                if _matches(str(row["key"]), wanted):
                    yield Found(row, at, len(line.rstrip(b"\n")))
                    count += 1
                    if count >= limit:
                        return
            at += len(line)


def _between(
    store: ArtifactStore, where: str, size: int, low: bytes, high: bytes
) -> Iterator[tuple[int, int]]:
    """Offset and length of the rows from `low` to `high`. Bisects by blocks; a digest's own value is the first guess."""
    total = size // _WIDTH
    first, end = 0, total
    guess = int(int(low, 16) / 16**DIGITS * total)
    while end - first > _BLOCK:
        begin = min(max(guess - _BLOCK // 2, first), end - _BLOCK)
        block = _lines(store, where, begin, _BLOCK)
        if block[0][0] >= low and begin > first:
            end = begin + 1
        elif block[-1][0] < low:
            first = begin + _BLOCK
        else:
            first, end = begin, begin + _BLOCK
            break
        guess = (first + end) // 2
    at = first
    while at < total:
        for digits, start, length in _lines(store, where, at, min(_BLOCK, total - at)):
            if digits > high:
                return
            if digits >= low:
                yield start, length
        at += _BLOCK


def _lines(store: ArtifactStore, where: str, first: int, count: int) -> list[tuple[bytes, int, int]]:
    data = store.read_range(where, first * _WIDTH, count * _WIDTH)
    lines = [
        (found[1], int(found[2]), int(found[3]))
        for at in range(0, len(data), _WIDTH)
        if (found := _LINE.fullmatch(data[at : at + _WIDTH]))
    ]
    if len(lines) != count:
        raise Corrupt(
            f"{store.uri}/{where} is no index of rows: it is damaged. Delete the stage's result.json, and it is made again."
        )
    return lines
