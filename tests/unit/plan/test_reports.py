"""The Report beside a run: when it is due, and that nothing but the end of the run waits for it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.support.builders import SPEC, make_spec, merged
from tests.support.fake_cluster import FakeCluster, Owned
from tests.support.planned_runs import GPU, cluster_at

from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.result import TerminationMessage
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.aside import report_stage
from selfrewarding.plan.graph import outline
from selfrewarding.plan.observed import Phase
from selfrewarding.plan.view import REPORT_TIME, REPORT_TRIES


def cluster_of(**spec: object) -> FakeCluster:
    return FakeCluster(spec=merged(SPEC, {"iterations": 2} | spec))


def until_first_report(cluster: FakeCluster) -> Owned:
    """All goes well until a Report runs, which does not end by itself."""
    for _ in range(40):
        cluster.settle()
        cluster.run_pods()
        running = [one for one in cluster.jobs() if one.stage is not None]
        for one in running:
            if one.stage is not None and one.stage.kind is StageKind.REPORT:
                return one
            cluster.succeed(one)
        cluster.later(31)
    raise AssertionError(cluster.describe())


def test_each_iteration_is_reported_and_the_last_one_before_the_run_ends() -> None:
    cluster = cluster_of()
    cluster.finish_everything()
    assert cluster.reported == [1, 2]
    assert cluster.condition("Succeeded") == ("True", "AllIterationsDone")


def test_the_next_iteration_does_not_wait_for_the_report() -> None:
    cluster = cluster_of()
    report = until_first_report(cluster)
    assert report.stage is not None
    assert report.stage.iteration == 1
    for _ in range(30):
        cluster.settle()
        cluster.run_pods()
        for one in cluster.jobs():
            if one.child.uid != report.child.uid and not (one.stage and one.stage.kind is StageKind.REPORT):
                cluster.succeed(one)
        cluster.later(31)
    kinds = [cluster.store[key].stage for key in cluster.computed]
    assert kinds.count("PreferenceOptimize") == 1
    assert cluster.condition("Ready") == ("True", "Reporting")
    assert cluster.status.waiting_for == "the report"
    assert not list(cluster.deployments()), "no server waits for a report"


def test_a_report_that_fails_time_and_again_is_given_up_and_the_run_ends() -> None:
    cluster = cluster_of(iterations=1)
    until_first_report(cluster)
    for _ in range(40):
        cluster.settle()
        cluster.run_pods()
        for one in cluster.jobs():
            cluster.fail(one, reason="Error")
        cluster.later(400)
        if cluster.is_finished():
            break
    assert cluster.condition("Succeeded") == ("True", "AllIterationsDone")
    assert cluster.reported == [1] * REPORT_TRIES
    assert cluster.events.count("AttemptFailed") == REPORT_TRIES


def test_a_suspended_run_writes_no_report() -> None:
    cluster = cluster_of()
    until_first_report(cluster)
    cluster.edit({"suspend": True})
    cluster.settle()
    cluster.later(60)
    cluster.settle()
    assert not cluster.live_pods()
    assert cluster.condition("Suspended")[0] == "True"
    cluster.edit({"suspend": False})
    cluster.finish_everything()
    assert cluster.reported[-1] == 2


def test_a_lost_message_writes_the_report_again() -> None:
    cluster = cluster_of(iterations=1)
    report = until_first_report(cluster)
    cluster.succeed(report, message=False)
    cluster.finish_everything()
    assert cluster.reported == [1, 1]
    assert all(pod.phase is not Phase.FAILED for pod in cluster.pods.values())


def others(cluster: FakeCluster) -> list[Owned]:
    """Jobs that run, reports aside."""
    return [one for one in cluster.jobs() if one.child.stage is not StageKind.REPORT]


def report_jobs(cluster: FakeCluster) -> list[Owned]:
    """The Jobs of reports that are there, whatever their phase."""
    return [
        one
        for one in cluster.owned.values()
        if one.child.stage is StageKind.REPORT and one.child.kind == "Job"
    ]


def go_on_without_reports(cluster: FakeCluster, *, rounds: int = 30) -> None:
    """All other stages end well; reports run and do not end."""
    for _ in range(rounds):
        cluster.settle()
        cluster.run_pods()
        for one in others(cluster):
            cluster.succeed(one)
        cluster.later(31)


def told(report: Owned) -> set[str]:
    """The stages that a report tells of."""
    assert report.stage is not None
    return set(report.stage.parents) - {"prepare"}


# ---------------------------------------------------------------------- which report, and how often


def test_a_report_makes_way_for_the_next_one() -> None:
    """The first never ends; when the second is due, it goes, and nothing of it stays."""
    cluster = cluster_of()
    first = until_first_report(cluster)
    go_on_without_reports(cluster)
    (second,) = report_jobs(cluster)
    assert first.child.uid not in cluster.owned
    assert second.stage is not None
    assert second.stage.iteration == 2
    assert told(first) < told(second)
    assert {one.child.key for one in cluster.owned.values()} == {second.child.key}, (
        "no ConfigMap is left either"
    )
    assert list(cluster.status.attempts) == [second.stage.short]
    cluster.finish_everything()
    assert cluster.reported == [1, 2]


def test_status_keeps_the_newest_report_alone() -> None:
    cluster = cluster_of()
    cluster.finish_everything()
    kept = [one.iteration for one in cluster.status.results.values() if one.stage == StageKind.REPORT]
    assert kept == [2]


def test_a_finished_run_is_left_in_peace() -> None:
    cluster = cluster_of()
    cluster.finish_everything()
    writes = cluster.status_writes
    for change in ({}, {"suspend": True}, {"suspend": False}):
        cluster.edit(change)
        cluster.later(4000)
        cluster.settle()
        assert cluster.condition("Succeeded")[0] == "True"
    assert cluster.reported == [1, 2]
    assert cluster.status_writes <= writes + 2, "that the edits were seen"


def test_an_undisturbed_run_tells_of_each_report_once() -> None:
    cluster = cluster_of()
    cluster.finish_everything()
    started = len(set(cluster.computed)) + len(cluster.reported) + 2  # Prepare and Resolve
    assert cluster.events.count("StageStarted") == started
    assert cluster.events.count("StageDone") == started - 1  # Resolve has no result of its own


def test_a_run_that_finds_everything_in_the_store_writes_one_report() -> None:
    first = cluster_of()
    first.finish_everything()
    second = FakeCluster(spec=first.spec, store=first.store)
    second.finish_everything()
    assert second.computed == []
    assert second.reported == [2]


def test_a_report_is_the_runs_own_though_all_its_stages_are_shared() -> None:
    spec = make_spec()
    graph = outline(spec, contract=CONTRACT_VERSION)
    keys = {
        report_stage(
            graph, list(graph.stages), run_uid=uid, decided="", spec=spec, contract=CONTRACT_VERSION
        ).key
        for uid in ("one", "other")
    }
    assert len(keys) == 2


# ---------------------------------------------------------------------- edits and looks at the store


def test_a_tracker_that_a_finished_run_is_given_gets_its_numbers_once() -> None:
    cluster = cluster_of()
    cluster.finish_everything()
    computed = list(cluster.computed)
    for _ in range(2):
        cluster.edit({"tracking": {"tensorBoard": True}})
        cluster.finish_everything()
        assert cluster.reported == [1, 2, 2]
    assert cluster.computed == computed


def test_a_report_goes_on_while_prepare_and_resolve_look_at_an_edit() -> None:
    cluster = cluster_of()
    report = until_first_report(cluster)
    cluster.edit({"dpo": {"beta": 0.3}})
    for _ in range(2):
        cluster.settle()
        cluster.run_pods()
        assert report.child.uid in cluster.owned
        assert {one.child.stage for one in cluster.jobs()} > {StageKind.REPORT}
        for one in others(cluster):
            if one.child.stage in (StageKind.PREPARE, StageKind.RESOLVE):
                cluster.succeed(one)
        cluster.later(31)
    cluster.succeed(cluster.owned[report.child.uid])
    cluster.finish_everything()
    assert cluster.reported == [1, 2]


def test_its_result_counts_though_prepare_looks_again() -> None:
    cluster = cluster_of()
    report = until_first_report(cluster)
    cluster.edit({"dpo": {"beta": 0.3}})
    cluster.settle()
    cluster.run_pods()
    cluster.succeed(report)
    cluster.settle()
    assert report.child.key in cluster.status.results
    cluster.finish_everything()
    assert cluster.reported == [1, 2]


def test_no_report_begins_before_it_is_certain_what_is_done() -> None:
    """Prepare of the edit has yet to say what the stages' keys are."""
    cluster = cluster_at(StageKind.EVALUATE, 2, iterations=2)
    cluster.edit({"seedData": {"instructions": {"maxRows": 7}}})
    cluster.settle()
    cluster.run_pods()
    cluster.job(StageKind.PREPARE)
    cluster.succeed(cluster.job(StageKind.EVALUATE))
    cluster.settle()
    assert [model.gate for model in cluster.status.models[1:]] == ["Promoted", "Promoted"]
    assert cluster.reported == [1]
    cluster.finish_everything()
    assert cluster.reported[-1] == 2


