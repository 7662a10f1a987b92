"""Runs on a `FakeCluster` whose Report is due: brought that far, and looked at with the report set apart."""

from tests.support.builders import SPEC, merged
from tests.support.fake_cluster import FakeCluster, Owned

from selfrewarding.contract.stages import StageKind


def cluster_of(**spec: object) -> FakeCluster:
    """A run of two iterations."""
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
