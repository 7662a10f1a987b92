"""`srr explain` and `srr trace`: finding the run, what is printed, hostile texts, and errors with what to do."""

import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.builders import SPEC
from tests.support.lineage_run import RUN, FinishedRun
from typer.testing import CliRunner, Result

from selfrewarding.api import labels
from selfrewarding.cli.app import app
from selfrewarding.contract.artifacts import PAIRS
from selfrewarding.local.run_record import RunRecord, save_record
from selfrewarding.local.state import StateFolder
from selfrewarding.store.results import read_jsonl


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run in an artifacts folder, as `srr local` leaves it; nobody changes it."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    run = FinishedRun(artifacts / "runs/demo")
    record(artifacts, run)
    return run


def record(artifacts: Path, run: FinishedRun, name: str = RUN.name) -> None:
    state = StateFolder.of(artifacts, RUN.namespace, name)
    state.make()
    document = {
        "apiVersion": labels.API_VERSION,
        "kind": labels.KIND,
        "metadata": RUN.model_dump() | {"name": name, "generation": 1, "resourceVersion": "1"},
        "spec": SPEC,
        "status": {"results": {result.key[:16]: {} for result in run.results.values()}},
    }
    save_record(state, RunRecord(contract=1, created=datetime(2026, 1, 1, tzinfo=UTC), object=document))


def srr(run: FinishedRun, *arguments: str) -> Result:
    artifacts = run.store.root.parents[1]
    return CliRunner().invoke(
        app, [*arguments, "--artifacts", str(artifacts)], env={"COLUMNS": "120", "NO_COLOR": "1"}
    )


def a_pair(run: FinishedRun) -> dict[str, Any]:
    return list(read_jsonl(run.store, run.results["preferences2"], PAIRS))[2]


def test_a_pair_is_explained_in_words(finished: FinishedRun) -> None:
    pair = a_pair(finished)
    result = srr(finished, "explain", pair["key"][:12])
    assert result.exit_code == 0, result.output
    for text in (
        pair["key"],
        "chosen 4.5, rejected 1.5",
        "Seed question 3?",
        "written in request 2 with seed 1002",
        "Answer 3, chosen: mean 9/2",
        "Answer 1: mean 5/2",
        "It is 5. Score: 5",
        "answers: M1, weights",
        "trained: M2, weights",
        "0.1.0+0123456789abcdef",
        "heldOut cccccccccccc",
    ):
        assert text in result.output, text


def test_a_dedicated_judge_is_named_and_not_the_model_that_answered(tmp_path: Path) -> None:
    run = FinishedRun(tmp_path / "runs/demo", prompts=3, iterations=2, judge="s3://models/judge-70b")
    result = CliRunner().invoke(
        app,
        ["explain", a_pair(run)["key"], "--store", run.store.uri],
        env={"COLUMNS": "300", "NO_COLOR": "1"},
    )
    assert result.exit_code == 0, result.output
    (judges,) = (line for line in result.output.splitlines() if line.startswith("judges: "))
    assert judges.startswith("judges: fixed model s3://models/judge-70b, digest eeeeeeeeeeee: ")
    assert "model judge-key, " in judges
    assert "answers: M1, weights" in result.output


def test_texts_of_models_do_nothing_to_a_terminal(finished: FinishedRun) -> None:
    output = srr(finished, "explain", a_pair(finished)["key"]).output
    assert "\x1b" not in output
    assert "\u202e" not in output
    assert r"\x1b[2J\u202eevil" in output
    assert "[bold]brackets[/bold]" in output, "brackets are no markup"


