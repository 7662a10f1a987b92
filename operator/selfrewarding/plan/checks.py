"""The checks of a pass, in order: the first that has something to say decides (`first_verdict`).

Purpose: one small pure function per reason why a run does not simply go on. Must not: change status or name actions.
Neighbours: `pod_checks` has those that look at pods, `memory_checks` one about memory; `view` has the input, `verdict`
the output; `starts` turns it into actions, `report` into conditions.
"""

from collections.abc import Callable
from datetime import timedelta

from selfrewarding.api.run import StageAttempts
from selfrewarding.contract.stages import TRAINING, StageKind
from selfrewarding.plan import estimates
from selfrewarding.plan.accounting import gpu_seconds_so_far, gpus_now
from selfrewarding.plan.facts import is_unscheduled
from selfrewarding.plan.memory_checks import memory_too_small
from selfrewarding.plan.observed import Phase
from selfrewarding.plan.pod_checks import (
    WATCHING,
    cannot_start,
    handing_over,
    pods_not_made,
    server_starting,
    waits_for_nodes,
)
from selfrewarding.plan.retries import LONGEST_DELAY, PERMANENT, STALLED_AFTER, FailureClass
from selfrewarding.plan.times import moment_of
from selfrewarding.plan.units import step_units, title, units
from selfrewarding.plan.verdict import Mode, State, Verdict
from selfrewarding.plan.view import View

Check = Callable[[View], Verdict | None]

_PROGRESS_EVERY = 30.0
"""Seconds between two looks at a stage that runs, and two writes of its progress."""
_JITTERED = 0.9
"""Share of a wait that the loop's jitter leaves at least: who must not come early asks for that much more."""


def first_verdict(view: View) -> Verdict:
    """What the first check with something to say says."""
    for check in CHECKS:
        verdict = check(view)
        if verdict is not None:
            return verdict
    raise AssertionError("the last check always has something to say")


def suspended(view: View) -> Verdict | None:
    """A person wants the GPUs back (survival rule 9)."""
    if not view.spec.suspend:
        return None
    if view.live_pods or any(
        child.kind in ("Deployment", "Job", "PyTorchJob") for child in view.observed.children
    ):
        return Verdict(
            mode=Mode.CLEAR, state=State.SUSPENDING, reason="Suspending", look_again=WATCHING,
            message="spec.suspend is true: the run's pods are ending.", waiting_for="the run's pods to end",
        )  # fmt: skip
    return Verdict(
        mode=Mode.CLEAR, state=State.SUSPENDED, reason="Suspended",
        message="spec.suspend is true: no pod of the run lives. Set it to false to go on.",
    )  # fmt: skip


def reporting(view: View) -> Verdict | None:
    """Nothing is left but the report."""
    if not _is_over(view) or view.report is None:
        return None
    return Verdict(
        mode=Mode.HOLD, reason="Reporting", look_again=_PROGRESS_EVERY,
        message="Every stage is done; the report is being written.", waiting_for="the report",
    )  # fmt: skip


def _is_over(view: View) -> bool:
    """Whether nothing is left to compute: every stage is done, or a gate or an alarm has ended the run."""
    return view.is_certain and view.pending.stage is None and view.pending.held is None


def finished(view: View) -> Verdict | None:
    """Every stage is done and told of; or a gate or an alarm has ended the run, or its judge is no good."""
    pending = view.pending
    if not _is_over(view) or view.report is not None:
        return None
    if pending.uncalibrated is not None:
        return Verdict(
            mode=Mode.CLEAR, state=State.FAILED, reason="JudgeNotCalibrated", message=pending.uncalibrated
        )
    if pending.alarm is not None:
        return Verdict(
            mode=Mode.CLEAR, state=State.SUCCEEDED, reason="StoppedByAlarm",
            message=f"The alarm {pending.alarm.name} ended the run in iteration {pending.alarm.iteration}: "
            f"{pending.alarm.message}",
        )  # fmt: skip
    if pending.stopped is not None:
        return Verdict(
            mode=Mode.CLEAR, state=State.SUCCEEDED, reason="StoppedByGate",
            message=f"The gate ended the run after {pending.stopped.name}: {pending.stopped.gate_message}",
        )  # fmt: skip
    promoted = [
        model for model in view.status.models if model.gate != "RolledBack" and model.name != "Baseline"
    ]
    last = view.status.models[-1] if view.status.models else None
    told = f" {last.name}: {last.gate_message}" if last is not None and last.gate_message else ""
    return Verdict(
        mode=Mode.CLEAR, state=State.SUCCEEDED, reason="AllIterationsDone",
        message=f"The run made {promoted[-1].name if promoted else 'no model'}; `srr models` (in a cluster with --store) tells "
        f"where it is.{told}",
    )  # fmt: skip


