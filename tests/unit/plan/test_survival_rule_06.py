"""Survival rule 6 on a cluster in memory: what failed, what is tried again, what a person must mend."""

from typing import Any

import pytest
from tests.support.planned_runs import GPU, cluster_at

from selfrewarding.contract.result import TerminationMessage
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.observed import Phase


def bad_data(message: str = "Row 3 of ranked.jsonl has no answer.") -> TerminationMessage:
    return TerminationMessage(failure="BadData", message=message)


# ---------------------------------------------------------------------- 6: failures


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"termination": bad_data()}, "BadData"),
        ({"exit_code": 2}, "BadConfiguration"),
        ({"exit_code": 137, "reason": "OOMKilled"}, "OutOfMemory"),
    ],
)
def test_survival_rule_06_what_a_person_must_mend_is_not_tried_again(
    how: dict[str, Any], reason: str
) -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2, **GPU)
    cluster.fail(cluster.job(StageKind.ROLLOUT), **how)
    cluster.settle()
    cluster.later(31)
    cluster.settle()
    assert cluster.condition("Failed") == ("True", reason)
    assert cluster.condition("Ready")[0] == "False"
    assert cluster.condition("Stalled")[0] == "True"
    assert cluster.condition("Reconciling")[0] == "False"
    assert not cluster.live_pods(), "no GPU is held"
    assert [one.child.phase for one in cluster.owned.values()] == [Phase.FAILED], "its log can still be read"
    for _ in range(3):
        cluster.later(3600)
        assert cluster.settle().actions == ()


def test_survival_rule_06_a_failed_run_goes_on_by_itself_when_its_spec_changes() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2)
    trained = len(cluster.computed)
    cluster.fail(cluster.job(StageKind.ROLLOUT), exit_code=137, reason="OOMKilled")
    cluster.settle()
    cluster.edit({"sampler": {"resources": {"memory": "8Gi"}}})
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"
    again = [key for key in cluster.computed[trained:] if key in cluster.computed[:trained]]
    assert again == [cluster.computed[trained - 1]], "only the stage that failed ran again"


def test_survival_rule_06_retries_are_counted_and_end_in_a_clear_message() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2, limits={"retries": 2})
    for attempt in (1, 2, 3):
        assert cluster.job(StageKind.ROLLOUT).child.attempt == attempt
        cluster.fail(
            cluster.job(StageKind.ROLLOUT),
            termination=TerminationMessage(failure="Retry", message="The store does not answer."),
        )
        cluster.settle()
        cluster.later(310)
        cluster.settle()
        cluster.run_pods()
    assert cluster.condition("Failed") == ("True", "RetriesExhausted")
    message = next(c.message for c in cluster.status.conditions if c.type == "Failed")
    assert message == (
        "Rollout of iteration 2 failed 3 times, and limits.retries is 2; last: The store does not answer. Change the "
        "spec (limits.retries, for one) to go on."
    )


def test_survival_rule_06_a_higher_limit_lets_the_run_go_on() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2, limits={"retries": 0})
    cluster.fail(cluster.job(StageKind.ROLLOUT))
    cluster.settle()
    assert cluster.is_finished()
    cluster.edit({"limits": {"retries": 1}})
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"


def test_survival_rule_06_lost_nodes_do_not_count_but_five_without_a_new_row_are_stalled() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2, limits={"retries": 0})
    for lost in range(1, 7):
        cluster.show_progress(cluster.job(StageKind.ROLLOUT), 10)
        cluster.fail(cluster.job(StageKind.ROLLOUT), exit_code=None, reason="Evicted")
        cluster.settle()
        # The first counts as progress: ten rows were new then.
        assert cluster.condition("Stalled")[0] == ("True" if lost >= 5 else "False")
        cluster.later(310)
        cluster.settle()
        cluster.run_pods()
    assert cluster.condition("Failed")[0] == "False"
    cluster.finish_everything()
    assert cluster.condition("Stalled")[0] == "False"
    assert cluster.condition("Succeeded")[0] == "True"


def test_survival_rule_06_a_parent_that_the_store_lost_is_computed_again() -> None:
    cluster = cluster_at(StageKind.PREFERENCE_OPTIMIZE, 2)
    rollout = next(key for key in cluster.computed if cluster.store[key].stage == StageKind.ROLLOUT)
    started = list(cluster.computed)
    del cluster.store[rollout]
    gone = TerminationMessage(
        failure="ParentMissing", message="rollout.jsonl is missing", parent=rollout[:16]
    )
    cluster.fail(cluster.job(StageKind.PREFERENCE_OPTIMIZE), termination=gone)
    cluster.finish_everything()
    again = [key for key in cluster.computed[len(started) :] if key in started]
    kinds = [cluster.store[key].stage for key in again]
    assert kinds == [StageKind.ROLLOUT, StageKind.PREFERENCE_OPTIMIZE], "and nothing else"


def test_survival_rule_06_a_parent_that_is_there_after_all_is_only_asked_for() -> None:
    cluster = cluster_at(StageKind.PREFERENCE_OPTIMIZE, 2)
    started = list(cluster.computed)
    cluster.fail(cluster.job(StageKind.PREFERENCE_OPTIMIZE), exit_code=4)
    cluster.finish_everything()
    again = [key for key in cluster.computed[len(started) :] if key in started]
    assert [cluster.store[key].stage for key in again] == [StageKind.PREFERENCE_OPTIMIZE]
