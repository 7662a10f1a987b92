"""An S3 object, or a range of it, from start to end, over broken connections.

Purpose: reads that go on where they stopped, and that notice when the object was replaced meanwhile.
Must not: buffer (io.BufferedReader does) or retry without limit.
Neighbours: `s3.S3Store.read_stream` wraps an `ObjectStream`, `s3_download` reads files by an `ObjectRange` after another.
"""

import io
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import botocore.exceptions
from typing_extensions import Buffer, override

from selfrewarding.store.errors import Corrupt, Unavailable, Unsuitable
from selfrewarding.store.s3_errors import Place, status_of, translated

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

Result = TypeVar("Result")

_PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further try without a new byte in between, beside boto3's own tries, which take 2 s together where
connections are refused. A gateway that restarts is back by then."""

_READ_BYTES = 1024 * 1024

_PART = re.compile(r"bytes (?P<first>\d+)-(?P<last>\d+)/(?P<total>\d+)")
_NO_SUCH_VERSION = (412, 416)
"""If-Match does not, or the object has become so short that the range begins after its end."""


@dataclass(frozen=True)
class Source:
    """What objects of one bucket are read through.

    Attributes:
        whole: asks for objects; compares their checksums.
        ranged: asks for parts of objects; compares none. Some stores send the whole object's checksum with a part of it
            (Ceph before 2025), and Amazon a multipart object's sum of sums with a range of all its bytes.
    """

    place: Place
    whole: "S3Client"
    ranged: "S3Client"


class Extent(NamedTuple):
    """Where a range ends, less than was asked for if the object is shorter, and the whole object's size."""

    end: int
    total: int


class ObjectRange:
    """One version of an object: all of it, or the bytes from `start` up to but without `end`. A context manager.

    Nothing is asked before `open` or `take`. `go_on` is called before each further try and may raise.
    """

    def __init__(
        self,
        source: Source,
        key: str,
        *,
        start: int = 0,
        end: int | None = None,
        go_on: Callable[[], object] = lambda: None,
    ) -> None:
        self.start = start
        self._source = source
        self._key = key
        self._end = end
        self._go_on = go_on
        self._at = start
        self._extent: Extent | None = None
        self._etag: str | None = None
        self._body: Any = None

    def __enter__(self) -> "ObjectRange":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def open(self) -> Extent:
        """Ask once (boto3 tries again for itself). Raises NotFound, Corrupt if it is another version, and StoreError."""
        if self._extent is not None and self._at >= self._extent.end:
            self._body = io.BytesIO()
            return self._extent
        with translated(self._source.place, "read", self._key):
            answer = self._ask()
        extent, etag = self._extent_of(answer), answer.get("ETag")
        if self._extent not in (None, extent) or (self._extent is not None and self._etag != etag):
            raise self._replaced()
        self._extent, self._etag, self._body = extent, etag, answer["Body"]
        return extent

    def open_patiently(self) -> Extent:
        """`open`, again and again while the store is away."""
        return self._patiently(self.open)

    def take(self, most: int) -> bytes:
        """What comes next, at most so many bytes; nothing at the end only. Opened again as long as that may help."""
        data = self._patiently(lambda: self._read(most))
        self._at += len(data)
        return data

    def another(self, start: int, end: int) -> "ObjectRange":
        """Another range of the same version, once this one was opened."""
        other = ObjectRange(self._source, self._key, start=start, end=end, go_on=self._go_on)
        if self._extent is not None:
            other._extent, other._etag = Extent(end, self._extent.total), self._etag
        return other

    def close(self) -> None:
        """Let go of the connection."""
        body, self._body = self._body, None
        if body is not None:
            body.close()

    def _patiently(self, step: Callable[[], Result]) -> Result:
        for pause in (*_PAUSES, None):
            try:
                return step()
            except Unavailable:
                self.close()
                if pause is None:
                    raise
                # Not to the second: else all ranges come back at once.
                time.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311
            self._go_on()
        raise AssertionError("the last try has no pause after it")

    def _read(self, most: int) -> bytes:
        extent = self._extent if self._body is not None and self._extent is not None else self.open()
        with translated(self._source.place, "read", self._key):
            # Read until nothing comes: that is where botocore compares the checksum.
            data: bytes = self._body.read(most)
            if not data and self._at < extent.end:
                raise botocore.exceptions.IncompleteReadError(
                    actual_bytes=self._at, expected_bytes=extent.end
                )
        return data

    def _ask(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {"Bucket": self._source.place.bucket, "Key": self._key}
        # A weak tag never matches (RFC 9110, 13.1.1). Whether another version answers is looked at in any case.
        if self._etag is not None and not self._etag.startswith("W/"):
            arguments["IfMatch"] = self._etag
        end, total = self._extent or (self._end, None)
        try:
            # All of an object is asked for without a range: its checksum comes along then.
            if self._at == 0 and end == total:
                return cast("dict[str, Any]", self._source.whole.get_object(**arguments))
            arguments["Range"] = f"bytes={self._at}-{'' if end is None else end - 1}"
            return cast("dict[str, Any]", self._source.ranged.get_object(**arguments))
        except botocore.exceptions.ClientError as error:
            if self._extent is not None and status_of(error) in _NO_SUCH_VERSION:
                raise self._replaced() from None
            raise

    def _extent_of(self, answer: dict[str, Any]) -> Extent:
        """Raises Unsuitable if the answer is of another part of the object, or does not say of which."""
        length, part = answer.get("ContentLength"), _PART.fullmatch(answer.get("ContentRange") or "")
        if part is not None and int(part["first"]) == self._at:
            return Extent(int(part["last"]) + 1, int(part["total"]))
        if length is not None and self._at == 0 and answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
            return Extent(length, length)
        raise Unsuitable(
            f'cannot read object "{self._key}" in {self._source.place}: the store does not answer requests for a part of '
            "an object as S3 does (Range, Content-Range, Content-Length). Look at what stands between it and this machine."
        )

    def _replaced(self) -> Corrupt:
        return Corrupt(f'object "{self._key}" in {self._source.place} was replaced while it was read.')


class ObjectStream(io.RawIOBase):
    """One version of an object as a file. Raises NotFound when made, Corrupt if it is replaced while it is read."""

    def __init__(self, source: Source, key: str) -> None:
        super().__init__()
        self._object = ObjectRange(source, key)
        self._object.open()

    @override
    def readable(self) -> bool:
        """Always."""
        return True

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        """Read what one network read gives, at most `len(buffer)` bytes; 0 at the end."""
        view = memoryview(buffer).cast("B")
        data = self._object.take(len(view))
        view[: len(data)] = data
        return len(data)

    @override
    def readall(self) -> bytes:
        """All that is left. (Python's own asks for 8 KiB at a time.)"""
        return b"".join(iter(lambda: self.read(_READ_BYTES), b""))

    @override
    def close(self) -> None:
        """Let go of the connection."""
        if not self.closed:
            self._object.close()
        super().close()
