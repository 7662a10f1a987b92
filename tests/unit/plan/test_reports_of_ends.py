"""Reports of what a gate, an alarm or calibration decided: written before the run says so, and of its own stages."""

from dataclasses import replace
from typing import Any

import pytest
from tests.support.builders import SPEC, merged
from tests.support.fake_cluster import FakeCluster, Owned
from tests.support.planned_runs import cluster_at
from tests.support.reported_runs import (
    cluster_of,
    go_on_without_reports,
    others,
    report_jobs,
    told,
    until_first_report,
)

from selfrewarding.contract.stages import StageKind


def test_a_model_that_a_gate_holds_is_reported_for_the_person_who_decides_and_again_with_the_decision() -> (
    None
):
    cluster = cluster_of(gate={"approval": "Manual"})
    report = until_first_report(cluster)
    go_on_without_reports(cluster, rounds=2)
    assert cluster.condition("Ready") == ("False", "HeldByGate")
    cluster.succeed(report)
    cluster.settle()
    assert cluster.reported == [1]
    cluster.annotations["selfrewarding.dev/approve"] = "1"
    cluster.finish_everything()
    assert cluster.reported == [1, 1, 2]


def test_a_round_that_is_rolled_back_is_reported_and_stays_in_the_next_report() -> None:
    rule = {"metric": "pairwiseAccuracy", "minimum": 0.5, "action": "RollBack"}
    cluster = cluster_of(iterations=3, gate={"rules": [rule]})
    first = until_first_report(cluster)
    cluster.succeed(first)
    for _ in range(30):
        cluster.settle()
        cluster.run_pods()
        for one in list(cluster.jobs()):
            second = one.stage is not None and one.stage.iteration == 2
            cluster.succeed(one, metrics={"pairwiseAccuracy": 0.1 if second else 0.7})
        cluster.later(31)
        if cluster.is_finished():
            break
    assert [model.gate for model in cluster.status.models if model.gate] == [
        "Promoted", "RolledBack", "Promoted",
    ]  # fmt: skip
    assert cluster.reported == [1, 2, 3]


def until_end_of(cluster: FakeCluster, kind: StageKind, iteration: int, metrics: dict[str, float]) -> Owned:
    """All goes well until this stage has measured this; then the report that follows, which runs."""
    for _ in range(60):
        cluster.settle()
        cluster.run_pods()
        here = [
            one for one in others(cluster) if one.child.stage is kind and one.child.iteration == iteration
        ]
        for one in here:
            cluster.succeed(one, metrics=metrics)
            cluster.settle()
            cluster.run_pods()
            return report_jobs(cluster)[-1]
        for one in cluster.jobs():
            cluster.succeed(one)
        cluster.later(31)
    raise AssertionError(cluster.describe())


def test_what_an_alarm_ended_is_reported_with_the_stage_that_sounded_it() -> None:
    cluster = cluster_of(alarms={"scorePiling": {"action": "Stop"}})
    report = until_end_of(cluster, StageKind.ROLLOUT, 2, {"scorePiling": 1.0})
    assert cluster.condition("Ready") == ("True", "Reporting")
    assert {"Rollout-2", "GeneratePrompts-2", "Evaluate-1"} <= told(report)
    assert "BuildPreferences-2" not in told(report)
    cluster.finish_everything()
    assert cluster.condition("Succeeded") == ("True", "StoppedByAlarm")
    assert cluster.reported == [1, 2]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"alarms": {"positionBias": {"threshold": 0.5, "action": "Stop"}}}, "StoppedByAlarm"),
        ({"gate": {"rules": [{"metric": "pairwiseAccuracy", "minimum": 0.99, "action": "Stop"}]}}, "StoppedByGate"),
    ],
)  # fmt: skip
def test_what_the_store_has_of_later_rounds_is_no_part_of_a_run_that_ended_before(
    change: dict[str, Any], reason: str
) -> None:
    measured = {"pairwiseAccuracy": 0.7, "positionBias": 0.55}  # the alarm's own threshold is 0.6
    first = FakeCluster(spec=merged(SPEC, {}), metrics=measured)
    first.finish_everything()
    # One stage is missing: the last iteration is not whole, and that no report is due of it says nothing yet.
    last = next(key for key in first.computed if first.store[key].iteration == 3)
    store = {key: one for key, one in first.store.items() if key != last and one.stage != "Report"}
    second = FakeCluster(spec=merged(SPEC, change), store=store, metrics=measured)
    go_on_without_reports(second, rounds=10)
    (report,) = report_jobs(second)
    assert {role.rpartition("-")[2] for role in told(report)} <= {"0", "1"}
    second.finish_everything()
    assert reason in {second.condition(kind)[1] for kind in ("Succeeded", "Failed")}
    assert second.computed == []
    assert second.reported == [1]


def test_what_calibration_ended_is_reported_before_it_says_so() -> None:
    cluster = cluster_of(judge={"calibration": {"minPairwiseAccuracy": 0.99}})
    report = until_first_report(cluster)
    assert cluster.condition("Ready") == ("True", "Reporting")
    assert cluster.condition("Failed")[0] == "False"
    assert {"Evaluate-1", "SupervisedFineTune-1"} <= told(report)
    cluster.finish_everything()
    assert cluster.condition("Failed") == ("True", "JudgeNotCalibrated")
    assert cluster.reported == [1]


def test_a_run_whose_data_end_it_at_once_has_nothing_to_report() -> None:
    """Calibration without held-out rows: not one stage is done."""
    cluster = cluster_at(StageKind.PREPARE, judge={"calibration": {}})
    cluster.succeed(cluster.job(StageKind.PREPARE))
    for uid, pod in cluster.pods.items():
        if pod.termination is not None:
            done = {
                key: one.model_copy(update={"data": {k: v for k, v in one.data.items() if k != "heldOut"}})
                for key, one in pod.termination.done.items()
            }
            cluster.pods[uid] = replace(pod, termination=pod.termination.model_copy(update={"done": done}))
    for _ in range(5):
        cluster.settle()
        cluster.run_pods()
        for one in cluster.jobs():
            cluster.succeed(one)
        cluster.later(31)
    assert cluster.condition("Failed") == ("True", "JudgeNotCalibrated")
    assert cluster.reported == []
