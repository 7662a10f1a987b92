"""Why an attempt failed, and when the next one starts (survival rule 6).

Must not: decide whether the run goes on; `checks` reads the counters that this module keeps.
Neighbours: `facts` records what is found here; `contract.program` has the other end, the exit codes and messages.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from selfrewarding.api.run import StageAttempts
from selfrewarding.contract.program import ExitCode
from selfrewarding.plan.observed import Phase, Pod
from selfrewarding.plan.times import stamp

STALLED_AFTER = 5
"""Failures of the infrastructure in a row without a new row or step."""
_FIRST_DELAY, LONGEST_DELAY = 10.0, 300.0
_FIRST_STORE_DELAY, _LONGEST_STORE_DELAY = 5.0, 50.0
"""Seconds; only CPU pods look whether the store is back, so they may look often. With jitter at most a minute."""
_GANG_DELAY, _GANG_AGE, _GANG_JITTER = 30.0, 120.0, 15.0
MAX_MESSAGE = 600
"""Characters of a failure's message that status keeps."""


class FailureClass(StrEnum):
    """What kind of failure ended an attempt."""

    BAD_CONFIGURATION = "BadConfiguration"
    BAD_DATA = "BadData"
    OUT_OF_MEMORY = "OutOfMemory"
    PARENT_MISSING = "ParentMissing"
    RETRY = "Retry"
    STORE_UNAVAILABLE = "StoreUnavailable"
    SERVER_KEY_REFUSED = "ServerKeyRefused"
    UNKNOWN = "Unknown"
    INFRASTRUCTURE = "Infrastructure"
    PEER_LOST = "PeerLost"
    NOT_STARTED = "NotStarted"
    """No failure of the attempt: its pods found no node, or could not start there, within `limits.gangTimeout`."""


PERMANENT = frozenset({FailureClass.BAD_CONFIGURATION, FailureClass.BAD_DATA, FailureClass.OUT_OF_MEMORY})
"""Trying again would fail again: the run waits for a change of its spec (but see `checks.data_refused`)."""
COUNTED = frozenset({FailureClass.RETRY, FailureClass.UNKNOWN})
"""These count against `limits.retries`."""

_NOT_WORTH_A_RESTART = PERMANENT | {FailureClass.PARENT_MISSING, FailureClass.STORE_UNAVAILABLE}
"""What a server's init container may say that ends its attempt at once: a pod that waits holds its GPUs."""

