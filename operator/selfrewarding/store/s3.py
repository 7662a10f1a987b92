"""`ArtifactStore` in an S3 bucket.

Purpose: objects at s3://<bucket>/<prefix>/<key>, moved in parts and in parallel, checked on arrival.
Must not: let an exception of boto3 out; know about stages.
Neighbours: `s3_client` makes the connection, `s3_upload` and `s3_download` move files, `s3_errors` translates,
`s3_stream` reads, `atomic` writes local files.

S3 keeps the promises of `ArtifactStore` like this: an object appears when its PUT or its multipart upload completes;
`create` is PUT with If-None-Match; a CRC goes with each part to the store, and comes back with what was sent in one
request. Larger objects are checked by the SHA-256 that a stage's result has of each file.
"""

import contextlib
import io
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import botocore.exceptions

from selfrewarding.store import probe
from selfrewarding.store.atomic import make_folders, pending, sweep
from selfrewarding.store.digests import FileDigest, digest_file, is_present, require
from selfrewarding.store.errors import Denied, Misconfigured, NotFound, StoreError, Unavailable, from_os_error
from selfrewarding.store.keys import check_key, check_prefix, join
from selfrewarding.store.local_tree import Stop, each_file, scan, unchanged
from selfrewarding.store.protocol import Entry, Stat
from selfrewarding.store.s3_client import Connection
from selfrewarding.store.s3_errors import code_of, status_of, translated
from selfrewarding.store.s3_stream import ObjectStream

