"""`srr models`: of a run in a store by its index, one model's files copied here, and errors with what to do."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.lineage_run import FinishedRun
from typer.testing import CliRunner, Result

from selfrewarding.cli.app import app

Srr = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> FinishedRun:
    """A run of a cluster, as its stages and its report leave it."""
    found = FinishedRun(tmp_path / "store", prompts=1, iterations=2)
    found.write_index()
    return found


@pytest.fixture
def srr(run: FinishedRun) -> Srr:
    def call(*arguments: str) -> Result:
        return CliRunner().invoke(
            app, ["models", "--store", run.store.uri, *arguments], env={"COLUMNS": "300", "NO_COLOR": "1"}
        )

    return call


def test_models_of_a_run_in_a_store_are_listed_with_their_folders(run: FinishedRun, srr: Srr) -> None:
    models = json.loads(srr("-o", "json").stdout)
    assert [(one["run"], one["name"], one["gate"]) for one in models] == [
        ("lab/demo", "Baseline", "Promoted"), ("lab/demo", "M1", "Promoted"), ("lab/demo", "M2", "Promoted"),
    ]  # fmt: skip
    assert (Path(models[2]["folder"]) / "model.safetensors").read_bytes() == b"m2"
    assert models[2]["folder"] in srr("--model", "M2").stdout


def test_a_models_files_are_copied_to_be_ones_own(run: FinishedRun, srr: Srr, tmp_path: Path) -> None:
    ended = srr("--download", str(tmp_path / "newest"))
    assert ended.exit_code == 0, ended.output
    assert ended.stdout == f"M2 of lab/demo: {tmp_path / 'newest'}\n"
    file = tmp_path / "newest/model.safetensors"
    assert file.read_bytes() == b"m2"
    file.write_bytes(b"changed")
    assert srr("--download", str(tmp_path / "again")).exit_code == 0
    assert (tmp_path / "again/model.safetensors").read_bytes() == b"m2", (
        "the artifacts are not what was changed"
    )
    assert srr("--download", str(tmp_path / "first"), "--model", "M1").exit_code == 0
    assert (tmp_path / "first/model.safetensors").read_bytes() == b"m1"


def test_a_model_that_was_rolled_back_is_not_the_newest(run: FinishedRun, srr: Srr, tmp_path: Path) -> None:
    index = run.store.root / "runs/lab/demo/index.json"
    document = json.loads(index.read_text())
    document["models"][-1]["gate"] = "RolledBack"
    index.write_text(json.dumps(document))
    assert srr("--download", str(tmp_path / "kept")).stdout.startswith("M1 of lab/demo")


def test_what_cannot_be_found_is_said_with_what_to_do(run: FinishedRun, srr: Srr, tmp_path: Path) -> None:
    for arguments, expected in (
        (("--model", "M9"), "no run here has a model M9 (there are: Baseline, M1, M2)"),
        (("--run", "other"), "no single run other is here (there are: lab/demo)"),
    ):
        ended = srr(*arguments)
        assert (ended.exit_code, expected in ended.output) == (2, True), ended.output
    run.store.delete(f"stages/PreferenceOptimize/{run.results['m2'].key}/result.json")
    ended = srr("--download", str(tmp_path / "gone"))
    assert (ended.exit_code, "the result of M2 is gone" in ended.output) == (2, True)
    run.store.delete("runs/lab/demo/index.json")
    ended = srr()
    assert (ended.exit_code, "has no index yet: its first report writes it" in ended.output) == (2, True)


@pytest.mark.parametrize("command", [["models"], ["report"], ["trace", "line-1"]])
def test_a_run_that_has_gone_on_since_its_index_is_told(
    run: FinishedRun, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    index = run.store.root / "runs/lab/demo/index.json"
    ended = CliRunner().invoke(app, [*command, "--store", run.store.uri])
    assert (ended.exit_code, ended.stderr) == (0, "")
    os.utime(index, (1_700_000_000, 1_700_000_000))
    ended = CliRunner().invoke(app, [*command, "--store", run.store.uri])
    assert ended.exit_code == 0
    assert "the run has gone on since its index was written (2023-11-14 22:13 UTC)" in ended.stderr
