"""SHA-256 digests of files: how an artifact is recognised wherever it lies.

Purpose: digest files, and say whether a local file is the one that was meant.
Must not: know about stores.
Neighbours: used by both adapters; `FileDigest` is what a stage's result names its files by.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from selfrewarding.store.errors import Corrupt, from_os_error


@dataclass(frozen=True, slots=True)
class FileDigest:
    """A file's size in bytes and its SHA-256 as 64 lower-case hex digits."""

    size: int
    sha256: str


def digest_file(path: Path) -> FileDigest:
    """Digest a file. Raises Corrupt if it changes while it is read, else what opening it raises."""
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        after = path.stat().st_size
    except OSError as error:
        raise from_os_error(error, "read", path) from error
    if after != size:
        raise Corrupt(f"{path} changed from {size} to {after} bytes while it was read.")
    return FileDigest(size, sha256)


def digest_bytes(data: bytes) -> FileDigest:
    """Digest bytes in memory."""
    return FileDigest(len(data), hashlib.sha256(data).hexdigest())


def is_present(path: Path, expected: FileDigest) -> bool:
    """Whether `path` is a file with exactly this content. The size is looked at first, it costs nothing."""
    try:
        if not path.is_file() or path.stat().st_size != expected.size:
            return False
    except OSError as error:
        raise from_os_error(error, "read", path) from error
    return digest_file(path) == expected


def require(found: FileDigest, expected: FileDigest | None, what: str) -> None:
    """Raise Corrupt unless `found` is what was expected (None: anything is)."""
    if expected is None or found == expected:
        return
    raise Corrupt(
        f"{what} is damaged: found {found.size} bytes with SHA-256 {found.sha256}, expected {expected.size} bytes "
        f"with SHA-256 {expected.sha256}. Delete that stage's result so that it is computed again, or restore it."
    )
