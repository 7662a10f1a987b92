"""The configuration documents inside the ConfigMaps: StageConfig and ServeConfig from stage, pool and results so far.

Makes no Kubernetes object. Neighbours: `batch` and `training` mount a StageConfig, `inference` a ServeConfig.
"""

from typing import Literal, cast

from selfrewarding.contract.config import (
    Execution,
    ModelRef,
    ReportParameters,
    ServeConfig,
    ServedModel,
    StageConfig,
    StageRef,
    Story,
)
from selfrewarding.contract.redaction import as_told
from selfrewarding.contract.stages import TRAINING, StageKind
from selfrewarding.manifests.context import RunContext
from selfrewarding.manifests.errors import MissingResult
from selfrewarding.plan.stage import Holder, Model, Stage

MAX_NUM_SEQS = {"Cuda": 256, "Cpu": 32}
"""Sequences that a server decodes at once where the pool does not say: said to the server and to its clients alike, so
that both mean the same. 256 is vLLM's own number for GPUs below 70 GiB; on few cores more than 32 gain nothing."""

Role = Literal["policy", "judge", "writer", "referee"]


def stage_config(context: RunContext, stage: Stage) -> StageConfig:
    """The configuration of a stage. Raises MissingResult if a stage that it reads is not done."""
    spec = context.spec
    how = {"pod_template": None, "image": None}  # no business of the program's, and may be long
    return StageConfig(
        contract=context.contract,
        run=context.run,
        kind=stage.kind,
        iteration=stage.iteration,
        key=stage.key,
        store=spec.artifacts.uri,
        seed=spec.seed,
        parents={role: _reference(context, parent, stage) for role, parent in stage.parents.items()},
        models={role: _model(context, model, stage) for role, model in stage.models.items()},
        servers={cast(Role, role): served_model(holder) for role, holder in stage.holders.items()},
        parameters=stage.parameters,
        execution=Execution(
            training=spec.training.model_copy(update=how) if stage.kind in TRAINING else None,
            sampler=None if stage.kind in TRAINING else spec.sampler.model_copy(update=how),
            shards=stage.shards,
            deadline_seconds=spec.limits.stage_deadline_seconds,
            keep_checkpoints=spec.retention.checkpoints == "Keep",
        ),
        story=_story(context, stage) if stage.kind is StageKind.REPORT else None,
    )


def _story(context: RunContext, report: Stage) -> Story:
    """What the report cannot read from the artifacts."""
    handover = {
        role: summary.handover_seconds
        for role, stage in report.parents.items()
        if (summary := context.results.get(stage.short)) and summary.handover_seconds is not None
    }
    parameters = report.parameters
    return Story(
        spec=as_told(context.spec),
        models=list(context.models),
        alarms=list(context.alarms),
        uncalibrated=parameters.uncalibrated if isinstance(parameters, ReportParameters) else None,
        gpus={
            role: gpus
            for role, stage in report.parents.items()
            if (gpus := stage.gpus + sum(holder.gpus for holder in stage.holders.values()))
        },
        handover_seconds=handover,
        tracking=context.spec.tracking,
    )


def serve_config(context: RunContext, holder: Holder) -> ServeConfig:
    """The configuration of a serving pool's init container. Raises MissingResult if its model is not made yet."""
    source = holder.model.stage
    prepare = _prepare_of(source) if source else None
    return ServeConfig(
        contract=context.contract,
        run=context.run,
        store=context.spec.artifacts.uri,
        served_name=served_name(holder),
        prepare=_reference(context, prepare, holder) if prepare else None,
        model=_model(context, holder.model, holder),
    )


def served_model(holder: Holder) -> ServedModel:
    """A pool as the stages that ask it know it."""
    return ServedModel(
        name=served_name(holder),
        max_model_len=holder.max_model_len,
        max_num_seqs=holder.spec.max_num_seqs or MAX_NUM_SEQS[holder.spec.device],
        replicas=holder.spec.replicas,
    )


def served_name(holder: Holder) -> str:
    """The model name that the pool's servers answer to; it contains the model key (survival rule 7)."""
    return f"{holder.model.name.lower()}-{holder.name}"


def _model(context: RunContext, model: Model, reader: Stage | Holder) -> ModelRef:
    if model.stage is None:
        return ModelRef(name=model.name, uri=model.uri)
    return ModelRef(name=model.name, stage=_reference(context, model.stage, reader), folder=model.folder)


def _reference(context: RunContext, stage: Stage, reader: Stage | Holder) -> StageRef:
    try:
        summary = context.results[stage.short]
    except KeyError:
        who = f"{reader.kind} {reader.iteration}" if isinstance(reader, Stage) else f"the pool {reader.name}"
        raise MissingResult(
            f"{who} reads {stage.kind} {stage.iteration}, whose key {stage.short} is not in status.results: "
            "that stage must be done first"
        ) from None
    return StageRef(kind=stage.kind, iteration=stage.iteration, key=stage.key, digest=summary.digest)


def _prepare_of(stage: Stage) -> Stage | None:
    """The Prepare that a stage goes back to."""
    if stage.kind is StageKind.PREPARE:
        return stage
    made_from = [model.stage for model in stage.models.values() if model.stage]
    return next(filter(None, map(_prepare_of, [*stage.parents.values(), *made_from])), None)
