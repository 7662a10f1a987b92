"""An S3 object as a file to read from start to end, over broken connections.

Purpose: raw reads that reopen the object where they stopped, and that notice when it was replaced meanwhile.
Must not: buffer (io.BufferedReader does) or retry without limit.
Neighbours: `s3.S3Store.read_stream` wraps it.
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

_REOPENINGS = 5
"""How often in a row a stream is opened again without a new byte before its error is passed on."""

_READ_BYTES = 1024 * 1024

_BROKEN = (
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.ReadTimeoutError,
    botocore.exceptions.ResponseStreamingError,
    botocore.exceptions.ConnectionClosedError,
    urllib3.exceptions.HTTPError,
    ConnectionError,
)


class ObjectStream(io.RawIOBase):
    """Reads one version of an object. Raises NotFound when made, Corrupt if the object is replaced while it is read."""

    def __init__(self, client: "S3Client", place: Place, key: str) -> None:
        super().__init__()
        self._client = client
        self._place = place
        self._key = key
        self._at = 0
        self._failures = 0
        with translated(place, "read", key):
            answer = client.get_object(Bucket=place.bucket, Key=key)
        self._etag = answer["ETag"]
        self._size = answer["ContentLength"]
        self._body: Any = answer["Body"]

    @override
    def readable(self) -> bool:
        """Always."""
        return True

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        """Read what one network read gives, at most `len(buffer)` bytes; 0 at the end."""
        view = memoryview(buffer).cast("B")
        with translated(self._place, "read", self._key):
            data: bytes = self._persistently(lambda: self._body.read(len(view)))
            view[: len(data)] = data
            self._at += len(data)
            return len(data)

    @override
    def readall(self) -> bytes:
        """All that is left. (Python's own asks for 8 KiB at a time.)"""
        return b"".join(iter(lambda: self.read(_READ_BYTES), b""))

    @override
    def close(self) -> None:
        """Give the connection back."""
        if not self.closed:
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
        if self._at >= self._size:
            self._body = io.BytesIO()
            return
        try:
            answer = self._client.get_object(
                Bucket=self._place.bucket, Key=self._key, IfMatch=self._etag, Range=f"bytes={self._at}-"
            )
        except botocore.exceptions.ClientError as error:
            if status_of(error) == 412:
                raise Corrupt(
                    f'object "{self._key}" in {self._place} was replaced while it was read.'
                ) from None
            raise
        self._body = answer["Body"]
