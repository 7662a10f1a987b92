"""The index of a run: written by one writer, and enough to make the report from."""

import hashlib
import json

import pytest
from tests.support.builders import make_spec

from selfrewarding.api.run import AlarmStatus, ModelStatus, StageSummary
from selfrewarding.contract.config import RunRef
from selfrewarding.contract.stages import StageKind
from selfrewarding.report.collect import manifest
from selfrewarding.report.index import IndexedStage, read_index, report_parts, run_index, write_index
from selfrewarding.store.errors import Corrupt
from selfrewarding.store.folder import FolderStore

RUN = RunRef(namespace="lab", name="demo", uid="u-1")
KEYS = {
    name: hashlib.sha256(name.encode()).hexdigest()
    for name in ("baseline", "sft", "of-baseline", "of-m1", "next")
}


def done(stage, **changes):
    return StageSummary(stage=stage, iteration=1, digest="d" * 16, **changes)


def document(**changes):
    stages = [
        IndexedStage(kind=StageKind.TRAIN_BASELINE, iteration=1, key=KEYS["baseline"], summary=done("TrainBaseline"),
                     gpus=8),
        IndexedStage(kind=StageKind.EVALUATE, iteration=1, key=KEYS["of-baseline"], summary=done("Evaluate"),
                     parents={"model": KEYS["baseline"]}),
        IndexedStage(kind=StageKind.SUPERVISED_FINE_TUNE, iteration=1, key=KEYS["sft"], gpus=8, peak_bytes=5,
                     summary=done("SupervisedFineTune", handover_seconds=12.5)),
        IndexedStage(kind=StageKind.EVALUATE, iteration=1, key=KEYS["of-m1"], summary=done("Evaluate"),
                     parents={"model": KEYS["sft"]}),
        IndexedStage(kind=StageKind.GENERATE_PROMPTS, iteration=2, key=KEYS["next"]),
    ]  # fmt: skip
    fields = {
        "spec": make_spec(), "stages": stages,
        "models": [ModelStatus(name="M1", iteration=1, uri="s3://x", digest="d", gate="Promoted")],
        "alarms": [AlarmStatus(name="tieRate", iteration=1, action="Warn", value=0.9, threshold=0.8, message="m")],
        "about": {"generation": 3},
    }  # fmt: skip
    return run_index(RUN, **(fields | changes))


def test_what_is_written_is_read_back_as_the_parts_of_a_report(tmp_path):
    store = FolderStore(tmp_path)
    write_index(store, document())
    found = read_index(store, RUN)
    assert found == json.loads(json.dumps(document()))
    run, stages, story = report_parts(found)
    assert run == RUN
    assert {role: ref.key for role, ref in stages.items()} == {
        "TrainBaseline-1": KEYS["baseline"], "Evaluate-0": KEYS["of-baseline"], "SupervisedFineTune-1": KEYS["sft"],
        "Evaluate-1": KEYS["of-m1"],
    }  # fmt: skip
    assert story.spec == make_spec()
    assert [one.name for one in story.models] == ["M1"]
    assert [one.name for one in story.alarms] == ["tieRate"]
    assert story.gpus["SupervisedFineTune-1"] == 8
    assert story.handover_seconds == {"SupervisedFineTune-1": 12.5}


def test_pod_templates_and_secret_options_are_in_no_index():
    """Nor, then, on a page that `srr report` makes of it."""
    template = {"podTemplate": {"metadata": {"annotations": {"note": "internal-host"}}}}
    pool = template | {"extraArgs": {"hf-token": "hf_secret", "max-num-batched-tokens": "512"}}
    spec = make_spec({"serving": pool | {"judge": pool}, "training": template, "sampler": template,
                      "judge": {"modelUri": "s3://models/judge"}})  # fmt: skip
    text = json.dumps(document(spec=spec))
    assert "internal-host" not in text
    assert "hf_secret" not in text
    story = report_parts(document(spec=spec))[2]
    assert story.spec.serving.extra_args["max-num-batched-tokens"] == "512"
    assert "podTemplate" not in manifest(RUN, story)


def test_what_the_judge_has_not_reached_is_read_back_too():
    assert report_parts(document())[2].uncalibrated is None
    assert (
        report_parts(document(uncalibrated="No better than a coin."))[2].uncalibrated
        == "No better than a coin."
    )


def test_stages_to_come_stand_in_it_too():
    assert [stage["done"] for stage in document()["stages"]] == [True, True, True, True, False]
    assert document()["stages"][2]["peakMemoryBytes"] == 5
    assert document()["generation"] == 3


def test_a_run_of_the_same_name_that_was_there_before_is_another_run(tmp_path):
    store = FolderStore(tmp_path)
    assert read_index(store, RUN) is None
    write_index(store, document())
    assert read_index(store, RUN.model_copy(update={"uid": "u-2"})) is None


@pytest.mark.parametrize("content", [b"", b"[1]", b"{}", b'{"run": 3}', b"\xff\xfe"])
def test_a_damaged_index_is_named(tmp_path, content):
    store = FolderStore(tmp_path)
    store.write("runs/lab/demo/index.json", content)
    with pytest.raises(Corrupt, match=r"index\.json is no index of a run"):
        read_index(store, RUN)


@pytest.mark.parametrize("broken", [{"spec": {}}, {"stages": 3}, {"stages": [{}]}, {"results": {"a": 1}}])
def test_an_index_that_says_nonsense_is_one_error(broken):
    with pytest.raises(ValueError, match="the run's index cannot be read"):
        report_parts(document() | broken)
