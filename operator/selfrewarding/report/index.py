"""`runs/<namespace>/<name>/index.json`: from a run to everything that it made, and back to what its report needs.

Purpose: one writer for `srr local` and the Report stage, one reader for `srr report`.
Must not: ask a planner or read results. Neighbours: `collect` takes what `report_parts` gives.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from selfrewarding.api.run import AlarmStatus, ModelStatus, SelfRewardingRunSpec, StageSummary
from selfrewarding.contract.artifacts import run_prefix
from selfrewarding.contract.config import RunRef, StageRef, Story
from selfrewarding.contract.keys import short
from selfrewarding.contract.redaction import as_told
from selfrewarding.contract.stages import StageKind, report_role
from selfrewarding.store.errors import Corrupt, NotFound
from selfrewarding.store.protocol import ArtifactStore

INDEX = "index.json"

Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class IndexedStage:
    """A stage of the run, done or not."""

    kind: StageKind
    iteration: int
    key: str
    """64 hex digits."""
    parents: Mapping[str, str] = field(default_factory=dict)
    """Keys of the stages that it reads, by role."""
    summary: StageSummary | None = None
    """None until it is done."""
    gpus: int = 0
    """GPUs that it holds, its servers' included."""
    peak_bytes: int | None = None
    """Most memory that all pods held while it ran, where that was measured."""


def run_index(
    run: RunRef,
    *,
    spec: SelfRewardingRunSpec,
    stages: Sequence[IndexedStage],
    models: Sequence[ModelStatus],
    alarms: Sequence[AlarmStatus],
    uncalibrated: str | None = None,
    about: Mapping[str, Any] | None = None,
) -> Document:
    """The document; `spec` is the effective one, `uncalibrated` what of `judge.calibration` ended the run, `about` what else
    is known of it (generation, pinned versions)."""
    return {
        "run": {"namespace": run.namespace, "name": run.name, "uid": run.uid},
        **(about or {}),
        "spec": as_told(spec).model_dump(mode="json", by_alias=True, exclude_none=True),
        "stages": [
            {
                "kind": stage.kind.value,
                "iteration": stage.iteration,
                "key": stage.key,
                "done": stage.summary is not None,
                "parents": dict(stage.parents),
                **({"gpus": stage.gpus} if stage.gpus else {}),
                **({"peakMemoryBytes": stage.peak_bytes} if stage.peak_bytes is not None else {}),
            }
            for stage in stages
        ],
        "models": [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in models],
        "alarms": [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in alarms],
        **({} if uncalibrated is None else {"uncalibrated": uncalibrated}),
        "results": {
            short(stage.key): stage.summary.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            for stage in stages
            if stage.summary is not None
        },
    }


def write_index(store: ArtifactStore, document: Document) -> None:
    """Write the index with the artifacts. Raises StoreError."""
    run = document["run"]
    key = f"{run_prefix(run['namespace'], run['name'])}/{INDEX}"
    store.write(key, (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode())


def read_index(store: ArtifactStore, run: RunRef) -> Document | None:
    """The run's index; None if it has none yet, or only one of a run of its name that was there before.

    Raises Corrupt for one that is no JSON object, StoreError.
    """
    key = f"{run_prefix(run.namespace, run.name)}/{INDEX}"
    try:
        document = json.loads(store.read(key))
        uid = document["run"]["uid"]
    except NotFound:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise Corrupt(
            f"{store.uri}/{key} is no index of a run ({error}): delete it, the run's next report writes it again"
        ) from error
    return document if uid == run.uid else None


def report_parts(document: Document) -> tuple[RunRef, dict[str, StageRef], Story]:
    """What `collect` needs of a run, out of its index. Raises ValueError for a document that is none."""
    try:
        return _parts(document)
    except (ValidationError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the run's index cannot be read: {error}") from error


def _parts(document: Document) -> tuple[RunRef, dict[str, StageRef], Story]:
    results = {key: StageSummary.model_validate(one) for key, one in document.get("results", {}).items()}
    baselines = {one["key"] for one in document["stages"] if one["kind"] == StageKind.TRAIN_BASELINE}
    refs: dict[str, StageRef] = {}
    gpus: dict[str, int] = {}
    handover: dict[str, float] = {}
    for one in document["stages"]:
        summary = results.get(short(one["key"]))
        if summary is None:
            continue
        kind = StageKind(one["kind"])
        of_baseline = kind is StageKind.EVALUATE and one.get("parents", {}).get("model") in baselines
        role = report_role(kind, one["iteration"], of_baseline=of_baseline, taken=refs)
        refs[role] = StageRef(kind=kind, iteration=one["iteration"], key=one["key"], digest=summary.digest)
        gpus[role] = one.get("gpus", 0)
        if summary.handover_seconds is not None:
            handover[role] = summary.handover_seconds
    spec = SelfRewardingRunSpec.model_validate(document["spec"])
    story = Story(
        spec=spec,
        models=[ModelStatus.model_validate(one) for one in document.get("models", [])],
        alarms=[AlarmStatus.model_validate(one) for one in document.get("alarms", [])],
        uncalibrated=document.get("uncalibrated"),
        gpus=gpus,
        handover_seconds=handover,
        tracking=spec.tracking,
    )
    return RunRef.model_validate(document["run"]), refs, story
