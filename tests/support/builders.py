"""Builders of runs, children and pods with good defaults: a test names only what it is about."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from selfrewarding.api.presets import effective
from selfrewarding.api.run import (
    ObjectMeta,
    SelfRewardingRun,
    SelfRewardingRunSpec,
    SelfRewardingRunStatus,
    StageSummary,
)
from selfrewarding.contract.keys import digest
from selfrewarding.contract.stages import TRAINING
from selfrewarding.plan.observed import Child, Phase, Pod
from selfrewarding.plan.stage import Holder, Stage

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)

SPEC: dict[str, Any] = {
    "model": {"uri": "s3://models/base"},
    "artifacts": {"uri": "s3://runs/demo"},
    "seedData": {
        "instructions": {"uri": "s3://data/instructions.jsonl", "format": "PromptResponse"},
        "ranked": {"uri": "s3://data/ranked.jsonl", "format": "Ranked"},
    },
    "iterations": 3,
    "promptGeneration": {"count": 100},
}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, block by block; None takes a field away."""
    result = dict(below)
    for name, value in above.items():
        old = result.get(name)
        result[name] = (
            merged(old if isinstance(old, Mapping) else {}, value) if isinstance(value, Mapping) else value
        )
    return {name: value for name, value in result.items() if value is not None}


def make_spec(changes: Mapping[str, Any] | None = None) -> SelfRewardingRunSpec:
    """The effective spec of the demo run with changes (camelCase)."""
    return effective(merged(SPEC, changes or {}))


def make_run(
    spec: Mapping[str, Any] | None = None,
    status: SelfRewardingRunStatus | None = None,
    **metadata: Any,
) -> SelfRewardingRun:
    """A run in the namespace `lab`; `metadata` may override any of its fields."""
    identity = {"name": "demo", "namespace": "lab", "uid": "run-uid", "generation": 1} | metadata
    return SelfRewardingRun(
        api_version="selfrewarding.dev/v1alpha1",
        kind="SelfRewardingRun",
        metadata=ObjectMeta.model_validate(identity),
        spec=SelfRewardingRunSpec.model_validate(merged(SPEC, spec or {})),
        status=status or SelfRewardingRunStatus(),
    )


def prepared(**changes: Any) -> StageSummary:
    """Prepare's summary; its digests are told apart by their names."""
    names = ("instructions", "ranked", "heldOut", "model")
    fields: dict[str, Any] = {
        "stage": "Prepare",
        "iteration": 0,
        "digest": "d" * 16,
        "counts": {"parameters": 135_000_000, "instructions": 80, "ranked": 22, "heldOut": 8},
        "data": {name: digest(name)[:12] for name in names},
    }
    return StageSummary(**(fields | changes))


def summary(stage: Stage, **changes: Any) -> StageSummary:
    """The summary of a finished stage."""
    fields: dict[str, Any] = {
        "stage": stage.kind,
        "iteration": stage.iteration,
        "digest": digest(stage.key)[:16],
    }
    return StageSummary(**(fields | changes))


def make_job(stage: Stage, *, attempt: int = 1, **changes: Any) -> Child:
    """The Job or PyTorchJob of a stage's attempt."""
    kind = "PyTorchJob" if stage.kind in TRAINING else "Job"
    fields: dict[str, Any] = {
        "kind": kind, "name": f"{stage.kind}-{stage.iteration}-a{attempt}".lower(), "key": stage.short,
        "uid": f"{stage.short}-{attempt}", "stage": stage.kind, "iteration": stage.iteration, "attempt": attempt,
        "phase": Phase.RUNNING, "created": NOW,
    }  # fmt: skip
    return Child(**(fields | changes))


def make_deployment(holder: Holder, *, attempt: int = 1, **changes: Any) -> Child:
    """The Deployment of a serving pool's attempt; by default all its servers are ready."""
    fields: dict[str, Any] = {
        "kind": "Deployment", "name": f"{holder.name}-a{attempt}", "key": holder.name.partition("-")[0],
        "uid": f"{holder.name}-{attempt}", "stage": None, "holder": holder.name, "iteration": 1, "attempt": attempt,
        "phase": Phase.RUNNING, "created": NOW, "replicas": holder.spec.replicas,
        "ready_replicas": holder.spec.replicas,
    }  # fmt: skip
    return Child(**(fields | changes))


def make_pod(owner: Stage | Holder, *, attempt: int = 1, index: int = 0, **changes: Any) -> Pod:
    """A running pod of a stage or serving pool."""
    stage = owner if isinstance(owner, Stage) else None
    key = owner.short if isinstance(owner, Stage) else owner.name.partition("-")[0]
    unit = owner.short if isinstance(owner, Stage) else owner.name
    fields: dict[str, Any] = {
        "name": f"{unit}-a{attempt}-{index}", "uid": f"{unit}-a{attempt}-{index}", "key": key, "attempt": attempt,
        "stage": stage.kind if stage else None, "holder": None if stage else unit, "index": index,
        "phase": Phase.RUNNING, "scheduled": True, "ready": stage is None, "created": NOW, "started": NOW,
    }  # fmt: skip
    return Pod(**(fields | changes))