def given_up(view: View) -> Verdict | None:
    """A failure that trying again cannot mend, too many failures, or too much time (survival rule 6)."""
    limits = view.spec.limits
    for name, unit in units(view):
        entry = view.entry(unit)
        if entry is None:
            continue
        if entry.failure in PERMANENT and not _is_looked_at_again(view, unit, entry):
            return _failed(
                entry.failure or "", f"{name} failed: {entry.last_failure} Change the spec to go on."
            )
        if entry.failures > limits.retries:
            return _failed(
                "RetriesExhausted",
                f"{name} failed {entry.failures} times, and limits.retries is {limits.retries}; last: "
                f"{entry.last_failure} Change the spec (limits.retries, for one) to go on.",
            )
        if unit not in view.wanted_holders and _is_overdue(view, entry):
            return _failed(
                "DeadlineExceeded",
                f"{name} took longer than limits.stageDeadlineSeconds ({limits.stage_deadline_seconds} s). Its "
                "finished rows and checkpoints are kept: raise the limit to go on.",
            )
    return None


def over_gpu_budget(view: View) -> Verdict | None:
    """`limits.maxGpuHours` is used up."""
    limit = view.spec.limits.max_gpu_hours
    if limit is None:
        return None
    left = limit * 3600 - gpu_seconds_so_far(view)
    if left > 0:
        return None
    return Verdict(
        mode=Mode.CLEAR, state=State.STALLED, reason="GPUBudgetUsed",
        message=f"The run has used limits.maxGpuHours ({limit:g}). Finished rows and checkpoints are kept: raise it to "
        "go on.",
        waiting_for="a higher limits.maxGpuHours",
    )  # fmt: skip


def held_by_gate(view: View) -> Verdict | None:
    """A model waits for a person before it is built upon."""
    held = view.pending.held
    if held is None or not view.prepared or view.unresolved:
        return None
    return Verdict(
        mode=Mode.HOLD, reason="HeldByGate", message=f"The gate holds {held.name}: {held.gate_message}",
        waiting_for=f"a person to look at {held.name} (the gate holds it)",
    )  # fmt: skip


def computed_elsewhere(view: View) -> Verdict | None:
    """Another run computes the same stage into the same store (survival rule 8)."""
    stage = view.step
    rival = view.rival_of(stage) if stage is not None else None
    if stage is None or rival is None or stage.kind in (StageKind.PREPARE, StageKind.RESOLVE):
        return None
    return Verdict(
        mode=Mode.HOLD, reason="ComputedByAnotherRun", look_again=30.0,
        message=f'Run "{rival.run}" computes {title(stage)} with the same settings; its result will be used.',
        waiting_for=f'run "{rival.run}", which computes the same {stage.kind}',
    )  # fmt: skip


def kind_missing(view: View) -> Verdict | None:
    """The cluster does not know PyTorchJobs, and the next stage is one."""
    stage = view.step
    if stage is None or stage.kind not in TRAINING or "PyTorchJob" not in view.observed.missing_kinds:
        return None
    return _no_pytorchjob(Mode.HOLD)


def kind_will_be_missing(view: View) -> Verdict | None:
    """The cluster does not know PyTorchJobs, and a later stage is one: people hear of it while Prepare still runs."""
    left = not view.prepared or any(stage.trains and not view.is_done(stage) for stage in view.graph.stages)
    if "PyTorchJob" not in view.observed.missing_kinds or not left:
        return None
    return _no_pytorchjob(Mode.GO)


