"""Failure classes, and when the next attempt starts."""

from datetime import timedelta
from typing import Any

import pytest
from tests.support.builders import NOW, make_pod, make_spec

from selfrewarding.api.run import StageAttempts
from selfrewarding.contract.result import TerminationMessage
from selfrewarding.plan.graph import outline
from selfrewarding.plan.observed import Phase, Pod
from selfrewarding.plan.retries import (
    Failure,
    FailureClass,
    after_failure,
    after_gang_timeout,
    classify,
    of_server,
)
from selfrewarding.plan.times import moment_of

STAGE = list(outline(make_spec(), contract=1).stages)[1]
HOLDER = list(outline(make_spec(), contract=1).stages)[2].holders["policy"]


def said(failure: str, message: str = "why", parent: str | None = None) -> TerminationMessage:
    return TerminationMessage(failure=failure, message=message, parent=parent)


def failed(**fields: Any) -> Pod:
    return make_pod(STAGE, **({"phase": Phase.FAILED, "exit_code": 1} | fields))


ENDED_WITH_OTHERS = failed(exit_code=143, deleting_since=NOW, index=1)


@pytest.mark.parametrize(
    ("pods", "multi_pod", "expected"),
    [
        pytest.param([failed(termination=said("BadData"))], False, "BadData", id="the program says bad data"),
        pytest.param([failed(termination=said("Retry"))], True, "Retry", id="the program says try again"),
        pytest.param([failed(termination=said("Strange"))], False, "Unknown", id="a class that nobody knows"),
        pytest.param([failed(exit_code=2)], False, "BadConfiguration", id="the exit code alone says it"),
        pytest.param([failed(exit_code=3)], True, "BadData", id="also of several pods"),
        pytest.param([failed(exit_code=75)], False, "Retry", id="75 means try again"),
        pytest.param([failed(exit_code=1)], False, "Unknown", id="a crash of a single pod"),
        pytest.param([failed(exit_code=1)], True, "Infrastructure", id="several pods and no message"),
        pytest.param([failed(exit_code=137)], False, "Infrastructure", id="killed, but not for memory"),
        pytest.param([failed(exit_code=143)], False, "Infrastructure", id="ended from outside"),
        pytest.param([failed(exit_code=137, reason="OOMKilled")], False, "OutOfMemory", id="out of memory"),
        pytest.param([failed(exit_code=None, reason="Evicted")], False, "Infrastructure", id="evicted"),
        pytest.param([failed(exit_code=None, reason="OutOfcpu")], False, "Infrastructure", id="refused by its node"),
        pytest.param([failed(termination=said("PeerLost"))], True, "PeerLost", id="a collective's time-out"),
        pytest.param(
            [failed(termination=said("PeerLost")), failed(termination=said("Unknown"), index=1)], True, "Unknown",
            id="a program's own error explains why its peers lost it",
        ),
        pytest.param(
            [failed(termination=said("PeerLost")), failed(exit_code=None, reason="NodeLost", index=1)], True,
            "Infrastructure", id="a lost node explains it too",
        ),
        pytest.param(
            [failed(termination=said("PeerLost")), failed(exit_code=137, reason="OOMKilled", index=1)], True,
            "OutOfMemory", id="and so does a rank that ran out of memory",
        ),
        pytest.param(
            [failed(termination=said("StoreUnavailable")), failed(exit_code=None, reason="Evicted", index=1)], True,
            "StoreUnavailable", id="the store outlives a node",
        ),
        pytest.param([], True, "Infrastructure", id="no pod is left"),
        pytest.param([ENDED_WITH_OTHERS], True, "Infrastructure", id="only a pod that was ended with the others"),
        pytest.param(
            [ENDED_WITH_OTHERS, failed(termination=said("Unknown"))], True, "Unknown",
            id="the pod that failed first tells, not those ended after it",
        ),
        pytest.param(
            [failed(termination=said("Unknown", "peer gone")), failed(exit_code=None, reason="Evicted", index=1)], True,
            "Infrastructure", id="a lost node explains why its peers fail",
        ),
        pytest.param(
            [failed(exit_code=137, reason="OOMKilled"), failed(termination=said("BadConfiguration"), index=1)], True,
            "BadConfiguration", id="what a person must change goes first",
        ),
    ],
)  # fmt: skip
def test_survival_rule_06_failures_are_classified_by_the_most_telling_pod(
    pods: list[Pod], multi_pod: bool, expected: str
) -> None:
    assert classify(pods, multi_pod=multi_pod, said=None).kind == expected


