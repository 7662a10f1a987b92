"""`srr report`: of a local run, of a run in a store, and what it says where there is none."""

import json
import time

import pytest
from tests.support.builders import SPEC
from tests.support.finished_run import finished_run
from typer.testing import CliRunner

from selfrewarding.cli.app import app
from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.config import Execution, ReportParameters, StageConfig
from selfrewarding.contract.program import Surroundings
from selfrewarding.contract.stages import StageKind
from srr_sampler import report


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store in which a cluster's run has left its first report."""
    folder = tmp_path_factory.mktemp("made")
    run = finished_run(folder / "store", iterations=2, prompts=20)
    config = StageConfig(
        contract=CONTRACT_VERSION, run=run.run, kind=StageKind.REPORT, iteration=2, key="ab" * 32, store=run.store.uri,
        seed=0, parents=run.stages, parameters=ReportParameters(run_uid=run.run.uid),
        execution=Execution(deadline_seconds=60), story=run.story,
    )  # fmt: skip
    here = Surroundings(folder / "scratch", pod_uid="p", attempt=1, shard=0, rank=0, started=time.monotonic())
    report.main(config, here)
    return run


@pytest.fixture
def run(made, tmp_path):
    return made.copied_to(tmp_path / "store")


@pytest.fixture
def srr(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return CliRunner().invoke(app, ["report", *arguments])

    return call


def test_a_run_in_a_store_is_reported_as_its_stages_did(run, srr, tmp_path):
    ended = srr("--store", run.store.uri)
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.startswith("Wrote report.html (0.")
    assert "lab/demo" in ended.stdout
    assert (tmp_path / "report.html").read_bytes() == run.store.read("runs/lab/demo/report.html")


def test_what_is_missing_is_told(run, srr, tmp_path):
    run.result_path("Rollout-2").unlink()
    ended = srr("--store", run.store.uri, "-o", "page.html")
    assert ended.exit_code == 0
    assert "missing: M2 Rollout" in ended.stderr
    assert "of this report could not be made" in (tmp_path / "page.html").read_text()


def test_a_damaged_index_is_one_line(run, srr):
    run.store.write("runs/lab/demo/index.json", b"{")
    ended = srr("--store", run.store.uri)
    assert ended.exit_code == 2
    assert "is no index of a run" in ended.stderr
    assert "Traceback" not in ended.output


def test_a_run_before_its_first_report_is_told_so(run, srr):
    run.store.delete("runs/lab/demo/index.json")
    ended = srr("--store", run.store.uri)
    assert ended.exit_code == 2
    assert "has no index yet" in ended.stderr


def test_a_page_that_cannot_be_written_is_one_line(run, srr):
    ended = srr("--store", run.store.uri, "-o", "no/such/folder/report.html")
    assert ended.exit_code == 2
    assert "no such file or directory: name another place with -o FILE" in ended.stderr


def test_without_any_run_it_says_where_it_looked(srr, tmp_path):
    ended = srr()
    assert ended.exit_code == 2
    assert "no run was started here" in ended.stderr


def test_a_local_run_is_reported_from_its_own_record(srr, tmp_path):
    from selfrewarding.local.run_record import open_record, save_record, with_status
    from selfrewarding.local.state import StateFolder

    raw = {
        "apiVersion": "selfrewarding.dev/v1alpha1", "kind": "SelfRewardingRun", "metadata": {"name": "demo"},
        "spec": SPEC | {"artifacts": {"uri": "s3://runs/demo"}},
    }  # fmt: skip
    state = StateFolder.of(tmp_path / "artifacts", "default", "demo")
    from datetime import UTC, datetime

    with state.locked():
        record = open_record(state, raw, "default", datetime.now(UTC))
        from selfrewarding.local.run_record import run_of

        save_record(state, with_status(record, run_of(record).status))
    ended = srr("-o", "page.html")
    assert ended.exit_code == 0, ended.output
    assert "default/demo, 0 finished stages" in ended.stdout
    text = (tmp_path / "page.html").read_text()
    assert "uri: s3://runs/demo" in text
    assert json.dumps("Not measured").strip('"') in text
