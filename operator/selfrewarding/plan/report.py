"""Status as people and tools read it: conditions, columns, progress, GPUs, and the events of a pass.

Must not: hold state of its own; everything follows from the view, the verdict and the status that was read.
Neighbours: `decide` returns what is made here; `api.conditions` keeps transition times; the controller asks for the
conditions of a run whose spec nothing can be planned from.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Literal

from selfrewarding.api.conditions import Condition, ConditionType, get_condition, set_condition
from selfrewarding.api.run import Progress, SelfRewardingRun, SelfRewardingRunStatus
from selfrewarding.contract.progress import summed
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.accounting import gpu_fields, handover_fields
from selfrewarding.plan.actions import Event
from selfrewarding.plan.retries import FailureClass
from selfrewarding.plan.stage import Holder, Stage
from selfrewarding.plan.times import seconds_since, stamp
from selfrewarding.plan.units import title
from selfrewarding.plan.verdict import State, Verdict
from selfrewarding.plan.view import View

_PROGRESS_EVERY = 30.0
"""Seconds between two writes of progress (survival rule 11)."""
MAX_TEXT = 760
"""Characters of a message in status: a failure's (`retries.MAX_MESSAGE`), and what to do about it."""
_MAX_COLUMN = 240
"""Characters of `waitingFor`."""

_TRIED_FOR_HOURS = frozenset({FailureClass.STORE_UNAVAILABLE, FailureClass.BAD_DATA})

Truth = Literal["True", "False", "Unknown"]

_READY: dict[State, Truth] = {
    State.PROGRESSING: "True",
    State.STALLED: "False",
    State.FAILED: "False",
    State.SUSPENDING: "True",
    State.SUSPENDED: "True",
    State.SUCCEEDED: "True",
}
"""Ready: accepted and healthy. A GitOps tool that waits for it must not wait for the hours of a run (kstatus)."""
_NOT_READY_REASONS = frozenset({"HeldByGate"})
"""Healthy, but a person must act before it goes on."""


def report(view: View, verdict: Verdict) -> SelfRewardingRunStatus:
    """The status to write: the view's facts, and what the verdict means for people."""
    before = view.run.status
    stage, iteration = _where(view, verdict)
    fields: dict[str, Any] = {
        "observed_generation": view.run.metadata.generation,
        "conditions": conditions_of(view.run, verdict, view.now),
        "stage": stage,
        "iteration": iteration,
        "progress": _progress(view, before, stage, iteration),
        "waiting_for": _cut(verdict.waiting_for, _MAX_COLUMN) if verdict.waiting_for else None,
        **gpu_fields(view),
        **handover_fields(view, before),
    }
    return view.status.model_copy(update=fields)


def events(view: View, verdict: Verdict) -> tuple[Event, ...]:
    """What people should hear of this pass. All of it follows from a change of status, so each is told once."""
    found = [*_ended(view), *_failed(view), *_alarms(view), *_gates(view), *_started(view)]
    ready = get_condition(view.run.status.conditions, ConditionType.READY)
    if (ready.reason if ready else None) != verdict.reason and verdict.state is not State.PROGRESSING:
        bad = verdict.state in (State.STALLED, State.FAILED)
        found.append(
            Event(type="Warning" if bad else "Normal", reason=verdict.reason, message=_cut(verdict.message))
        )
    return tuple(found)


def _where(view: View, verdict: Verdict) -> tuple[str | None, int | None]:
    """The columns Stage and Iteration."""
    if view.pending.held is not None and view.step is None:
        return StageKind.GATE.value, view.pending.held.iteration
    if verdict.state is State.SUCCEEDED or view.step is None:
        return None, view.status.models[-1].iteration if view.status.models else None
    # Prepare and Resolve belong to no iteration; after an edit they run in the middle of one.
    pending = view.pending.stage
    return view.step.kind.value, view.step.iteration or (pending.iteration if pending else 0)


