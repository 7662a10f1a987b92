"""An S3 object, or a range of it, as a file to read from start to end, over broken connections.

Purpose: raw reads that reopen the object where they stopped, and that notice when it was replaced meanwhile.
Must not: buffer (io.BufferedReader does) or retry without limit.
Neighbours: `s3.S3Store.read_stream` wraps it, `s3_download` reads files by ranges.
"""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import botocore.exceptions
import urllib3.exceptions
from typing_extensions import Buffer, override

from selfrewarding.store.errors import Corrupt
from selfrewarding.store.s3_errors import Place, status_of, translated

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import GetObjectOutputTypeDef

_REOPENINGS = 5
"""How often in a row a stream is opened again without a new byte before its error is passed on."""

_READ_BYTES = 1024 * 1024

_NO_SUCH_VERSION = (412, 416)
"""If-Match does not, or the object has become so short that the range begins after its end."""

_BROKEN = (
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.ReadTimeoutError,
    botocore.exceptions.ResponseStreamingError,
    botocore.exceptions.ConnectionClosedError,
    urllib3.exceptions.HTTPError,
    ConnectionError,
)


class ObjectStream(io.RawIOBase):
    """Reads one version of an object: all of it, or the bytes from `start` up to but without `end`.

    Raises NotFound when made; Corrupt if the object is replaced while it is read, or is not the version of `etag`.

    Attributes:
        etag: of the version that is read.
        total: bytes of the whole object.
        end: where reading ends; less than was asked for if the object is shorter.
    """

    def __init__(
        self,
        client: "S3Client",
        place: Place,
        key: str,
        *,
        start: int = 0,
        end: int | None = None,
        etag: str | None = None,
    ) -> None:
        super().__init__()
        self._client = client
        self._place = place
        self._key = key
        self._at = start
        self._failures = 0
        self._body: Any = None
        with translated(place, "read", key):
            answer = self._open(end, etag)
        self._body = answer["Body"]
        self.etag: str = answer["ETag"]
        self.end: int = start + answer["ContentLength"]
        self.total = int(answer.get("ContentRange", f"/{self.end}").rpartition("/")[2])
        if etag is not None and self.end != end:
            raise self._replaced()

    @override
    def readable(self) -> bool:
        """Always."""
        return True

    def take(self, most: int) -> bytes:
        """What comes next, at most so many bytes; nothing at the end only."""
        with translated(self._place, "read", self._key):
            data: bytes = self._persistently(lambda: self._body.read(most))
        self._at += len(data)
        return data

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        """Read what one network read gives, at most `len(buffer)` bytes; 0 at the end."""
        view = memoryview(buffer).cast("B")
        data = self.take(len(view))
        view[: len(data)] = data
        return len(data)

    @override
    def readall(self) -> bytes:
        """All that is left. (Python's own asks for 8 KiB at a time.)"""
        return b"".join(iter(lambda: self.read(_READ_BYTES), b""))

    @override
    def close(self) -> None:
        """Give the connection back."""
        if not self.closed and self._body is not None:
            self._body.close()
        super().close()

    def _persistently(self, read: Callable[[], bytes]) -> bytes:
        while True:
            try:
                data = read()
            except _BROKEN:
                if self._failures >= _REOPENINGS:
                    raise
                self._failures += 1
                self._reopen()
                continue
            self._failures = 0
            return data

    def _reopen(self) -> None:
        self._body.close()
        self._body = io.BytesIO() if self._at >= self.end else self._open(self.end, self.etag)["Body"]

    def _open(self, end: int | None, etag: str | None) -> "GetObjectOutputTypeDef":
        """Ask for what is left, up to `end`, of the version of `etag`, if they are known."""
        conditions: dict[str, Any] = {}
        if end is not None:
            conditions["Range"] = f"bytes={self._at}-{end - 1}"
        if etag is not None:
            conditions["IfMatch"] = etag
        try:
            return self._client.get_object(Bucket=self._place.bucket, Key=self._key, **conditions)
        except botocore.exceptions.ClientError as error:
            if etag is not None and status_of(error) in _NO_SUCH_VERSION:
                raise self._replaced() from None
            raise

    def _replaced(self) -> Corrupt:
        return Corrupt(f'object "{self._key}" in {self._place} was replaced while it was read.')