def test_a_report_of_what_an_edit_made_void_goes_and_is_never_recorded() -> None:
    """Iteration 1 is trained anew: the page of the old one is nobody's."""
    cluster = cluster_of()
    void = until_first_report(cluster)
    cluster.edit({"sft": {"epochs": 5}})
    go_on_without_reports(cluster, rounds=3)
    assert void.child.uid not in cluster.owned
    cluster.finish_everything()
    assert void.child.key not in cluster.status.results
    assert cluster.reported == [1, 1, 2]


def test_an_edit_of_a_finished_run_is_reported_and_so_is_its_end_when_taken_back() -> None:
    cluster = cluster_of(dpo={"beta": 0.1})
    cluster.finish_everything()
    (kept,) = [key for key, one in cluster.status.results.items() if one.stage == StageKind.REPORT]
    cluster.edit({"dpo": {"beta": 0.3}})
    cluster.finish_everything()
    assert cluster.reported[-1] == 2
    assert kept not in cluster.status.results
    computed = len(cluster.computed)
    cluster.edit({"dpo": {"beta": 0.1}})
    cluster.finish_everything()
    assert len(cluster.computed) == computed
    assert kept in cluster.status.results, "the page in the run's folder is of this end again"


def test_a_report_goes_on_while_a_lost_message_is_asked_for() -> None:
    cluster = cluster_of()
    report = until_first_report(cluster)
    for _ in range(10):
        cluster.settle()
        cluster.run_pods()
        if StageKind.ROLLOUT in {one.child.stage for one in cluster.jobs()}:
            break
        for one in others(cluster):
            cluster.succeed(one)
        cluster.later(31)
    cluster.succeed(cluster.job(StageKind.ROLLOUT), message=False)
    cluster.settle()
    cluster.run_pods()
    cluster.job(StageKind.RESOLVE)
    assert report.child.uid in cluster.owned
    assert len(report_jobs(cluster)) == 1


