"""The facts of a pass: what it saw that status does not say yet (survival rule 1: facts first).

Purpose: results, failures, attempt numbers and gates go to status before anything follows from them.
Must not: decide what to do. Neighbours: `decide` writes status alone when this module changed it; `checks` come after.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from selfrewarding.api.presets import latest
from selfrewarding.api.run import (
    Pinned,
    SelfRewardingRun,
    SelfRewardingRunSpec,
    StageAttempts,
    StageSummary,
)
from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.keys import short
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.alarms import record_alarms
from selfrewarding.plan.models import record_models
from selfrewarding.plan.observed import Child, Observed, Phase, Pod
from selfrewarding.plan.retries import (
    Failure,
    FailureClass,
    after_failure,
    after_gang_timeout,
    classify,
    forgiven,
    made_anew,
    of_server,
    started_again,
)
from selfrewarding.plan.stage import Holder, Stage
from selfrewarding.plan.times import moment_of, stamp
from selfrewarding.plan.verdict import Mode
from selfrewarding.plan.view import JOB_KINDS, View, holds_accelerators, unit_of
from selfrewarding.plan.waiting import CANNOT_START, why_not_started

_LASTING_COUNTS = frozenset({"outputTokens", "pairs"})
"""Counts that a summary keeps when its iteration is over: budgets add tokens up, calibration asks for pairs."""


def gather_facts(
    run: SelfRewardingRun, spec: SelfRewardingRunSpec, observed: Observed, now: datetime
) -> View:
    """What is known after this look; `status` of the view holds every fact that it added."""
    view = View(run=run, spec=spec, observed=observed, now=now, status=run.status)
    view = _pin_versions(view)
    view = _keep_clock(view)
    view = _record_results(view)
    if not spec.suspend:  # what we end ourselves is no failure
        view = _record_failures(view)
    view = _heed_edit(view)
    view = record_models(view)
    view = record_alarms(view)
    view = _forget_the_past(view)
    view = _ask_again_after_rival(view)
    if not spec.suspend:
        view = _record_gang_timeout(view)
    return view


def open_attempts(view: View, mode: Mode) -> View:
    """The view with entries for the stage that starts now, for the serving pools that it asks, and for the report."""
    stage = view.step if mode is Mode.GO else None
    units = [] if stage is None else [stage.short, *(holder.name for holder in stage.holders.values())]
    units += [] if view.report is None or mode is Mode.CLEAR else [view.report.short]
    attempts = dict(view.status.attempts)
    for unit in units:
        if unit not in attempts:
            attempts[unit] = StageAttempts(attempt=_unused_attempt(view, unit), started=stamp(view.now))
    return view if attempts == view.status.attempts else view.having(attempts=attempts)


def _unused_attempt(view: View, unit: str) -> int:
    """A number above those of all children and pods that are still there: none of them is taken for the new one."""
    things: tuple[Child | Pod, ...] = (*view.observed.children, *view.observed.pods)
    return 1 + max((thing.attempt for thing in things if unit_of(thing) == unit), default=0)


def _pin_versions(view: View) -> View:
    """The first pass fixes the versions of preset and contract, so that a release changes nothing under way."""
    if view.status.pinned is not None:
        return view
    preset = view.run.spec.preset
    pinned = Pinned(preset=latest(preset) if preset else None, contract=CONTRACT_VERSION)
    return view.having(pinned=pinned)


def _heed_edit(view: View) -> View:
    """A person changed the spec: failures so far no longer count, since how a stage is run may be the remedy. What has
    not come to run is made anew: objects are never changed, and it may be the old image or account that holds it up.
    A run that is suspended loses all objects, and gets new ones in the same attempts (survival rule 9).

    After this pass's failures are recorded: they, too, are those of attempts that knew the old spec."""
    seen, generation = view.status.observed_generation, view.run.metadata.generation
    if seen is None or seen == generation:
        return view
    attempts = {
        unit: made_anew(entry) if not view.spec.suspend and _is_stuck(view, unit, entry) else forgiven(entry)
        for unit, entry in view.status.attempts.items()
    }
    return view if attempts == view.status.attempts else view.having(attempts=attempts)


