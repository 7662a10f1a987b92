"""What a stage leaves behind: `result.json` (whole) and the summary in its termination message (short)."""

import hashlib
import json

from pydantic import Field

from selfrewarding.api.base import ApiModel
from selfrewarding.api.run import StageSummary
from selfrewarding.contract.keys import SHORT, canonical_json
from selfrewarding.contract.stages import StageKind

MAX_SUMMARY_BYTES = 768


class FileRef(ApiModel):
    """A file of a result."""

    path: str
    """Key relative to the stage's folder, e.g. attempts/<pod uid>/pairs.jsonl."""
    size: int
    """Bytes."""
    sha256: str
    """64 hex digits."""


class StageResult(ApiModel):
    """`result.json`: written last and once; a stage is done when this exists for its key."""

    contract: int
    kind: StageKind
    iteration: int
    key: str
    """64 hex digits."""
    parents: dict[str, str] = {}
    """Digests of the results that were read, by role."""
    files: dict[str, FileRef] = {}
    """Files by logical name, e.g. `pairs.jsonl` or `model/config.json`."""
    counts: dict[str, int] = {}
    """Rows, tokens, steps by name."""
    metrics: dict[str, float] = {}
    """Metrics by name (see `api.run.Metrics`)."""
    data: dict[str, str] = {}
    """Prepare: digests of the seed sets and of M0: instructions, ranked, heldOut, evaluations, model; 12 hex digits each."""
    report: dict[str, object] = Field(default={})
    """Everything else worth keeping: histograms, versions, deviations, settings as used."""
    seconds: float
    """From the start of the attempt to the result."""
    finished: str | None = None
    """When it was written (RFC 3339, UTC)."""
    pod: str
    """UID of the pod that wrote it."""
    code: str | None = None
    """The code that made it (`contract.version`)."""


def result_bytes(result: StageResult) -> bytes:
    """The content of result.json."""
    return canonical_json(result)


def result_digest(content: bytes) -> str:
    """What consumers pin: the first 16 hex digits of the SHA-256 of result.json."""
    return hashlib.sha256(content).hexdigest()[:SHORT]


def summary_of(result: StageResult) -> StageSummary:
    """What status keeps of a result: counts and metrics, numbers rounded to six significant digits."""
    return StageSummary(
        stage=result.kind,
        iteration=result.iteration,
        digest=result_digest(result_bytes(result)),
        counts=result.counts,
        metrics={name: float(f"{value:.6g}") for name, value in result.metrics.items()},
        data=result.data,
        seconds=round(result.seconds, 1),
    )


def summary_message(key: str, summary: StageSummary) -> str:
    """The termination message of a stage that is done: one line of JSON.

    Raises ValueError if it is longer than MAX_SUMMARY_BYTES: a program's own mistake, found by its tests.
    """
    document = {"done": {key[:SHORT]: summary.model_dump(mode="json", by_alias=True, exclude_defaults=True)}}
    text = json.dumps(document, separators=(",", ":"))
    if len(text.encode()) > MAX_SUMMARY_BYTES:
        raise ValueError(f"summary of {len(text.encode())} bytes, at most {MAX_SUMMARY_BYTES}: {text}")
    return text


class TerminationMessage(ApiModel):
    """What stands in a container's termination message: results by short key, or a failure."""

    done: dict[str, StageSummary] = {}
    """Stage results by short key (Resolve: several)."""
    missing: list[str] = []
    """Resolve: short keys that have no result."""
    failure: str | None = None
    """Class of a failure: BadConfiguration, BadData, ParentMissing, Retry, StoreUnavailable, ServerKeyRefused, PeerLost,
    Unknown."""
    message: str | None = None
    """One sentence for people."""
    parent: str | None = None
    """ParentMissing: the short key that must be computed again."""


def parse_termination(text: str) -> TerminationMessage | None:
    """The message of one of our programs; None for anything else (a crash, a truncated file)."""
    try:
        return TerminationMessage.model_validate_json(text)
    except ValueError:
        return None