def test_suspended_it_goes_on_in_the_same_attempt() -> None:
    cluster = cluster_of()
    report = until_first_report(cluster)
    before = cluster.status.attempts[report.child.key]
    cluster.edit({"suspend": True})
    cluster.settle()
    cluster.later(7200)
    cluster.settle()
    assert report_jobs(cluster) == []
    cluster.edit({"suspend": False})
    cluster.settle()
    cluster.run_pods()
    for one in others(cluster):
        if one.child.stage is StageKind.RESOLVE:
            cluster.succeed(one)
    cluster.settle()
    (again,) = report_jobs(cluster)
    assert (again.child.key, again.child.attempt) == (report.child.key, before.attempt)
    assert cluster.status.attempts[report.child.key].failures == 0
    cluster.finish_everything()
    assert cluster.reported == [1, 1, 2], "two hours of suspension are not held against it"


# ---------------------------------------------------------------------- gates, alarms, calibration


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
    for _ in range(10):
        second.settle()
        second.run_pods()
        for one in others(second):
            second.succeed(one)
        second.later(31)
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


# ---------------------------------------------------------------------- a report that fails


def test_a_report_that_hangs_keeps_no_run_from_its_end() -> None:
    cluster = cluster_of(iterations=1)
    until_first_report(cluster)
    began = cluster.now
    while not cluster.is_finished():
        cluster.later(300)
        cluster.settle()
        cluster.run_pods()
        assert cluster.now < began + 2 * REPORT_TIME
    assert cluster.now >= began + REPORT_TIME - timedelta(seconds=31)
    assert cluster.condition("Succeeded") == ("True", "AllIterationsDone")
    assert report_jobs(cluster) == []
    writes = cluster.status_writes
    cluster.later(7200)
    cluster.settle()
    assert cluster.status_writes == writes


def test_a_report_whose_pod_finds_no_node_keeps_no_run_from_its_end() -> None:
    cluster = cluster_of(iterations=1)
    for _ in range(20):
        cluster.settle()
        if any(one.child.stage is StageKind.REPORT for one in cluster.owned.values()):
            break
        cluster.run_pods()
        for one in others(cluster):
            cluster.succeed(one)
        cluster.later(31)
    assert cluster.condition("Ready") == ("True", "Reporting")
    for _ in range(30):
        cluster.later(300)
        cluster.settle()
    assert cluster.condition("Succeeded") == ("True", "AllIterationsDone")
    assert not cluster.live_pods()