def _no_pytorchjob(mode: Mode) -> Verdict:
    return Verdict(
        mode=mode, state=State.STALLED, reason="KindMissing", look_again=30.0,
        message="The cluster has no kind PyTorchJob (kubeflow.org/v1): install the Kubeflow training operator; the run "
        "goes on by itself then.",
        waiting_for="the kind PyTorchJob (Kubeflow training operator)",
    )  # fmt: skip


def over_token_budget(view: View) -> Verdict | None:
    """The stage that is next may generate more tokens than `limits.maxTokens` leaves."""
    stage, limit = view.step, view.spec.limits.max_tokens
    if limit is None or stage is None or stage.short in view.status.attempts:
        return None
    wanted = estimates.generated_tokens(stage, _prepared_counts(view))
    used = tokens_so_far(view)
    if wanted == 0 or used + wanted <= limit:
        return None
    return Verdict(
        mode=Mode.CLEAR, state=State.STALLED, reason="TokenBudgetTooSmall",
        message=f"{title(stage)} may generate {wanted:,} tokens after {used:,} so far, beyond limits.maxTokens "
        f"({limit:,}): raise it, or ask for fewer or shorter texts.",
        waiting_for="a higher limits.maxTokens",
    )  # fmt: skip


def store_unavailable(view: View) -> Verdict | None:
    """A bucket, a Secret or the way to them is wrong: that is mended outside of the run, so it is tried without end."""
    for name, unit in units(view):
        entry = view.entry(unit)
        if entry is None or entry.failure != FailureClass.STORE_UNAVAILABLE:
            continue
        # Once the store has been reached, a stage goes on as ever; Prepare and Resolve find that out.
        looks = view.step is not None and view.step.short == unit and not view.step.uses_accelerators
        if looks or view.waits(unit):
            return Verdict(
                state=State.STALLED, reason="StoreUnavailable", look_again=WATCHING,
                message=f"{name}: {entry.last_failure} It is tried again by itself, at least once a minute; no GPU is "
                "held meanwhile.",
                waiting_for=f"the store to be usable: {entry.last_failure}",
            )  # fmt: skip
    return None


def data_refused(view: View) -> Verdict | None:
    """Prepare found fault with files that people bring. Whoever mends them need not touch the run: Prepare takes no GPU, so
    it looks again, without end."""
    entry = view.entry(view.prepare.short)
    if entry is None or not _is_looked_at_again(view, view.prepare.short, entry):
        return None
    return Verdict(
        state=State.STALLED, reason="BadData", look_again=WATCHING,
        message=f"Prepare: {entry.last_failure} It is looked at again by itself, at least every "
        f"{LONGEST_DELAY // 60:.0f} minutes: mend it where it is, or change the spec.",
        waiting_for=f"the data to be mended: {entry.last_failure}",
    )  # fmt: skip


def infrastructure_fails(view: View) -> Verdict | None:
    """Nodes and pods failed again and again without a new row or step (survival rule 6)."""
    for name, unit in units(view):
        entry = view.entry(unit)
        if entry is None or entry.failure == FailureClass.STORE_UNAVAILABLE:
            continue
        if entry.infrastructure >= STALLED_AFTER:
            return Verdict(
                state=State.STALLED, reason="InfrastructureFails", look_again=WATCHING,
                message=f"{name} failed {STALLED_AFTER} times or more without a new row or step, for reasons outside "
                f"the program; it is tried further. Last: {entry.last_failure}",
                waiting_for="the cluster to keep its pods alive",
            )  # fmt: skip
    return None


def backing_off(view: View) -> Verdict | None:
    """The next attempt of a stage or serving pool is not due yet."""
    for name, unit in step_units(view):
        entry = view.entry(unit)
        if entry is not None and entry.not_before is not None and view.waits(unit):
            stalled = entry.failure == FailureClass.NOT_STARTED
            return Verdict(
                state=State.STALLED if stalled else State.PROGRESSING,
                reason="PodsNotStarted" if stalled else "BackingOff",
                message=f"{name} is tried again at {entry.not_before}. {entry.last_failure or ''}".rstrip(),
                waiting_for=f"the next attempt at {entry.not_before}",
            )  # fmt: skip
    return None


