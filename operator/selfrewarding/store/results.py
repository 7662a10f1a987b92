"""Stage results in a store: find, require, read, commit.

A stage is done when `result.json` exists for its key (survival rule 3): it is written last, once, and names the files
that belong to it; what else lies in the folder is left over from attempts that died.
Neighbours: `contract.result` says what a result is; every stage program uses this; the operator never does.
"""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selfrewarding.contract.artifacts import RESULT, stage_prefix
from selfrewarding.contract.config import StageRef
from selfrewarding.contract.keys import short
from selfrewarding.contract.program import ParentMissing
from selfrewarding.contract.result import FileRef, StageResult, result_bytes, result_digest
from selfrewarding.contract.stages import StageKind
from selfrewarding.contract.version import code_version
from selfrewarding.store.digests import FileDigest
from selfrewarding.store.errors import Corrupt, NotFound
from selfrewarding.store.protocol import ArtifactStore


def find_result(store: ArtifactStore, kind: StageKind, key: str) -> StageResult | None:
    """The result of a stage, or None if it is not done. Raises Corrupt for one that cannot be read."""
    found = find_pinned(store, kind, key)
    return found[0] if found else None


def find_pinned(store: ArtifactStore, kind: StageKind, key: str) -> tuple[StageResult, str] | None:
    """As `find_result`, with the digest by which a stage that reads the result pins it."""
    where = f"{stage_prefix(kind, key)}/{RESULT}"
    try:
        content = store.read(where)
    except NotFound:
        return None
    try:
        return StageResult.model_validate_json(content), result_digest(content)
    except ValueError as error:
        raise Corrupt(
            f"{store.uri}/{where} is no result document: {error}. Delete it, and it is made again."
        ) from error


def require_result(store: ArtifactStore, ref: StageRef) -> StageResult:
    """The result of a parent. Raises ParentMissing if it is gone or is not the one that was pinned."""
    found = find_pinned(store, ref.kind, ref.key)
    where = f"{store.uri}/{stage_prefix(ref.kind, ref.key)}/{RESULT}"
    if found is None:
        raise ParentMissing(f"{where} is missing: {ref.kind} {ref.iteration} must be computed again", ref.key)
    result, digest = found
    if digest != ref.digest:
        raise ParentMissing(
            f"{where} has the digest {digest}, but {ref.digest} was expected: {ref.kind} {ref.iteration} was written "
            "again by somebody else, what follows from it must be computed again",
            ref.key,
        )
    return result


def commit_result(store: ArtifactStore, result: StageResult) -> StageResult:
    """Write a result, with the time and the code's version, unless there is one; returns the one that is in the store now."""
    stamps = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code_version(result.kind),
    }
    result = result.model_copy(update=stamps)
    if store.create(f"{stage_prefix(result.kind, result.key)}/{RESULT}", result_bytes(result)):
        return result
    found = find_pinned(store, result.kind, result.key)
    if found is None:
        raise Corrupt(f"{short(result.key)}: a result that was there a moment ago is gone")
    return found[0]


def read_jsonl(store: ArtifactStore, result: StageResult, name: str) -> Iterator[dict[str, Any]]:
    """The rows of one of a result's files, in order. Raises ParentMissing if it is gone or damaged."""
    for line in read_file(store, result, name).splitlines():
        if line.strip():
            yield json.loads(line)


def read_file(store: ArtifactStore, result: StageResult, name: str) -> bytes:
    """The content of one of a result's files, checked by its digest. Raises ParentMissing if it is gone or damaged."""
    ref = result.files.get(name)
    if ref is None:
        raise ParentMissing(f"the result of {result.kind} {short(result.key)} has no file {name}", result.key)
    where = f"{stage_prefix(result.kind, result.key)}/{ref.path}"
    try:
        content = store.read(where)
    except NotFound as error:
        raise ParentMissing(f"{store.uri}/{where} is missing", result.key) from error
    if len(content) != ref.size or result_sha256(content) != ref.sha256:
        raise ParentMissing(
            f"{store.uri}/{where} is damaged: its content does not have the digest it had", result.key
        )
    return content


def result_sha256(content: bytes) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def download_folder(
    store: ArtifactStore, result: StageResult, name: str, destination: Path, *, writable: bool = False
) -> None:
    """Fetch a folder of a result, e.g. `model`, to a local one; with `writable` the files are its reader's own.

    Raises ParentMissing if a file is gone or damaged.
    """
    inside = {logical: ref for logical, ref in result.files.items() if logical.startswith(f"{name}/")}
    if not inside:
        raise ParentMissing(
            f"the result of {result.kind} {short(result.key)} has no folder {name}", result.key
        )
    for base, files in _by_base(inside, name).items():
        prefix = f"{stage_prefix(result.kind, result.key)}/{base}"
        try:
            store.download_tree(prefix, destination, files, writable=writable)
        except (NotFound, Corrupt) as error:
            raise ParentMissing(str(error), result.key) from error


def upload_files(store: ArtifactStore, local_dir: Path, attempt: str, stage: str) -> dict[str, FileRef]:
    """Upload a folder below an attempt's prefix; returns logical name → FileRef relative to the stage's folder."""
    uploaded = store.upload_tree(local_dir, attempt)
    inside = attempt.removeprefix(f"{stage}/")
    return {
        name: FileRef(path=f"{inside}/{name}", size=found.size, sha256=found.sha256)
        for name, found in uploaded.items()
    }


def _by_base(files: dict[str, FileRef], name: str) -> dict[str, dict[str, FileDigest]]:
    """Files grouped by the folder in the store that their path below `name` hangs from."""
    grouped: dict[str, dict[str, FileDigest]] = {}
    for logical, ref in files.items():
        relative = logical.removeprefix(f"{name}/")
        base = ref.path.removesuffix(relative).rstrip("/")
        grouped.setdefault(base, {})[relative] = FileDigest(size=ref.size, sha256=ref.sha256)
    return grouped
