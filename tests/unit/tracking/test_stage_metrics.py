"""Metrics of stage programs: what Prometheus reads, and that nothing about them can fail a stage."""

import socket
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.sampler_stages import Workplace
from tests.support.stages import surroundings

from selfrewarding.api.algorithm import JudgeSpec, ResponsesSpec
from selfrewarding.contract import program
from selfrewarding.contract.config import RolloutParameters, StageConfig
from selfrewarding.tracking.prometheus import measured


@pytest.fixture(autouse=True)
def _no_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_listeners", [])


@pytest.fixture
def config(tmp_path: Path) -> StageConfig:
    return Workplace(tmp_path).config(RolloutParameters(responses=ResponsesSpec(), judge=JudgeSpec()))


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def read(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")
    }


def test_progress_is_served_while_the_stage_runs(
    config: StageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("SRR_METRICS_PORT", str(port))

    def stage(config: StageConfig, here: program.Surroundings) -> dict[str, float]:
        program.report_progress(done=3, total=12, rate=1.5, tokens=640)
        return read(port)

    seen = measured(stage)(config, surroundings(tmp_path))
    labels = '{iteration="2",stage="Rollout"}'
    assert seen[f"srr_program_progress_done{labels}"] == 3
    assert seen[f"srr_program_progress_total{labels}"] == 12
    assert seen[f"srr_program_progress_per_second{labels}"] == 1.5
    assert seen[f"srr_program_tokens{labels}"] == 640
    assert 0 <= seen[f"srr_program_seconds{labels}"] < 60
    assert abs(seen[f"srr_program_progress_timestamp_seconds{labels}"] - time.time()) < 60
    assert "process_resident_memory_bytes" in seen


@pytest.mark.parametrize("port", ["taken", "no number", "99999999"])
def test_a_port_that_cannot_be_had_fails_no_stage(
    config: StageConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    port: str,
) -> None:
    with socket.socket() as listening:
        listening.bind(("0.0.0.0", 0))
        listening.listen()
        monkeypatch.setenv("SRR_METRICS_PORT", str(listening.getsockname()[1]) if port == "taken" else port)
        assert measured(lambda config, here: "done")(config, surroundings(tmp_path)) == "done"
    assert "no metrics on SRR_METRICS_PORT" in capsys.readouterr().err


def test_without_a_port_and_in_further_processes_of_a_pod_nothing_listens(
    config: StageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SRR_METRICS_PORT", raising=False)
    measured(lambda config, here: None)(config, surroundings(tmp_path))
    monkeypatch.setenv("SRR_METRICS_PORT", str(free_port()))
    monkeypatch.setenv("LOCAL_RANK", "1")
    measured(lambda config, here: None)(config, surroundings(tmp_path))
    assert program._listeners == []


def test_every_node_of_a_training_answers_and_one_prints(
    config: StageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rank 8 of two nodes with eight processes each: the first of its pod."""
    port = free_port()
    monkeypatch.setenv("SRR_METRICS_PORT", str(port))
    monkeypatch.setenv("LOCAL_RANK", "0")
    here = replace(surroundings(tmp_path), rank=8)

    def training(config: StageConfig, here: program.Surroundings) -> dict[str, float]:
        program.report_progress(done=5, total=10, unit="steps", printed=here.rank == 0)
        return read(port)

    seen = measured(training)(config, here)
    assert seen['srr_program_progress_done{iteration="2",stage="Rollout"}'] == 5
    assert capsys.readouterr().out == ""


def test_a_listener_that_fails_is_not_heard_of(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(progress: program.Progress) -> None:
        raise OSError("no space")

    program.listen_to_progress(broken)
    program.report_progress(done=1, total=2)
    assert "SRR-PROGRESS" in capsys.readouterr().out
