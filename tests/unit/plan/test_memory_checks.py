"""Memory that surely cannot hold the model is told before a GPU is asked for, and the run goes on once it is raised."""

from typing import Any

import pytest
from tests.support.builders import SPEC, merged
from tests.support.fake_cluster import FakeCluster

from selfrewarding.contract.stages import StageKind

ON_CPU: dict[str, Any] = {"training": {"device": "Cpu"}, "serving": {"device": "Cpu"}}
"""135,000,000 parameters in float32: weights, gradients and moments are 2.16 GB, a server's weights 0.54 GB."""


def cluster_before_gpus(changes: dict[str, Any], *more: dict[str, Any]) -> FakeCluster:
    """A run with Prepare and Resolve behind it."""
    spec = merged(SPEC, changes)
    for one in more:
        spec = merged(spec, one)
    cluster = FakeCluster(spec=spec)
    for _ in range(9):
        cluster.settle()
        cluster.run_pods()
        for owned in list(cluster.jobs()):
            if owned.child.stage in (StageKind.PREPARE, StageKind.RESOLVE):
                cluster.succeed(owned)
    return cluster


def message(cluster: FakeCluster) -> str:
    return next(one.message for one in cluster.status.conditions if one.type == "Stalled")


@pytest.mark.parametrize(
    ("block", "memory", "expected"),
    [
        pytest.param("training", "2G", "2.16 GB of memory in each pod for weights, gradients", id="trainer"),
        pytest.param("serving", "512Mi", "The server of Baseline needs at least 540 MB", id="server"),
    ],
)
def test_too_little_memory_starts_nothing_and_is_told_with_the_field(
    block: str, memory: str, expected: str
) -> None:
    cluster = cluster_before_gpus(ON_CPU, {block: {"resources": {"memory": memory}}})
    assert cluster.condition("Stalled") == ("True", "MemoryTooSmall")
    assert expected in message(cluster)
    assert f"{block}.resources.memory is" in message(cluster)
    assert f"{block}.resources.memory" in (cluster.status.waiting_for or "")
    assert not cluster.live_pods()
    assert not list(cluster.jobs())
    cluster.edit({block: {"resources": {"memory": "8Gi"}}})
    cluster.finish_everything()
    assert cluster.condition("Succeeded")[0] == "True"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"training": {"resources": {"memory": "2.2G"}}}, id="just enough"),
        pytest.param({}, id="estimated by us"),
        pytest.param(
            {"training": {"device": "Cuda", "resources": {"memory": "1G"}}}, id="what is on GPUs needs no host"
        ),
        pytest.param(
            {"training": {"resources": {"memory": "1G"}, "podTemplate": {"spec": {"containers": [
                {"name": "pytorch", "resources": {"limits": {"memory": "9e9"}}}]}}}},
            id="a pod template says otherwise",
        ),
        pytest.param(
            {"sft": {"lora": {"rank": 8}}, "dpo": {"lora": {"rank": 8}}, "training": {"resources": {"memory": "1G"}}},
            id="adapters",
        ),
    ],
)  # fmt: skip
def test_what_may_fit_is_not_refused(changes: dict[str, Any]) -> None:
    cluster = cluster_before_gpus(ON_CPU, changes)
    assert cluster.condition("Stalled")[0] == "False"
    assert [owned.child.stage for owned in cluster.jobs()] == [StageKind.TRAIN_BASELINE]


def test_an_optimizer_in_host_memory_counts() -> None:
    offloaded = {"training": {"deepspeed": {"offloadOptimizer": True}, "resources": {"memory": "1G"}}}
    cluster = cluster_before_gpus(offloaded)
    assert cluster.condition("Stalled") == ("True", "MemoryTooSmall")


def test_a_stage_under_way_is_left_alone() -> None:
    cluster = cluster_before_gpus(ON_CPU, {"training": {"resources": {"memory": "8Gi"}}})
    (before,) = cluster.jobs()
    cluster.edit({"training": {"resources": {"memory": "1G"}}})
    cluster.settle()
    assert [owned.child.name for owned in cluster.jobs()] == [before.child.name]
    cluster.succeed(before)
    cluster.settle()
    cluster.later(31)
    cluster.settle()
    assert cluster.condition("Stalled") == ("True", "MemoryTooSmall")
