"""`srr approve`: what it says it has approved, and what it refuses."""

import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.builders import SPEC
from typer.testing import CliRunner, Result

from selfrewarding.api import labels
from selfrewarding.cli.app import app
from selfrewarding.local.run_record import RunRecord, load_record, open_record, run_of, save_record
from selfrewarding.local.state import StateFolder

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HELD = {
    "name": "M2",
    "iteration": 2,
    "uri": "s3://x",
    "digest": "d",
    "gate": "Held",
    "gateMessage": "below the minimum",
}
RAW: dict[str, Any] = {
    "apiVersion": labels.API_VERSION,
    "kind": labels.KIND,
    "metadata": {"name": "demo"},
    "spec": SPEC,
}


def held_run(artifacts: Path, models: list[dict[str, Any]]) -> StateFolder:
    """A run of `srr local` with these models."""
    state = StateFolder.of(artifacts, "default", "demo")
    state.make()
    record = open_record(state, copy.deepcopy(RAW), "default", NOW)
    document = record.object | {"status": {"models": models}}
    save_record(state, RunRecord(contract=record.contract, created=NOW, object=document))
    return state


def srr(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["approve", *arguments])


def test_a_held_local_run_is_approved_and_the_next_start_sees_it(tmp_path: Path) -> None:
    state = held_run(tmp_path, [HELD])
    done = srr("demo", "--artifacts", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "Approved M2 (iteration 2) of default/demo. The gate had held it: below the minimum" in done.output
    assert f"srr local -f FILE --artifacts {tmp_path}" in done.output
    going_on = run_of(open_record(state, copy.deepcopy(RAW), "default", NOW))
    assert going_on.metadata.annotations == {"selfrewarding.dev/approve": "2/d"}
    assert going_on.metadata.generation == 1, "an approval is no edit"
    again = srr("demo", "--artifacts", str(tmp_path))
    assert (again.exit_code, "approved already" in again.output) == (2, True)


@pytest.mark.parametrize(
    ("in_the_file", "counts"),
    [
        pytest.param("1", "2/d", id="an older one in the file stays behind"),
        pytest.param("2/older", "2/d", id="of the same iteration too"),
        pytest.param("3", "3", id="a later one goes before it"),
        pytest.param("2", "2", id="the whole iteration is more than one model"),
        pytest.param("yes", "2/d", id="what is no approval is none"),
    ],
)
def test_the_approval_that_reaches_further_counts(tmp_path: Path, in_the_file: str, counts: str) -> None:
    state = held_run(tmp_path, [HELD])
    assert srr("demo", "--artifacts", str(tmp_path)).exit_code == 0
    raw = copy.deepcopy(RAW)
    raw["metadata"]["annotations"] = {"selfrewarding.dev/approve": in_the_file, "own": "x"}
    run = run_of(open_record(state, raw, "default", NOW))
    assert run.metadata.annotations == {"selfrewarding.dev/approve": counts, "own": "x"}


@pytest.mark.parametrize(
    ("models", "options", "words"),
    [
        ([], (), "No gate holds: the run has not started"),
        ([HELD], ("--iteration", "3"), "The gate holds M2 (iteration 2), not the model of iteration 3"),
    ],
)
def test_what_is_not_held_is_refused_and_nothing_is_written(
    tmp_path: Path, models: list[dict[str, Any]], options: tuple[str, ...], words: str
) -> None:
    state = held_run(tmp_path, models)
    refused = srr("demo", "--artifacts", str(tmp_path), *options)
    assert refused.exit_code == 2
    assert words in refused.output
    record = load_record(state)
    assert record is not None
    assert record.approved is None


def test_a_run_that_is_not_there_is_named_with_what_to_do(tmp_path: Path) -> None:
    refused = srr("other", "--artifacts", str(tmp_path))
    assert refused.exit_code == 2
    assert "srr status --artifacts" in refused.output


def test_a_run_that_goes_on_just_now_is_left_alone(tmp_path: Path) -> None:
    state = held_run(tmp_path, [HELD])
    with state.locked():
        refused = srr("demo", "--artifacts", str(tmp_path))
    assert refused.exit_code == 2
    assert "another `srr local`" in refused.output


def test_without_a_cluster_people_hear_of_both_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    refused = srr("demo")
    assert refused.exit_code == 2
    assert "Set KUBECONFIG" in refused.output
    assert "--artifacts DIR" in refused.output
