"""Hand a run's points to the trackers that its spec names; what goes wrong comes back as text.

Purpose: `send`, which never raises and ends in time, whatever a tracker's client does.
Must not: log a secret; leave a process behind.
Neighbours: `points` makes the points; `__main__` is the process of MLflow's and W&B's clients; the Report stage calls this.
"""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from selfrewarding.contract.config import RunRef, Story
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.tracking import tensorboard_tracker
from selfrewarding.tracking.__main__ import PROBLEM
from selfrewarding.tracking.job import Job, told
from selfrewarding.tracking.points import Point

DEADLINE_SECONDS = 120.0
"""For each tracker."""
_MARK = "SRR_TRACKING_PROCESS"
"""Environment variable of a tracker's process and of all that it starts."""


def send(
    store: ArtifactStore,
    run: RunRef,
    story: Story,
    points: Sequence[Point],
    *,
    deadline: float = DEADLINE_SECONDS,
    environment: Mapping[str, str] = os.environ,
) -> list[str]:
    """Send all points of a run to its trackers. Returns what went wrong, a line for each tracker; never raises.

    May be repeated: a tracker that has a point keeps it once.
    """
    tracking, problems = story.tracking, []
    if not points:
        return []
    if tracking.tensor_board:
        try:
            tensorboard_tracker.send(store, run, points)
        except Exception as error:  # noqa: BLE001 - a tracker never fails a run
            problems.append(f"TensorBoard: {told(error, environment)}")
    for name, label, wanted in (
        ("mlflow", "MLflow", tracking.mlflow),
        ("wandb", "Weights & Biases", tracking.wandb),
    ):
        if wanted is not None:
            job = Job(
                run=run,
                settings=_settings(story),
                ended=_has_ended(story, points),
                points=[(one.name, one.iteration, one.value, one.time) for one in points],
                mlflow=tracking.mlflow if name == "mlflow" else None,
                wandb=tracking.wandb if name == "wandb" else None,
            )
            problem = _apart(job, deadline, environment)
            if problem is not None:
                problems.append(f"{label}: {problem}")
    return problems


def _settings(story: Story) -> dict[str, Any]:
    spec = story.spec
    return {
        "preset": spec.preset or "none",
        "seed": spec.seed,
        "iterations": spec.iterations,
        "model": told(spec.model.uri, {}),
        "instructions": told(spec.seed_data.instructions.uri, {}),
    }


def _has_ended(story: Story, points: Sequence[Point]) -> bool:
    """Whether no iteration follows: a later report says otherwise where a person lets the run go on."""
    last = max(point.iteration for point in points)
    gates = {model.iteration: model.gate for model in story.models if model.iteration}
    alarmed = any(alarm.action == "Stop" for alarm in story.alarms)
    if gates.get(last) == "Stopped" or alarmed or story.uncalibrated is not None:
        return True
    # A gate that holds the last model keeps nothing from starting: the run ends all the same.
    return last >= story.spec.iterations and gates.get(last) is not None


def _apart(job: Job, deadline: float, environment: Mapping[str, str]) -> str | None:
    """Run a tracker's process to its end, or to the deadline; what went wrong, if anything."""
    mark = uuid.uuid4().hex
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "selfrewarding.tracking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**environment, _MARK: mark},
            start_new_session=True,
        )
    except OSError as error:
        return told(error, environment)
    with process:
        try:
            _, errors = process.communicate(job.model_dump_json(by_alias=True).encode(), timeout=deadline)
        except subprocess.TimeoutExpired:
            return f"no answer within {deadline:g} s: the numbers are sent again with the next report"
        except OSError as error:
            return told(error, environment)
        finally:
            _end(process.pid, mark)
    if process.returncode == 0:
        return None
    lines = errors.decode(errors="replace").splitlines()
    said = [line.removeprefix(PROBLEM) for line in lines if line.startswith(PROBLEM)]
    last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return said[-1] if said else told(f"ended with exit code {process.returncode}: {last}", environment)


def _end(leader: int, mark: str) -> None:
    """End a tracker's process and all that it has started: a client may leave one that waits for a server for ever, in a
    session of its own and with no living parent (wandb-core), which its environment alone gives away (Linux)."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    for pid in _marked(f"{_MARK}={mark}".encode()):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _marked(variable: bytes) -> Iterator[int]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if variable in (process / "environ").read_bytes().split(b"\0"):
                yield int(process.name)
