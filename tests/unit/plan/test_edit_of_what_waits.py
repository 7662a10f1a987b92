"""An edit reaches what has not come to run: children are never changed, so such a one is made anew; what runs goes on."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.support.fake_cluster import FakeCluster, Owned
from tests.support.planned_runs import GPU, cluster_at

from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.observed import Phase, Pod

IMAGE = {"sampler": {"image": "team/sampler:2"}, "training": {"image": "team/trainer:2"}}


def without_image(pod: Pod) -> Pod:
    return replace(
        pod, phase=Phase.PENDING, started=None, waiting_reason="ErrImagePull", waiting_message="no such image"
    )


def without_node(pod: Pod) -> Pod:
    said = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    return replace(pod, phase=Phase.PENDING, started=None, scheduled=False, scheduling_message=said)


def starting(pod: Pod) -> Pod:
    return replace(pod, phase=Phase.PENDING, started=None, scheduled=True)


def only_job(cluster: FakeCluster) -> Owned:
    """The one Job or PyTorchJob, in whatever phase."""
    (found,) = (one for one in cluster.owned.values() if one.child.kind in ("Job", "PyTorchJob"))
    return found


def change_pods(cluster: FakeCluster, change: Callable[[Pod], Pod]) -> None:
    cluster.pods = {uid: change(pod) for uid, pod in cluster.pods.items()}


def no_pods(cluster: FakeCluster) -> None:
    owned = only_job(cluster)
    cluster.pods = {}
    owned.child = replace(
        owned.child, phase=Phase.PENDING, message='FailedCreate: serviceaccount "t" not found'
    )


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        pytest.param(StageKind.PREPARE, lambda one: change_pods(one, without_image), id="image"),
        pytest.param(StageKind.PREPARE, no_pods, id="no pods"),
        pytest.param(StageKind.TRAIN_BASELINE, lambda one: change_pods(one, without_node), id="GPUs"),
    ],
)
def test_what_has_not_come_to_run_is_made_anew_by_an_edit(
    kind: StageKind, spoil: Callable[[FakeCluster], None]
) -> None:
    cluster = cluster_at(kind, **GPU)
    before = only_job(cluster)
    before.child = replace(before.child, phase=Phase.PENDING)
    spoil(cluster)
    cluster.settle()
    assert only_job(cluster) is before, "nobody has mended anything"
    cluster.edit(IMAGE)
    cluster.settle()
    cluster.later(61)
    cluster.settle()
    after = only_job(cluster)
    assert (after.child.stage, after.child.attempt) == (kind, before.child.attempt + 1)
    assert all(not entry.failures for entry in cluster.status.attempts.values())
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"


@pytest.mark.parametrize("change", [starting, lambda pod: pod], ids=["starting", "running"])
def test_what_runs_or_is_about_to_is_left_alone_by_an_edit(change: Callable[[Pod], Pod]) -> None:
    cluster = cluster_at(StageKind.TRAIN_BASELINE, **GPU)
    change_pods(cluster, change)
    before = only_job(cluster)
    cluster.edit(IMAGE)
    cluster.settle()
    assert only_job(cluster) is before


def test_survival_rule_09_suspending_what_has_not_come_to_run_counts_no_attempt() -> None:
    cluster = cluster_at(StageKind.TRAIN_BASELINE, **GPU)
    before = only_job(cluster)
    before.child = replace(before.child, phase=Phase.PENDING)
    change_pods(cluster, without_node)
    cluster.settle()
    for suspend in (True, False):
        cluster.edit({"suspend": suspend})
        cluster.settle()
        cluster.later(61)
        cluster.settle()
    assert before not in cluster.owned.values()
    assert before.child.key is not None
    assert cluster.status.attempts[before.child.key].attempt == 1
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"
