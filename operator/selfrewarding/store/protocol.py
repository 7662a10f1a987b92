"""The `ArtifactStore` port: all that the project asks of a place for artifacts.

Purpose: one interface over a bucket and a folder, rooted at a URI; keys are relative to that root.
Must not: import an adapter, boto3 or anything of the operator.
Neighbours: `folder.FolderStore` and `s3.S3Store` implement it, `locate.open_store` picks one, `chunks` builds on it.

Promises that both adapters keep:
- A reader sees an object whole or not at all; a killed writer leaves nothing visible.
- `create` has exactly one winner, also between machines.
- What is written to a store is on its disks when the call returns; a downloaded file may not be yet.
- Every error is a `StoreError`; no message, log line or repr holds a credential.
- All methods may be called from several threads at once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from selfrewarding.store.digests import FileDigest


@dataclass(frozen=True, slots=True)
class Stat:
    """An object's size in bytes and a tag that changes when its content does (opaque, comparable only)."""

    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a listing: its key relative to the store's root, size in bytes, time of last writing."""

    key: str
    size: int
    modified: datetime


class ArtifactStore(Protocol):
    """Objects under a root URI. Prefixes are folders: "a/b" means all keys that start with "a/b/"."""

    @property
    def uri(self) -> str:
        """The root, as given by the user: `file:///…` or `s3://bucket/prefix`, without a slash at the end."""

    def stat(self, key: str) -> Stat | None:
        """Size and tag of an object, or None if there is none."""

    def read(self, key: str) -> bytes:
        """The whole object. Raises NotFound."""

    def read_stream(self, key: str) -> BinaryIO:
        """The object as a buffered binary file to read from start to end; close it. Raises NotFound."""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Bytes `start` to `start + length` of an object, fewer where it ends before. Raises NotFound."""

    def write(self, key: str, data: bytes) -> None:
        """Write an object whole; an older one is replaced in one step."""

    def create(self, key: str, data: bytes) -> bool:
        """Write an object only if there is none. True for the one caller that made it, else False."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All objects below a prefix in the byte order of their keys, fetched page by page."""

    def delete(self, key: str) -> None:
        """Delete an object; nothing happens if there is none."""

    def delete_prefix(self, prefix: str) -> int:
        """Delete all below a prefix, unfinished writes included; returns how many objects went. "" is refused."""

    def upload_file(self, local: Path, key: str) -> FileDigest:
        """Upload one file, in parts if it is large. Returns its digest."""

    def upload_tree(self, local_dir: Path, prefix: str) -> dict[str, FileDigest]:
        """Upload every file below `local_dir`, several at once.

        Returns relative path → digest, sorted by path. Symbolic links to files are followed; links to folders and
        special files are refused (Misconfigured); empty folders do not exist in a store. A file that changes
        while it is read is Corrupt.
        """

    def download_tree(
        self,
        prefix: str,
        local_dir: Path,
        files: Mapping[str, FileDigest] | None = None,
        *,
        writable: bool = False,
    ) -> dict[str, FileDigest]:
        """Download all below a prefix, several files and ranges at once; each file appears whole or not at all.

        `files` pins what is fetched (relative path → digest): each is checked by size and SHA-256, a difference is
        Corrupt. A file that is already there with the right digest is not fetched again, so a repeated call
        goes on where the last one stopped. Without `files` everything below the prefix is fetched, a local file of
        the same size is fetched again, and nothing but the transfer's own checksums is checked.

        A folder store may give hard links instead of copies: treat the files as read-only, or say `writable=True`
        to get files of one's own. Returns relative path → digest of what is now there. Raises NotFound if a
        named file is missing or, without `files`, if the prefix holds nothing.
        """

    def check_writable(self) -> None:
        """Prove that this store can be read, written, listed, deleted from and conditionally created in.

        Leaves nothing behind. Raises the StoreError that says what is wrong and what to do.
        """

    def sub(self, prefix: str) -> "ArtifactStore":
        """The same store rooted at a prefix of this one."""
