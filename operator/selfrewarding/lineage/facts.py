"""What a finished stage says of itself, and which model it made, as it stands in every story.

Neighbours: `explain`, `trace` and `cards` use it.
"""

from dataclasses import dataclass
from typing import Any

from selfrewarding.contract.artifacts import MODEL
from selfrewarding.contract.keys import SHORT, digest
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import TRAINING
from selfrewarding.store.run_results import Stored, model_name

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


def model_facts(one: Stored) -> ModelFacts | None:
    """The model of a training stage; None for any other stage."""
    result = one.result
    if result.kind not in TRAINING:
        return None
    files = {
        name: ref.sha256
        for name, ref in sorted(result.files.items())
        if name.startswith(f"{MODEL}/") and name.endswith(_WEIGHTS)
    }
    return ModelFacts(model_name(result), stage_facts(one), digest(files)[:SHORT], files)


def section(result: StageResult, name: str) -> dict[str, Any]:
    """A part of a result's report; empty where a release did not write it."""
    found = result.report.get(name)
    return dict(found) if isinstance(found, dict) else {}