def test_a_missing_parent_is_named() -> None:
    failure = classify(
        [failed(termination=said("ParentMissing", parent="a" * 16))], multi_pod=False, said=None
    )
    assert (failure.kind, failure.parent) == (FailureClass.PARENT_MISSING, "a" * 16)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"restarts": 2, "ready": False}, None, id="two restarts are patience"),
        pytest.param({"restarts": 3, "ready": True}, None, id="ready again"),
        pytest.param({"restarts": 3, "ready": False}, "Unknown", id="three restarts without Ready"),
        pytest.param(
            {"restarts": 1, "ready": False, "reason": "OOMKilled"},
            None,
            id="out of memory once, perhaps when busy",
        ),
        pytest.param(
            {"restarts": 2, "ready": False, "reason": "OOMKilled"}, "OutOfMemory", id="out of memory again"
        ),
        pytest.param(
            {"ready": False, "termination": said("StoreUnavailable")},
            "StoreUnavailable",
            id="waits with its GPUs",
        ),
        pytest.param(
            {"ready": False, "termination": said("BadConfiguration")}, "BadConfiguration", id="told at once"
        ),
        pytest.param(
            {"ready": False, "termination": said("Retry")}, None, id="the init container tries again"
        ),
        pytest.param({"restarts": 3, "ready": False, "termination": said("Retry")}, "Retry", id="and again"),
    ],
)
def test_survival_rule_07_three_restarts_without_ready_fail_the_servers_attempt(
    fields: dict[str, Any], expected: str | None
) -> None:
    failure = of_server([make_pod(HOLDER, **fields)])
    assert (failure.kind if failure else None) == expected


def next_entry(entry: StageAttempts, kind: FailureClass, *, done: int = 0, uid: str = "u") -> StageAttempts:
    return after_failure(entry, Failure(kind=kind, message="why"), done=done, now=NOW, uid=uid, unit="stage")


def delay(entry: StageAttempts) -> float:
    assert entry.not_before is not None
    return (moment_of(entry.not_before) - NOW).total_seconds()


@pytest.mark.parametrize(
    ("kind", "counters"),
    [
        (FailureClass.RETRY, (1, 0)),
        (FailureClass.UNKNOWN, (1, 0)),
        (FailureClass.INFRASTRUCTURE, (0, 1)),
        (FailureClass.PARENT_MISSING, (0, 1)),
    ],
)
def test_survival_rule_06_only_failures_of_the_program_count_against_the_limit(
    kind: FailureClass, counters: tuple[int, int]
) -> None:
    entry = next_entry(StageAttempts(attempt=1), kind)
    assert (entry.attempt, entry.failures, entry.infrastructure) == (2, *counters)


def test_survival_rule_06_a_new_row_or_step_starts_the_count_of_lost_pods_again() -> None:
    entry = StageAttempts(attempt=1)
    for _ in range(4):
        entry = next_entry(entry, FailureClass.INFRASTRUCTURE, done=10)
    assert entry.infrastructure == 4
    entry = next_entry(entry, FailureClass.INFRASTRUCTURE, done=11)
    assert (entry.infrastructure, entry.progress) == (1, 11)


def test_delays_double_to_five_minutes_and_differ_between_runs_but_not_between_passes() -> None:
    entries = [next_entry(StageAttempts(attempt=n, failures=n - 1), FailureClass.RETRY) for n in range(1, 12)]
    assert 7 <= delay(entries[0]) <= 13
    assert all(delay(entry) <= 300 for entry in entries)
    assert delay(entries[9]) >= 220
    assert entries == [
        next_entry(StageAttempts(attempt=n, failures=n - 1), FailureClass.RETRY) for n in range(1, 12)
    ]
    others = {
        delay(next_entry(StageAttempts(attempt=5, failures=4), FailureClass.RETRY, uid=f"u{n}"))
        for n in range(9)
    }
    assert len(others) > 3


def test_survival_rule_05_of_two_runs_in_each_others_way_the_older_comes_back_first() -> None:
    def back(hours: float) -> float:
        entry = after_gang_timeout(
            StageAttempts(attempt=2),
            message="no node",
            age=timedelta(hours=hours),
            now=NOW,
            uid="u",
            unit="s",
        )
        assert (entry.attempt, entry.failures, entry.infrastructure) == (2, 0, 0)
        return delay(entry)

    assert back(10) < back(1) < back(0) <= 30 + 120 + 15
