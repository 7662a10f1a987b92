"""GPUs: how many the run holds now, how many GPU-seconds it has used, how long the last hand-over took.

Must not: decide anything. Neighbours: `checks` reads the budget's use, `report` writes the numbers to status.

Status holds the number of GPUs and since when; seconds are added up when that number changes, so no clock but `now` and
no write between changes is needed.
"""

from datetime import datetime, timedelta
from typing import Any

from selfrewarding.api.run import SelfRewardingRunStatus, StageAttempts
from selfrewarding.plan.observed import Phase
from selfrewarding.plan.times import seconds_since, stamp
from selfrewarding.plan.view import View

_WRITE_EVERY = 30.0
"""Seconds; while pods of one stage come and go, their GPUs are written at most this often."""


def gpus_now(view: View) -> int:
    """GPUs of the pods that have a node and live."""
    return sum(pod.gpus for pod in view.live_pods if pod.scheduled)


def gpu_seconds_so_far(view: View) -> float:
    """GPU-seconds that the run has used until now."""
    return _used(view.status, view.now)


def gpu_fields(view: View) -> dict[str, Any]:
    """The fields `gpus`, `gpuSeconds` and `gpusSince` of status, if they are to be written."""
    status, held = view.status, gpus_now(view)
    if status.gpus == held:
        return {}
    waits = status.gpus_since is not None and seconds_since(status.gpus_since, view.now) < _WRITE_EVERY
    if status.gpus and held and waits:
        return {}
    return {"gpus": held, "gpu_seconds": round(_used(status, view.now), 1), "gpus_since": _nearest(view.now)}


def handover_fields(view: View, before: SelfRewardingRunStatus) -> dict[str, Any]:
    """The fields `handoverSeconds` and `handoverSince`, and the stage's own share in `attempts`.

    A hand-over lasts from the end of a stage that served or trained until the next pool answers or the next training
    pods run; what runs on CPU in between is part of it, since no GPU computes meanwhile.
    """
    if before.handover_since is not None and _computes(view):
        took = round(seconds_since(before.handover_since, view.now), 1)
        return {"handover_seconds": took, "handover_since": None, "attempts": _noted(view, took)}
    if _just_ended(view, before):
        return {"handover_since": _nearest(view.now)}
    if before.handover_since is not None and view.pending.stage is None:
        return {"handover_since": None}
    return {}


def _noted(view: View, took: float) -> dict[str, StageAttempts]:
    """The attempts with the time that the hand-over to the stage under way took; its summary keeps it later."""
    attempts, stage = dict(view.status.attempts), view.pending.stage
    entry = attempts.get(stage.short) if stage is not None else None
    if stage is not None and entry is not None:
        attempts[stage.short] = entry.model_copy(update={"handover_seconds": took})
    return attempts


def _just_ended(view: View, before: SelfRewardingRunStatus) -> bool:
    """Whether a stage under way has just ended, and what comes next needs other pods on the GPUs."""
    ended = [
        stage
        for stage in view.graph.stages
        if stage.uses_accelerators
        and view.is_done(stage)
        and stage.short in before.attempts
        and stage.short not in before.results
    ]
    if not ended or view.pending.stage is None:
        return False
    held = {holder.name for stage in ended for holder in stage.holders.values()}
    return not view.wanted_holders or not set(view.wanted_holders) <= held


def _computes(view: View) -> bool:
    """Whether the next pool answers or the next training pods run."""
    stage = view.pending.stage
    if stage is None or not stage.uses_accelerators:
        return False
    if stage.trains:
        entry = view.entry(stage.short)
        pods = view.pods_of(stage.short, entry.attempt) if entry else ()
        return any(pod.phase is Phase.RUNNING for pod in pods)
    deployments = [view.deployment_of(holder) for holder in stage.holders.values()]
    return all(deployment is not None and deployment.ready_replicas > 0 for deployment in deployments)


def _nearest(moment: datetime) -> str:
    """A time in status, rounded: cut off, each number that is measured from it would be half a second too large."""
    return stamp(moment + timedelta(seconds=0.5))


def _used(status: SelfRewardingRunStatus, now: datetime) -> float:
    before = status.gpu_seconds or 0.0
    if not status.gpus or status.gpus_since is None:
        return before
    return before + status.gpus * seconds_since(status.gpus_since, now)