@pytest.mark.parametrize("known", [True, False], ids=["named", "not named"])
def test_a_report_whose_parents_are_gone_makes_nothing_be_computed_again(known: bool) -> None:
    cluster = cluster_of()
    report = until_first_report(cluster)
    assert report.stage is not None
    parent = report.stage.parents["TrainBaseline-1"].key if known else None
    cluster.settle()
    results, resolved = dict(cluster.status.results), list(cluster.status.resolved)
    said = TerminationMessage(failure="ParentMissing", parent=parent, message="It is gone.")
    cluster.fail(report, exit_code=5, termination=said)
    cluster.settle()
    assert cluster.status.results == results
    assert cluster.status.resolved == resolved
    cluster.finish_everything()
    assert len(cluster.computed) == len(set(cluster.computed))
    assert cluster.reported[-1] == 2


def test_a_store_that_fails_a_report_is_asked_nothing_for_its_sake() -> None:
    cluster = cluster_of()
    report = until_first_report(cluster)
    cluster.settle()
    resolved = list(cluster.status.resolved)
    said = TerminationMessage(failure="StoreUnavailable", message="503 Slow Down")
    cluster.fail(report, termination=said)
    cluster.settle()
    assert cluster.status.resolved == resolved
    assert cluster.condition("Stalled")[0] == "False"
    cluster.finish_everything()
    assert cluster.reported[-1] == 2


@pytest.mark.parametrize(
    "said", [TerminationMessage(failure="StoreUnavailable", message="503 Slow Down"), None]
)
def test_a_store_or_nodes_that_fail_more_often_than_a_report_may_do_not_cost_it(
    said: TerminationMessage | None,
) -> None:
    cluster = cluster_of(iterations=1)
    until_first_report(cluster)
    for _ in range(REPORT_TRIES + 2):
        cluster.run_pods()
        for one in cluster.jobs():
            cluster.fail(one, termination=said, reason="" if said else "Evicted")
        cluster.settle()
        cluster.later(310)
        cluster.settle()
    cluster.finish_everything()
    assert cluster.reported == [1] * (REPORT_TRIES + 3)
    assert [key.stage for key in cluster.status.results.values()].count("Report") == 1


def test_a_report_whose_parents_stay_gone_is_given_up() -> None:
    cluster = cluster_of(iterations=1)
    until_first_report(cluster)
    began = cluster.now
    for _ in range(REPORT_TRIES):
        cluster.settle()
        cluster.run_pods()
        for one in cluster.jobs():
            cluster.fail(
                one, exit_code=5, termination=TerminationMessage(failure="ParentMissing", message="Gone.")
            )
        cluster.later(120)
    cluster.finish_everything()
    assert cluster.now < began + REPORT_TIME
    assert cluster.reported == [1] * REPORT_TRIES


def test_its_failures_are_told_by_its_name_and_the_last_one_with_what_to_do() -> None:
    cluster = cluster_of(iterations=1)
    until_first_report(cluster)
    messages: list[str] = []
    for _ in range(REPORT_TRIES):
        cluster.settle()
        cluster.run_pods()
        for one in cluster.jobs():
            cluster.fail(one, reason="Error")
        messages += [one.message for one in cluster.one_pass().events if one.reason == "AttemptFailed"]
        cluster.later(400)
    assert [message.partition(":")[0] for message in messages] == [
        f"Report of iteration 1, attempt {number}" for number in (1, 2, 3)
    ]
    assert ["srr report" in message for message in messages] == [False, False, True]


def test_no_limit_of_the_stages_counts_once_all_of_them_are_done() -> None:
    """The last stage took the budget with it: the run is at its end, and not stalled."""
    cluster = FakeCluster(spec=merged(SPEC, {"iterations": 1, "limits": {"maxGpuHours": 5}} | GPU))
    for _ in range(20):
        cluster.settle()
        cluster.run_pods()
        last = [one for one in others(cluster) if one.child.stage is StageKind.EVALUATE]
        if last:
            cluster.later(12 * 3600)
        for one in others(cluster):
            cluster.succeed(one)
        if last:
            break
        cluster.later(31)
    cluster.settle()
    assert cluster.condition("Ready") == ("True", "Reporting")
    assert cluster.condition("Stalled")[0] == "False"
    cluster.finish_everything()
    assert cluster.condition("Succeeded") == ("True", "AllIterationsDone")
    assert cluster.reported == [1]
