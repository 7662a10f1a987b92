"""Folders on this machine, as the source or the target of a transfer.

Purpose: list what an upload takes, map relative paths to local ones, and run one job per file on several threads.
Must not: know about buckets.
Neighbours: both adapters' `upload_tree` and `download_tree`.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from selfrewarding.store.errors import Corrupt, Misconfigured, NotFound, from_os_error
from selfrewarding.store.keys import TEMPORARY, check_key

Result = TypeVar("Result")

FILES_AT_ONCE = min(16, 2 * (os.cpu_count() or 1) + 2)
"""Files in transfer at the same time; the parts of large files have threads of their own."""


def scan(local_dir: Path) -> dict[str, Path]:
    """Relative path ("/" between parts) → local file, sorted. Raises NotFound, Misconfigured."""
    if not local_dir.is_dir():
        raise NotFound(f"cannot upload {local_dir}: it is not a folder.")
    found: dict[str, Path] = {}
    for folder, subfolders, names in os.walk(local_dir, onerror=_raise):
        for name in subfolders:
            if (Path(folder) / name).is_symlink():
                raise Misconfigured(
                    f"cannot upload {Path(folder) / name}: it is a link to a folder. Put the files themselves there."
                )
        for name in names:
            if name.startswith(TEMPORARY):
                continue
            path = Path(folder) / name
            if not path.is_file():
                raise Misconfigured(f"cannot upload {path}: it is no regular file, or a link to nothing.")
            found[check_key(path.relative_to(local_dir).as_posix())] = path
    return dict(sorted(found.items()))


@contextlib.contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Raise Corrupt if the file is written to while it is being uploaded: its digest would be of neither state."""
    before = _state(path)
    yield
    if _state(path) != before:
        raise Corrupt(f"{path} changed while it was uploaded: close a file before it is handed over.")


class Stop(threading.Event):
    """Set when the rest of a transfer is no longer wanted. Jobs look at it, or say how they are to be cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self._guard = threading.Lock()
        self._cancels: set[Callable[[], object]] = set()

    @contextlib.contextmanager
    def cancelling(self, cancel: Callable[[], object]) -> Iterator[None]:
        """Call `cancel` if the stop comes during the body, or has come already."""
        with self._guard:
            self._cancels.add(cancel)
        if self.is_set():
            cancel()
        try:
            yield
        finally:
            with self._guard:
                self._cancels.discard(cancel)

    def cancel_all(self) -> None:
        """Stop every job that runs and every one that comes."""
        self.set()
        with self._guard:
            cancels = tuple(self._cancels)
        for cancel in cancels:
            cancel()


def each_file(names: Iterable[str], work: Callable[[str, Stop], Result]) -> dict[str, Result]:
    """Run `work(relative path, stop)` for each file on several threads; the first error stops the rest.

    Returns the results in the order of `names`; raises the first error.
    """
    stop = Stop()
    pool = ThreadPoolExecutor(max_workers=FILES_AT_ONCE, thread_name_prefix="store")
    futures = {name: pool.submit(work, name, stop) for name in names}
    try:
        done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        return {name: future.result() for name, future in futures.items()}
    finally:
        for future in futures.values():
            future.cancel()
        stop.cancel_all()
        pool.shutdown(wait=True)


def _raise(error: OSError) -> None:
    raise from_os_error(error, "read", Path(error.filename or "?")) from error


def _state(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise from_os_error(error, "read", path) from error
    return found.st_size, found.st_mtime_ns, found.st_ino
