"""Files from one bucket: ranges on many connections, each written to its place, digested while they arrive.

Purpose: fetch a file as fast as the network gives it, with little memory and little CPU, and know its digest at the end.
Must not: know about keys' prefixes or trees.
Neighbours: `s3_client.connect` makes one for each connection, `s3.S3Store` fetches every file with it, `s3_stream` reads
each range over broken connections.

Neither awscrt nor s3transfer, by measurement (tests/bench/store_transfer.py): bytes come to Python by a copy for each
part with the one, by a queue to one writing thread with the other. Reading a large range by a small piece at a time, and
writing each where it belongs, takes about the CPU of awscrt with nothing around it, SHA-256 included.
"""

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO

from selfrewarding.store.digests import FileDigest
from selfrewarding.store.errors import Corrupt, Unavailable
from selfrewarding.store.local_tree import Stop
from selfrewarding.store.s3_stream import Extent, ObjectRange, Source

_MIB = 1024 * 1024
RANGE_BYTES = 32 * _MIB
"""What one request asks for: long enough that requests cost nothing, short enough that a large file has many. (S3's
guidance, ranges of 8 to 16 MiB, is for clients that keep a whole range in memory.)"""

RANGES_AT_ONCE = 32
"""S3 gives some 90 MB/s on a connection."""

_PIECE_BYTES = _MIB // 2
"""Read and written at a time. Fits a core's cache; smaller ones cost calls."""


class Downloads:
    """Fetches files of one bucket. Safe to use from several threads, which share the connections."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._threads = ThreadPoolExecutor(RANGES_AT_ONCE, thread_name_prefix="s3-range")

    def fetch(self, path: str, size: int, into: BinaryIO, local: Path, stop: Stop) -> FileDigest:
        """Fetch the object at `path`, of about `size` bytes, into the empty file `into`; `local` is its name.

        Returns the digest of what came, which is one version of the object from start to end. An error is told at once:
        threads that wait for the store then end by themselves, and write nothing more.

        Raises:
            Corrupt: the object was replaced meanwhile.
            Unavailable: `stop` came, or the store no longer answers.
            StoreError: as reading an object does.
            OSError: the file cannot be written.
        """
        arriving = _Arriving(into)
        end = RANGE_BYTES if size > RANGE_BYTES else None
        first = ObjectRange(self._source, path, end=end, go_on=arriving.expect_more)

        def begin() -> None:
            with first:
                extent = first.open_patiently()
                for part in arriving.divide(first, extent):
                    self._threads.submit(arriving.work, partial(take, part))
                arriving.take(first)

        def take(part: ObjectRange) -> None:
            with part:
                arriving.take(part)

        try:
            with stop.cancelling(arriving.give_up):
                self._threads.submit(arriving.work, begin)
                return arriving.digest(local)
        finally:
            arriving.give_up()
            arriving.leave()


class _Arriving:
    """One file whose ranges come in any order.

    Several threads work on it, and the one that made it is the last to want something of it. The file is written by a
    descriptor of its own, which the last to leave closes: the number of a closed one may be another file's soon.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor = os.dup(file.fileno())
        self._working = 1
        self._ranges: list[tuple[int, int]] = []
        self._reached: dict[int, int] = {}
        self._unfinished: set[int] = set()
        self._awaited = 0
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def work(self, step: Callable[[], object]) -> None:
        """Do one step, unless the transfer has ended. What it raises ends the transfer."""
        with self._changed:
            if self._error is not None:
                return
            self._working += 1
        try:
            step()
        except BaseException as error:  # noqa: BLE001 (told by `digest`)
            self._end(error)
        finally:
            self.leave()

    def leave(self) -> None:
        """Want nothing more of the file."""
        with self._changed:
            self._working -= 1
            if self._working == 0:
                os.close(self._descriptor)

    def divide(self, first: ObjectRange, extent: Extent) -> list[ObjectRange]:
        """The ranges after the first one, which is open."""
        starts = range(extent.end, extent.total, RANGE_BYTES)
        rest = [(start, min(start + RANGE_BYTES, extent.total)) for start in starts]
        with self._changed:
            self._ranges = [(0, extent.end), *rest]
            self._reached = {start: start for start, _ in self._ranges}
            self._unfinished = set(self._reached)
            self._changed.notify()
        return [first.another(start, end) for start, end in rest]

    def take(self, part: ObjectRange) -> None:
        """Write all that a range gives to its place."""
        at = part.start
        while piece := part.take(_PIECE_BYTES):
            self.expect_more()
            _write(self._descriptor, piece, at)
            at += len(piece)
            with self._changed:
                self._reached[part.start] = at
                if part.start == self._awaited:
                    self._changed.notify()
        with self._changed:
            self._unfinished.discard(part.start)
            self._changed.notify()

    def digest(self, local: Path) -> FileDigest:
        """Digest all that comes, in order and as it comes: from the page cache, beside those that write it."""
        sha256, at = hashlib.sha256(), 0
        window = memoryview(bytearray(_PIECE_BYTES))
        with local.open("rb", buffering=0) as file:
            for start, end in self._wait_for_ranges():
                while at < end:
                    reached = self._wait_beyond(start, at)
                    while at < reached:
                        got = file.readinto(window[: reached - at])
                        if not got:
                            raise Corrupt(f"{local} became shorter while it was written.")
                        sha256.update(window[:got])
                        at += got
        self._wait_for_ends()
        return FileDigest(at, sha256.hexdigest())

    def expect_more(self) -> None:
        """Raises what ended the transfer, if something did."""
        if self._error is not None:
            raise self._error

    def give_up(self) -> None:
        """Take nothing more."""
        self._end(Unavailable("the transfer was stopped."))

    def _wait_for_ranges(self) -> list[tuple[int, int]]:
        with self._changed:
            self._changed.wait_for(lambda: self._ranges or self._error is not None)
        self.expect_more()
        return self._ranges

    def _wait_beyond(self, start: int, at: int) -> int:
        with self._changed:
            self._awaited = start
            self._changed.wait_for(lambda: self._reached[start] > at or self._error is not None)
        self.expect_more()
        return self._reached[start]

    def _wait_for_ends(self) -> None:
        """A checksum that came along is compared after the last byte (`ObjectRange.take`)."""
        with self._changed:
            self._changed.wait_for(lambda: not self._unfinished or self._error is not None)
        self.expect_more()

    def _end(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify()


def _write(descriptor: int, piece: bytes, at: int) -> None:
    view = memoryview(piece)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written
