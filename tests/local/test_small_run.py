"""The main job in small: M0 to M2 through the local cluster, with real vLLM and real training.

One run, killed once in the middle of its rollout (`kill -9` of the whole tree) and started again with the same command.
What it left behind is then read back as a user would.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.small_run import (
    LIMIT_SECONDS,
    ROLLOUT_CHUNKS,
    chunk_rows,
    kill_tree,
    pods_of,
    prepare,
    results,
    rows,
    srr,
    start,
    status,
    tail,
    wait_until,
)

from selfrewarding.contract.artifacts import ANSWERS, COMPARISONS, PAIRS, PROMPTS, ROLLOUT


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model and the seed rows where `make quickstart` puts them."""
    return prepare(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="module")
def finished(artifacts: Path) -> Iterator[dict[str, Any]]:
    """The run, killed during its rollout and started again; yields the chunks that were there at the kill."""
    log = artifacts / "srr.log"
    process = start(artifacts, log)
    try:
        wait_until(process, lambda: list(artifacts.glob(ROLLOUT_CHUNKS)), log)
        kill_tree(process, artifacts)
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
        (row["key"], row["type"]): row
        for content in finished["chunks"].values()
        for row in chunk_rows(content)
    }
    final = {response["text"] for row in rows(artifacts, "Rollout", ROLLOUT) for response in row["responses"]}
    answers = [row["text"] for (_, kind), row in done.items() if kind == "answer"]
    assert answers
    assert set(answers) <= final


def test_every_stage_ran_once_for_its_key(finished: dict[str, Any], artifacts: Path) -> None:
    for kind in ("TrainBaseline", "BuildEvaluations", "SupervisedFineTune", "GeneratePrompts", "Rollout",
                 "BuildPreferences", "PreferenceOptimize"):  # fmt: skip
        assert len(results(artifacts, kind)) == 1, kind
    for kind, times in (("Evaluate", 3), ("Compare", 2), ("Report", 2)):
        assert len(results(artifacts, kind)) == times, kind


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


def test_every_model_answers_the_prompts_that_it_is_compared_on(
    finished: dict[str, Any], artifacts: Path
) -> None:
    answered = [
        [json.loads(line) for line in (folder / result.files[ANSWERS].path).read_text().splitlines()]
        for folder, result in results(artifacts, "Evaluate")
    ]
    assert [len(rows) for rows in answered] == [2, 2, 2]
    assert len({tuple(row["key"] for row in rows) for rows in answered}) == 1
    assert all(row["answers"][0]["text"] for rows in answered for row in rows)


def test_models_are_compared_in_both_orders_and_every_structured_verdict_is_valid(
    finished: dict[str, Any], artifacts: Path
) -> None:
    first, second = sorted(results(artifacts, "Compare"), key=lambda found: found[1].iteration)
    for (folder, result), opponents in ((first, {"baseline"}), (second, {"previous", "baseline"})):
        found = [
            json.loads(line) for line in (folder / result.files[COMPARISONS].path).read_text().splitlines()
        ]
        assert {row["opponent"] for row in found} == opponents
        assert len(found) == 2 * len(opponents) == result.counts["judged"]
        for row in found:
            assert row["preference"] in {1, 1.5, 2}
            assert len(row["verdicts"]) == 2
            if row["answer"] == row["other"]:  # so little DPO may leave a greedy answer as it was
                assert row["preference"] == 1.5
                assert not any(verdict["tries"] for verdict in row["verdicts"]), "nobody is asked"
                continue
            for verdict in row["verdicts"]:
                (asked,) = verdict["tries"]
                assert verdict["verdict"] == asked["verdict"] in {"A", "B", "Tie"}
                assert asked["text"].endswith(f"\nPreference: {asked['verdict']}")
                assert sum(asked["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert result.counts["identical"] == sum(row["answer"] == row["other"] for row in found)
        wins = [row["preference"] - 1 for row in found if row["opponent"] == "baseline"]
        assert result.metrics["winRateBaseline"] == pytest.approx(sum(wins) / 2)
        assert result.report["judge"]["fixed"] is False  # type: ignore[index]
        assert result.report["judge"]["format"] == "Structured"  # type: ignore[index]


def test_win_rates_stand_in_the_status(finished: dict[str, Any], artifacts: Path) -> None:
    (_, compared) = max(results(artifacts, "Compare"), key=lambda found: found[1].iteration)
    (m2,) = (model for model in status(artifacts)["models"] if model["name"] == "M2")
    for name in ("winRate", "winRateInitial", "winRateBaseline"):
        assert m2["metrics"][name] == pytest.approx(compared.metrics[name])


def test_the_end_names_the_report_of_all_iterations(finished: dict[str, Any], artifacts: Path) -> None:
    told = [line for line in finished["log"].splitlines() if line.startswith("Report: ")]
    page = Path(told[-1].removeprefix("Report: "))
    assert page.is_relative_to(artifacts)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "2 of 2 iterations" in text


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
    common = ["-f", str(artifacts / "run.yaml"), "--artifacts", str(artifacts), "-o", "json"]
    told = json.loads(subprocess.run([srr(), "status", *common], check=True, capture_output=True).stdout)
    models = json.loads(subprocess.run([srr(), "models", *common], check=True, capture_output=True).stdout)
    assert told
    assert [model["name"] for model in models][-2:] == ["M1", "M2"]
    assert all(Path(model["folder"]).is_dir() for model in models)
