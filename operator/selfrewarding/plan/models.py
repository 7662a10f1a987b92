"""The models that a run has made, their metrics, and what each gate decided (`status.models`).

Must not: start or stop anything. Neighbours: `gate` decides; `facts` calls this after results are recorded; the graph
of later iterations follows from the decisions.
"""

from selfrewarding.api.measured import HEAD_TO_HEAD_METRICS, JUDGE_METRICS
from selfrewarding.api.run import Metrics, ModelStatus
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.approval import approves
from selfrewarding.plan.gate import Measured, pass_gate
from selfrewarding.plan.pools import model_name
from selfrewarding.plan.stage import Iteration, Stage, measures_baseline
from selfrewarding.plan.view import View

_METRICS = {field.alias or name for name, field in Metrics.model_fields.items()}
_MEASURED_AGAIN = {
    StageKind.EVALUATE: JUDGE_METRICS | {"validRate"},
    StageKind.COMPARE: HEAD_TO_HEAD_METRICS,
}
"""What stages after a training tell of its model: an edit may have the same model measured another way."""


def record_models(view: View) -> View:
    """The view with `status.models` up to date, gates included.

    Iterations are taken one after the other: a roll-back changes what the later ones start from.
    """
    if not view.graph.iterations:
        return view  # Prepare has yet to tell the keys: what is known stays
    models = [
        _status_of(view, stage, (stage, *(one for one in view.graph.stages if _measures(one, stage))))
        for stage in view.graph.stages
        if stage.kind is StageKind.TRAIN_BASELINE and view.is_done(stage)
    ]
    roll_backs, at_gate = 0, True
    for index in range(len(view.graph.iterations)):
        iteration = view.graph.iterations[index]
        if not view.is_done(iteration.trained):
            at_gate = False  # made again because the store lost it; later models wait for their turn
            continue
        own = tuple(stage for stage in iteration.stages if not measures_baseline(stage))
        model = _status_of(view, iteration.trained, own)
        measured = all(view.is_done(stage) for stage in iteration.stages)
        if at_gate and measured and model.gate not in ("Promoted", "RolledBack"):
            model = _through_gate(view, iteration, model, models, roll_backs)
        models.append(model)
        roll_backs += model.gate == "RolledBack"
        # One that is measured again is no measure for those made from it until that is done.
        at_gate = at_gate and measured and model.gate in ("Promoted", "RolledBack")
        # Written at once: where the next iteration starts from depends on it.
        view = view.having(models=models + _later(view, models))
    return view.having(models=models)


def _measures(stage: Stage, trained: Stage) -> bool:
    return stage.kind is StageKind.EVALUATE and stage.parents.get("model") == trained


def _later(view: View, models: list[ModelStatus]) -> list[ModelStatus]:
    """Entries of status that have not been looked at yet: their gates still count for the graph."""
    seen = {model.uri for model in models}
    return [model for model in view.status.models if model.uri not in seen]


def _status_of(view: View, trained: Stage, stages: tuple[Stage, ...]) -> ModelStatus:
    """The model of a training stage, with the metrics of the finished stages of its iteration."""
    before = view.model_of(trained)
    digest = view.status.results[trained.short].digest
    known = before if before is not None and before.digest == digest else None
    kept = known.metrics.model_dump(by_alias=True, exclude_none=True) if known else {}
    outdated = _outdated(view, stages)
    metrics = {name: value for name, value in kept.items() if name not in outdated}
    for stage in stages:
        result = view.status.results.get(stage.short)
        metrics |= {
            name: value for name, value in (result.metrics if result else {}).items() if name in _METRICS
        }
    return ModelStatus(
        name=model_name(trained),
        iteration=trained.iteration,
        uri=view.model_uri(trained),
        digest=digest,
        metrics=Metrics.model_validate(metrics),
        gate=known.gate if known else None,
        gate_message=known.gate_message if known else None,
    )


def _outdated(view: View, stages: tuple[Stage, ...]) -> set[str]:
    """Metrics of which the status that was read does not count: they are to be measured (again), or no more. Those of a
    stage whose summary is cut short, since its iteration is over, stand with the model alone."""
    held_out = view.prepare_summary is not None and view.prepare_summary.data.get("heldOut")
    judged = held_out and any(one.kind is StageKind.EVALUATE for one in stages)
    names: set[str] = set()
    for kind, told in _MEASURED_AGAIN.items():
        stage = next((one for one in stages if one.kind is kind), None)
        summary = None if stage is None else view.status.results.get(stage.short)
        if summary is None or summary.seconds is not None:
            names |= told
    # Where no held-out row is judged it is Rollout's alone.
    return names if judged else names - {"validRate"}


def _through_gate(
    view: View, iteration: Iteration, model: ModelStatus, models: list[ModelStatus], roll_backs: int
) -> ModelStatus:
    base = view.model_uri(iteration.base) if iteration.base else None
    previous = next((one.metrics for one in models if one.uri == base), None)
    decision = pass_gate(
        view.spec.gate,
        Measured(
            name=model.name,
            iteration=iteration.number,
            metrics=model.metrics,
            previous=previous,
            roll_backs=roll_backs,
            base=model_name(iteration.base) if iteration.base else None,
            base_iteration=iteration.base.iteration if iteration.base else 1,
            base_compared=_is_compared(
                next((one for one in view.graph.iterations if one.trained == iteration.base), None)
            ),
            last=iteration.number == len(view.graph.iterations),
            approved=approves(view.run.metadata.annotations, model),
            compared=_is_compared(iteration),
        ),
    )
    return model.model_copy(update={"gate": decision.outcome, "gate_message": decision.message})


def _is_compared(iteration: Iteration | None) -> bool:
    return iteration is not None and any(stage.kind is StageKind.COMPARE for stage in iteration.stages)