def progressing(view: View) -> Verdict:
    """Nothing is in the way."""
    stage = view.step or view.graph.prepare
    entry = view.entry(stage.short)
    # Until a pod of it runs, something may be in its way that only events tell, and nobody wakes the run for those.
    soon = entry is not None and all(
        pod.phase is Phase.PENDING for pod in view.pods_of(stage.short, entry.attempt)
    )
    return Verdict(
        reason="Progressing",
        message=f"{title(stage)} is under way.",
        look_again=WATCHING if soon else _PROGRESS_EVERY,
    )


CHECKS: tuple[Check, ...] = (
    finished,  # what is done stays done: there is nothing to suspend
    suspended,  # a person's wish goes before all else
    reporting,  # every stage is done: no limit of theirs counts any more
    given_up,  # nothing goes on before a person has changed something …
    over_gpu_budget,
    held_by_gate,  # … or has said that it may
    computed_elsewhere,  # what others are making is not made twice
    kind_missing,
    over_token_budget,
    memory_too_small,
    store_unavailable,
    data_refused,
    infrastructure_fails,  # from here on only words differ: the stage goes on
    cannot_start,
    pods_not_made,
    kind_will_be_missing,
    backing_off,
    waits_for_nodes,
    handing_over,
    server_starting,
    progressing,
)


def _is_looked_at_again(view: View, unit: str, entry: StageAttempts) -> bool:
    """Whether the data that a stage refused is people's own, who may mend it where it is. What later stages read, the run
    has made itself from what Prepare let through."""
    return unit == view.prepare.short and entry.failure == FailureClass.BAD_DATA


def tokens_so_far(view: View) -> int:
    """Tokens that the finished stages say they generated; those that do not say count with their estimate."""
    total = 0
    for stage in view.graph.stages:
        summary = view.status.results.get(stage.short)
        if summary is not None and stage.kind not in TRAINING:
            total += summary.counts.get(
                "outputTokens", estimates.generated_tokens(stage, _prepared_counts(view))
            )
    return total


def next_times(view: View) -> list[float]:
    """Seconds until something falls due by the clock alone: delays, deadlines, gang timeouts, lost pods, the budget."""
    due: list[float] = []
    for _, unit in units(view):
        entry = view.entry(unit)
        if entry is not None and entry.not_before is not None and view.waits(unit):
            due.append((moment_of(entry.not_before) - view.now).total_seconds())
        if (
            entry is not None
            and entry.started is not None
            and not view.spec.suspend
            and unit not in view.wanted_holders
        ):
            deadline = moment_of(entry.started) + timedelta(seconds=view.spec.limits.stage_deadline_seconds)
            due.append((deadline - view.now).total_seconds())
    gang = timedelta(seconds=view.spec.limits.gang_timeout_seconds)
    due += [
        (pod.created + gang - view.now).total_seconds() for pod in view.observed.pods if is_unscheduled(pod)
    ]
    due += [
        (pod.deleting_since + timedelta(seconds=60) - view.now).total_seconds()
        for pod in view.live_pods
        if pod.deleting_since is not None
    ]
    if view.spec.limits.max_gpu_hours is not None and (held := gpus_now(view)):
        due.append((view.spec.limits.max_gpu_hours * 3600 - gpu_seconds_so_far(view)) / held)
    shown = view.status.progress
    if shown is not None and shown.updated is not None and view.step is not None and not view.spec.suspend:
        written = (moment_of(shown.updated) - view.now).total_seconds()
        due.append((written + _PROGRESS_EVERY) / _JITTERED)
    return [seconds for seconds in due if seconds > 0]


def _is_overdue(view: View, entry: StageAttempts) -> bool:
    if entry.started is None:
        return False
    return view.now >= moment_of(entry.started) + timedelta(seconds=view.spec.limits.stage_deadline_seconds)


def _prepared_counts(view: View) -> dict[str, int]:
    return view.prepare_summary.counts if view.prepare_summary else {}


def _failed(reason: str, message: str) -> Verdict:
    return Verdict(mode=Mode.CLEAR, state=State.FAILED, reason=reason, message=message)
