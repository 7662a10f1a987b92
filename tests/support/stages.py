"""Running a stage's `main` as its container would, in this process, against a folder."""

import hashlib
import time
from pathlib import Path
from typing import Any

from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.artifacts import attempt_prefix, stage_prefix
from selfrewarding.contract.config import Execution, Parameters, RunRef, StageConfig, StageRef
from selfrewarding.contract.program import Surroundings
from selfrewarding.contract.result import (
    StageResult,
    result_bytes,
    result_digest,
    summary_message,
    summary_of,
)
from selfrewarding.contract.stages import StageKind
from selfrewarding.data.jsonl import encode_row
from selfrewarding.store import open_store
from selfrewarding.store.results import commit_result, upload_files

RUN = RunRef(namespace="default", name="test", uid="run-uid")


def key_of(text: str) -> str:
    """A stage key, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def stage_config(
    kind: StageKind, parameters: Parameters, store: str, *, key: str = "key", iteration: int = 1, **more: Any
) -> StageConfig:
    """A configuration as the planner writes it."""
    return StageConfig(
        contract=CONTRACT_VERSION,
        run=RUN,
        kind=kind,
        iteration=iteration,
        key=key_of(key),
        store=store,
        seed=7,
        parameters=parameters,
        execution=Execution(deadline_seconds=3600),
        **more,
    )


def surroundings(scratch: Path, *, pod: str = "pod-1") -> Surroundings:
    """What the environment of a container says."""
    scratch.mkdir(parents=True, exist_ok=True)
    return Surroundings(scratch=scratch, pod_uid=pod, attempt=1, shard=0, rank=0, started=time.monotonic())


def finished(
    store_uri: str,
    kind: StageKind,
    scratch: Path,
    *,
    key: str,
    rows: dict[str, list[dict[str, Any]]] | None = None,
    iteration: int = 1,
    **more: Any,
) -> StageResult:
    """Put a parent's result into the store: files of JSON lines from `rows`, and what lies below `scratch` already."""
    scratch.mkdir(parents=True, exist_ok=True)
    for name, content in (rows or {}).items():
        (scratch / name).write_bytes(b"".join(map(encode_row, content)))
    store, key = open_store(store_uri), key_of(key)
    files = upload_files(store, scratch, attempt_prefix(kind, key, "parent"), stage_prefix(kind, key))
    return commit_result(
        store,
        StageResult(
            contract=CONTRACT_VERSION,
            kind=kind,
            iteration=iteration,
            key=key,
            files=files,
            seconds=1.0,
            pod="parent",
            **more,
        ),
    )


def reference(result: StageResult) -> StageRef:
    """How a stage that reads a result names it."""
    return StageRef(
        kind=result.kind,
        iteration=result.iteration,
        key=result.key,
        digest=result_digest(result_bytes(result)),
    )


def summary_size(result: StageResult, **larger: Any) -> int:
    """Bytes of the termination message of this result, or of one with larger `counts`, `metrics` or `seconds`."""
    return len(summary_message(result.key, summary_of(result.model_copy(update=larger))).encode())
