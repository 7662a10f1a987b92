"""Whole runs of `srr local`, with stage programs and servers that keep the contract and compute nothing."""

import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.fake_programs import write_programs
from tests.support.local_cluster import RAW

from selfrewarding.local import processes
from selfrewarding.local.state import StateFolder

# The fake trainer is no torch program: start it without torchrun, which takes seconds to import torch.
COMMAND = """
import sys
from selfrewarding.local import driver
from selfrewarding.manifests import training
driver.LOOK_EVERY = 0.3
driver.MEMORY_EVERY = 1
training.COMMAND = ("python", "-m", "srr_trainer")
from selfrewarding.cli.app import main
main()
"""


class Workplace:
    """A folder with a run file, fake programs, and `srr`."""

    def __init__(self, root: Path, repository: Path) -> None:
        self.root = root
        self.steering = root / "steering"
        self.steering.mkdir()
        write_programs(root / "programs")
        self.file = root / "run.yaml"
        self.raw: dict[str, Any] = copy.deepcopy(RAW)
        self.raw["spec"]["iterations"] = 2
        self.raw["spec"]["promptGeneration"] = {"count": 6}
        self.write()
        self.env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(root / "programs"), str(repository / "operator")]),
            "SRR_CACHE": str(self.steering),
            "COLUMNS": "160",
        }
        self.state = StateFolder.of(root / "artifacts", "default", "demo")
        self.started: list[subprocess.Popen[str]] = []

    def write(self) -> None:
        self.file.write_text(yaml.safe_dump(self.raw))

    def srr(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments],
            cwd=self.root, env=self.env, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "local", "-f", "run.yaml"],
            cwd=self.root, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def order(self) -> list[str]:
        """Kind, iteration and attempt of each stage in the order in which it ran; Resolve and Report left out."""
        lines = (self.steering / "order").read_text().splitlines()
        return [line for line in lines if not line.startswith(("Resolve", "Report"))]

    def reports(self) -> list[str]:
        """Likewise, of the reports alone: they run beside the stages."""
        lines = (self.steering / "order").read_text().splitlines()
        return [line for line in lines if line.startswith("Report")]

    def wait_for(self, line: str, timeout: float = 120.0) -> None:
        until = time.monotonic() + timeout
        while not ((self.steering / "order").exists() and line in self.order()):
            assert time.monotonic() < until, f"{line} never ran"
            time.sleep(0.05)

    def survivors(self) -> dict[int, str | None]:
        return processes.survivors(self.state.root, [])


@pytest.fixture
def place(tmp_path: Path, repository: Path) -> Any:
    """A workplace; at the end no process of it may live."""
    made = Workplace(tmp_path, repository)
    yield made
    for process in made.started:
        process.kill()
        process.communicate()
    processes.kill_survivors(made.state.root, [])


ALL = [
    "Prepare 0 1",
    "TrainBaseline 1 1",
    "BuildEvaluations 1 1",
    "SupervisedFineTune 1 1",
    "Evaluate 1 1",
    "GeneratePrompts 2 1",
    "Rollout 2 1",
    "BuildPreferences 2 1",
    "PreferenceOptimize 2 1",
    "Evaluate 2 1",
]


