"""What people see while a run goes on, and the tables at its end."""

import dataclasses
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from tests.support.builders import NOW, make_run, make_spec

from selfrewarding.api import labels
from selfrewarding.api.run import SelfRewardingRunStatus, StageAttempts, StageSummary
from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.progress import ProgressLine
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.local import results_report, snapshot
from selfrewarding.local.display import LiveDisplay, PlainDisplay, clock, drawing, last_lines, sentence
from selfrewarding.local.pod import PodRecord
from selfrewarding.local.run_results import Finished
from selfrewarding.local.state import StateFolder
from selfrewarding.local.usage import UsageMeter, load_usage
from selfrewarding.plan.actions import Event
from selfrewarding.plan.graph import build_graph
from selfrewarding.plan.observed import Observed, Phase, Pod

DATA = {"instructions": "a" * 12, "model": "b" * 12, "ranked": "c" * 12, "heldOut": "d" * 12}


def text_of(renderable, width=160):
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(renderable)
    return out.getvalue()


def moment(**changes):
    fields = {
        "run": "default/demo", "now": NOW + timedelta(seconds=200), "started": NOW, "iteration": 2, "iterations": 3,
        "stage": "Rollout", "gpus": 0, "lines": (), "progress": None, "stage_started": None, "waiting_for": None,
        "peak_bytes": 0, "log": None,
    }  # fmt: skip
    return snapshot.Snapshot(**(fields | changes))


@pytest.fixture
def rollout():
    """A run in the middle of the second iteration's Rollout: status, its graph, and what is observed."""
    spec = make_spec()
    prepare = build_graph(spec, run_uid="run-uid", contract=CONTRACT_VERSION).prepare
    summary = StageSummary(stage="Prepare", iteration=0, digest="ab" * 8, data=DATA, seconds=7)
    graph = build_graph(spec, run_uid="run-uid", contract=CONTRACT_VERSION, prepare=summary)
    stages = list(graph.stages)
    at = next(number for number, stage in enumerate(stages) if stage.kind is StageKind.ROLLOUT)
    done = {
        stage.short: StageSummary(
            stage=stage.kind, iteration=stage.iteration, digest="ab" * 8, data=DATA, seconds=30
        )
        for stage in stages[1:at]
    }
    models = [
        {"name": "M1", "iteration": 1, "uri": f"s3://runs/demo/stages/SupervisedFineTune/{graph.iterations[0].trained.key}",
         "digest": "ab" * 8, "gate": "Promoted"}
    ]  # fmt: skip
    status = SelfRewardingRunStatus.model_validate(
        {
            "iteration": 2,
            "stage": "Rollout",
            "models": models,
            "results": {prepare.short: summary, **done},
            "attempts": {stages[at].short: StageAttempts(attempt=2, last_failure="the store did not answer")},
            "resolved": [stage.short for stage in stages[at:]],
        }
    )
    pod = Pod(
        name="p", uid="u", key=stages[at].short, attempt=2, stage="Rollout", phase=Phase.RUNNING, scheduled=True,
        created=NOW, started=NOW + timedelta(seconds=100),
        progress=ProgressLine(done=30, total=120, rate=0.5, eta_seconds=180, unit="prompts", tokens=5000),
    )  # fmt: skip
    return make_run(status=status), spec, pod, stages[at]


def test_a_snapshot_shows_every_stage_of_the_iteration(rollout):
    run, spec, pod, _ = rollout
    record = PodRecord(
        name="p",
        uid="u",
        owner_kind="Job",
        owner_name="j",
        owner_uid="o",
        created=NOW,
        log="/logs/p.log",
        phase=Phase.RUNNING,
    )
    now = NOW + timedelta(seconds=200)
    taken = snapshot.take(
        run, spec, Observed(pods=(pod,)), [record], now=now, started=NOW, peak_bytes=3 * 2**30
    )
    assert [(line.name, line.state) for line in taken.lines] == [
        ("Prepare", "done"),
        ("GeneratePrompts", "done"),
        ("Rollout", "running"),
        ("BuildPreferences", "waiting"),
        ("PreferenceOptimize", "waiting"),
        ("Evaluate", "waiting"),
    ]
    assert (taken.lines[0].seconds, taken.lines[2].seconds) == (7, 100)
    assert taken.lines[2].note == "attempt 2: the store did not answer"
    assert taken.tokens_per_second == 50.0
    assert taken.log == Path("/logs/p.log")
    assert (taken.elapsed, taken.iteration, taken.iterations) == (200, 2, 3)

    drawn = text_of(drawing(taken, 160))
    for part in ("lab/demo", "iteration 2 of 3", "3:20 elapsed", "peak 3.0 GiB", "30/120 prompts", "0.50/s",
                 "3:00 left",
                 "50 tokens/s", "attempt 2: the store did not answer", "p.log"):  # fmt: skip
        assert part in drawn, f"{part!r} is not in\n{drawn}"


