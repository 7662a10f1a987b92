"""The Report beside a run: when it is due, and that nothing but the end of the run waits for it."""

from tests.support.builders import make_spec
from tests.support.fake_cluster import FakeCluster
from tests.support.reported_runs import (
    cluster_of,
    go_on_without_reports,
    report_jobs,
    told,
    until_first_report,
)

from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.aside import report_stage
from selfrewarding.plan.graph import outline
from selfrewarding.plan.observed import Phase


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
    go_on_without_reports(cluster)
    kinds = [cluster.store[key].stage for key in cluster.computed]
    assert kinds.count("PreferenceOptimize") == 1
    assert cluster.condition("Ready") == ("True", "Reporting")
    assert cluster.status.waiting_for == "the report"
    assert not list(cluster.deployments()), "no server waits for a report"


def test_a_lost_message_writes_the_report_again() -> None:
    cluster = cluster_of(iterations=1)
    report = until_first_report(cluster)
    cluster.succeed(report, message=False)
    cluster.finish_everything()
    assert cluster.reported == [1, 1]
    assert all(pod.phase is not Phase.FAILED for pod in cluster.pods.values())


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