def _is_stuck(view: View, unit: str, entry: StageAttempts) -> bool:
    """Whether an attempt has a child, and no pod of it has come to run, or is about to."""
    workloads = JOB_KINDS | {"Deployment"}
    made = any(
        unit_of(child) == unit and child.attempt == entry.attempt and child.phase is Phase.PENDING
        for child in view.observed.children
        if child.kind in workloads and not child.deleting
    )
    pods = view.pods_of(unit, entry.attempt)
    return made and all(is_unscheduled(pod) or cannot_start(pod) for pod in pods)


def _keep_clock(view: View) -> View:
    """Suspension stops the clocks of stages: its length is taken off when it ends (survival rule 9)."""
    since = view.status.suspended_at
    if view.spec.suspend:
        return view if since is not None else view.having(suspended_at=stamp(view.now))
    if since is None:
        return view
    pause = view.now - moment_of(since)
    attempts = {
        unit: entry.model_copy(update={"started": stamp(moment_of(entry.started) + pause)})
        if entry.started
        else entry
        for unit, entry in view.status.attempts.items()
    }
    # A stage may have finished in its last moment: the store knows, and asking it costs no GPU.
    resolved = [key for key in view.status.resolved if key not in attempts]
    return view.having(suspended_at=None, attempts=attempts, resolved=resolved)


def _record_results(view: View) -> View:
    """Summaries from the termination messages of successful pods of attempts that are open."""
    results, resolved = dict(view.status.results), list(view.status.resolved)
    attempts = dict(view.status.attempts)
    wanted = {stage.short for stage in (*view.graph.stages, *view.living)} | {view.prepare.short}
    resolve = view.step if view.step is not None and view.step.kind is StageKind.RESOLVE else None
    for pod in _successful(view.observed.pods):
        entry = attempts.get(pod.key)
        if pod.termination is None or entry is None or entry.attempt != pod.attempt:
            continue  # not one of ours, or recorded before
        done = {key: summary for key, summary in pod.termination.done.items() if key in wanted}
        if resolve is not None and pod.key == resolve.short:
            missing = [key for key in pod.termination.missing if key in wanted and key not in done]
            if not done and not missing:
                continue  # it says nothing of what it was asked: a failure
            if view.answers_are_old:
                resolved = []
            resolved += [key for key in missing if key not in resolved]
        elif pod.key not in done:
            continue
        if entry.handover_seconds is not None and pod.key in done:
            done[pod.key] = done[pod.key].model_copy(update={"handover_seconds": entry.handover_seconds})
        results |= done
        del attempts[pod.key]
    if (results, resolved, attempts) == (view.status.results, view.status.resolved, view.status.attempts):
        return view
    attempts = {unit: entry for unit, entry in attempts.items() if unit not in results}
    resolved = [key for key in resolved if key not in results]
    return view.having(results=results, resolved=resolved, attempts=attempts)


def _successful(pods: Iterable[Pod]) -> Iterable[Pod]:
    """Pods that ended well. One that is being deleted tells nothing: its stage starts again and finds its result."""
    return (
        pod
        for pod in pods
        if pod.holder is None and pod.phase is Phase.SUCCEEDED and pod.deleting_since is None
    )


def _record_failures(view: View) -> View:
    """Failed attempts of the stages and serving pools under way."""
    for stage in view.living:
        view = _record_stage_failure(view, stage)
    for holder in view.wanted_holders.values():
        entry, deployment = view.entry(holder.name), view.deployment_of(holder)
        if entry is None or deployment is None or deployment.ready_replicas > 0:
            continue
        failure = of_server(view.pods_of(holder.name, entry.attempt))
        if failure is not None:
            view = _after(view, holder.name, entry, failure, done=0)
            if failure.kind is FailureClass.PARENT_MISSING and holder.model.stage is not None:
                view = _drop_results(view, [failure.parent or holder.model.stage.short])
            if failure.kind is FailureClass.STORE_UNAVAILABLE:
                view = _ask_the_store_first(view)
    return view


