"""Prove that a store can do everything a run needs, before a GPU is spent.

Purpose: write, read, list, conditionally create and delete one small object.
Must not: leave anything behind; know which adapter it has before it.
Neighbours: both adapters' `check_writable`; the Prepare stage calls that.
"""

import contextlib
import uuid

from selfrewarding.store.errors import Corrupt, NotFound, StoreError, Unsuitable
from selfrewarding.store.protocol import ArtifactStore


def check_writable(store: ArtifactStore, *, advice: str) -> None:
    """Raise the StoreError that says what is wrong. `advice` names the place where the store itself did not complain (no
    credentials)."""
    prefix = f".srr-probe-{uuid.uuid4().hex[:12]}"
    try:
        found = _exercise(store, prefix)
        if found is not None:
            raise type(found)(f"{found} {advice}")
    except StoreError as error:
        if (
            not error.retryable
        ):  # a store that does not answer has nothing of ours, and would take as long again
            with contextlib.suppress(StoreError):
                store.delete_prefix(prefix)
        raise type(error)(f"the artifact store {store.uri} cannot be used: {error}") from None


def _exercise(store: ArtifactStore, prefix: str) -> StoreError | None:
    """What the store did that it should not have done. Raises what it complains of."""
    key, data = f"{prefix}/probe", prefix.encode()
    if not store.create(key, data):
        return Unsuitable("it says that a new, randomly named object exists already.")
    if store.read(key) != data:
        return Corrupt("an object that was just written reads back differently.")
    if store.create(key, b"a second writer"):
        return Unsuitable(
            "it lets a second writer replace an object that was to be created only once (If-None-Match: * is "
            "ignored), so results could be overwritten. Use a store with conditional writes: Amazon S3, "
            "MinIO, versitygw, or a folder."
        )
    if store.read(key) != data:
        return Corrupt("a refused second writer changed the object nevertheless.")
    if not any(entry.key == key for entry in store.list(prefix)):
        return NotFound("an object that was just written is not in the listing.")
    store.delete_prefix(prefix)
    if store.stat(key) is not None:
        return Unsuitable(
            "a deleted object is still there (is the folder or bucket locked against deletion?)."
        )
    return None
