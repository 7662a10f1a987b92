"""`ArtifactStore` in a folder: a local disk, a network volume, or the stand-in for a bucket in local runs.

Purpose: objects are plain files at <root>/<key>, readable by every user, written whole or not at all.
Must not: know about buckets; change a file in place (others may have it as a hard link).
Neighbours: `atomic` does the writing, `local_tree` the threads, `locate.open_store` makes one for `file://`.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import IO, BinaryIO

from selfrewarding.store import probe
from selfrewarding.store.atomic import PendingFile, make_folders, pending, sweep
from selfrewarding.store.digests import FileDigest, digest_file, is_present, require
from selfrewarding.store.errors import Misconfigured, NotFound, from_os_error
from selfrewarding.store.keys import TEMPORARY, check_key, check_prefix, join
from selfrewarding.store.local_tree import Stop, each_file, scan, unchanged
from selfrewarding.store.protocol import Entry, Stat

_FILE_MODE = 0o644
"""safetensors saves with 0600, which a pod of another user could not read from a shared volume."""

_COPY_BYTES = 1024 * 1024
_FICLONE = 0x40049409
"""Linux ioctl that makes one file share another's blocks (btrfs, XFS): a copy that costs nothing."""


class FolderStore:
    """See `ArtifactStore`. `uri` is how the user named the place, where that is not `file://` and the path."""

    def __init__(self, root: Path, *, uri: str | None = None) -> None:
        if not root.is_absolute():
            raise Misconfigured(f"an artifact folder needs an absolute path, found {root}.")
        self.root = root
        self._uri = uri if uri is not None else root.as_uri()

    def __repr__(self) -> str:
        return f"FolderStore({str(self.root)!r}, uri={self._uri!r})"

    @property
    def uri(self) -> str:
        """See `ArtifactStore.uri`."""
        return self._uri

    def stat(self, key: str) -> Stat | None:
        """See `ArtifactStore.stat`. The tag is made of the file's time, size and inode number."""
        path = self._path(key)
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise from_os_error(error, "read", path) from error
        if path.is_dir():
            return None
        return Stat(found.st_size, f"{found.st_mtime_ns:x}-{found.st_size:x}-{found.st_ino:x}")

    def read(self, key: str) -> bytes:
        """See `ArtifactStore.read`."""
        with self.read_stream(key) as stream:
            try:
                return stream.read()
            except OSError as error:
                raise from_os_error(error, "read", self._path(key)) from error

    def read_stream(self, key: str) -> BinaryIO:
        """See `ArtifactStore.read_stream`."""
        path = self._path(key)
        try:
            return path.open("rb")
        except (IsADirectoryError, NotADirectoryError):
            raise NotFound(f"there is no object {key} in {self._uri} ({path} is no file).") from None
        except OSError as error:
            raise from_os_error(error, "read", path) from error

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """See `ArtifactStore.read_range`."""
        with self.read_stream(key) as stream:
            try:
                stream.seek(start)
                return stream.read(length)
            except OSError as error:
                raise from_os_error(error, "read", self._path(key)) from error

    def write(self, key: str, data: bytes) -> None:
        """See `ArtifactStore.write`."""

        def put(unfinished: PendingFile) -> None:
            unfinished.file.write(data)
            unfinished.replace(_FILE_MODE)

        self._with_pending(key, put)

    def create(self, key: str, data: bytes) -> bool:
        """See `ArtifactStore.create`."""
        won = False

        def put(unfinished: PendingFile) -> None:
            nonlocal won
            unfinished.file.write(data)
            won = unfinished.create(_FILE_MODE)

        self._with_pending(key, put)
        return won

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See `ArtifactStore.list`. Links to files are followed, links to folders are not."""
        prefix = check_prefix(prefix)
        yield from _walk(self.root / prefix, prefix)

    def delete(self, key: str) -> None:
        """See `ArtifactStore.delete`."""
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except (NotADirectoryError, IsADirectoryError):
            return
        except OSError as error:
            raise from_os_error(error, "delete", path) from error

    def delete_prefix(self, prefix: str) -> int:
        """See `ArtifactStore.delete_prefix`."""
        prefix = check_prefix(prefix)
        if not prefix:
            raise Misconfigured(f"refused to delete all of {self._uri}: name a prefix.")
        folder = self.root / prefix
        count = sum(1 for _ in self.list(prefix))
        if folder.is_symlink() or not folder.is_dir():
            return 0
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            # Somebody else deletes the same: that it is gone is all that was asked for.
            return count
        except OSError as error:
            raise from_os_error(error, "delete", folder) from error
        return count

    def upload_file(self, local: Path, key: str) -> FileDigest:
        """See `ArtifactStore.upload_file`."""
        return self._upload(local, key, Stop())

    def upload_tree(self, local_dir: Path, prefix: str) -> dict[str, FileDigest]:
        """See `ArtifactStore.upload_tree`."""
        prefix = check_prefix(prefix)
        files = scan(local_dir)
        for folder in {self._path(join(prefix, name)).parent for name in files}:
            sweep(folder)
        return each_file(files, lambda name, stop: self._upload(files[name], join(prefix, name), stop))

    def download_tree(
        self,
        prefix: str,
        local_dir: Path,
        files: Mapping[str, FileDigest] | None = None,
        *,
        writable: bool = False,
    ) -> dict[str, FileDigest]:
        """See `ArtifactStore.download_tree`. Shares blocks or makes hard links where the file system can."""
        prefix = check_prefix(prefix)
        wanted: dict[str, FileDigest | None] = (
            {check_key(name): digest for name, digest in sorted(files.items())}
            if files is not None
            else {entry.key[len(prefix) + 1 if prefix else 0 :]: None for entry in self.list(prefix)}
        )
        if files is None and not wanted:
            raise NotFound(f"there is nothing below {join(self._uri, prefix)}.")
        for folder in {(local_dir / name).parent for name in wanted}:
            sweep(folder)

        def fetch(name: str, stop: Stop) -> FileDigest:
            source, target, expected = self._path(join(prefix, name)), local_dir / name, wanted[name]
            if expected is not None and is_present(target, expected):
                own = not writable or not _is_same_file(source, target)
                if own:
                    return expected
            return self._fetch(source, target, expected, stop, writable=writable)

        return each_file(wanted, fetch)

    def check_writable(self) -> None:
        """See `ArtifactStore.check_writable`."""
        probe.check_writable(self, advice=f"The folder is {self.root}.")

    def sub(self, prefix: str) -> "FolderStore":
        """See `ArtifactStore.sub`."""
        prefix = check_prefix(prefix)
        return FolderStore(self.root / prefix, uri=join(self._uri, prefix))

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _with_pending(self, key: str, put: Callable[[PendingFile], None]) -> None:
        """Run `put` on an unfinished object. A folder that vanishes under us (`delete_prefix`) is made again."""
        path = self._path(key)
        for attempt in range(5):
            try:
                make_folders(path.parent)
                with pending(path) as unfinished:
                    put(unfinished)
                    return
            except FileNotFoundError as error:
                if attempt == 4:
                    raise from_os_error(error, "write", path) from error
            except OSError as error:
                raise from_os_error(error, "write", path) from error

    def _upload(self, local: Path, key: str, stop: Stop) -> FileDigest:
        digest = FileDigest(0, "")

        def put(unfinished: PendingFile) -> None:
            nonlocal digest
            with unchanged(local), _opened(local) as source:
                if _share_blocks(source, unfinished.file):
                    digest = digest_file(unfinished.path)
                else:
                    digest = _copy(source, unfinished.file, stop)
            unfinished.replace(_FILE_MODE)

        self._with_pending(key, put)
        return digest

    def _fetch(
        self, source: Path, target: Path, expected: FileDigest | None, stop: Stop, *, writable: bool
    ) -> FileDigest:
        try:
            make_folders(target.parent)
            with pending(target) as unfinished:
                linked = False
                with _opened(source) as stored:
                    if _share_blocks(stored, unfinished.file):
                        digest = digest_file(unfinished.path)
                    elif not writable and _link(source, unfinished.side_path):
                        linked, digest = True, digest_file(source)
                    else:
                        digest = _copy(stored, unfinished.file, stop)
                require(digest, expected, f"the object {source}")
                unfinished.replace(_FILE_MODE, side=linked, durable=False)
        except OSError as error:
            raise from_os_error(error, "write", target) from error
        return digest


def _walk(folder: Path, prefix: str) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as entries:
            # A folder sorts with the slash that follows its name in a key: the byte order of a bucket's listing.
            found = sorted(
                (f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name, entry)
                for entry in entries
            )
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise from_os_error(error, "list", folder) from error
    for name, entry in found:
        if entry.name.startswith(TEMPORARY):
            continue
        key = join(prefix, entry.name)
        if name.endswith("/"):
            yield from _walk(folder / entry.name, key)
            continue
        # Gone since the folder was read: a listing is a moment's view anyway.
        with contextlib.suppress(FileNotFoundError):
            if entry.is_file():
                found_now = entry.stat()
                modified = datetime.fromtimestamp(found_now.st_mtime, tz=UTC)
                yield Entry(key, found_now.st_size, modified)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """Open a file for reading; its errors are named after it and not after the target of the copy."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise from_os_error(error, "read", path) from error
    with file:
        yield file


def _copy(source: BufferedReader, target: IO[bytes], stop: Stop) -> FileDigest:
    """Copy and digest in one reading. Raises CancelledError once `stop` is set."""
    sha256, size = hashlib.sha256(), 0
    block = memoryview(
        bytearray(_COPY_BYTES)
    )  # one for all: fresh memory for each would cost as much as the copying
    while count := source.readinto(block):
        if stop.is_set():
            raise CancelledError
        target.write(block[:count])
        sha256.update(block[:count])
        size += count
    return FileDigest(size, sha256.hexdigest())


def _share_blocks(source: IO[bytes], target: IO[bytes]) -> bool:
    try:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError:
        return False
    return True


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)
    except OSError:
        return False
    return True


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