def test_a_stage_whose_server_starts_is_starting(rollout):
    run, spec, _, stage = rollout
    server = Pod(
        name="s", uid="v", key="k", attempt=1, stage=None, holder=stage.holders["policy"].name, phase=Phase.RUNNING,
        scheduled=True, created=NOW, started=NOW,
    )  # fmt: skip
    taken = snapshot.take(
        run, spec, Observed(pods=(server,)), [], now=NOW + timedelta(seconds=9), started=NOW, peak_bytes=0
    )
    assert [(line.state, line.seconds) for line in taken.lines if line.name == "Rollout"] == [("starting", 9)]
    assert taken.progress is None


def test_plain_output_is_one_line_per_change_and_progress_at_most_every_ten_seconds():
    out = io.StringIO()
    display = PlainDisplay(Console(file=out, width=200))
    for second in range(25):
        line = ProgressLine(done=second, total=100, rate=1.0, eta_seconds=100 - second)
        display.show(moment(now=NOW + timedelta(seconds=second), progress=line))
    display.show(
        moment(now=NOW + timedelta(seconds=25), stage="Evaluate", waiting_for="a server of M2 to be ready")
    )
    display.show(
        moment(now=NOW + timedelta(seconds=26), stage="Evaluate", waiting_for="a server of M2 to be ready")
    )
    display.event(Event(type="Warning", reason="AttemptFailed", message="[x] failed"))
    display.close()
    assert out.getvalue().splitlines() == [
        "0:00 iteration 2 of 3: Rollout, 0/100 rows, 1.00/s, 1:40 left",
        "0:10 iteration 2 of 3: Rollout, 10/100 rows, 1.00/s, 1:30 left",
        "0:20 iteration 2 of 3: Rollout, 20/100 rows, 1.00/s, 1:20 left",
        "0:25 iteration 2 of 3: Evaluate, waiting for a server of M2 to be ready",
        "warning: [x] failed",
    ]


def test_the_live_view_leaves_only_events_behind():
    out = io.StringIO()
    display = LiveDisplay(Console(file=out, width=100, force_terminal=True, color_system=None))
    display.show(moment(progress=ProgressLine(done=1, total=2)))
    display.event(Event(type="Normal", reason="StageDone", message="Rollout [2] is done."))
    display.close()
    assert "Rollout [2] is done." in out.getvalue()
    assert "1/2 rows" in out.getvalue()
    assert out.getvalue().rstrip().endswith(("\x1b[2K", "\x1b[?25h"))


def test_a_sentence_before_the_first_iteration():
    assert (
        sentence(moment(iteration=0, stage=None, waiting_for="x")) == "start: between stages, waiting for x"
    )


def test_log_lines_are_plain_and_without_progress(tmp_path):
    log = tmp_path / "a.log"
    log.write_text(
        "one\n\x1b[31mred\x1b[0m\r\nSRR-PROGRESS {}\n\n" + "".join(f"{number}\n" for number in range(3))
    )
    assert last_lines(log, 4) == ["red", "0", "1", "2"]
    assert last_lines(tmp_path / "none.log", 4) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (750, "12:30"), (7265, "2:01:05"), (-3, "0:00")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def finished(stage, counts, metrics, report=None, seconds=10.0):
    result = StageResult(
        contract=1, kind=stage.kind, iteration=stage.iteration, key=stage.key, counts=counts, metrics=metrics,
        report=report or {}, seconds=seconds, pod="p",
    )  # fmt: skip
    return Finished(stage, result)


