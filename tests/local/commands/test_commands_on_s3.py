"""The commands that read a run of a cluster, from a bucket: settings come from the environment as in its pods."""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support import s3_servers
from tests.support.lineage_run import FinishedRun, with_answers
from typer.testing import CliRunner, Result

from selfrewarding.cli.app import app
from selfrewarding.contract.artifacts import PAIRS
from selfrewarding.store import open_store
from selfrewarding.store.results import read_jsonl

Srr = Callable[..., Result]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    found = FinishedRun(tmp_path_factory.mktemp("run"), prompts=2, iterations=2)
    with_answers(found, {"m2": "An answer"}, prompts=2)
    found.compare(2, {"previous": 1})
    found.write_index()
    return found


@pytest.fixture(scope="module")
def bucket(run: FinishedRun) -> Iterator[tuple[str, dict[str, str]]]:
    """A bucket on moto's server with the run in it, and the settings to reach it."""
    with s3_servers.models_read_once(), s3_servers.moto() as endpoint:
        name = f"runs-{uuid.uuid4().hex[:12]}"
        s3_servers.make_bucket(endpoint, name)
        settings = s3_servers.settings(endpoint)
        uri = f"s3://{name}/artifacts"
        store = open_store(uri, settings)
        store.upload_tree(run.store.root / "stages", "stages")
        # As in a cluster, the index is the newest object.
        store.upload_tree(run.store.root / "runs", "runs")
        store.write("runs/lab/demo/index.json", run.store.read("runs/lab/demo/index.json"))
        yield uri, settings


@pytest.fixture
def srr(bucket: tuple[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Srr:
    uri, settings = bucket
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("AWS_", "SRR_S3"))]:
        monkeypatch.delenv(name)

    def call(*arguments: str, **other: str) -> Result:
        env = settings | {"COLUMNS": "300", "NO_COLOR": "1"} | other
        return CliRunner().invoke(app, [*arguments, "--store", uri], env=env)

    return call


def test_a_pair_and_a_comparison_are_explained(run: FinishedRun, srr: Srr) -> None:
    pair = next(iter(read_jsonl(run.store, run.results["preferences2"], PAIRS)))
    ended = srr("explain", pair["key"], "--json")
    assert (ended.exit_code, json.loads(ended.stdout)["row"]) == (0, pair), ended.output
    comparison = f"previous/{run.held_out[0].key}"
    assert json.loads(srr("explain", comparison, "--json").stdout)["key"] == comparison


def test_a_seed_row_is_traced(srr: Srr) -> None:
    ended = srr("trace", "line-1", "--json", "--run", "lab/demo")
    assert (ended.exit_code, json.loads(ended.stdout)["trained"][:2]) == (0, ["Baseline", "M1"])


def test_models_are_listed_and_copied(bucket: tuple[str, dict[str, str]], srr: Srr, tmp_path: Path) -> None:
    models = json.loads(srr("models", "-o", "json").stdout)
    assert models[-1]["folder"].startswith(f"{bucket[0]}/stages/PreferenceOptimize/")
    ended = srr("models", "--download", "m1", "--model", "M1")
    assert ended.exit_code == 0, ended.output
    assert (tmp_path / "m1/model.safetensors").read_bytes() == b"m1"


def test_the_report_is_written(srr: Srr, tmp_path: Path) -> None:
    ended = srr("report", "-o", "page.html")
    assert ended.exit_code == 0, ended.output
    assert "lab/demo" in ended.stdout
    assert "Self-rewarding run" in (tmp_path / "page.html").read_text()


def test_answers_are_exported(srr: Srr, tmp_path: Path) -> None:
    ended = srr("export", "alpaca-eval", "--set", "alpaca", "-o", "out")
    assert ended.exit_code == 0, ended.output
    assert len(json.loads((tmp_path / "out/model_outputs.json").read_text())) == 2


def test_an_endpoint_that_does_not_answer_is_one_message(srr: Srr) -> None:
    nobody = f"http://127.0.0.1:{s3_servers.free_port()}"
    for command in (["explain", "ab"], ["trace", "line-1"], ["models"], ["report"]):
        ended = srr(*command, SRR_S3_ENDPOINT=nobody, AWS_MAX_ATTEMPTS="1")
        assert ended.exit_code == 2, ended.output
        assert nobody in ended.stderr
        assert "Traceback" not in ended.output
