"""The numbers of a run in MLflow's real server, in TensorBoard's own reader, and as the W&B client tells them."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.benchmark_tools import benchmark_tools, run_tool
from tests.support.builders import make_spec
from tests.support.lineage_run import RUN, FinishedRun
from tests.support.wandb_server import WandbServer

from selfrewarding.api.tracking import TrackingSpec
from selfrewarding.contract.config import Story
from selfrewarding.contract.result import StageResult
from selfrewarding.tracking.points import Point, points
from selfrewarding.tracking.sending import send


@pytest.fixture(scope="session")
def tools() -> Path:
    """The folder of the real programs."""
    return benchmark_tools()


@pytest.fixture
def run(tmp_path: Path) -> FinishedRun:
    return FinishedRun(tmp_path / "store", prompts=2)


def results(run: FinishedRun, *, until: int) -> dict[str, StageResult]:
    """Finished stages as the Report of an iteration sees them."""
    return {
        f"{result.kind}-{result.iteration}": result
        for result in run.results.values()
        if result.iteration <= until
    }


def story(**tracking: object) -> Story:
    return Story(spec=make_spec(), tracking=TrackingSpec.model_validate(tracking))


@pytest.fixture
def mlflow_server(tools: Path, tmp_path: Path) -> Iterator[str]:
    """MLflow's own server on loopback, with a database of its own."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    database = tmp_path / "mlflow"
    database.mkdir()
    log = (tmp_path / "mlflow.log").open("w")
    process = subprocess.Popen(
        [str(tools / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
         "--backend-store-uri", f"sqlite:///{database}/runs.db", "--artifacts-destination", str(database)],
        cwd=tmp_path, stdout=log, stderr=log, start_new_session=True,
        env={"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tmp_path), "MLFLOW_DISABLE_TELEMETRY": "true"},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, (tmp_path / "mlflow.log").read_text()
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=1) as answer:
                    if answer.status == 200:
                        break
            except OSError:
                time.sleep(0.5)
        else:
            raise AssertionError((tmp_path / "mlflow.log").read_text())
        yield url
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        log.close()


def asked(url: str, path: str, body: object | None = None) -> dict[str, object]:
    """What MLflow's REST interface answers: not through the client that is tested."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(
        f"{url}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: dict[str, object] = json.loads(answer.read())
        return found


def history(url: str, run_id: str, name: str) -> list[tuple[int, float]]:
    found = asked(url, f"metrics/get-history?run_id={run_id}&metric_key={name}")
    return [(int(one.get("step", 0)), one["value"]) for one in found["metrics"]]  # type: ignore[attr-defined]


def test_mlflow_has_each_number_once_however_often_it_is_sent(run: FinishedRun, mlflow_server: str) -> None:
    told = story(mlflow={"uri": mlflow_server})
    early = points(results(run, until=2), told)
    everything = points(results(run, until=3), told)
    for sent in (early, everything, everything):
        assert send(run.store, RUN, told, sent) == []
    experiment = asked(mlflow_server, f"experiments/get-by-name?experiment_name={RUN.namespace}")[
        "experiment"
    ]
    identifier = experiment["experiment_id"]  # type: ignore[index]
    (found,) = asked(mlflow_server, "runs/search", {"experiment_ids": [identifier]})["runs"]  # type: ignore[misc]
    tags = {tag["key"]: tag["value"] for tag in found["data"]["tags"]}
    assert tags["selfrewarding.uid"] == RUN.uid
    assert tags["selfrewarding.model"] == "s3://models/base"
    assert tags["mlflow.runName"] == "lab/demo"
    run_id = found["info"]["run_id"]
    for name in sorted({point.name for point in everything}):
        expected = [(point.iteration, point.value) for point in everything if point.name == name]
        assert sorted(history(mlflow_server, run_id, name)) == sorted(expected), name
    changed = [
        Point(one.name, one.iteration, 0.99, one.time + 60) if one.name == "dpo/loss" else one
        for one in everything
    ]
    assert send(run.store, RUN, told, changed) == []
    assert len(history(mlflow_server, run_id, "dpo/loss")) == 4, "a number that changed is told once more"
    assert found["info"]["status"] == "RUNNING"


def test_a_server_that_is_not_there_is_a_line(run: FinishedRun) -> None:
    told = story(mlflow={"uri": "http://127.0.0.1:9"})
    began = time.monotonic()
    (problem,) = send(run.store, RUN, told, points(results(run, until=2), told))
    assert time.monotonic() - began < 60
    assert problem.startswith("MLflow: ")


def test_tensorboard_reads_the_file_and_a_longer_one_begins_alike(
    run: FinishedRun, tools: Path, tmp_path: Path
) -> None:
    told = story(tensorBoard=True)
    where = run.store.root / "runs/lab/demo/tensorboard"
    assert send(run.store, RUN, told, points(results(run, until=2), told)) == []
    (file,) = where.iterdir()
    early = file.read_bytes()
    everything = points(results(run, until=3), told)
    for _ in range(2):
        assert send(run.store, RUN, told, everything) == []
    (file,) = where.iterdir()
    header = 40  # the version's record holds the time of writing
    assert file.read_bytes()[header : len(early)] == early[header:], (
        "a TensorBoard that reads along goes on at the end"
    )
    script = (
        "import json, sys\n"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "found = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0}); found.Reload()\n"
        "print('FOUND', json.dumps({tag: [[e.step, e.value, e.wall_time] for e in found.Scalars(tag)]"
        " for tag in found.Tags()['scalars']}))\n"
    )
    printed = run_tool([tools / "python", "-c", script, where], cwd=tmp_path)
    found = json.loads(printed.partition("FOUND ")[2].splitlines()[0])
    assert set(found) == {point.name for point in everything}
    for name, events in found.items():
        expected = [(point.iteration, point.value, point.time) for point in everything if point.name == name]
        assert [(step, pytest.approx(value, rel=1e-6), at) for step, value, at in events] == expected


def test_wandb_has_all_numbers_of_each_iteration_however_often_they_are_sent(
    run: FinishedRun, tmp_path: Path
) -> None:
    environment = os.environ | {"WANDB_API_KEY": "k" * 40, "HOME": str(tmp_path)}
    with WandbServer() as server:
        told = story(wandb={"project": "loops", "secretName": "wandb", "baseUrl": server.url})
        early, everything = (points(results(run, until=number), told) for number in (2, 3))
        # The last iteration before it is measured (an alarm ends the run), and whole (a person lets it go on).
        part = [one for one in everything if (one.iteration, one.name.partition("/")[0]) != (3, "evaluate")]
        assert len(early) < len(part) < len(everything)
        for sent in (early, early, part, everything, everything):
            assert send(run.store, RUN, told, sent, environment=environment) == [], server.calls
        rows = [server.history[number] for number in sorted(server.history)]
        assert [row["iteration"] for row in rows] == [0, 1, 2, 3, 3], (
            "an iteration again where it has more to tell"
        )
        assert [row["_step"] for row in rows] == [0, 1, 2, 3, 4]
        assert "evaluate/pairwiseAccuracy" not in rows[3]
        history = {row["iteration"]: row for row in rows}
        for point in everything:
            assert history[point.iteration][point.name] == pytest.approx(point.value)
        assert server.variables["project"] == "loops"
        assert server.variables["name"] == RUN.uid
        config = json.loads(server.variables["config"])
        assert config["run"]["value"] == "lab/demo"
        assert server.uploaded <= {"config.yaml", "wandb-summary.json"}, "nothing of this machine"
    assert not list(tmp_path.glob("wandb*")), "nothing is left here"


def test_wandb_that_does_not_answer_is_a_line(run: FinishedRun, tmp_path: Path) -> None:
    environment = os.environ | {"WANDB_API_KEY": "s" * 40, "HOME": str(tmp_path)}
    with WandbServer() as server:
        server.silent = True
        told = story(wandb={"project": "loops", "secretName": "wandb", "baseUrl": server.url})
        began = time.monotonic()
        found = points(results(run, until=2), told)
        (problem,) = send(run.store, RUN, told, found, environment=environment, deadline=6)
        assert time.monotonic() - began < 20
    assert problem.startswith("Weights & Biases: ")
    assert "s" * 40 not in problem
