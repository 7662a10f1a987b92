"""Rows that survive a kill: append-only logs in a store that cannot append.

Purpose: a sampler's finished rows go out in small immutable chunk objects; the next attempt reads all whole ones.
Must not: know what is in a row beyond its "key"; write a row twice or change its bytes.
Neighbours: the sampler writes and resumes through this; a stage's attempts lie at <stage key>/attempts/<pod UID>/.

A chunk is `<log>-<number>-a<attempt number>-r<rows>-<sha256>.jsonl`, for example
`chunk-000001-a0002-r128-9f86d0….jsonl`: JSON lines and nothing else, with all that a reader needs to order and check
it in its name. An attempt's number is one more than the highest that stands there when it writes its first chunk. So
the order of attempts is in the data itself, and neither clocks nor copying a folder can change which row is first.
"""

import hashlib
import json
import logging
import re
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Self

from selfrewarding.store.errors import NotFound, StoreError
from selfrewarding.store.keys import join
from selfrewarding.store.protocol import ArtifactStore

logger = logging.getLogger(__name__)

ATTEMPTS = "attempts"
"""The folder below a stage's key that holds one folder per attempt (pod)."""

_LOG_NAME = re.compile(r"[a-z][a-z0-9_]*")
_CHUNK = re.compile(
    r"(?P<log>[a-z][a-z0-9_]*)-(?P<number>\d{6,})-a(?P<attempt>\d{4,})-r(?P<rows>\d+)-(?P<sha256>[0-9a-f]{64})\.jsonl"
)
_READ_AHEAD = 8


@dataclass(frozen=True, slots=True)
class Row:
    """One finished row: its key, and its bytes exactly as they were appended (no newline)."""

    key: str
    data: bytes


@dataclass(slots=True)
class ReadCounts:
    """What a reading met, filled while it goes on."""

    chunks: int = 0
    rows: int = 0
    duplicates: int = 0
    damaged: int = 0
    """Chunks left out because they are gone, or not what their name says."""


@dataclass(frozen=True, slots=True, order=True)
class _Chunk:
    """Sorts by attempt number, then attempt id, then chunk number."""

    attempt: int
    attempt_id: str
    number: int
    key: str
    rows: int
    sha256: str


