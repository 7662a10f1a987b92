"""The last steps of a run that is being deleted: what must happen before its finalizer may go.

With `retention.onDelete: Keep` nothing: what the run owns goes with it. With `Delete` its pods end first, so that nobody
writes any more; then a Job clears its artifacts away, three times at most; then the run goes, whatever came of that.

Pure, as `decide`, and without memory: the attempts are the Jobs that are there. Neighbours: `manifests.retirement` makes
the Job, `controller.retire` carries out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from selfrewarding.api.run import SelfRewardingRun
from selfrewarding.plan.actions import Delete, Event, StartRetirement
from selfrewarding.plan.observed import Child, Observed, Phase, Pod
from selfrewarding.plan.times import moment_of
from selfrewarding.plan.view import GONE_AFTER
from selfrewarding.plan.waiting import why_not_started

KEY = "retire"
"""Label KEY of the Job and its pods: no stage has such a key."""
STAGE = "Retire"
"""Label STAGE of the Job and its pods."""
ATTEMPTS = 3
NOT_BEFORE = (timedelta(0), timedelta(seconds=60), timedelta(seconds=300))
"""When each attempt may start, from the deletion on: a store that is away for a minute is no reason to leave it all."""
START_SECONDS = 120
"""Time in which an attempt's pod must have started: a Secret that went with the run's namespace never comes back."""
RUN_SECONDS = 1800
"""Longest time of an attempt (`activeDeadlineSeconds`)."""
OTHERS_SECONDS = 600
"""Time from the deletion on in which the run's pods and what makes them must have gone: somebody else's finalizer on one
of them is no reason to keep the run for ever."""
_AGAIN = 5.0
_WORKLOADS = frozenset({"Deployment", "Job", "PyTorchJob"})


@dataclass(frozen=True, kw_only=True)
class Retirement:
    """What one pass over a run that is being deleted decided."""

    done: bool = False
    """The finalizer may go once the actions have been carried out."""
    actions: tuple[StartRetirement | Delete, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float = _AGAIN


def decide_retirement(run: SelfRewardingRun, observed: Observed, now: datetime) -> Retirement:
    """The next step of a run with a deletionTimestamp."""
    since = run.metadata.deletion_timestamp
    if run.spec.retention.on_delete == "Keep" or since is None:
        return Retirement(done=True)
    jobs = sorted((one for one in observed.children if one.key == KEY), key=lambda job: job.attempt)
    others = [one for one in observed.children if one.key != KEY and one.kind in _WORKLOADS]
    left = [pod.name for pod in observed.pods if pod.key != KEY and _lives(pod, now)]
    if others or left:
        if now < moment_of(since) + timedelta(seconds=OTHERS_SECONDS):
            return Retirement(actions=tuple(_deletions(others)))
        # Who may still write must not meet who deletes.
        named = ", ".join([*(f"{one.kind} {one.name}" for one in others), *left][:3])
        return _over(jobs, kept(run, f"{named} did not go within {OTHERS_SECONDS} s"))
    if not jobs:
        if not run.status.attempts and not run.status.results:
            return Retirement(done=True)  # nothing was ever started, so nothing was written
        return Retirement(actions=(StartRetirement(attempt=1),))
    last = jobs[-1]
    pods = [pod for pod in observed.pods if pod.key == KEY and pod.attempt == last.attempt]
    if last.phase is Phase.SUCCEEDED:
        told = next((pod.termination.message for pod in pods if pod.termination), None)
        message = f"The run's artifacts are deleted: {told or 'see the log of the Job'}."
        return _over(jobs, Event(type="Normal", reason="ArtifactsDeleted", message=message))
    failure = _failure(last, pods, now)
    if failure is None:
        return Retirement(requeue_after=30.0)
    if last.attempt >= ATTEMPTS:
        return _over(
            jobs, kept(run, f"{last.attempt} attempts to delete them failed, the last one: {failure}")
        )
    wait = (moment_of(since) + NOT_BEFORE[last.attempt] - now).total_seconds()
    if wait > 0:
        return Retirement(requeue_after=wait)
    # The next one first: the number of attempts is read from the Jobs that are there.
    return Retirement(actions=(StartRetirement(attempt=last.attempt + 1), *_deletions(jobs)))


def kept(run: SelfRewardingRun, why: str) -> Event:
    """The run goes and its artifacts stay, though they were to go."""
    place = f"{run.metadata.namespace}/{run.metadata.name}/{run.metadata.uid}"
    return Event(
        type="Warning",
        reason="ArtifactsKept",
        message=f"The run is deleted and its artifacts are still at {run.spec.artifacts.uri} (runs/{place} lists "
        f"them): {why}. Delete them by hand.",
    )


def _over(jobs: list[Child], event: Event) -> Retirement:
    return Retirement(done=True, actions=tuple(_deletions(jobs)), events=(event,))


def _failure(job: Child, pods: list[Pod], now: datetime) -> str | None:
    """Why an attempt came to nothing; None while it is under way."""
    if job.phase is Phase.FAILED:
        told = next((pod.termination.message for pod in pods if pod.termination), None)
        return told or job.message or "the Job failed: see its log"
    started = any(pod.phase is not Phase.PENDING for pod in pods)
    if started or now < job.created + timedelta(seconds=START_SECONDS):
        return None
    stuck = next((found for pod in pods if (found := why_not_started(pod)) is not None), None)
    return f"its pod did not start in {START_SECONDS} s: {stuck or job.message or 'no reason given'}"


def _deletions(children: list[Child]) -> Iterator[Delete]:
    for child in children:
        if not child.deleting:
            yield Delete(kind=child.kind, name=child.name, uid=child.uid)


def _lives(pod: Pod, now: datetime) -> bool:
    if pod.phase in (Phase.SUCCEEDED, Phase.FAILED):
        return False
    return pod.deleting_since is None or now < pod.deleting_since + GONE_AFTER
