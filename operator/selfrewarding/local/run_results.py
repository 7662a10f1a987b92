"""What a run has made: the whole results of its stages from the store, its models' folders, its index.

Status keeps only what the current stages need; the whole of it lies with the artifacts (`result.json` of each stage).
Must not: print.
Neighbours: `results_report` makes tables of this, `report.index` writes the index, `srr models` lists folders.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from selfrewarding.api.conditions import ConditionType, get_condition
from selfrewarding.api.run import ModelStatus, SelfRewardingRun, SelfRewardingRunSpec, SelfRewardingRunStatus
from selfrewarding.contract.artifacts import stage_prefix
from selfrewarding.contract.config import RunRef
from selfrewarding.contract.program import ParentMissing
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.observed import Observed
from selfrewarding.plan.stage import Stage
from selfrewarding.plan.view import View
from selfrewarding.report import index
from selfrewarding.store.errors import StoreError
from selfrewarding.store.folder import FolderStore
from selfrewarding.store.models import MadeModel, model_files
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.store.results import find_result


@dataclass(frozen=True)
class Finished:
    """A finished stage and what it left."""

    stage: Stage
    result: StageResult


def run_stages(run: SelfRewardingRun, spec: SelfRewardingRunSpec, now: datetime) -> list[Stage]:
    """All stages that the run has by what is known now, in order; Prepare alone before its first result."""
    return list(View(run=run, spec=spec, observed=Observed(), now=now, status=run.status).graph.stages)


def finished_stages(store: ArtifactStore, run: SelfRewardingRun, stages: list[Stage]) -> list[Finished]:
    """The stages that status knows to be done, with their results. One whose result cannot be read is left out."""
    found: list[Finished] = []
    for stage in stages:
        if stage.short not in run.status.results:
            continue
        with contextlib.suppress(StoreError):
            result = find_result(store, stage.kind, stage.key)
            if result is not None:
                found.append(Finished(stage, result))
    return found


def model_folder(store: ArtifactStore, model: ModelStatus) -> str | None:
    """Where a model's Hugging Face folder is: a path for a folder store, else a URI; None if its result is gone."""
    made = made_model(store, model)
    if made is None:
        return None
    config = made.result.files[f"{made.folder}/config.json"].path
    inside = f"{stage_prefix(made.result.kind, made.result.key)}/{config}".removesuffix("/config.json")
    return str(store.root / inside) if isinstance(store, FolderStore) else f"{store.uri}/{inside}"


def made_model(store: ArtifactStore, model: ModelStatus) -> MadeModel | None:
    """A model's files; None if the result of a stage that made it is gone or cannot be read."""
    kind, key = model.uri.rstrip("/").rsplit("/", 2)[-2:]
    with contextlib.suppress(StoreError, ParentMissing, ValueError):
        result = find_result(store, StageKind(kind), key)
        return model_files(store, result) if result is not None else None
    return None


def run_index(
    run: SelfRewardingRun, spec: SelfRewardingRunSpec, stages: list[Stage], usage: Mapping[str, int]
) -> dict[str, Any]:
    """The run's index as this machine knows it: also the stages that are still to come, and the memory that was used."""
    status, metadata = run.status, run.metadata
    pinned = (
        status.pinned.model_dump(mode="json", by_alias=True, exclude_none=True) if status.pinned else None
    )
    return index.run_index(
        RunRef(namespace=metadata.namespace or "default", name=metadata.name, uid=metadata.uid or ""),
        spec=spec,
        stages=[
            index.IndexedStage(
                kind=stage.kind,
                iteration=stage.iteration,
                key=stage.key,
                parents={role: parent.key for role, parent in stage.parents.items()},
                summary=status.results.get(stage.short),
                gpus=stage.gpus + sum(holder.gpus for holder in stage.holders.values()),
                peak_bytes=usage.get(stage.short),
            )
            for stage in stages
        ],
        models=status.models,
        alarms=status.alarms,
        uncalibrated=_uncalibrated(status),
        about={"generation": metadata.generation, "pinned": pinned},
    )


def _uncalibrated(status: SelfRewardingRunStatus) -> str | None:
    failed = get_condition(status.conditions, ConditionType.FAILED)
    return failed.message if failed is not None and failed.reason == "JudgeNotCalibrated" else None
