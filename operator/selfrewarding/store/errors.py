"""What can go wrong with an artifact store, in terms that a stage program can act on.

Purpose: one small tree of errors, so that no caller ever sees an exception of boto3 or a bare OSError.
Must not: hold or print a credential; import an adapter.
Neighbours: raised by `folder`, `s3`, `hub`; S3 answers are translated in `s3_errors`, the operating system's below.
"""

import errno
import os
import shutil
from pathlib import Path
from typing import ClassVar


class StoreError(Exception):
    """Base of all store errors. The message says what was tried, on what, and what to do about it."""

    retryable: ClassVar[bool] = False
    """True when the same call may succeed later without anybody changing anything (exit code 75)."""


class NotFound(StoreError):
    """The object, the bucket, the folder or the model repository does not exist."""


class Denied(StoreError):
    """Credentials are missing or refused, or they do not allow this."""


class Unavailable(StoreError):
    """The store did not answer, or answered that it is overloaded; retries are used up."""

    retryable: ClassVar[bool] = True


class NoSpace(StoreError):
    """A disk, a quota or a file-size limit is full."""


class Corrupt(StoreError):
    """What was read is not what was written: size or SHA-256 differ, or the object changed meanwhile."""


class Misconfigured(StoreError):
    """The address or a setting cannot work: an unknown scheme, an endpoint that is no address."""


class Unsuitable(Misconfigured):
    """The store answers, and cannot be used as it is: its bucket is in another region, it has no conditional writes."""


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_IMPOSSIBLE = frozenset({errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP})


def from_os_error(error: OSError, action: str, path: Path) -> StoreError:
    """Translate an operating system error met while doing `action` ("write", "read", …) on `path`."""
    reason = os.strerror(error.errno) if error.errno is not None else str(error)
    found = f"cannot {action} {path}: {reason}"
    if error.errno in _FULL:
        return NoSpace(f"{found} ({_space_left(path)}). {_remedy_when_full(error.errno)}")
    if error.errno in _FORBIDDEN:
        return Denied(
            f"{found}. The process runs as user {os.geteuid()}, group {os.getegid()}: give it the right "
            "to write there, or mount the volume writable (Kubernetes: securityContext.fsGroup)."
        )
    if error.errno == errno.ENOENT:
        return NotFound(f"{found}.")
    if error.errno in _IMPOSSIBLE:
        return Misconfigured(
            f"{found}. A key cannot be both an object and a folder, and each part of it may have 255 bytes."
        )
    return Unavailable(f"{found}. If this is a network volume, check that it is still mounted.")


def _remedy_when_full(number: int | None) -> str:
    if number == errno.EFBIG:
        return "Raise the limit on file size (`ulimit -f`), or use another file system."
    if number == errno.EDQUOT:
        return "Raise the quota, or delete results that are no longer needed."
    return "Delete results that are no longer needed, enlarge the volume, or choose another place."


def _space_left(path: Path) -> str:
    folder = path
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return "free space unknown"
    mib = 1024 * 1024
    return f"{usage.free // mib} MiB of {usage.total // mib} MiB free on that file system"