_BY_CODE = {
    ExitCode.BAD_CONFIGURATION: FailureClass.BAD_CONFIGURATION,
    ExitCode.BAD_DATA: FailureClass.BAD_DATA,
    ExitCode.PARENT_MISSING: FailureClass.PARENT_MISSING,
    ExitCode.RETRY: FailureClass.RETRY,
}
_SIGNALS = frozenset({137, 143})
"""128 + SIGKILL and 128 + SIGTERM: somebody outside ended the container."""
_NODE_REASONS = frozenset(
    {"Evicted", "NodeLost", "NodeShutdown", "Shutdown", "Terminated", "Preempting", "Preempted", "NodeAffinity",
     "UnexpectedAdmissionError", "DisruptionTarget", "PreemptionByScheduler", "DeletionByTaintManager",
     "EvictionByEvictionAPI", "DeletionByPodGC", "TerminationByKubelet", "ContainerStatusUnknown"}
)  # fmt: skip
"""Reasons in a pod's status that name a node or the scheduler, not the program."""
# The most telling failure of an attempt's pods decides: what a person must change, then what happened to the node (the
# other ranks then fail too, with errors that only say that a peer is gone), then what the programs say. What is wrong with
# the store goes before both: it outlives nodes and programs.
_PRECEDENCE = (
    FailureClass.BAD_CONFIGURATION,
    FailureClass.BAD_DATA,
    FailureClass.OUT_OF_MEMORY,
    FailureClass.PARENT_MISSING,
    FailureClass.STORE_UNAVAILABLE,
    FailureClass.SERVER_KEY_REFUSED,
    FailureClass.INFRASTRUCTURE,
    FailureClass.UNKNOWN,
    FailureClass.RETRY,
    FailureClass.PEER_LOST,
)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why an attempt ended."""

    kind: FailureClass
    message: str
    parent: str | None = None
    """ParentMissing: short key of the result that is gone, if the program said which."""


def classify(pods: Sequence[Pod], *, multi_pod: bool, said: str | None) -> Failure:
    """The failure of an attempt from its pods, and from what its Job says of it (`said`)."""
    found = [failure for pod in pods if (failure := _of_pod(pod, multi_pod=multi_pod)) is not None]
    if found:
        return min(found, key=lambda failure: _PRECEDENCE.index(failure.kind))
    return Failure(
        kind=FailureClass.INFRASTRUCTURE,
        message=said or "The attempt failed and none of its pods is left to say why.",
    )


def of_server(pods: Sequence[Pod]) -> Failure | None:
    """The failure of a pool's attempt: what its init container says, or three restarts without Ready (rule 7)."""
    told = [
        failure
        for pod in pods
        if pod.termination is not None and pod.termination.failure and (failure := _told(pod)) is not None
    ]
    final = [failure for failure in told if failure.kind in _NOT_WORTH_A_RESTART]
    if final:
        return min(final, key=lambda failure: _PRECEDENCE.index(failure.kind))
    killed = next(
        (pod for pod in pods if pod.reason == "OOMKilled" and pod.restarts >= 2 and not pod.ready), None
    )
    if killed is not None:
        return _out_of_memory(killed)  # the same model, the same memory: a third time is no better
    broken = next((pod for pod in pods if pod.restarts >= 3 and not pod.ready), None)
    if broken is None:
        return None
    if told:
        return told[0]
    code = "" if broken.exit_code is None else f" with exit code {broken.exit_code}"
    return Failure(
        kind=FailureClass.UNKNOWN,
        message=f'Server "{broken.name}" was restarted {broken.restarts} times without becoming ready; it last ended'
        f"{code}: see its log.",
    )


def after_failure(
    entry: StageAttempts, failure: Failure, *, done: int, now: datetime, uid: str, unit: str
) -> StageAttempts:
    """The entry of the next attempt. `done` is the rows or steps that are finished; `unit` names stage or pool.

    Delays double from 10 s to 5 minutes (for the store from 5 s to a minute), with a jitter that is the same for the same
    attempt, so that a pass that is repeated decides the same.
    """
    counted = failure.kind in COUNTED
    store = failure.kind is FailureClass.STORE_UNAVAILABLE
    failures = entry.failures + counted
    # The store's failures, those of people's data and those of nodes are counted apart: each is a row of its own.
    before = entry.infrastructure if _row(failure.kind) == _row(entry.failure) else 0
    infrastructure = before if counted else (0 if done > entry.progress else before) + 1
    repeated = failures if counted else infrastructure
    first, longest = (_FIRST_STORE_DELAY, _LONGEST_STORE_DELAY) if store else (_FIRST_DELAY, LONGEST_DELAY)
    delay = min(longest, first * 2.0 ** min(repeated - 1, 10))
    delay *= 0.75 + 0.5 * _fraction(uid, unit, str(entry.attempt))
    return entry.model_copy(
        update={
            "attempt": entry.attempt + 1,
            "failures": failures,
            "infrastructure": infrastructure,
            "progress": max(done, entry.progress),
            "failure": failure.kind.value,
            "last_failure": _cut(failure.message),
            "not_before": stamp(now + timedelta(seconds=min(delay, LONGEST_DELAY))),
        }
    )


def started_again(entry: StageAttempts, failure: Failure, now: datetime) -> StageAttempts:
    """The entry of a serving pool that is started again for no fault of its own; no delay."""
    return entry.model_copy(
        update={
            "attempt": entry.attempt + 1,
            "failure": failure.kind.value,
            "last_failure": _cut(failure.message),
            "not_before": stamp(now),
        }
    )