def _record_stage_failure(view: View, stage: Stage) -> View:
    entry, job = view.entry(stage.short), view.job_of(stage)
    if entry is None or job is None or job.deleting or view.is_done(stage):
        return view
    pods = view.pods_of(stage.short, entry.attempt)
    if job.phase not in (Phase.SUCCEEDED, Phase.FAILED):
        return view
    if any(view.is_live(pod) for pod in pods) and not any(pod.phase is Phase.FAILED for pod in pods):
        return view  # the end of the pods, and so the reason, has not been seen yet
    done = max(sum(pod.progress.done for pod in pods if pod.progress), _last_known(view, stage))
    if job.phase is Phase.SUCCEEDED:
        # The last shard need not be the one that commits, and a message can be lost: Resolve asks the store.
        failure = Failure(
            kind=FailureClass.INFRASTRUCTURE,
            message=f"{stage.kind} ended well but its result was not told; the store is asked for it.",
        )
        if stage.kind is StageKind.RESOLVE:
            failure = Failure(
                kind=FailureClass.UNKNOWN, message="Resolve ended without an answer: see its log."
            )
        return _drop_results(_after(view, stage.short, entry, failure, done=done), [stage.short])
    failure = classify(pods, multi_pod=_pod_count(view, stage) > 1, said=job.message)
    view = _after(view, stage.short, entry, failure, done=done)
    if stage.kind is StageKind.REPORT:
        return view  # nothing is computed again, or asked for, for the sake of a page
    if failure.kind is FailureClass.PARENT_MISSING:
        parents = [parent.short for parent in stage.parents.values()]
        known = failure.parent is not None and view.graph.find(short(failure.parent)) is not None
        view = _drop_results(view, [short(failure.parent or "")] if known else parents)
    if failure.kind is FailureClass.STORE_UNAVAILABLE:
        view = _ask_the_store_first(view)
        if stage.kind in (StageKind.PREPARE, StageKind.RESOLVE):
            # It is away for longer: servers that nobody can ask give their GPUs back.
            view = _restart_servers(view, view.wanted_holders.values(), failure)
    if failure.kind is FailureClass.SERVER_KEY_REFUSED:
        view = _restart_servers(view, stage.holders.values(), failure)
    return view


def _ask_the_store_first(view: View) -> View:
    """The store failed somebody: Resolve, which needs no GPU, finds out when it can be used again."""
    stage = view.pending.stage
    if stage is None or not stage.uses_accelerators:
        return view
    return _drop_results(view, [stage.short])


def _restart_servers(view: View, holders: Iterable[Holder], failure: Failure) -> View:
    """Servers that are there are deleted, and come again as a new attempt when a stage asks them."""
    attempts = dict(view.status.attempts)
    for holder in holders:
        entry = view.entry(holder.name)
        if entry is not None and view.deployment_of(holder) is not None:
            attempts[holder.name] = started_again(entry, failure, view.now)
    return view.having(attempts=attempts)


def _last_known(view: View, stage: Stage) -> int:
    """Rows or steps that status shows for the stage."""
    shown = view.status.stage == stage.kind and view.status.iteration == stage.iteration
    return view.status.progress.done if shown and view.status.progress else 0


def _pod_count(view: View, stage: Stage) -> int:
    return view.spec.training.nodes if stage.trains else stage.shards


def _after(view: View, unit: str, entry: StageAttempts, failure: Failure, *, done: int) -> View:
    following = after_failure(entry, failure, done=done, now=view.now, uid=view.uid, unit=unit)
    return view.having(attempts=dict(view.status.attempts) | {unit: following})


def _drop_results(view: View, keys: Iterable[str]) -> View:
    """The store must be asked for these again: they are neither done nor known to be missing."""
    gone = set(keys)
    return view.having(
        results={key: summary for key, summary in view.status.results.items() if key not in gone},
        resolved=[key for key in view.status.resolved if key not in gone],
    )