def test_a_prompt_without_a_pair_is_explained_in_words(tmp_path: Path) -> None:
    run = FinishedRun(tmp_path / "runs/demo", prompts=1, iterations=2)
    prompt = next(iter(read_jsonl(run.store, run.results["preferences2"], PAIRS)))["id"]
    preferences = run.results["preferences2"]
    run.store.delete(f"stages/BuildPreferences/{preferences.key}/result.json")
    result = CliRunner().invoke(app, ["explain", prompt, "--store", run.store.uri], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    for text in ("no pair came of this prompt", "Answer 3", "It is 5. Score: 5", "written in request 0"):
        assert text in result.output, text


def test_rows_that_measured_models_are_explained_in_words(tmp_path: Path) -> None:
    run = FinishedRun(tmp_path / "runs/demo", prompts=1, iterations=2)
    run.compare(2, {"previous": 1})
    key = run.held_out[0].key
    for wanted, expected, other in (
        (key, "M2 as judge (Evaluate 2)", "baseline"),
        (f"previous/{key}", "M2 against M1 (Compare 2): tie", "as judge"),
    ):
        result = CliRunner().invoke(
            app, ["explain", wanted, "--store", run.store.uri], env={"COLUMNS": "120", "NO_COLOR": "1"}
        )
        assert result.exit_code == 0, result.output
        assert expected in result.output
        assert other not in result.output
        assert "\x1b" not in result.output
        assert "modelUri s3://models/referee" in result.output
        assert "M2's answer shown first (A), seed 5: verdict A" in result.output
    result = CliRunner().invoke(app, ["explain", key, "--json", "--store", run.store.uri])
    document = json.loads(result.stdout)
    assert document["kind"] == "measured"
    assert document["judged"][1]["row"]["responses"][0]["judgements"][1]["reason"] == "missing"


def test_json_is_one_document_with_everything(finished: FinishedRun) -> None:
    pair = a_pair(finished)
    result = srr(finished, "explain", pair["key"], "--json")
    document = json.loads(result.stdout)
    assert document["row"] == pair
    assert len(document["answers"]) == 4
    assert document["models"]["trained"]["name"] == "M2"


def test_a_seed_row_is_traced(finished: FinishedRun, tmp_path: Path) -> None:
    result = srr(finished, "trace", "line-4")
    assert result.exit_code == 0, result.output
    for text in (
        "Seed question 3?",
        "trained: Baseline, M1, M2, M3",
        "computed again without it: TrainBaseline 1",
        "save the file without the row under a new name",
    ):
        assert text in result.output, text
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text('{"prompt": "a"}\n{"prompt": "b"}\n{"id": "line-4", "prompt": "c"}\n', encoding="utf-8")
    assert json.loads(srr(finished, "trace", f"{seeds}:3", "--json").stdout)["id"] == "line-4"
    assert json.loads(srr(finished, "trace", f"{seeds}:2", "--json").stdout)["id"] == "line-2"
    assert "the file has no such line" in srr(finished, "trace", f"{seeds}:9").output


def test_a_line_of_a_file_is_a_row_of_the_set_that_the_file_gives(tmp_path: Path) -> None:
    """Rows of several files have the same id where they have none of their own."""
    artifacts = tmp_path / "artifacts"
    run = FinishedRun(artifacts / "runs/demo", prompts=1, iterations=1)
    run.ranked[1] = replace(run.ranked[1], id="line-2")
    run.prepare_again()
    record(artifacts, run)
    for name, found in (("instructions.jsonl", "instructions"), ("ranked.jsonl", "ranked")):
        (tmp_path / name).write_text("{}\n{}\n", encoding="utf-8")
        result = srr(run, "trace", f"{tmp_path / name}:2", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["set"] == found
    (tmp_path / "unknown.jsonl").write_text("{}\n{}\n", encoding="utf-8")
    assert "2 seed rows are meant" in srr(run, "trace", f"{tmp_path}/unknown.jsonl:2").output


def test_ids_are_no_markup_and_move_no_cursor(tmp_path: Path) -> None:
    run = FinishedRun(tmp_path / "runs/demo", prompts=1, iterations=1)
    run.instructions[0] = replace(run.instructions[0], id="[/bold]\x1b[2J[red]x")
    run.prepare_again()
    result = CliRunner().invoke(
        app, ["trace", run.instructions[0].key, "--store", run.store.uri],
        env={"COLUMNS": "200", "NO_COLOR": "1"},
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert r"id [/bold]\x1b[2J[red]x" in result.output
    assert "\x1b" not in result.output


def test_a_heading_is_its_text_whatever_it_holds() -> None:
    from rich.console import Console

    from selfrewarding.cli.story_text import heading

    console = Console(record=True, width=80, file=io.StringIO())
    console.print(heading("a [/bold] and \x1b[2J [red]b"))
    assert r"a [/bold] and \x1b[2J [red]b" in console.export_text()


def test_a_run_is_read_from_its_store_alone(finished: FinishedRun) -> None:
    pair = a_pair(finished)
    result = CliRunner().invoke(
        app, ["explain", pair["key"], "--json", "--store", finished.store.uri, "--run", "lab/demo"]
    )
    assert json.loads(result.stdout)["key"] == pair["key"]


def test_what_cannot_be_found_is_said_with_what_to_do(finished: FinishedRun, tmp_path: Path) -> None:
    for arguments, expected in (
        (("explain", "feedfeed"), "no pair of lab/demo has this key; it has 16 pairs in 2 iterations"),
        (("explain", ""), "no key was given"),
        (("trace", "line-99"), "no seed row of lab/demo has this key or id"),
        (("explain", "a", "--run", "other"), "no single run other is here (there are: lab/demo)"),
    ):
        result = srr(finished, *arguments)
        assert result.exit_code == 2, arguments
        assert expected in result.output
        assert "Traceback" not in result.output
    record(finished.store.root.parents[1], finished, name="second")
    try:
        result = srr(finished, "explain", "a")
        assert result.exit_code == 2
        assert "several runs: lab/demo, lab/second: say which one with --run" in result.output
    finally:
        (StateFolder.of(finished.store.root.parents[1], "lab", "second").run_file).unlink()
    empty = CliRunner().invoke(app, ["explain", "a", "--store", (tmp_path / "nothing").as_uri()])
    assert empty.exit_code == 2
    assert "no run is here" in empty.output