def after_gang_timeout(
    entry: StageAttempts, *, message: str, age: timedelta, now: datetime, uid: str, unit: str
) -> StageAttempts:
    """The entry of the same attempt, to be started later: no failure (survival rule 5).

    `age` is the run's: of two runs that hinder each other the older waits less and so goes first.
    """
    hours = max(0.0, age.total_seconds() / 3600)
    delay = _GANG_DELAY + _GANG_AGE / (1 + hours) + _GANG_JITTER * _fraction(uid, unit, stamp(now))
    return entry.model_copy(
        update={
            "failure": FailureClass.NOT_STARTED.value,
            "last_failure": _cut(message),
            "not_before": stamp(now + timedelta(seconds=delay)),
        }
    )


def forgiven(entry: StageAttempts) -> StageAttempts:
    """The entry after a person changed the spec: failures so far no longer count."""
    return entry.model_copy(
        update={"failures": 0, "infrastructure": 0, "failure": None, "last_failure": None, "not_before": None}
    )


def _row(kind: str | None) -> str | None:
    return kind if kind in (FailureClass.STORE_UNAVAILABLE, FailureClass.BAD_DATA) else None


def made_anew(entry: StageAttempts) -> StageAttempts:
    """As `forgiven`, with another child in place of one that never came to run."""
    return forgiven(entry).model_copy(update={"attempt": entry.attempt + 1})


def _of_pod(pod: Pod, *, multi_pod: bool) -> Failure | None:
    """What one pod says of the failure; None if it did not fail by itself."""
    if pod.phase is not Phase.FAILED and not (pod.termination and pod.termination.failure):
        return None
    if pod.reason == "OOMKilled":
        return _out_of_memory(pod)
    told = _told(pod)
    if told is not None:
        return told
    reason = pod.reason or ""
    if reason in _NODE_REASONS or reason.startswith("OutOf"):
        return Failure(
            kind=FailureClass.INFRASTRUCTURE, message=f'Pod "{pod.name}" ended by its node: {reason}.'
        )
    if pod.exit_code in _SIGNALS:
        if pod.deleting_since is not None and multi_pod:
            return None  # ended with the others once one had failed: says nothing of the cause
        return Failure(
            kind=FailureClass.INFRASTRUCTURE,
            message=f'Pod "{pod.name}" was ended from outside (exit code {pod.exit_code}).',
        )
    if pod.exit_code in _BY_CODE:
        kind = _BY_CODE[ExitCode(pod.exit_code)]
        return Failure(
            kind=kind, message=f'Pod "{pod.name}" ended with exit code {pod.exit_code} ({kind}): see its log.'
        )
    if multi_pod:
        return Failure(
            kind=FailureClass.INFRASTRUCTURE,
            message=f'Pod "{pod.name}" ended with exit code {pod.exit_code} and without a message.',
        )
    return Failure(
        kind=FailureClass.UNKNOWN,
        message=f'Pod "{pod.name}" ended with exit code {pod.exit_code} and without a message: see its log.',
    )


def _told(pod: Pod) -> Failure | None:
    """The failure in a pod's own termination message."""
    message = pod.termination
    if message is None or message.failure is None:
        return None
    known = {kind.value for kind in _PRECEDENCE}
    kind = FailureClass(message.failure) if message.failure in known else FailureClass.UNKNOWN
    text = message.message or f'Pod "{pod.name}" ended with {message.failure}.'
    return Failure(kind=kind, message=text, parent=message.parent)


def _out_of_memory(pod: Pod) -> Failure:
    return Failure(
        kind=FailureClass.OUT_OF_MEMORY,
        message=f'Pod "{pod.name}" ran out of memory (OOMKilled): raise the memory under training.resources, '
        "serving.resources or sampler.resources, or make the stage smaller (`srr plan` estimates it).",
    )


def _fraction(*parts: str) -> float:
    """A number in [0, 1) that depends on the texts alone."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _cut(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE - 1]}…"
