"""Reports and edits: what a look at the store leaves alone, what an edit makes void, and suspension."""

from tests.support.planned_runs import cluster_at
from tests.support.reported_runs import (
    cluster_of,
    go_on_without_reports,
    others,
    report_jobs,
    until_first_report,
)

from selfrewarding.contract.stages import StageKind


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
