"""The judges themselves: each kind of lie, and each mixture of models, is found. No cluster here."""

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.cluster.faults.api_client import PODS, RUNS, SERVICES, Kind, Raw
from tests.cluster.faults.census import Census
from tests.cluster.lifecycle.services import mixtures, ready_models
from tests.cluster.lifecycle.truth import untruths

from selfrewarding.api import labels

KINDS = ("Ready", "Reconciling", "Stalled", "Succeeded", "Failed", "Suspended")
TRUE = {"Ready": "True", "Reconciling": "True", "Stalled": "False", "Succeeded": "Unknown", "Failed": "False",
        "Suspended": "False"}  # fmt: skip


class Told:
    """A watch that tells what a test has written down."""

    def __init__(self, objects: list[tuple[Kind, str, Raw]]) -> None:
        self._objects = objects

    async def watch(self, kind: Kind, **_: Any) -> AsyncIterator[tuple[str, Raw]]:
        for of, type_, body in self._objects:
            if of is kind:
                yield type_, body


def run(version: int, truths: dict[str, str], *, generation: int = 1, observed: int = 1, at: int = 0) -> Raw:
    """A version of a run."""
    conditions = [
        {
            "type": kind, "status": truths[kind], "observedGeneration": observed, "reason": "Any", "message": "",
            "lastTransitionTime": f"2026-01-01T00:00:{at:02}Z",
        }
        for kind in KINDS
    ]  # fmt: skip
    return {
        "metadata": {
            "name": "demo", "namespace": "lab", "uid": "run", "generation": generation,
            "resourceVersion": str(version),
        },
        "status": {"observedGeneration": observed, "conditions": conditions, "stage": "Rollout"},
    }  # fmt: skip


def pod(version: int, phase: str) -> Raw:
    """A version of a pod of that run."""
    metadata = {"name": "a-pod", "namespace": "lab", "uid": "pod", "resourceVersion": str(version)}
    return {"metadata": metadata | {"labels": {labels.RUN: "demo"}}, "status": {"phase": phase}}


def judged(*objects: tuple[Kind, str, Raw]) -> list[str]:
    """What the judge says of a history."""

    return untruths(history(*objects), "lab")


def history(*objects: tuple[Kind, str, Raw]) -> Census:
    """A census that was told these changes."""

    async def read() -> Census:
        census = Census()
        for kind in (RUNS, PODS, SERVICES):
            await census.follow(Told(list(objects)), kind, listed=asyncio.Event())  # type: ignore[arg-type]
        return census

    return asyncio.run(read())


SUSPENDED = TRUE | {"Suspended": "True", "Reconciling": "False"}


def test_the_truth_is_left_alone() -> None:
    assert judged(
        (PODS, "ADDED", pod(1, "Running")),
        (RUNS, "ADDED", run(2, TRUE)),
        (PODS, "DELETED", pod(3, "Running")),
        (RUNS, "MODIFIED", run(4, TRUE, generation=2)),  # edited, and not looked at yet
    ) == []  # fmt: skip


def test_suspended_while_a_pod_lives_is_a_lie() -> None:
    (lie,) = judged(
        (PODS, "ADDED", pod(1, "Running")),
        (RUNS, "ADDED", run(2, SUSPENDED)),
        (PODS, "MODIFIED", pod(3, "Succeeded")),
        (RUNS, "MODIFIED", run(4, SUSPENDED)),
    )
    assert lie == "resourceVersion 2: Suspended while pods a-pod lives"


def test_a_generation_that_was_not_seen_yet_or_is_forgotten_again_is_a_lie() -> None:
    assert any("ahead of generation" in lie for lie in judged((RUNS, "ADDED", run(1, TRUE, observed=2))))
    later, earlier = run(1, TRUE, generation=2, observed=2), run(2, TRUE, generation=2)
    lies = judged((RUNS, "ADDED", later), (RUNS, "MODIFIED", earlier))
    assert lies == ["resourceVersion 2: observedGeneration fell from 2 to 1"]


def test_a_condition_that_nobody_looked_at_anew_is_a_lie() -> None:
    stale = run(1, TRUE, generation=2, observed=2)
    stale["status"]["conditions"][2]["observedGeneration"] = 1
    assert judged((RUNS, "ADDED", stale)) == ["resourceVersion 1: Stalled is of 1, not of 2"]


def test_a_condition_that_is_missing_or_contradicts_another_is_a_lie() -> None:
    short = run(1, TRUE)
    short["status"]["conditions"] = [one for one in short["status"]["conditions"] if one["type"] != "Stalled"]
    assert any("conditions are missing" in lie for lie in judged((RUNS, "ADDED", short)))
    both = TRUE | {"Failed": "True"}
    assert any("Ready and Failed" in lie for lie in judged((RUNS, "ADDED", run(1, both))))


@pytest.mark.parametrize(
    ("truths", "said"),
    [
        pytest.param(TRUE, "yet its time moved", id="a time that moved alone"),
        pytest.param(
            TRUE | {"Stalled": "True", "Ready": "False"}, "before it last changed", id="a time that went back"
        ),
    ],
)
def test_a_transition_time_that_does_not_fit_is_a_lie(truths: dict[str, str], said: str) -> None:
    first = run(1, TRUE, at=10)
    second = copy.deepcopy(run(2, truths, at=20 if "moved" in said else 5))
    assert any(said in lie for lie in judged((RUNS, "ADDED", first), (RUNS, "MODIFIED", second)))


def server(version: int, model: str, *, ready: bool) -> Raw:
    """A version of a server's pod."""
    own = {labels.RUN: "demo", labels.HOLDER: f"{model}-policy", labels.KEY: model}
    metadata = {
        "name": model,
        "namespace": "lab",
        "uid": model,
        "resourceVersion": str(version),
        "labels": own,
    }
    condition = {"type": "Ready", "status": str(ready)}
    return {"metadata": metadata, "status": {"phase": "Running", "conditions": [condition]}}


def service(version: int, **selector: str) -> Raw:
    """A Service."""
    metadata = {"name": "policy", "namespace": "lab", "uid": "service", "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"selector": selector}}


@pytest.mark.parametrize(
    ("selector", "number"),
    [
        pytest.param({labels.RUN: "demo"}, 1, id="all servers of the run"),
        pytest.param({labels.RUN: "demo", labels.HOLDER: "m1-policy"}, 0, id="those of one model"),
    ],
)
def test_two_models_behind_one_service_are_found_only_while_both_are_ready(
    selector: dict[str, str], number: int
) -> None:
    found = history(
        (SERVICES, "ADDED", service(1, **selector)),
        (PODS, "ADDED", server(2, "m1", ready=True)),
        (PODS, "ADDED", server(3, "m2", ready=False)),
        (PODS, "MODIFIED", server(4, "m2", ready=True)),
        (PODS, "DELETED", server(5, "m1", ready=True)),
    )
    assert len(mixtures(found, "lab")) == number
    assert ready_models(found, "lab") == 2
