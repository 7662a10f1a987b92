"""Files that appear whole or not at all.

Purpose: write to a temporary name in the target's own folder, make it durable, then move it into place.
Must not: know about keys or stores.
Neighbours: `folder` writes every object this way, `s3` every downloaded file; `keys.TEMPORARY` is the name's mark.

A temporary file is locked (flock) by its writer as long as that lives. So whoever finds one that is not locked knows
that its writer was killed, and may remove it: `sweep` does.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from selfrewarding.store.keys import TEMPORARY

_ID_LENGTH = 32
_GATE = f"{TEMPORARY}gate-"
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class PendingFile:
    """An unfinished file beside its target. Write to `file`, then call `replace` or `create` once."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path, self.file = _open_locked(target.parent)
        self._side_used = False

    @property
    def side_path(self) -> Path:
        """A second temporary name, for content that somebody else writes; `sweep` treats both as one."""
        self._side_used = True
        return self.path.with_name(f"{self.path.name}.side")

    def replace(self, mode: int, *, side: bool = False, durable: bool = True) -> None:
        """Give the content `mode` and put it in the target's place in one step.

        `durable=False` leaves writing to the disk to the operating system: right for a copy that is checked by its
        digest before it is used again.
        """
        source = self._finish(mode, side=side, durable=durable)
        source.replace(self.target)
        # rename() does nothing when both names are links to one file already: then the source is still there.
        source.unlink(missing_ok=True)
        if durable:
            sync_folder(self.target.parent)

    def create(self, mode: int) -> bool:
        """Like `replace`, but only if the target does not exist. Exactly one of many callers gets True."""
        source = self._finish(mode, side=False, durable=True)
        try:
            os.link(source, self.target)
        except FileExistsError:
            # Over NFS a link can succeed and its answer be lost; the repeated request then finds our own link.
            created = source.stat().st_nlink > 1
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            created = self._create_without_links(source)
        else:
            created = True
        sync_folder(self.target.parent)
        return created

    def discard(self) -> None:
        """Remove what is left under the temporary names and let go of the lock."""
        # The lock's holder goes last: until then nobody sweeps the others away, and after it nobody needs to.
        sides = self.path.parent.glob(f"{self.path.name}.*") if self._side_used else ()
        for path in (*sides, self.path):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            # Closing flushes what is buffered; on a full disk that fails once more, and it is wanted no more.
            self.file.close()

    def _finish(self, mode: int, *, side: bool, durable: bool) -> Path:
        if not side:
            self.file.flush()
            os.fchmod(self.file.fileno(), mode)
            if durable:
                os.fsync(self.file.fileno())
            return self.path
        descriptor = os.open(self.side_path, os.O_RDONLY)
        try:
            # A hard link to somebody else's file has its mode already, and only the owner could change it.
            with contextlib.suppress(PermissionError):
                os.fchmod(descriptor, mode)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return self.side_path

    def _create_without_links(self, source: Path) -> bool:
        """For file systems that know no hard links: all creators of one target queue up at a lock file."""
        gate = self.target.with_name(f"{_GATE}{hashlib.sha256(self.target.name.encode()).hexdigest()}")
        while True:
            with gate.open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if os.fstat(lock.fileno()).st_nlink == 0:
                    continue  # removed by the one before us: those who come later queue up at a new one
                try:
                    if self.target.exists():
                        return False
                    source.replace(self.target)
                    return True
                finally:
                    gate.unlink(missing_ok=True)


@contextlib.contextmanager
def pending(target: Path) -> Iterator[PendingFile]:
    """A `PendingFile` for `target`; what was not moved into place is removed at the end. Raises OSError."""
    unfinished = PendingFile(target)
    try:
        yield unfinished
    finally:
        unfinished.discard()


def sweep(folder: Path) -> None:
    """Remove temporary files in `folder` whose writers are dead; those of living writers stay."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        names = {entry.name for entry in os.scandir(folder) if entry.name.startswith(TEMPORARY)}
        for name in sorted(names):
            owner = folder / (name if name.startswith(_GATE) else name[: len(TEMPORARY) + _ID_LENGTH])
            if not is_locked(owner):
                with contextlib.suppress(FileNotFoundError, PermissionError, IsADirectoryError):
                    (folder / name).unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EBADF}:
            raise
    finally:
        os.close(descriptor)


def make_folders(folder: Path) -> None:
    """Create a folder and its parents so that every user can pass through those that are new."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        try:
            path.mkdir()
        except FileExistsError:
            continue
        mode = path.stat().st_mode & 0o7777
        if mode & 0o755 != 0o755:
            path.chmod(mode | 0o755)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the exclusive lock (flock) of this file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        # Locked, or on a file system without locks, where a living writer's file cannot be told from a dead one's.
        return True
    return False


def _open_locked(folder: Path) -> tuple[Path, BinaryIO]:
    while True:
        path = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
        file = path.open("xb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink > 0:
                return path, file
        except BlockingIOError:
            # Another process swept in between and holds it for a moment: take a new name.
            path.unlink(missing_ok=True)
        except OSError:
            # No locks on this file system: its leftovers cannot be told from living writers' (see `sweep`).
            return path, file
        file.close()
