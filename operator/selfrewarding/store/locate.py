"""From a URI to the store behind it.

Purpose: read `file://` and `s3://` addresses and pick the adapter.
Must not: import boto3 before an S3 address is really opened (commands must start quickly); ask the store anything.
Neighbours: stage programs, the local backend and the commands call `open_store`.

`SRR_S3_ENDPOINT=file:///folder` makes `s3://bucket/prefix` mean /folder/bucket/prefix: so a run written for a bucket
runs on one machine unchanged.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from selfrewarding.store.errors import Misconfigured
from selfrewarding.store.folder import FolderStore
from selfrewarding.store.keys import check_prefix
from selfrewarding.store.protocol import ArtifactStore

_BUCKET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,253}[a-zA-Z0-9]")
_FORMS = "file:///folder or s3://bucket/prefix"


def open_store(uri: str, env: Mapping[str, str] = os.environ) -> ArtifactStore:
    """The store at `uri`, with the settings in `env` (listed in `s3_client`).

    Nothing is asked of the store yet: `check_writable` does. Raises Misconfigured for an address that cannot be.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        raise Misconfigured(f"{_shown(uri)} is not an artifact address: expected {_FORMS}.")
    if scheme == "file":
        return FolderStore(_folder(uri, rest), uri=uri.rstrip("/"))
    if scheme == "s3":
        return _open_s3(uri, rest, env)
    raise Misconfigured(f"{_shown(uri)} has the unknown scheme {scheme!r}: expected {_FORMS}.")


def _open_s3(uri: str, rest: str, env: Mapping[str, str]) -> ArtifactStore:
    bucket, _, path = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise Misconfigured(f"{_shown(uri)} does not name a bucket: expected s3://bucket/prefix.")
    prefix = check_prefix(path)
    endpoint = env.get("SRR_S3_ENDPOINT", "")
    if endpoint.startswith("file://"):
        folder = _folder(endpoint, endpoint.removeprefix("file://"))
        return FolderStore(folder / bucket / prefix, uri=uri.rstrip("/"))

    from selfrewarding.store.s3 import S3Store
    from selfrewarding.store.s3_client import connect

    return S3Store(connect(bucket, env), prefix)


def _folder(uri: str, rest: str) -> Path:
    path = Path(unquote(rest))
    if not path.is_absolute() or ".." in path.parts:
        raise Misconfigured(
            f"{_shown(uri)} does not name a folder: expected three slashes and an absolute path, file:///folder."
        )
    return path


def _shown(uri: str) -> str:
    """The address for a message, without what may be a user name and password in it."""
    return repr(re.sub(r"//[^/@]*@", "//", uri))