class ChunkLog:
    """Writes one attempt's rows. `prefix` is <stage key>/attempts/<pod UID>; `log` tells several logs apart.

    Rows are held back until `max_bytes` of them are there or the oldest has waited `max_seconds`, whichever is first;
    a thread of its own watches the time. What is in a chunk survives a kill, what is held back does not. Use as a
    context manager, or call `close`. May be used from several threads.
    """

    def __init__(
        self,
        store: ArtifactStore,
        prefix: str,
        *,
        log: str = "chunk",
        max_bytes: int = 4 * 1024 * 1024,
        max_seconds: float = 15.0,
    ) -> None:
        if not _LOG_NAME.fullmatch(log):
            raise ValueError(f"log name {log!r}: expected lower-case letters, digits and underscores")
        self._store = store
        self._prefix = prefix
        self._log = log
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._guard = threading.Lock()  # over the three above and `_closed`
        self._writing = threading.Lock()  # one chunk at a time, so that numbers follow the order of appending
        self._place: tuple[int, int] | None = None  # this attempt's number, the last chunk's number
        self._wake = threading.Event()
        self._timer: threading.Thread | None = None
        self._closed = False

    def append(self, row: bytes) -> None:
        """Take one row: a JSON object on one line with a string "key". Writes a chunk if enough is held back.

        Raises ValueError for anything else, StoreError if writing a chunk fails: the row is kept and is written with
        the next chunk that succeeds.
        """
        row = row.removesuffix(b"\n")
        if b"\n" in row or _key_of(row) is None:
            raise ValueError(
                f'a row must be a JSON object on one line with a string "key", found {row[:80]!r}'
            )
        with self._guard:
            if self._closed:
                raise ValueError("this log is closed")
            self._held.append(row)
            self._held_bytes += len(row) + 1
            full = self._held_bytes >= self._max_bytes
            if self._timer is None:
                self._timer = threading.Thread(target=self._watch, name=f"{self._log}-log", daemon=True)
                self._timer.start()
            if len(self._held) == 1:
                self._wake.set()
        if full:
            self.flush()

    def flush(self) -> None:
        """Write what is held back as one chunk. When this returns, every row appended before is safe."""
        with self._writing:
            with self._guard:
                rows, self._held, self._held_bytes = self._held, [], 0
            if not rows:
                return
            try:
                self._write(rows)
            except BaseException:
                with self._guard:
                    self._held = rows + self._held
                    self._held_bytes = sum(len(row) + 1 for row in self._held)
                raise

    def close(self) -> None:
        """Flush and stop. Closing twice is harmless; if the flush fails, close again to try once more."""
        with self._guard:
            self._closed = True
        self._wake.set()
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, rows: list[bytes]) -> None:
        data = b"".join(row + b"\n" for row in rows)
        if self._place is None:
            # Found once: were it looked up again after a lost answer, the chunk that got through would be counted.
            self._place = self._find_place()
        attempt, last = self._place
        sha256 = hashlib.sha256(data).hexdigest()
        name = f"{self._log}-{last + 1:06d}-a{attempt:04d}-r{len(rows)}-{sha256}.jsonl"
        # If it exists, an earlier try got through whose answer was lost: the name says that the content is the same.
        self._store.create(join(self._prefix, name), data)
        self._place = attempt, last + 1

    def _find_place(self) -> tuple[int, int]:
        """This attempt's number and its last chunk's: a restarted container goes on in its pod's own folder."""
        attempts, _, own = self._prefix.rpartition("/")
        chunks = [chunk for chunk, _ in _list_chunks(self._store, attempts, self._log) if chunk is not None]
        ours = [chunk for chunk in chunks if chunk.attempt_id == own]
        if ours:
            return ours[0].attempt, max(chunk.number for chunk in ours)
        return max((chunk.attempt for chunk in chunks), default=0) + 1, 0

    def _watch(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            with self._guard:
                if self._closed:
                    return
            if self._wake.wait(self._max_seconds):
                # Closed, or written out meanwhile and filled again: a fresh wait either way.
                self._wake.set()
                continue
            try:
                self.flush()
            except StoreError as error:
                logger.warning("rows are held back, the store did not take them: %s", error)
                self._wake.set()


def read_chunks(
    store: ArtifactStore, prefix: str, *, log: str = "chunk", counts: ReadCounts | None = None
) -> Iterator[dict[str, Any]]:
    """Like `read_rows`, but yields each row as the JSON object that it is."""
    for row in read_rows(store, prefix, log=log, counts=counts):
        value: dict[str, Any] = json.loads(row.data)
        yield value


def read_rows(
    store: ArtifactStore, prefix: str, *, log: str = "chunk", counts: ReadCounts | None = None
) -> Iterator[Row]:
    """Every row of all whole chunks of all attempts at <prefix>/attempts/*/, the first of each key, in a fixed order.

    First is by attempt number, then attempt id, chunk number and line. Chunks that are damaged or gone are left out
    with a warning; pass `counts` to see how many. Raises StoreError if the store itself fails.
    """
    counts = counts if counts is not None else ReadCounts()
    chunks: list[_Chunk] = []
    for chunk, key in _list_chunks(store, join(prefix, ATTEMPTS), log):
        if chunk is None:
            _leave_out(counts, store, key, "its name is not a chunk's")
        else:
            chunks.append(chunk)
    seen: set[str] = set()
    for chunk, data in _read_ahead(store, sorted(chunks)):
        rows = _rows_of(chunk, data)
        if rows is None:
            _leave_out(
                counts, store, chunk.key, "it is gone" if data is None else "it is not what its name says"
            )
            continue
        counts.chunks += 1
        for row in rows:
            if row.key in seen:
                counts.duplicates += 1
                continue
            seen.add(row.key)
            counts.rows += 1
            yield row


def _list_chunks(store: ArtifactStore, attempts: str, log: str) -> Iterator[tuple[_Chunk | None, str]]:
    """All chunks of one log below the attempts' folder; None for a name that looks like one and is not."""
    for entry in store.list(attempts):
        attempt_id, _, name = entry.key.removeprefix(f"{attempts}/").rpartition("/")
        match = _CHUNK.fullmatch(name)
        if match is not None and match["log"] == log:
            yield (
                _Chunk(
                    attempt=int(match["attempt"]),
                    attempt_id=attempt_id,
                    number=int(match["number"]),
                    key=entry.key,
                    rows=int(match["rows"]),
                    sha256=match["sha256"],
                ),
                entry.key,
            )
        elif match is None and name.startswith(f"{log}-"):
            yield None, entry.key


def _read_ahead(store: ArtifactStore, chunks: list[_Chunk]) -> Iterator[tuple[_Chunk, bytes | None]]:
    """Each chunk with its bytes, in order, some of them fetched while the caller works."""
    with ThreadPoolExecutor(max_workers=_READ_AHEAD, thread_name_prefix="chunks") as pool:
        left = iter(chunks)
        coming: deque[tuple[_Chunk, Future[bytes | None]]] = deque(
            (chunk, pool.submit(_read, store, chunk.key)) for chunk in islice(left, _READ_AHEAD)
        )
        while coming:
            chunk, future = coming.popleft()
            for following in islice(left, 1):
                coming.append((following, pool.submit(_read, store, following.key)))
            yield chunk, future.result()


def _read(store: ArtifactStore, key: str) -> bytes | None:
    try:
        return store.read(key)
    except NotFound:
        return None


def _rows_of(chunk: _Chunk, data: bytes | None) -> list[Row] | None:
    if data is None or hashlib.sha256(data).hexdigest() != chunk.sha256:
        return None
    lines = data.split(b"\n")[:-1]
    keys = [_key_of(line) for line in lines]
    rows = [Row(key, line) for key, line in zip(keys, lines, strict=True) if key is not None]
    return rows if len(rows) == len(lines) == chunk.rows else None


def _key_of(row: bytes) -> str | None:
    try:
        value = json.loads(row)
    except (ValueError, RecursionError):
        return None
    key = value.get("key") if isinstance(value, dict) else None
    return key if isinstance(key, str) else None


def _leave_out(counts: ReadCounts, store: ArtifactStore, key: str, reason: str) -> None:
    counts.damaged += 1
    logger.warning("left out %s of %s: %s; its rows are computed again", key, store.uri, reason)
