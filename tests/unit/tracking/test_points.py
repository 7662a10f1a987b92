"""Points: which numbers of which iteration, never one that is no number; and when a run counts as ended."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.builders import make_spec
from tests.support.lineage_run import RUN, FinishedRun

from selfrewarding.api.run import AlarmStatus, ModelStatus
from selfrewarding.api.tracking import TrackingSpec
from selfrewarding.contract.config import Story
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.tracking import sending
from selfrewarding.tracking.job import told
from selfrewarding.tracking.points import Point, by_iteration, points


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StageResult]:
    run = FinishedRun(tmp_path_factory.mktemp("run"), prompts=2, iterations=2)
    return {f"{result.kind}-{result.iteration}": result for result in run.results.values()}


def story(**fields: object) -> Story:
    return Story.model_validate({"spec": make_spec({"iterations": 2}), **fields})


def test_every_number_of_every_stage_is_a_point_of_its_iteration(results: dict[str, StageResult]) -> None:
    alarm = AlarmStatus(
        name="tieRate", iteration=2, action="Warn", value=0.9, threshold=0.8, message="many ties"
    )
    told_of = story(gpus={"Rollout-2": 4}, handover_seconds={"Rollout-2": 3.5}, alarms=[alarm])
    found = by_iteration(points(results, told_of))
    assert list(found) == [0, 1, 2]
    assert found[0]["baseline/loss"] == 1.5
    assert found[1]["evaluate/pairwiseAccuracy"] == pytest.approx(0.61)
    assert found[2]["evaluate/pairwiseAccuracy"] == pytest.approx(0.62)
    assert (found[2]["evaluate/pairwiseAccuracyLow"], found[2]["evaluate/pairwiseAccuracyHigh"]) == (
        0.55,
        0.65,
    )
    assert found[2]["preferences/pairs"] == 2
    assert found[2]["rollout/seconds"] == 12.5
    assert found[2]["rollout/gpuSeconds"] == 50
    assert found[2]["rollout/handoverSeconds"] == 3.5
    assert found[2]["alarm/tieRate"] == 0.9
    assert not any(name.startswith(("prepare/", "report/")) for values in found.values() for name in values)


def test_the_baselines_evaluate_is_step_0_and_no_number_is_left_out_as_such(
    results: dict[str, StageResult],
) -> None:
    evaluate = results["Evaluate-1"].model_copy(update={"metrics": {"spearman": math.nan, "winRate": 0.5}})
    found = by_iteration(points({"Evaluate-0": evaluate}, story()))
    assert list(found) == [0]
    assert found[0]["evaluate/winRate"] == 0.5
    assert "evaluate/spearman" not in found[0], "a tracker would show it as a gap or refuse it"


def test_win_rates_have_their_intervals_beside_them(results: dict[str, StageResult]) -> None:
    report = {
        "intervals": {
            "previous": {"win_rate": [48.0, 61.0], "length_controlled_win_rate": None},
            "initial": {"win_rate": [52.0, 70.0]},
            "all": {"position_bias": [10.0, 20.0]},
        }
    }
    compare = results["Evaluate-2"].model_copy(
        update={
            "kind": StageKind.COMPARE,
            "metrics": {"winRate": 0.55, "winRateInitial": 0.6},
            "report": report,
        }
    )
    found = by_iteration(points({"Compare-2": compare}, story()))[2]
    assert {name: value for name, value in found.items() if name.endswith(("Low", "High"))} == {
        "compare/winRateLow": 0.48, "compare/winRateHigh": 0.61,
        "compare/winRateInitialLow": 0.52, "compare/winRateInitialHigh": 0.7,
        "compare/positionBiasLow": 0.1, "compare/positionBiasHigh": 0.2,
    }  # fmt: skip


def test_the_same_results_are_the_same_points(results: dict[str, StageResult]) -> None:
    backwards = dict(reversed(results.items()))
    assert points(results, story()) == points(backwards, story())
    assert all(point.time > 1e9 for point in points(results, story()))


@pytest.mark.parametrize(
    ("gate", "iteration", "alarms", "ended"),
    [
        (None, 2, [], False),
        ("Promoted", 1, [], False),
        ("Promoted", 2, [], True),
        ("RolledBack", 2, [], True),
        ("Held", 1, [], False),
        ("Held", 2, [], True),  # it keeps nothing from starting
        ("Stopped", 1, [], True),
        (None, 1, ["Stop"], True),
        (None, 1, ["Warn"], False),
    ],
)
def test_when_a_run_has_ended(gate: str | None, iteration: int, alarms: list[str], ended: bool) -> None:
    sounding = [
        AlarmStatus(name="a", iteration=1, action=action, value=1, threshold=1, message="m")  # type: ignore[arg-type]
        for action in alarms
    ]
    model = ModelStatus(name="M", iteration=iteration, uri="u", digest="d", gate=gate)  # type: ignore[arg-type]
    assert sending._has_ended(story(models=[model], alarms=sounding), [Point("a", iteration, 1, 1)]) is ended


def test_a_run_that_its_judge_ended_has_ended() -> None:
    model = ModelStatus(name="M1", iteration=1, uri="u", digest="d", gate="Promoted")
    here = [Point("a", 1, 1, 1)]
    assert not sending._has_ended(story(models=[model]), here)
    assert sending._has_ended(story(models=[model], uncalibrated="its accuracy is 0.4"), here)


def test_a_problem_is_one_line_without_secrets() -> None:
    environment = {"WANDB_API_KEY": "top-secret"}
    line = told(ValueError("no\n answer from http://me:pw@host/ for top-secret"), environment)
    assert line == "ValueError: no answer from http://host/ for …"


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (
            "import sys; sys.stderr.write('noise\\nSRR-TRACKING RuntimeError: refused\\n'); sys.exit(1)",
            "refused",
        ),
        ("import os; os.abort()", "ended with exit code -6"),
        ("import time; time.sleep(60)", "no answer within 0.5 s"),
        ("import sys; sys.exit(3)", "it said nothing"),
    ],
)
def test_whatever_a_client_does_is_a_line_in_the_report(
    results: dict[str, StageResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    expected: str,
) -> None:
    start = subprocess.Popen

    def started(command: list[str], **options: object) -> "subprocess.Popen[bytes]":
        assert command[1:] == ["-m", "selfrewarding.tracking"]
        return start([sys.executable, "-c", program], **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(subprocess, "Popen", started)
    tracking = TrackingSpec.model_validate({"mlflow": {"uri": "http://127.0.0.1:9"}})
    store = FinishedRun(tmp_path, prompts=1, iterations=1).store
    told_of = story(tracking=tracking)
    problems = sending.send(
        store, RUN, told_of, points(results, told_of), deadline=0.5 if "sleep" in program else 20
    )
    assert len(problems) == 1
    assert problems[0].startswith("MLflow: ")
    assert expected in problems[0]


def test_nothing_is_sent_where_nothing_is_asked_for(results: dict[str, StageResult], tmp_path: Path) -> None:
    store = FinishedRun(tmp_path, prompts=1, iterations=1).store
    assert sending.send(store, RUN, story(), points(results, story())) == []
    assert not list(store.list("runs/lab/demo/tensorboard"))