def _progress(
    view: View, before: SelfRewardingRunStatus, stage: str | None, iteration: int | None
) -> Progress | None:
    """Progress of the stage, summed over its pods; the old numbers until 30 s have passed."""
    same = (before.stage, before.iteration) == (stage, iteration) and not _has_ended(view, stage, iteration)
    shown = before.progress if same else None
    entry = view.entry(view.step.short) if view.step is not None else None
    if view.step is None or entry is None:
        return shown if view.step is not None else None
    pods = view.pods_of(view.step.short, entry.attempt)
    line = summed([pod.progress for pod in pods if pod.progress is not None])
    if line is None:
        return shown
    new = Progress(
        done=line.done,
        total=line.total,
        rate=round(line.rate, 3) if line.rate else None,
        eta_seconds=round(line.eta_seconds) if line.eta_seconds is not None else None,
        # Status has whole seconds: rounded up, so that the next write is not a part of a second early.
        updated=stamp(view.now + timedelta(microseconds=999_999)),
    )
    if shown is None or shown.updated is None:
        return new
    equal = (shown.done, shown.total) == (new.done, new.total)
    return shown if equal or seconds_since(shown.updated, view.now) < _PROGRESS_EVERY else new


def _has_ended(view: View, stage: str | None, iteration: int | None) -> bool:
    """Whether this pass has seen the end of a stage of these columns; candidates answer in several, one after the other."""
    ended = view.status.results.keys() - view.run.status.results.keys()
    return any(
        (one.stage, one.iteration) == (stage, iteration)
        for one in (view.status.results[key] for key in ended)
    )


def conditions_of(run: SelfRewardingRun, verdict: Verdict, now: datetime) -> list[Condition]:
    """All six conditions, as of the run's newest generation."""
    state = verdict.state
    finished = state in (State.SUCCEEDED, State.FAILED)
    succeeded: Truth = "Unknown"
    if finished:
        succeeded = "True" if state is State.SUCCEEDED else "False"
    truths: dict[ConditionType, Truth] = {
        ConditionType.READY: "False" if verdict.reason in _NOT_READY_REASONS else _READY[state],
        ConditionType.RECONCILING: "False" if finished or state is State.SUSPENDED else "True",
        ConditionType.STALLED: "True" if state in (State.STALLED, State.FAILED) else "False",
        ConditionType.SUCCEEDED: succeeded,
        ConditionType.FAILED: "True" if state is State.FAILED else "False",
        ConditionType.SUSPENDED: "True" if state is State.SUSPENDED else "False",
    }
    told = _telling(state)
    conditions = [c for c in run.status.conditions if c.type in set(ConditionType)]
    for kind, truth in truths.items():
        message = _cut(verdict.message) if kind in told else ""
        conditions = set_condition(
            conditions,
            Condition(
                type=kind.value,
                status=truth,
                observed_generation=run.metadata.generation,
                last_transition_time=stamp(now),
                reason=verdict.reason if kind in told else _QUIET[kind][truth],
                message=message,
            ),
        )
    return conditions


def _telling(state: State) -> frozenset[ConditionType]:
    """The conditions that carry the verdict's reason and message; Ready always does."""
    also = {
        State.STALLED: ConditionType.STALLED,
        State.FAILED: ConditionType.FAILED,
        State.SUSPENDED: ConditionType.SUSPENDED,
        State.SUSPENDING: ConditionType.SUSPENDED,
        State.SUCCEEDED: ConditionType.SUCCEEDED,
    }.get(state)
    return frozenset({ConditionType.READY} if also is None else {ConditionType.READY, also})


