"""`srr status`: what a person wants to know of a run at a glance."""

from datetime import UTC, datetime
from pathlib import Path

from tests.support.builders import SPEC
from typer.testing import CliRunner

from selfrewarding.api import labels
from selfrewarding.cli.app import app
from selfrewarding.local.run_record import RunRecord, save_record
from selfrewarding.local.state import StateFolder


def test_win_rates_and_alarms_are_told(tmp_path: Path) -> None:
    state = StateFolder.of(tmp_path, "lab", "demo")
    state.make()
    status = {
        "models": [
            {"name": "M1", "metrics": {"spearman": 0.3}},
            {"name": "M2", "metrics": {"winRate": 0.5612}},
        ],
        "alarms": [{"name": "tieRate", "iteration": 2}],
        "conditions": [{"type": "Ready", "status": "True", "message": "on its way"}],
    }
    document = {
        "apiVersion": labels.API_VERSION, "kind": labels.KIND, "spec": SPEC, "status": status,
        "metadata": {"namespace": "lab", "name": "demo", "uid": "u", "generation": 1, "resourceVersion": "1"},
    }  # fmt: skip
    save_record(state, RunRecord(contract=1, created=datetime(2026, 1, 1, tzinfo=UTC), object=document))
    ended = CliRunner().invoke(
        app, ["status", "--artifacts", str(tmp_path)], env={"COLUMNS": "200", "NO_COLOR": "1"}
    )
    assert ended.exit_code == 0, ended.output
    for part in ("M1, M2 (56% wins)", "tieRate (M2)", "on its way"):
        assert part in ended.stdout
