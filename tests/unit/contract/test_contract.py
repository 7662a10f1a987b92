"""The contract: keys, seeds, messages, progress lines, exit codes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrewarding.api.algorithm import JudgeSpec
from selfrewarding.api.evaluation import EvaluationSpec
from selfrewarding.api.run import StageSummary
from selfrewarding.contract import CONTRACT_VERSION, environment
from selfrewarding.contract.config import EvaluateParameters, StageConfig
from selfrewarding.contract.keys import canonical_json, stage_key
from selfrewarding.contract.program import (
    BadData,
    ExitCode,
    ParentMissing,
    StageFailure,
    Surroundings,
    report_progress,
    run_stage,
)
from selfrewarding.contract.progress import last_progress, summed
from selfrewarding.contract.result import (
    MAX_SUMMARY_BYTES,
    StageResult,
    parse_termination,
    result_bytes,
    result_digest,
    summary_message,
    summary_of,
)
from selfrewarding.contract.seeds import derive_seed
from selfrewarding.contract.stages import StageKind

PARAMETERS = EvaluateParameters(judge=JudgeSpec(), evaluation=EvaluationSpec())


def key(**changes: Any) -> str:
    arguments: dict[str, Any] = {
        "kind": StageKind.EVALUATE, "iteration": 2, "contract": 1, "seed": 0, "parameters": PARAMETERS,
        "data": {"heldOut": "abc"}, "parents": {"model": "def"}, "roll_backs": 0,
    }  # fmt: skip
    return stage_key(**(arguments | changes))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": StageKind.ROLLOUT}, {"iteration": 3}, {"contract": 2}, {"seed": 1}, {"data": {"heldOut": "abd"}},
        {"parents": {"model": "dee"}}, {"roll_backs": 1},
        {"parameters": EvaluateParameters(judge=JudgeSpec(samples=4), evaluation=EvaluationSpec())},
    ],
)  # fmt: skip
def test_a_key_changes_with_each_thing_that_it_covers(change: dict[str, Any]) -> None:
    assert key(**change) != key()
    assert key() == key()


def test_canonical_json_has_one_text_for_equal_values() -> None:
    assert (
        canonical_json({"b": 1, "a": "é"}) == canonical_json({"a": "é", "b": 1}) == '{"a":"é","b":1}'.encode()
    )


@given(st.integers(0, 2**31 - 1), st.text(max_size=20), st.integers(0, 9), st.integers(1, 64))
def test_rule_13_seeds_are_derived_and_lie_apart_by_the_samples_of_a_request(
    run_seed: int, row: str, sample: int, spacing: int
) -> None:
    seed = derive_seed(run_seed, "key", row, sample, spacing=spacing)
    assert seed == derive_seed(run_seed, "key", row, sample, spacing=spacing)
    assert seed % spacing == 0
    assert 0 <= seed <= 2**31 - spacing


def test_rule_13_neighbouring_rows_samples_and_stages_get_other_seeds() -> None:
    seeds = {
        derive_seed(1, stage, f"row{row}", sample)
        for stage in "ab"
        for row in range(50)
        for sample in range(4)
    }
    assert len(seeds) == 400


def a_result(**changes: Any) -> StageResult:
    values: dict[str, Any] = {
        "contract": CONTRACT_VERSION, "kind": StageKind.ROLLOUT, "iteration": 2, "key": "a" * 64,
        "counts": {"answers": 12}, "metrics": {"validRate": 0.987654321}, "seconds": 12.34, "pod": "p",
    }  # fmt: skip
    return StageResult.model_validate(values | changes)


def test_a_summary_travels_through_the_termination_message() -> None:
    summary = summary_of(a_result())
    message = parse_termination(summary_message("a" * 64, summary))
    assert message is not None
    assert message.done == {"a" * 16: summary}
    assert summary.digest == result_digest(result_bytes(a_result()))
    assert summary.metrics == {"validRate": 0.987654}


def test_a_summary_that_is_too_long_is_refused_by_its_writer() -> None:
    summary = StageSummary(
        stage="Rollout", iteration=1, digest="d", counts={f"count{i}": i for i in range(100)}
    )
    with pytest.raises(ValueError, match=f"at most {MAX_SUMMARY_BYTES}"):
        summary_message("a" * 64, summary)


@pytest.mark.parametrize("text", ["", "Killed", '{"done": {', '{"other": 1}', "[1]", "\x00"])
def test_a_foreign_termination_message_is_none(text: str) -> None:
    assert parse_termination(text) is None


def test_the_last_whole_progress_line_of_a_tail_counts(capsys: pytest.CaptureFixture[str]) -> None:
    report_progress(done=1, total=4, rate=0.5, unit="steps", tokens=10)
    report_progress(done=2, total=4, rate=0.5, unit="steps", tokens=20)
    tail = "noise\n" + capsys.readouterr().out + 'x SRR-PROGRESS {"done": 3, "tot'
    line = last_progress(tail)
    assert line is not None
    assert (line.done, line.total, line.eta_seconds, line.unit, line.tokens) == (2, 4, 4.0, "steps", 20)
    assert last_progress("no line at all") is None


def test_the_progress_of_several_pods_is_their_sum() -> None:
    one = last_progress('SRR-PROGRESS {"done": 2, "total": 6, "rate": 1.0, "tokens": 5}')
    assert one is not None
    both = summed([one, one])
    assert both is not None
    assert (both.done, both.total, both.rate, both.eta_seconds, both.tokens) == (4, 12, 2.0, 4.0, 10)
    assert summed([]) is None


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of a pod with a valid configuration; returns its termination file."""
    config = {
        "contract": CONTRACT_VERSION, "run": {"namespace": "n", "name": "r", "uid": "u"}, "kind": "Evaluate",
        "iteration": 1, "key": "b" * 64, "store": "file:///s", "seed": 1,
        "parameters": PARAMETERS.model_dump(by_alias=True), "execution": {"deadlineSeconds": 60},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv(environment.CONFIG, str(tmp_path / "config.json"))
    monkeypatch.setenv(environment.SCRATCH, str(tmp_path / "scratch"))
    monkeypatch.setenv(environment.POD_UID, "pod-1")
    monkeypatch.setenv(environment.TERMINATION, str(tmp_path / "termination"))
    return tmp_path / "termination"


def fails_with(error: Exception) -> Any:
    def main(_config: StageConfig, _here: Surroundings) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "failure"),
    [
        (BadData("row 3 is empty"), ExitCode.BAD_DATA, "BadData"),
        (ParentMissing("gone", "c" * 64), ExitCode.PARENT_MISSING, "ParentMissing"),
        (ZeroDivisionError("x"), ExitCode.UNKNOWN, "Unknown"),
    ],
)
def test_survival_rule_06_the_class_of_a_failure_is_exit_code_and_message(
    pod: Path, error: Exception, code: ExitCode, failure: str
) -> None:
    assert run_stage(fails_with(error), translate=lambda _: None) == code
    message = parse_termination(pod.read_text())
    assert message is not None
    assert message.failure == failure
    assert message.parent == ("c" * 16 if failure == "ParentMissing" else None)


def test_errors_of_the_store_are_translated(pod: Path) -> None:
    def translate(error: Exception) -> StageFailure | None:
        return BadData("said plainly") if isinstance(error, OSError) else None

    assert run_stage(fails_with(OSError("raw")), translate=translate) == ExitCode.BAD_DATA
    assert "said plainly" in pod.read_text()


def test_a_result_ends_in_its_summary(pod: Path) -> None:
    assert run_stage(lambda _config, _here: a_result(), translate=lambda _: None) == ExitCode.DONE
    message = parse_termination(pod.read_text())
    assert message is not None
    assert list(message.done) == ["a" * 16]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda text: text.replace(f'"contract": {CONTRACT_VERSION}', '"contract": 99'),
            "contract version 99",
        ),
        (lambda text: text.replace('"seed": 1', '"seed": "x"'), "seed"),
        (lambda text: text[:40], "JSON"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_exit_code_2(pod: Path, change: Any, told: str) -> None:
    config = pod.parent / "config.json"
    config.write_text(change(config.read_text()))
    assert run_stage(lambda _config, _here: None, translate=lambda _: None) == ExitCode.BAD_CONFIGURATION
    assert re.search(told, pod.read_text())