def _record_gang_timeout(view: View) -> View:
    """Not all pods of a stage and its pools found a node in time: all go, and try later (survival rule 5).

    Likewise where pods that hold GPUs cannot start on theirs, or were never made beside others that wait for them.
    """
    for stage in view.living:
        units = [stage.short, *(holder.name for holder in stage.holders.values())]
        message = _late(view, stage, units)
        if message is None:
            continue
        attempts = dict(view.status.attempts)
        for unit in units:
            if unit in attempts:
                attempts[unit] = after_gang_timeout(
                    attempts[unit],
                    message=message,
                    age=_age(view),
                    now=view.now,
                    uid=view.uid,
                    unit=stage.short,
                )
        view = view.having(attempts=attempts)
    return view


def _late(view: View, stage: Stage, units: list[str]) -> str | None:
    """What of a stage or its pools has not come to run in time."""
    seconds = view.spec.limits.gang_timeout_seconds
    limit = timedelta(seconds=seconds)
    current = [
        pod
        for unit in units
        if (entry := view.entry(unit)) is not None and not view.waits(unit)
        for pod in view.pods_of(unit, entry.attempt)
        if view.now >= pod.created + limit
    ]
    for pod in current:
        if is_unscheduled(pod):
            return f'Pod "{pod.name}" found no node within {seconds} s: ' + (
                pod.scheduling_message or "no reason given"
            )
        if holds_accelerators(pod) and cannot_start(pod):
            return f'Pod "{pod.name}" could not start within {seconds} s: ' + (why_not_started(pod) or "")
    job = view.job_of(stage)
    if not stage.trains or job is None or job.phase in (Phase.SUCCEEDED, Phase.FAILED):
        return None
    pods = view.pods_of(stage.short, job.attempt)
    wanted = _pod_count(view, stage)
    quiet = all(pod.phase in (Phase.PENDING, Phase.RUNNING) and pod.progress is None for pod in pods)
    if 0 < len(pods) < wanted and quiet and view.now >= job.created + limit and not view.waits(stage.short):
        why = job.message or "no reason given"
        return f"{stage.kind} has {len(pods)} of its {wanted} pods after {seconds} s: {why}"
    return None


def cannot_start(pod: Pod) -> bool:
    """Whether a pod waits on its node for something that somebody must mend."""
    return pod.waiting_reason in CANNOT_START and pod.deleting_since is None


def is_unscheduled(pod: Pod) -> bool:
    """Whether a pod waits for a node."""
    return pod.phase is Phase.PENDING and not pod.scheduled and pod.deleting_since is None


def _age(view: View) -> timedelta:
    created = (view.run.metadata.model_extra or {}).get("creationTimestamp")
    return view.now - moment_of(created) if isinstance(created, str) else timedelta(0)


def _ask_again_after_rival(view: View) -> View:
    """While another run computes the stage that is next, forget that the store lacked it: Resolve looks after it."""
    stage = view.pending.stage
    if stage is None or stage.short not in view.status.resolved or view.rival_of(stage) is None:
        return view
    return view.having(resolved=[key for key in view.status.resolved if key != stage.short])


def _forget_the_past(view: View) -> View:
    """Status keeps what the current keys need. Until Prepare of an edited spec is done, all stays."""
    if not view.prepared:
        return view
    current = {stage.short: stage for stage in view.graph.stages}
    if view.reported is not None:
        current[view.reported.short] = view.reported
    at = view.pending.iteration or len(view.graph.iterations)
    results = {
        key: _as_short_as_needed(summary, over=0 < current[key].iteration < at)
        for key, summary in view.status.results.items()
        if key in current
    }
    resolved = [key for key in view.status.resolved if key in current and key not in results]
    step = {view.step.short} if view.step else set()
    units = step | set(view.wanted_holders) | {key for key in current if key not in results}
    attempts = {unit: entry for unit, entry in view.status.attempts.items() if unit in units}
    facts = {"results": results, "resolved": resolved, "attempts": attempts}
    same = all(getattr(view.status, name) == value for name, value in facts.items())
    return view if same else view.having(**facts)


def _as_short_as_needed(summary: StageSummary, *, over: bool) -> StageSummary:
    """The summary of an iteration that is over: its metrics stand in `models`, the whole of it with the artifacts."""
    if not over:
        return summary
    counts = {name: value for name, value in summary.counts.items() if name in _LASTING_COUNTS}
    return summary.model_copy(update={"counts": counts, "metrics": {}, "seconds": None})
