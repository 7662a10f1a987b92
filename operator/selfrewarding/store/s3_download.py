"""Files from one bucket: ranges on many connections, each written to its place, digested while they arrive.

Purpose: fetch a file as fast as the network gives it, with little memory and little CPU, and know its digest at the end.
Must not: know about keys' prefixes or trees.
Neighbours: `s3_client.connect` makes one for each connection, `s3.S3Store` fetches every file with it, `s3_stream` reads
each range over broken connections.

Neither awscrt nor s3transfer, by measurement (tests/bench/store_transfer.py): bytes come to Python by a copy for each
part with the one, by a queue to one writing thread with the other. Reading a large range by a small piece at a time, and
writing each where it belongs, takes less CPU than awscrt alone with nothing around it, SHA-256 included.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from selfrewarding.store.digests import FileDigest
from selfrewarding.store.errors import Unavailable
from selfrewarding.store.local_tree import Stop
from selfrewarding.store.s3_errors import Place
from selfrewarding.store.s3_stream import ObjectStream

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_MIB = 1024 * 1024
RANGE_BYTES = 32 * _MIB
"""What one request asks for: long enough that requests cost nothing, short enough that a large file has many. (S3's
guidance, ranges of 8 to 16 MiB, is for clients that keep a whole range in memory.)"""

RANGES_AT_ONCE = 24
"""Beside the first one of each file, which the file's own thread reads. S3 gives some 90 MB/s on a connection."""

_PIECE_BYTES = _MIB // 2
"""Read and written at a time. Fits a core's cache; smaller ones cost calls."""


class Downloads:
    """Fetches files of one bucket. Safe to use from several threads, which share the connections."""

    def __init__(self, client: "S3Client", place: Place) -> None:
        self._client = client
        self._place = place
        self._ranges = ThreadPoolExecutor(RANGES_AT_ONCE, thread_name_prefix="s3-range")

    def fetch(self, path: str, size: int, into: BinaryIO, local: Path, stop: Stop) -> FileDigest:
        """Fetch the object at `path`, of about `size` bytes, into the empty file `into`; `local` is its name.

        Returns the digest of what came, which is one version of the object from start to end.

        Raises:
            Corrupt: the object was replaced meanwhile.
            Unavailable: `stop` came, or the store no longer answers.
            StoreError: as reading an object does.
            OSError: the file cannot be written.
        """
        # An object of one request is asked for whole: then its checksum comes along, and botocore compares it.
        end = RANGE_BYTES if size > RANGE_BYTES else None
        with ObjectStream(self._client, self._place, path, end=end) as first:
            arriving = _Arriving(into.fileno(), first.end, first.total)

            def fetch_range(start: int, stop_at: int) -> None:
                with arriving.failing():
                    arriving.expect_more()
                    with ObjectStream(
                        self._client, self._place, path, start=start, end=stop_at, etag=first.etag
                    ) as stream:
                        arriving.take(stream, start)

            rest = [self._ranges.submit(fetch_range, start, stop_at) for start, stop_at in arriving.rest]
            try:
                with stop.cancelling(arriving.give_up):
                    sha256 = hashlib.sha256()
                    arriving.take(first, 0, sha256.update)
                    arriving.digest_rest(local, sha256.update)
            finally:
                # Nobody may write once the file is closed: its number may be another file's then. What has not begun is
                # not waited for, since it is in a queue with the ranges of other files.
                arriving.give_up()
                wait([each for each in rest if not each.cancel()])
        return FileDigest(first.total, sha256.hexdigest())


class _Arriving:
    """One file whose ranges come in any order."""

    def __init__(self, descriptor: int, first_end: int, size: int) -> None:
        self._descriptor = descriptor
        self._reached = {start: start for start in range(first_end, size, RANGE_BYTES)}
        self._awaited = first_end
        self._error: BaseException | None = None
        self._grown = threading.Condition()
        self.rest = [(start, min(start + RANGE_BYTES, size)) for start in self._reached]
        """The ranges after the first one, in order: where each begins, and where it ends."""

    def take(self, stream: ObjectStream, start: int, look: Callable[[bytes], object] | None = None) -> None:
        """Write what a stream gives to `start` and after it; `look` sees it too."""
        at = start
        while piece := stream.take(_PIECE_BYTES):
            self.expect_more()
            _write(self._descriptor, piece, at)
            at += len(piece)
            if look is not None:
                look(piece)
            with self._grown:
                self._reached[start] = at
                if start == self._awaited:
                    self._grown.notify()

    def digest_rest(self, local: Path, update: Callable[[memoryview], object]) -> None:
        """Give `update` all after the first range, in order, as it comes: from the page cache, beside the writers."""
        window = memoryview(bytearray(_PIECE_BYTES))
        with local.open("rb", buffering=0) as file:
            for start, end in self.rest:
                at = file.seek(start)
                while at < end:
                    reached = self._wait_beyond(start, at)
                    while at < reached:
                        got = file.readinto(window[: reached - at])
                        update(window[:got])
                        at += got

    def _wait_beyond(self, start: int, at: int) -> int:
        with self._grown:
            self._awaited = start
            self._grown.wait_for(lambda: self._reached[start] > at or self._error is not None)
        self.expect_more()
        return self._reached[start]

    def expect_more(self) -> None:
        """Raises what ended the transfer, if something did."""
        if self._error is not None:
            raise self._error

    def give_up(self) -> None:
        """Take nothing more."""
        self._end(Unavailable("the transfer was stopped."))

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """What is raised inside ends the transfer of the whole file."""
        try:
            yield
        except BaseException as error:
            self._end(error)
            raise

    def _end(self, error: BaseException) -> None:
        with self._grown:
            self._error = self._error or error
            self._grown.notify()


def _write(descriptor: int, piece: bytes, at: int) -> None:
    view = memoryview(piece)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written
