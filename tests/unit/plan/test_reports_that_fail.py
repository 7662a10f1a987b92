"""Reports that fail, hang or find no node: the run ends all the same, and nothing is computed again."""

from datetime import timedelta

import pytest
from tests.support.builders import SPEC, merged
from tests.support.fake_cluster import FakeCluster
from tests.support.planned_runs import GPU
from tests.support.reported_runs import cluster_of, others, report_jobs, until_first_report

from selfrewarding.contract.result import TerminationMessage
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.view import REPORT_TIME, REPORT_TRIES


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
