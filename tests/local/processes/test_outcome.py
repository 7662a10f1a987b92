"""When a start of `srr local` ends, with which exit code, and what keeps one from starting."""

import pytest
from tests.support.builders import make_run, make_spec

from selfrewarding.api.run import SelfRewardingRunStatus
from selfrewarding.cluster.protocol import Unavailable
from selfrewarding.contract.stages import StageKind
from selfrewarding.local import cluster as cluster_module
from selfrewarding.local import observing
from selfrewarding.local.driver import check_gpus
from selfrewarding.local.errors import LocalError
from selfrewarding.local.outcome import Ending, ending_of
from selfrewarding.local.state import StateFolder


def run_with(*conditions, **fields):
    listed = [
        {"type": kind, "status": "True", "reason": reason, "message": f"{reason}.", "lastTransitionTime": "t"}
        for kind, reason in conditions
    ]
    return make_run(status=SelfRewardingRunStatus.model_validate({"conditions": listed, **fields}))


def summary(kind, iteration):
    return {"stage": kind, "iteration": iteration, "digest": "d"}


@pytest.mark.parametrize(
    ("run", "facts", "expected"),
    [
        (run_with(), {}, None),
        (run_with(("Succeeded", "AllIterationsDone")), {}, "succeeded"),
        (run_with(("Succeeded", "AllIterationsDone")), {"living": True}, None),
        (run_with(("Failed", "BadData")), {}, "failed"),
        (run_with(("Failed", "BadData")), {"living": True}, None),
        (run_with(("Failed", "InvalidSpec")), {"living": True}, "failed"),
        (run_with(("Suspended", "Suspended")), {}, "suspended"),
        (run_with(("Ready", "HeldByGate")), {}, "held"),
        (run_with(("Stalled", "GPUBudgetUsed")), {}, None),
        (run_with(("Stalled", "GPUBudgetUsed")), {"stalled": True}, "stalled"),
        (
            run_with(results={"k": summary("Rollout", 2)}),
            {"until": StageKind.ROLLOUT, "living": True},
            "until",
        ),
        (
            run_with(results={"k": summary("Rollout", 2)}),
            {"until": StageKind.ROLLOUT, "from_iteration": 3},
            None,
        ),
        (run_with(results={"k": summary("Rollout", 2)}), {"until": StageKind.EVALUATE}, None),
        (
            run_with(results={"k": summary("Prepare", 0)}),
            {"until": StageKind.PREPARE, "from_iteration": 3},
            "until",
        ),
    ],
)
def test_ends(run, facts, expected):
    defaults = {"living": False, "stalled": False, "until": None, "from_iteration": 0}
    ending = ending_of(run, **(defaults | facts))
    assert (ending.how if ending else None) == expected


def test_until_gate_is_a_decided_gate():
    model = {"name": "M1", "iteration": 1, "uri": "s3://a/b", "digest": "d"}
    facts = {"living": False, "stalled": False, "until": StageKind.GATE, "from_iteration": 1}
    assert ending_of(run_with(models=[model]), **facts) is None
    assert ending_of(run_with(models=[model | {"gate": "Promoted"}]), **facts).how == "until"


def test_an_end_says_the_conditions_own_message():
    ending = ending_of(
        run_with(("Failed", "BadData")), living=False, stalled=False, until=None, from_iteration=0
    )
    assert ending == Ending("failed", "BadData.")


def test_more_gpus_than_there_are_name_field_and_remedy():
    spec = make_spec(
        {"serving": {"replicas": 2, "tensorParallelSize": 4}, "training": {"nodes": 1, "gpusPerNode": 8}}
    )
    with pytest.raises(LocalError) as caught:
        check_gpus(spec, ("0",))
    serving, training = str(caught.value).splitlines()
    assert serving == (
        "serving asks for 8 GPUs at once, this machine has 1: lower replicas or tensorParallelSize, or set "
        "serving.device: Cpu"
    )
    assert training.startswith(
        "training asks for 8 GPUs at once, this machine has 1: lower nodes or gpusPerNode"
    )
    check_gpus(spec, tuple("01234567"))
    check_gpus(make_spec({"serving": {"device": "Cpu"}, "training": {"device": "Cpu"}}), ())


async def test_a_full_disk_is_told_and_nothing_half_written_stays(make_local, monkeypatch):
    local = await make_local()
    key = local.cluster._record.object["metadata"]
    before = local.state.run_file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cluster_module, "save_record", full)
    monkeypatch.setattr(cluster_module, "write_json", full)
    run = await local.cluster.get_run(cluster_module.RunKey(key["namespace"], key["name"]))
    with pytest.raises(Unavailable, match=r"run\.json cannot be written: No space left"):
        await local.cluster.patch_status(run, SelfRewardingRunStatus(stage="x"))
    with pytest.raises(Unavailable, match="No space left"):
        await local.create({"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {}})
    assert local.state.run_file.read_bytes() == before
    assert (await local.observe()).children == ()


async def test_a_living_run_on_the_same_artifacts_is_a_rival(make_local, objects, tmp_path, monkeypatch):
    local = await make_local()
    manifest = objects.job("import time; time.sleep(60)")
    manifest["metadata"]["labels"] = {**manifest["metadata"]["labels"], "selfrewarding.dev/artifact": "abc"}
    await local.create(objects.config_map(), manifest)
    other = StateFolder.of(tmp_path / "artifacts", "default", "another")
    other.make()
    assert observing.rivals(other, "s3://runs/demo") == (), (
        "nobody holds the other folder: it is no living run"
    )
    with local.state.locked():
        [rival] = observing.rivals(other, "s3://runs/demo")
        assert (rival.run, rival.artifact) == ("default/demo", "abc")
        assert observing.rivals(other, "s3://runs/elsewhere") == ()
        assert observing.rivals(local.state, "s3://runs/demo") == ()
    await local.cluster.stop()
