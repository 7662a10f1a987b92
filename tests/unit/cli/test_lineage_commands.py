"""`srr explain` and `srr trace`: finding the run, what is printed, hostile texts, and errors with what to do."""

import json
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
    ):
        assert text in result.output, text
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text('{"prompt": "a"}\n{"prompt": "b"}\n{"id": "line-4", "prompt": "c"}\n', encoding="utf-8")
    assert json.loads(srr(finished, "trace", f"{seeds}:3", "--json").stdout)["id"] == "line-4"
    assert json.loads(srr(finished, "trace", f"{seeds}:2", "--json").stdout)["id"] == "line-2"
    assert "the file has no such line" in srr(finished, "trace", f"{seeds}:9").output


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
