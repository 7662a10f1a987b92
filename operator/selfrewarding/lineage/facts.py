"""What a finished stage says of itself, and which model it made, as it stands in every story.

Neighbours: `explain`, `trace` and `cards` use it.
"""

from dataclasses import dataclass
from typing import Any

from selfrewarding.contract.artifacts import MODEL
from selfrewarding.contract.keys import SHORT, digest
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.store.models import chosen, makes_model
from selfrewarding.store.run_results import RunResults, Stored, model_name

_WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True, slots=True)
class StageFacts:
    """A finished stage: enough to find it and to make it again."""

    kind: str
    iteration: int
    key: str
    """64 hex digits."""
    digest: str
    """Of its result document; what reads it pins this."""
    contract: int
    code: str | None
    """The code that made it; None for results of releases that did not say."""
    finished: str | None
    seconds: float
    pod: str


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model that a stage of the run made."""

    name: str
    stage: StageFacts
    weights: str
    """Digest over the SHA-256 of its files of weights; 16 hex digits."""
    files: dict[str, str]
    """SHA-256 of each file of weights."""


def stage_facts(one: Stored) -> StageFacts:
    """The facts of a stage."""
    result = one.result
    return StageFacts(
        kind=result.kind.value,
        iteration=result.iteration,
        key=result.key,
        digest=one.digest,
        contract=result.contract,
        code=result.code,
        finished=result.finished,
        seconds=result.seconds,
        pod=result.pod,
    )


def model_of(results: RunResults, one: Stored) -> ModelFacts | None:
    """The model of a stage that makes one; None for any other stage, also for a training whose candidates others choose from.

    Where the model was chosen among candidates and the training that wrote it is gone, its files are unknown.
    """
    result, trained = one.result, results.parent(one.result, "trained")
    if not makes_model(result):
        return None
    picked = chosen(result)
    folder = picked.folder if picked is not None else MODEL
    written = result if picked is None else trained.result if trained is not None else None
    files = {
        name: ref.sha256
        for name, ref in sorted(written.files.items() if written is not None else ())
        if name.startswith(f"{folder}/") and name.endswith(_WEIGHTS)
    }
    return ModelFacts(model_name(result), stage_facts(one), digest(files)[:SHORT], files)


def prepare_of(results: RunResults, one: Stored) -> Stored | None:
    """The Prepare that a stage read. A stage that another run made, or this one before an edit of its spec, read a Prepare
    that may be in no list of this run: a stage's key covers the digests of the sets that it reads and not Prepare's own key
    (`plan.graph`), so one that counts now read the sets that the run's own Prepare has."""
    read = results.parent(one.result, "prepare")
    if read is None and results.counts(one.result):
        return next(reversed(results.of(StageKind.PREPARE)), None)
    return read


def section(result: StageResult, name: str) -> dict[str, Any]:
    """A part of a result's report; empty where a release did not write it."""
    found = result.report.get(name)
    return dict(found) if isinstance(found, dict) else {}