def test_a_whole_run_and_what_is_told_of_it(place):
    ended = place.srr("local", "-f", "run.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert place.order() == ALL
    assert place.reports() == ["Report 1 1", "Report 2 1"]
    assert place.survivors() == {}

    # The final tables: what was made, why the rest was not, what it took, and where it lies.
    out = ended.stdout
    for part in ("dropped: 3 similar, 1 too short", "40 of 48 valid (83%)", "invalid: 8 no score", "without: 2 ties",
                 "60.0%", "of 5 held-out pairs", "1.5000", "+0.2500", "2,400", "1,200.0", "99.0"):  # fmt: skip
        assert part in out, f"{part!r} is not in\n{out}"
    folder = next(line.split(": ")[1] for line in out.splitlines() if line.startswith("M2 (Promoted): "))
    assert (Path(folder) / "config.json").read_text() == "{}"
    assert folder.startswith(str(place.root / "artifacts" / "runs" / "demo"))

    # One line per change where the output is no terminal.
    assert any("iteration 2 of 2: Rollout" in line for line in out.splitlines())
    assert "\x1b" not in out

    models = json.loads(place.srr("models", "-o", "json").stdout)
    assert [(model["name"], model.get("gate")) for model in models] == [
        ("Baseline", None),
        ("M1", "Promoted"),
        ("M2", "Promoted"),
    ]
    assert models[-1]["folder"] == folder
    assert models[-1]["metrics"]["rewardMargin"] == 0.25
    [status] = json.loads(place.srr("status", "-f", "run.yaml", "-o", "json").stdout)
    assert (status["run"], status["running"]) == ("default/demo", False)
    assert {one["type"]: one["status"] for one in status["status"]["conditions"]}["Succeeded"] == "True"
    assert "Succeeded" in place.srr("status").stdout

    index = json.loads((place.root / "artifacts/runs/demo/runs/default/demo/index.json").read_text())
    assert [stage["kind"] for stage in index["stages"] if stage["done"]] == [line.split()[0] for line in ALL]
    assert [model["name"] for model in index["models"]] == ["Baseline", "M1", "M2"]
    assert any(stage.get("peakMemoryBytes", 0) > 0 for stage in index["stages"])

    # The same command again finds everything done.
    again = place.srr("local", "-f", "run.yaml")
    assert again.returncode == 0
    assert place.order() == ALL


def test_a_failed_stage_ends_with_its_message_its_log_and_exit_code_1(place):
    (place.steering / "fail-TrainBaseline").touch()
    ended = place.srr("local", "-f", "run.yaml")
    assert ended.returncode == 1
    assert "TrainBaseline of iteration 1 failed: row 3 has no answer: write one" in ended.stdout
    assert "BadData: row 3 has no answer" in ended.stdout.split("The end of ")[1]
    assert "go on with: srr local -f run.yaml" in ended.stdout
    assert place.survivors() == {}

    # Mended and edited: the run goes on from there, as another generation.
    (place.steering / "fail-TrainBaseline").unlink()
    place.raw["spec"]["limits"] = {"retries": 1}
    place.write()
    ended = place.srr("local", "-f", "run.yaml", "--until", "TrainBaseline")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "TrainBaseline is done, as --until asked for" in ended.stdout
    assert place.order()[-1].startswith("TrainBaseline 1")
    assert json.loads(place.state.run_file.read_text())["object"]["metadata"]["generation"] == 2


def test_data_that_prepare_refuses_ends_the_command_and_the_next_start_reads_it_again(place):
    (place.steering / "fail-Prepare").touch()
    ended = place.srr("local", "-f", "run.yaml")
    assert ended.returncode == 1
    assert "Prepare: row 3 has no answer: write one" in ended.stdout
    assert "mend it where it is" in ended.stdout
    assert place.survivors() == {}

    (place.steering / "fail-Prepare").unlink()
    ended = place.srr("local", "-f", "run.yaml", "--until", "Prepare")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Prepare is done, as --until asked for" in ended.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_stops_everything_and_the_next_start_goes_on(place, number, code):
    hold = place.steering / "hold-BuildEvaluations-1"
    hold.touch()
    process = place.start()
    place.wait_for("BuildEvaluations 1 1")
    assert place.survivors()
    second = place.srr("local", "-f", "run.yaml")
    assert second.returncode == 2
    assert f"another `srr local` (process {process.pid}) runs this run here" in second.stderr
    process.send_signal(number)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == code, out
    assert "Stopped; nothing is lost. Go on with: srr local -f run.yaml" in out
    assert place.survivors() == {}

    hold.unlink()
    ended = place.srr("local", "-f", "run.yaml", "--until", "BuildEvaluations")
    assert ended.returncode == 0, ended.stdout
    # Nothing that was done runs again, and an interruption is no failed attempt.
    assert place.order() == [*ALL[:3], "BuildEvaluations 1 1"]


def test_kill_9_of_srr_and_the_next_start_goes_on(place):
    hold = place.steering / "hold-BuildEvaluations-1"
    hold.touch()
    process = place.start()
    place.wait_for("BuildEvaluations 1 1")
    for pid in (process.pid, *place.survivors()):
        with contextlib.suppress(ProcessLookupError):  # a shim's death takes its program along
            os.kill(pid, signal.SIGKILL)
    process.wait()
    hold.unlink()
    ended = place.srr("local", "-f", "run.yaml", "--until", "BuildEvaluations")
    assert ended.returncode == 0, ended.stdout
    assert place.order() == [*ALL[:3], "BuildEvaluations 1 2"]
    status = json.loads(place.state.run_file.read_text())["object"]["status"]
    assert all(entry.get("failures", 0) == 0 for entry in status.get("attempts", {}).values())
    assert place.survivors() == {}


def test_an_edit_computes_again_exactly_what_depends_on_it(place):
    assert place.srr("local", "-f", "run.yaml").returncode == 0
    place.raw["spec"]["dpo"] = {"beta": 0.3}
    place.write()
    assert place.srr("local", "-f", "run.yaml").returncode == 0
    # Prepare checks every edit; of the rest only DPO reads beta, and only the measuring of its model follows.
    again = [line.rsplit(" ", 1)[0] for line in place.order()[len(ALL) :]]
    assert again == ["Prepare 0", "PreferenceOptimize 2", "Evaluate 2"]
    assert place.reports()[-1] == "Report 2 1"


def test_what_cannot_go_on_is_refused_with_exit_code_2_and_no_traceback(place):
    place.env["CUDA_VISIBLE_DEVICES"] = ""
    assert place.srr("local", "-f", "run.yaml", "--until", "Prepare").returncode == 0
    for change, message in (
        ({"artifacts": {"uri": "s3://runs/other"}}, "artifacts.uri cannot be changed"),
        ({"serving": {"device": "Cuda"}}, "serving asks for 1 GPUs at once, this machine has 0"),
        ({"itertions": 3}, "did you mean iterations?"),
    ):
        place.file.write_text(yaml.safe_dump(place.raw | {"spec": place.raw["spec"] | change}))
        ended = place.srr("local", "-f", "run.yaml")
        assert (ended.returncode, message in ended.stderr, "Traceback" in ended.stderr) == (2, True, False), (
            ended.stderr
        )


def test_status_without_a_run_says_how_to_start_one(place):
    ended = place.srr("status", "--artifacts", "nowhere")
    assert (ended.returncode, "srr local -f FILE" in ended.stderr) == (2, True)
    ended = place.srr("models", "-f", "run.yaml")
    assert (ended.returncode, "was never started here" in ended.stderr) == (2, True)


def test_a_suspended_run_does_nothing_and_says_so(place):
    place.raw["spec"]["suspend"] = True
    place.write()
    ended = place.srr("local", "-f", "run.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Set spec.suspend to false" in ended.stdout
    assert not (place.steering / "order").exists()


def test_a_gate_that_holds_ends_the_start_and_the_annotation_lets_it_go_on(place):
    place.raw["spec"]["gate"] = {"approval": "Manual"}
    place.write()
    ended = place.srr("local", "-f", "run.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert 'selfrewarding.dev/approve: "1"' in ended.stdout
    assert place.order() == ALL[:5]
    assert place.reports() == ["Report 1 1"], "a person reads it before the gate is opened"
    place.raw["metadata"]["annotations"] = {"selfrewarding.dev/approve": "1"}
    place.write()
    assert place.srr("local", "-f", "run.yaml", "--until", "GeneratePrompts").returncode == 0
    assert place.order() == ALL[:6]


def test_a_gate_that_holds_lets_go_after_srr_approve(place):
    place.raw["spec"]["gate"] = {"approval": "Manual"}
    place.write()
    ended = place.srr("local", "-f", "run.yaml")
    name = place.raw["metadata"]["name"]
    assert f"srr approve {name} -n default --artifacts" in ended.stdout
    refused = place.srr("approve", name, "--artifacts", "artifacts", "--iteration", "2")
    assert (refused.returncode, "holds M1 (iteration 1)" in refused.stderr) == (2, True)
    approved = place.srr("approve", name, "--artifacts", "artifacts")
    assert approved.returncode == 0, approved.stdout + approved.stderr
    assert f"Approved M1 (iteration 1) of default/{name}" in approved.stdout
    assert place.srr("local", "-f", "run.yaml", "--until", "GeneratePrompts").returncode == 0
    assert place.order()[-1] == "GeneratePrompts 2 1"


def test_a_folder_that_cannot_be_written_is_refused(place):
    (place.root / "artifacts").write_text("a file")
    ended = place.srr("local", "-f", "run.yaml")
    assert ended.returncode == 2
    assert "--artifacts DIR" in ended.stderr