_QUIET: dict[ConditionType, dict[Truth, str]] = {
    ConditionType.READY: {"True": "Ready", "False": "NotReady", "Unknown": "Unknown"},
    ConditionType.RECONCILING: {"True": "Reconciling", "False": "NothingToDo", "Unknown": "Unknown"},
    ConditionType.STALLED: {"True": "Failed", "False": "NotStalled", "Unknown": "Unknown"},
    ConditionType.SUCCEEDED: {"True": "Succeeded", "False": "NotSucceeded", "Unknown": "NotFinished"},
    ConditionType.FAILED: {"True": "Failed", "False": "NotFailed", "Unknown": "Unknown"},
    ConditionType.SUSPENDED: {"True": "Suspended", "False": "NotSuspended", "Unknown": "Unknown"},
}
"""Reasons of the conditions that have nothing to tell."""


def _ended(view: View) -> Iterable[Event]:
    for stage in _all_stages(view):
        if (
            view.is_done(stage)
            and stage.short in view.run.status.attempts
            and stage.short not in view.run.status.results
        ):
            yield Event(type="Normal", reason="StageDone", message=f"{title(stage)} is done.")


def _all_stages(view: View) -> tuple[Stage, ...]:
    """The stages of the run, and the report beside them."""
    return (*view.graph.stages, *([] if view.reported is None else [view.reported]))


def _started(view: View) -> Iterable[Event]:
    """Entries that this pass opened; an attempt after a failure is told by that failure."""
    servers = {name: holder for stage in view.living for name, holder in _named(stage)}
    for unit in sorted(view.status.attempts.keys() - view.run.status.attempts.keys()):
        stage = next((one for one in view.living if one.short == unit), None)
        if stage is not None:
            yield Event(type="Normal", reason="StageStarted", message=f"{title(stage)} starts.")
        elif unit in servers:
            message = f"A server of {servers[unit].model.name} starts."
            yield Event(type="Normal", reason="ServerStarted", message=message)


def _named(stage: Stage) -> Iterable[tuple[str, Holder]]:
    return ((holder.name, holder) for holder in stage.holders.values())


def _failed(view: View) -> Iterable[Event]:
    for unit, entry in view.status.attempts.items():
        before = view.run.status.attempts.get(unit)
        if before is None or before.attempt == entry.attempt or entry.last_failure is None:
            continue
        stage = next((one for one in (*view.active, *_all_stages(view)) if one.short == unit), None)
        name = title(stage) if stage is not None else f"Server {unit}"
        harmless = entry.failure in (FailureClass.INFRASTRUCTURE, FailureClass.PEER_LOST)
        # A store may be away for hours: without the number the same event is counted, not posted again.
        which = "" if entry.failure in _TRIED_FOR_HOURS else f", attempt {before.attempt}"
        given_up = stage is not None and stage == view.reported and view.report is None
        ending = " It is given up: `srr report` makes the page." if given_up else ""
        yield Event(
            type="Normal" if harmless else "Warning",
            reason="AttemptFailed",
            message=_cut(f"{name}{which}: {entry.last_failure}") + ending,
        )


def _alarms(view: View) -> Iterable[Event]:
    told = {(alarm.name, alarm.iteration, alarm.action) for alarm in view.run.status.alarms}
    for alarm in view.status.alarms:
        if (alarm.name, alarm.iteration, alarm.action) not in told:
            message = f"The alarm {alarm.name} sounds in iteration {alarm.iteration}: {alarm.message}"
            yield Event(type="Warning", reason="Alarm", message=_cut(message))


def _gates(view: View) -> Iterable[Event]:
    decided = {model.uri: model.gate for model in view.run.status.models}
    for model in view.status.models:
        if model.gate is not None and model.gate != decided.get(model.uri):
            why = f" {model.gate_message}" if model.gate_message else ""
            kind: Literal["Normal", "Warning"] = "Normal" if model.gate == "Promoted" else "Warning"
            yield Event(
                type=kind, reason=f"Gate{model.gate}", message=_cut(f"{model.name}: {model.gate}.{why}")
            )


def _cut(text: str, most: int = MAX_TEXT) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
