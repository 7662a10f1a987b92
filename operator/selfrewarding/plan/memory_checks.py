"""The check that no pod starts whose memory surely cannot hold its model: it would end by OOMKilled, after having waited
for its GPUs.

Purpose: as `checks`, of which this is part. Must not: refuse what may fit; `srr plan` has the whole estimate.
Neighbours: `estimates` has the arithmetic; what the operator asks for by itself (`manifests.sizes`) always fits.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from selfrewarding.api.algorithm import OptimisationSpec
from selfrewarding.api.execution import PodTemplate, ResourcesSpec
from selfrewarding.contract.stages import StageKind
from selfrewarding.manifests.quantities import parse_quantity
from selfrewarding.plan.estimates import least_serving_memory, least_training_memory, readable
from selfrewarding.plan.stage import Stage
from selfrewarding.plan.units import title
from selfrewarding.plan.verdict import Mode, State, Verdict
from selfrewarding.plan.view import View


class _Demand(NamedTuple):
    """What a pod needs at least, and what it is given."""

    who: str
    why: str
    field: str
    """Block of the spec whose `resources.memory` is meant."""
    least: int
    given: int | None
    """Bytes; None: the operator's estimate, or what a pod template says."""


def memory_too_small(view: View) -> Verdict | None:
    """Memory that the spec gives to trainers or servers is less than their model takes.

    Told before the first of them starts, also for stages that come later; a stage under way is left alone."""
    stage = view.step
    parameters = view.prepare_summary.counts.get("parameters") if view.prepare_summary else None
    if not parameters or stage is None or not view.prepared or view.unresolved:
        return None
    if stage.uses_accelerators and stage.short in view.status.attempts:
        return None
    for later in view.graph.stages:
        if view.is_done(later):
            continue
        for demand in _demands(view, later, parameters):
            if demand.given is not None and demand.given < demand.least:
                return Verdict(
                    mode=Mode.CLEAR, state=State.STALLED, reason="MemoryTooSmall",
                    message=f"{demand.who} needs at least {readable(demand.least)} of memory in each pod for "
                    f"{demand.why}, and {demand.field}.resources.memory is {readable(demand.given)}: raise it, or leave "
                    "it out to have it estimated (`srr plan` shows what each stage needs).",
                    waiting_for=f"more memory for pods of {title(later)} ({demand.field}.resources.memory)",
                )  # fmt: skip
    return None


def _demands(view: View, stage: Stage, parameters: int) -> Iterator[_Demand]:
    training = view.spec.training
    if stage.trains:
        yield _Demand(
            title(stage),
            "weights, gradients and optimizer state",
            "training",
            least_training_memory(parameters, training, _settings(view, stage)),
            _memory(training.resources, training.pod_template),
        )
    # Nobody has measured fixed models.
    if holder := stage.holders.get("policy"):
        yield _Demand(
            f"The server of {holder.model.name}",
            "its weights",
            "serving",
            least_serving_memory(parameters, holder, dtype=view.spec.model.serving_dtype),
            _memory(holder.spec.resources, holder.spec.pod_template),
        )


def _settings(view: View, stage: Stage) -> OptimisationSpec:
    by_pairs = stage.kind is StageKind.PREFERENCE_OPTIMIZE and view.spec.preferences.rule != "PositiveOnly"
    return view.spec.dpo if by_pairs else view.spec.sft


def _memory(resources: ResourcesSpec, template: PodTemplate | None) -> int | None:
    """Bytes; a pod template that speaks of memory goes before the field, in whatever form."""
    if resources.memory is None or (template is not None and _speaks_of_memory(template)):
        return None
    return int(parse_quantity(resources.memory))


def _speaks_of_memory(part: object) -> bool:
    if isinstance(part, Mapping):
        return "memory" in part or any(_speaks_of_memory(one) for one in part.values())
    return isinstance(part, list) and any(_speaks_of_memory(one) for one in part)
