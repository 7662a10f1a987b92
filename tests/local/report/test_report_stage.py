"""The Report stage: page, index and cards in the run's folder, whatever is missing."""

import json
import time

import pytest
from tests.support.finished_run import finished_run

from selfrewarding.api.base import ApiModel
from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.config import Execution, ReportParameters, StageConfig
from selfrewarding.contract.program import BadConfiguration, Surroundings
from selfrewarding.contract.result import summary_message, summary_of
from selfrewarding.contract.stages import StageKind
from selfrewarding.report.index import read_index, report_parts
from selfrewarding.store.results import find_result, read_file
from srr_sampler import report

KEY = "ab" * 32


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("made"), iterations=2, prompts=20)


@pytest.fixture
def run(made, tmp_path):
    return made.copied_to(tmp_path / "store")


def config(run, **changes):
    fields = {
        "contract": CONTRACT_VERSION, "run": run.run, "kind": StageKind.REPORT, "iteration": 2, "key": KEY,
        "store": run.store.uri, "seed": 0, "parents": {"prepare": run.stages["Prepare-0"], **run.stages},
        "parameters": ReportParameters(run_uid=run.run.uid), "execution": Execution(deadline_seconds=60),
        "story": run.story,
    }  # fmt: skip
    return StageConfig(**(fields | changes))


def here(tmp_path, pod="pod-1"):
    return Surroundings(
        scratch=tmp_path / "scratch", pod_uid=pod, attempt=1, shard=0, rank=0, started=time.monotonic()
    )


@pytest.fixture(scope="module")
def reported(made, tmp_path_factory):
    """A run with its report, and the report's result."""
    folder = tmp_path_factory.mktemp("reported")
    run = made.copied_to(folder / "store")
    return run, report.main(config(run), here(folder))


def test_the_page_and_the_index_lie_with_the_run(reported):
    run, result = reported
    page = read_file(run.store, result, "report.html")
    assert page.startswith(b"<!doctype html>")
    assert run.store.read("runs/lab/demo/report.html") == page
    assert result.counts["missing"] == 0
    assert find_result(run.store, StageKind.REPORT, KEY) == result
    assert summary_message(KEY, summary_of(result))


def test_each_model_has_a_card_with_its_numbers_and_the_manifest(reported):
    run, _ = reported
    card = run.store.read("runs/lab/demo/cards/M2.md").decode()
    assert "pairwiseAccuracy" in card
    assert "c03d5e1f8a20" in card
    assert "kind: SelfRewardingRun" in card
    assert sorted(entry.key for entry in run.store.list("runs/lab/demo/cards")) == [
        f"runs/lab/demo/cards/{name}.md" for name in ("Baseline", "M1", "M2")
    ]


def test_the_index_is_enough_to_make_the_page_again(reported):
    run, _ = reported
    who, stages, story = report_parts(read_index(run.store, run.run))
    assert who == run.run
    assert stages == run.stages
    assert story == run.story.model_copy(
        update={"gpus": {role: run.story.gpus.get(role, 0) for role in stages}}
    )


def test_a_result_that_is_gone_is_said_and_the_rest_is_there(run, tmp_path):
    run.result_path("Rollout-2").unlink()
    run.result_path("Evaluate-1").write_bytes(b"{")
    result = report.main(config(run), here(tmp_path))
    assert result.counts["missing"] == 3  # Rollout, Evaluate, and the judgements of the pairs
    page = run.store.read("runs/lab/demo/report.html").decode()
    assert "Rollout" in page
    assert "3 parts of this report could not be made" in page
    index = json.loads(run.store.read("runs/lab/demo/index.json"))
    assert len(index["stages"]) == len(run.stages) - 2


def test_a_tracker_that_fails_is_told_and_fails_nothing(run, tmp_path, monkeypatch):
    sent = []

    def send(store, who, story, points):
        sent.append((who, {point.name for point in points}))
        return ["MLflow: no answer within 120 s"]

    monkeypatch.setattr("selfrewarding.tracking.sending.send", send)
    result = report.main(config(run), here(tmp_path))
    assert result.report["tracking"] == ["MLflow: no answer within 120 s"]
    [(who, names)] = sent
    assert who == run.run
    assert "evaluate/pairwiseAccuracy" in names


def test_a_second_attempt_takes_over_the_result_of_the_first(reported, tmp_path):
    run, first = reported
    assert report.main(config(run), here(tmp_path, "pod-2")) == first


def test_a_report_that_was_made_before_is_the_newest_of_the_run_again(run, tmp_path, monkeypatch):
    """As after an edit that was taken back: another report's page lies in the run's folder."""
    first = report.main(config(run), here(tmp_path))
    run.store.write("runs/lab/demo/report.html", b"of the edit")
    run.store.write("runs/lab/demo/index.json", b"{}")
    run.store.write("runs/lab/demo/cards/M2.md", b"of the edit")
    sent = []
    monkeypatch.setattr("selfrewarding.tracking.sending.send", lambda *told: sent.append(told) or [])
    assert report.main(config(run), here(tmp_path, "pod-2")) == first
    assert run.store.read("runs/lab/demo/report.html") == read_file(run.store, first, "report.html")
    assert len(json.loads(run.store.read("runs/lab/demo/index.json"))["stages"]) == len(run.stages)
    assert b"kind: SelfRewardingRun" in run.store.read("runs/lab/demo/cards/M2.md")
    assert sent == [], "its numbers were sent when it was made"


def test_a_report_without_a_story_is_a_bad_configuration(run, tmp_path):
    with pytest.raises(BadConfiguration):
        report.main(config(run, story=None), here(tmp_path))


def test_the_story_comes_through_the_configuration_file(run):
    whole: ApiModel = config(run)
    assert StageConfig.model_validate_json(whole.model_dump_json(by_alias=True)) == whole
