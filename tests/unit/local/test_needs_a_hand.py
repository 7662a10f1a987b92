"""When `srr local` ends because only the person before the machine can mend it."""

import pytest
from tests.support.fake_cluster import FakeCluster
from tests.support.planned_runs import cluster_at

from selfrewarding.contract.result import TerminationMessage
from selfrewarding.contract.stages import StageKind
from selfrewarding.local.driver import needs_a_hand


def failing(cluster: FakeCluster, kind: StageKind, said: str) -> None:
    """A stage fails twice by the same cause."""
    for _ in range(2):
        cluster.settle()
        cluster.run_pods()
        for one in cluster.jobs():
            if one.stage is not None and one.stage.kind is kind:
                cluster.fail(one, termination=TerminationMessage(failure=said, message="It is so."))
        cluster.settle()
        cluster.later(120)


@pytest.mark.parametrize("said", ["StoreUnavailable", "BadData"])
def test_a_report_that_fails_beside_the_run_ends_nothing(said: str) -> None:
    cluster = cluster_at(StageKind.REPORT, 1)
    failing(cluster, StageKind.REPORT, said)
    failed = [one for one in cluster.run.status.attempts.values() if one.failure == said]
    assert [one.infrastructure for one in failed] == [2]
    assert not needs_a_hand(cluster.run, 1)


@pytest.mark.parametrize(("failures", "ends"), [(1, True), (2, True), (3, False)])
def test_a_store_that_fails_the_stage_under_way_does(failures: int, ends: bool) -> None:
    cluster = cluster_at(StageKind.PREPARE)
    failing(cluster, StageKind.PREPARE, "StoreUnavailable")
    assert needs_a_hand(cluster.run, failures) is ends


def test_data_that_are_refused_do_at_once() -> None:
    cluster = cluster_at(StageKind.PREPARE)
    failing(cluster, StageKind.PREPARE, "BadData")
    assert needs_a_hand(cluster.run, 3)


@pytest.mark.parametrize("kind", [StageKind.TRAIN_BASELINE, StageKind.ROLLOUT])
def test_so_does_one_that_fails_a_stage_whose_turn_comes_again_after_the_store_is_asked(
    kind: StageKind,
) -> None:
    cluster = cluster_at(kind)
    failing(cluster, kind, "StoreUnavailable")
    assert cluster.status.stage != kind
    assert needs_a_hand(cluster.run, 1)
