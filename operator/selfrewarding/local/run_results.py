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

from selfrewarding.api.run import ModelStatus, SelfRewardingRun, SelfRewardingRunSpec
from selfrewarding.contract.artifacts import MODEL, stage_prefix
from selfrewarding.contract.config import RunRef
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.graph import Stage
from selfrewarding.plan.observed import Observed
from selfrewarding.plan.view import View
from selfrewarding.report import index
from selfrewarding.store.errors import StoreError
from selfrewarding.store.folder import FolderStore
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
    kind, key = model.uri.rstrip("/").rsplit("/", 2)[-2:]
    try:
        result = find_result(store, StageKind(kind), key)
    except (StoreError, ValueError):
        return None
    config = f"{MODEL}/config.json"
    if result is None or config not in result.files:
        return None
    inside = f"{stage_prefix(result.kind, key)}/{result.files[config].path}".removesuffix("/config.json")
    return str(store.root / inside) if isinstance(store, FolderStore) else f"{store.uri}/{inside}"


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
        about={"generation": metadata.generation, "pinned": pinned},
    )