def test_rows_and_tables_of_the_end(rollout):
    _, spec, _, _ = rollout
    summary = StageSummary(stage="Prepare", iteration=0, digest="ab" * 8, data=DATA)
    stages = list(build_graph(spec, run_uid="u", contract=CONTRACT_VERSION, prepare=summary).stages)
    made = {
        StageKind.PREPARE: ({"instructions": 80}, {}),
        StageKind.BUILD_EVALUATIONS: ({"prompts": 20, "answers": 60, "judgements": 180, "valid": 90,
                                      "malformed": 60, "missing": 30, "outputTokens": 900}, {}),
        StageKind.SUPERVISED_FINE_TUNE: ({"tokens": 5000}, {"loss": 1.23456, "tokensPerSecond": 152.04}),
        StageKind.EVALUATE: ({"pairs": 30, "outputTokens": 100}, {"pairwiseAccuracy": 0.5667}),
    }  # fmt: skip
    first = [
        finished(stage, *made[stage.kind]) for stage in stages if stage.iteration < 2 and stage.kind in made
    ]
    [row] = results_report.iteration_rows(first)
    assert (row.iteration, row.prompts, row.ranked_prompts, row.answers, row.judgements, row.valid) == (
        1,
        None,
        20,
        60,
        180,
        90,
    )
    assert list(row.invalid.items()) == [("malformed", 60), ("no score", 30)]
    assert (row.pairwise_accuracy, row.held_out_pairs, row.loss, row.reward_margin) == (
        0.5667,
        30,
        1.23456,
        None,
    )
    costs = results_report.stage_rows(first, {first[2].stage.short: 2**30})
    assert [(cost.stage, cost.tokens, cost.tokens_per_second) for cost in costs] == [
        ("Prepare", None, None),
        ("BuildEvaluations", 900, 90.0),
        ("SupervisedFineTune", 5000, 152.04),
        ("Evaluate", 100, 10.0),
    ]
    table = text_of(results_report.iterations_table([row]))
    for part in (
        "M1",
        "20 ranked",
        "90 of 180 valid (50%)",
        "invalid: 60 malformed, 30 no score",
        "56.7%",
        "of 30 held-out pairs",
        "1.2346",
    ):
        assert part in table
    assert "Win rate" not in table, "nothing was compared"
    compare = dataclasses.replace(stages[-1], kind=StageKind.COMPARE)
    intervals = {"previous": {"win_rate": [48.24, 61.0]}}
    [compared] = results_report.iteration_rows(
        [finished(compare, {}, {"winRate": 0.546}, {"intervals": intervals})]
    )
    table = text_of(results_report.iterations_table([row, compared]))
    for part in ("Win rate", "54.6%", "48.2% to 61.0%"):
        assert part in table
    table = text_of(results_report.stages_table(costs, 3 * 2**30))
    for part in ("152.0", "6,000", "1.00 GiB", "3.00 GiB", "40"):
        assert part in table


def test_the_table_says_which_candidate_was_chosen(rollout):
    _, spec, _, _ = rollout
    summary = StageSummary(stage="Prepare", iteration=0, digest="ab" * 8, data=DATA)
    stage = list(build_graph(spec, run_uid="u", contract=CONTRACT_VERSION, prepare=summary).stages)[-1]
    select = dataclasses.replace(stage, kind=StageKind.SELECT)
    rows = results_report.iteration_rows([finished(select, {}, {}, {"chosen": "candidate 2 of 4"})])
    assert "chosen: candidate 2 of 4" in " ".join(text_of(results_report.iterations_table(rows)).split())


def test_peak_memory_is_kept_by_stage_and_over_restarts(tmp_path):
    state = StateFolder.of(tmp_path, "default", "demo")
    state.make()
    stage = PodRecord(
        name="p", uid="u", owner_kind="Job", owner_name="j", owner_uid="o", created=datetime.now(UTC), log="l",
        labels={labels.KEY: "key", labels.STAGE: "Rollout"},
    )  # fmt: skip
    server = stage.model_copy(update={"labels": {labels.KEY: "model", labels.HOLDER: "h"}})
    meter = UsageMeter(state)
    meter.record(100, 110, [stage, server])
    meter.record(90, 300, [server])
    again = UsageMeter(state)
    assert (again.usage.stages, again.usage.peak_bytes) == ({"key": 100}, 300)
    state.usage.write_text("{broken")
    assert load_usage(state).peak_bytes == 0