_MIB = 1024 * 1024
_ONE_REQUEST_BYTES = 64 * _MIB
_DELETE_AT_ONCE = 1000
_CONFLICT_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds to wait after each 409: two conditional writes met, and S3 asks both to come again."""

_WRITER = "srr-writer"
_FILE_MODE = 0o644


class S3Store:
    """See `ArtifactStore`. `prefix` is below the bucket and has no slash at either end."""

    def __init__(self, connection: Connection, prefix: str) -> None:
        self._connection = connection
        self._client = connection.client
        self._place = connection.place
        self._bucket = connection.place.bucket
        self._prefix = check_prefix(prefix)

    def __repr__(self) -> str:
        return f"S3Store({self.uri!r}, endpoint={self._place.address!r})"

    @property
    def uri(self) -> str:
        """See `ArtifactStore.uri`."""
        return join(f"s3://{self._bucket}", self._prefix)

    def stat(self, key: str) -> Stat | None:
        """See `ArtifactStore.stat`. The tag is S3's ETag."""
        path = self._path(key)
        with translated(self._place, "look up", path):
            try:
                found = self._client.head_object(Bucket=self._bucket, Key=path)
            except botocore.exceptions.ClientError as error:
                if status_of(error) == 404 and code_of(error) != "NoSuchBucket":
                    return None
                raise
        return Stat(found["ContentLength"], found["ETag"].strip('"'))

    def read(self, key: str) -> bytes:
        """See `ArtifactStore.read`."""
        with self.read_stream(key) as stream:
            return stream.read()

    def read_stream(self, key: str) -> BinaryIO:
        """See `ArtifactStore.read_stream`. A broken connection is opened again where it broke."""
        return io.BufferedReader(ObjectStream(self._connection.source, self._path(key)), buffer_size=_MIB)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """See `ArtifactStore.read_range`. One request; S3 refuses a range that begins at or after the end (416)."""
        path = self._path(key)
        if length <= 0:
            return b""
        with translated(self._place, "read", path):
            try:
                answer = self._client.get_object(
                    Bucket=self._bucket, Key=path, Range=f"bytes={start}-{start + length - 1}"
                )
            except botocore.exceptions.ClientError as error:
                if status_of(error) == 416:
                    return b""
                raise
            return answer["Body"].read()

    def write(self, key: str, data: bytes) -> None:
        """See `ArtifactStore.write`."""
        path = self._path(key)
        with translated(self._place, "write", path):
            if len(data) > _ONE_REQUEST_BYTES:
                self._connection.uploads.upload(io.BytesIO(data), len(data), path).result()
            else:
                self._client.put_object(Bucket=self._bucket, Key=path, Body=data)

    def create(self, key: str, data: bytes) -> bool:
        """See `ArtifactStore.create`. `data` goes in one request: at most 5 GiB."""
        path, writer = self._path(key), uuid.uuid4().hex
        for pause in _CONFLICT_PAUSES:
            with translated(self._place, "create", path):
                try:
                    self._client.put_object(
                        Bucket=self._bucket, Key=path, Body=data, IfNoneMatch="*", Metadata={_WRITER: writer}
                    )
                except botocore.exceptions.ClientError as error:
                    if status_of(error) == 412:
                        return self._is_ours(path, writer)
                    if status_of(error) != 409:
                        raise
                else:
                    return True
                time.sleep(pause)
        raise Unavailable(
            f'cannot create object "{path}" in {self._place}: other writers are always in between.'
        )

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See `ArtifactStore.list`. One request per 1,000 objects, made as the caller goes on."""
        start = join(self._prefix, check_prefix(prefix))
        pages = iter(
            self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=f"{start}/" if start else ""
            )
        )
        own = len(self._prefix) + 1 if self._prefix else 0
        while True:
            with translated(self._place, "list", start):
                page = next(pages, None)
            if page is None:
                return
            for found in page.get("Contents", []):
                key = found["Key"]
                # Consoles make empty objects whose names end in "/" to show folders: they are nobody's artifact.
                if not key.endswith("/"):
                    yield Entry(key[own:], found["Size"], found["LastModified"])

    def delete(self, key: str) -> None:
        """See `ArtifactStore.delete`."""
        path = self._path(key)
        with translated(self._place, "delete", path):
            try:
                self._client.delete_object(Bucket=self._bucket, Key=path)
            except botocore.exceptions.ClientError as error:
                if status_of(error) != 404 or code_of(error) == "NoSuchBucket":
                    raise

    def delete_prefix(self, prefix: str) -> int:
        """See `ArtifactStore.delete_prefix`. Parts of unfinished uploads are removed too: they cost money unseen."""
        prefix = check_prefix(prefix)
        if not prefix:
            raise Misconfigured(f"refused to delete all of {self.uri}: name a prefix.")
        start = join(self._prefix, prefix)
        # Needs a right of its own, and not every store knows it: then the bucket's lifecycle rule has to do it.
        with contextlib.suppress(Denied, Misconfigured):
            self._abort_uploads(f"{start}/")
        paths = [join(self._prefix, entry.key) for entry in self.list(prefix)]
        for first in range(0, len(paths), _DELETE_AT_ONCE):
            some = paths[first : first + _DELETE_AT_ONCE]
            with translated(self._place, "delete", start):
                answer = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": [{"Key": path} for path in some], "Quiet": True}
                )
                for failed in answer.get("Errors", []):
                    raise botocore.exceptions.ClientError(
                        {"Error": {"Code": failed["Code"]}}, "DeleteObjects"
                    )
        return len(paths)

    def upload_file(self, local: Path, key: str) -> FileDigest:
        """See `ArtifactStore.upload_file`."""
        return self._upload(local, key, Stop())

    def upload_tree(self, local_dir: Path, prefix: str) -> dict[str, FileDigest]:
        """See `ArtifactStore.upload_tree`."""
        prefix = check_prefix(prefix)
        files = scan(local_dir)
        return each_file(files, lambda name, stop: self._upload(files[name], join(prefix, name), stop))

    def download_tree(
        self,
        prefix: str,
        local_dir: Path,
        files: Mapping[str, FileDigest] | None = None,
        *,
        writable: bool = False,  # noqa: ARG002 (part of the port; here every download is one's own)
    ) -> dict[str, FileDigest]:
        """See `ArtifactStore.download_tree`. Files are one's own in any case."""
        prefix = check_prefix(prefix)
        sizes = (
            {check_key(name): digest.size for name, digest in sorted(files.items())}
            if files is not None
            else {
                check_key(entry.key[len(prefix) + 1 if prefix else 0 :]): entry.size
                for entry in self.list(prefix)
            }
        )
        if files is None and not sizes:
            raise NotFound(f"there is nothing below {join(self.uri, prefix)} ({self._place}).")
        for folder in {(local_dir / name).parent for name in sizes}:
            sweep(folder)

        def fetch(name: str, stop: Stop) -> FileDigest:
            target, expected = local_dir / name, files[name] if files is not None else None
            if expected is not None and is_present(target, expected):
                return expected
            return self._fetch(join(prefix, name), sizes[name], target, expected, stop)

        return each_file(sizes, fetch)

    def check_writable(self) -> None:
        """See `ArtifactStore.check_writable`. Asked with little patience: whoever waits for the answer wants it soon."""
        probe.check_writable(
            S3Store(self._connection.hasty(), self._prefix),
            advice=f"(endpoint: {self._place.address}, addressing and region as in the settings)",
        )

    def sub(self, prefix: str) -> "S3Store":
        """See `ArtifactStore.sub`. Shares the connection."""
        return S3Store(self._connection, join(self._prefix, check_prefix(prefix)))

    def _path(self, key: str) -> str:
        return check_key(join(self._prefix, check_key(key)))

    def _is_ours(self, path: str, writer: str) -> bool:
        """Whether the object that was in the way is the one of an earlier try of ours whose answer got lost."""
        with translated(self._place, "look up", path):
            found = self._client.head_object(Bucket=self._bucket, Key=path)
        return found.get("Metadata", {}).get(_WRITER) == writer

    def _upload(self, local: Path, key: str, stop: Stop) -> FileDigest:
        path = self._path(key)
        with translated(self._place, "write", path, local), unchanged(local):
            sending = self._connection.uploads.upload(local, local.stat().st_size, path)
            with stop.cancelling(sending.cancel):
                # Digested while it is sent: both read it from the page cache, on different threads.
                try:
                    digest = digest_file(local)
                except StoreError:
                    # The file's own fault, and said better here than by what sends it.
                    sending.cancel()
                    with contextlib.suppress(Exception):
                        sending.result()
                    raise
                sending.result()
        return digest

    def _fetch(
        self, key: str, size: int, target: Path, expected: FileDigest | None, stop: Stop
    ) -> FileDigest:
        path = self._path(key)
        try:
            make_folders(target.parent)
            with pending(target) as unfinished, translated(self._place, "read", path, target):
                digest = self._connection.downloads.fetch(path, size, unfinished.file, unfinished.path, stop)
                require(digest, expected, f'the object "{path}" in {self._place}')
                unfinished.replace(_FILE_MODE, durable=False)
        except OSError as error:
            raise from_os_error(error, "write", target) from error
        return digest

    def _abort_uploads(self, start: str) -> None:
        with translated(self._place, "clean up", start):
            pages: Any = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=start
            )
            for page in pages:
                for upload in page.get("Uploads", []):
                    self._client.abort_multipart_upload(
                        Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
