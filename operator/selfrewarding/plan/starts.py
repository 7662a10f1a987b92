"""What a pass deletes, starts and scales, from durable facts alone.

Must not: look at anything that status does not say yet; `decide` calls this only when this pass found no new facts.
Neighbours: `holders` says what is in the way; the controller carries the actions out.
"""

from collections.abc import Iterator

from selfrewarding.plan.actions import Action, Delete, ScaleHolder, StartHolder, StartStage
from selfrewarding.plan.holders import SHARED_BY_ATTEMPTS, blocking, lacks_parts, missing_holders, ready
from selfrewarding.plan.observed import Child, Phase
from selfrewarding.plan.verdict import Mode, State, Verdict
from selfrewarding.plan.view import JOB_KINDS, View, unit_of


def actions(view: View, verdict: Verdict) -> tuple[Action, ...]:
    """Deletions first, then the serving pools' sizes, then what may start."""
    found: list[Action] = list(_deletions(view, verdict))
    found += _scalings(view, verdict)
    if verdict.mode is Mode.GO:
        found += _starts(view)
    if verdict.mode is not Mode.CLEAR:
        found += _report_start(view)
    return tuple(found)


def _deletions(view: View, verdict: Verdict) -> Iterator[Action]:
    for child in view.observed.children:
        keep = _explains(view, child, verdict) if verdict.mode is Mode.CLEAR else _is_needed(view, child)
        if not keep and not child.deleting:
            yield Delete(kind=child.kind, name=child.name, uid=child.uid)


def _is_needed(view: View, child: Child) -> bool:
    """Whether a child belongs to the current attempt of something under way that is not waiting for its next try."""
    unit, entry = unit_of(child), view.entry(unit_of(child))
    if child.holder is not None and unit in view.wanted_holders and child.kind in SHARED_BY_ATTEMPTS:
        return True
    known = (
        unit in view.wanted_holders
        if child.holder is not None
        else any(unit == one.short for one in view.living)
    )
    return known and entry is not None and entry.attempt == child.attempt and not view.waits(unit)


def _explains(view: View, child: Child, verdict: Verdict) -> bool:
    """Whether a failed Job stays, so that its log can be read until a person has changed the spec."""
    if verdict.state is not State.FAILED or child.kind not in JOB_KINDS or child.phase is not Phase.FAILED:
        return False
    entry = view.entry(child.key)
    if entry is None or child.attempt != entry.attempt - 1:
        return False
    return not any(view.is_live(pod) for pod in view.pods_of(child.key, child.attempt))


def _scalings(view: View, verdict: Verdict) -> Iterator[Action]:
    """Replicas are the one thing that changes in a Deployment; where nothing may start they are 0 (rules 2 and 7)."""
    if verdict.mode is Mode.CLEAR:
        return
    for holder in view.wanted_holders.values():
        deployment = view.deployment_of(holder)
        replicas = 0 if verdict.mode is Mode.HOLD else holder.spec.replicas
        if deployment is not None and not view.waits(holder.name) and deployment.replicas != replicas:
            yield ScaleHolder(name=deployment.name, replicas=replicas)


def _starts(view: View) -> Iterator[Action]:
    stage = view.step
    entry = view.entry(stage.short) if stage is not None else None
    if stage is None or entry is None:
        return
    missing = missing_holders(view, stage)
    if missing:
        if blocking(view, stage):
            return
        for holder in missing:
            pool = view.entry(holder.name)
            if pool is not None and not view.waits(holder.name):
                yield StartHolder(holder=holder, iteration=stage.iteration, attempt=pool.attempt)
        return
    for holder in stage.holders.values():
        pool = view.entry(holder.name)
        if pool is not None and lacks_parts(view, holder):
            yield StartHolder(holder=holder, iteration=stage.iteration, attempt=pool.attempt)
    if view.waits(stage.short) or not all(ready(view, holder) for holder in stage.holders.values()):
        return
    # An older attempt, or this one deleted by somebody else, must be gone: no two attempts of a stage live at once.
    if any(view.jobs(stage.short)) or any(view.is_live(pod) for pod in view.pods_of(stage.short)):
        return
    if stage.trains and blocking(view, stage):
        return
    yield StartStage(stage=stage, attempt=entry.attempt)


def _report_start(view: View) -> Iterator[Action]:
    """The report asks no server and needs no GPU: it starts whatever else is under way."""
    stage = view.report
    entry = view.entry(stage.short) if stage is not None else None
    if stage is None or entry is None or view.waits(stage.short) or not view.is_certain:
        return
    if not any(view.jobs(stage.short)) and not any(view.is_live(pod) for pod in view.pods_of(stage.short)):
        yield StartStage(stage=stage, attempt=entry.attempt)
