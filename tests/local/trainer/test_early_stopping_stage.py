"""DPO that saves candidates on its way, with real TRL and DeepSpeed on a tiny model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.training_stage import (
    Inputs,
    cpu,
    die_after_checkpoint,
    instruction_rows,
    log_of,
    pair_rows,
    run_here,
    run_program,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfrewarding.api.algorithm import EarlyStoppingSpec, LoraSpec
from selfrewarding.contract.artifacts import candidate_key, stage_prefix
from selfrewarding.contract.config import StageConfig
from selfrewarding.contract.program import BadConfiguration
from selfrewarding.contract.result import MAX_SUMMARY_BYTES, StageResult, summary_message, summary_of
from selfrewarding.contract.stages import StageKind
from selfrewarding.store import open_store
from selfrewarding.store.results import download_folder, find_result
from srr_trainer import callbacks

EARLY = EarlyStoppingSpec(candidates=3)


def in_own_store(folder: Path, **settings: Any) -> StageConfig:
    """The same stage (same key, so the same seeds) in a store of its own: 6 steps."""
    own = Inputs(folder)
    own.add_model("m0", seed=0)
    own.add_parent("prepare", StageKind.PREPARE, {"instructions.jsonl": instruction_rows(2)})
    own.add_parent("preferences", StageKind.BUILD_PREFERENCES, {"pairs.jsonl": pair_rows()})
    return own.dpo_config(key="early", **({"epochs": 3} | settings))


def fetched(config: StageConfig, result: StageResult, name: str, folder: Path) -> Path:
    download_folder(open_store(config.store), result, name, folder / name)
    return folder / name


def losses(config: StageConfig, result: StageResult) -> list[float]:
    return [row["loss"] for row in log_of(config, result)]


@pytest.mark.parametrize(
    "settings", [{}, {"lora": LoraSpec(rank=4, alpha=8), "learning_rate": 1e-2}], ids=["full", "lora"]
)
def test_whole_models_are_saved_on_the_way_and_training_does_not_notice(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    plain = in_own_store(tmp_path / "plain", **settings)
    expected = run_here(plain, tmp_path / "scratch-plain")
    config = in_own_store(tmp_path / "early", early_stopping=EARLY, **settings)
    result = run_here(config, tmp_path / "scratch-early")
    assert losses(config, result) == losses(plain, expected)
    assert result.report["candidateSteps"] == [2, 4, 6]
    assert len(summary_message(result.key, summary_of(result))) <= MAX_SUMMARY_BYTES

    names = ["candidates/1", "candidates/2", "model"]
    folders = [fetched(config, result, name, tmp_path / "fetched") for name in names]
    last = fetched(plain, expected, "model", tmp_path / "fetched-plain")
    assert {name.partition("/")[0] for name in result.files} == {"candidates", "model", "training.jsonl"}
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    for folder, tensors in zip(folders, weights, strict=True):
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
        assert sum(tensor.numel() for tensor in tensors.values()) == 90_944
        assert "# Iteration 1 of test/tiny" in (folder / "README.md").read_text()
        assert AutoTokenizer.from_pretrained(folder).chat_template
        AutoModelForCausalLM.from_pretrained(folder)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert any(not torch.equal(weights[one][name], weights[other][name]) for name in weights[one])
    for name, tensor in load_file(last / "model.safetensors").items():
        assert torch.equal(tensor, weights[-1][name])
    assert (folders[0] / "config.json").read_bytes() == (last / "config.json").read_bytes()


def test_a_killed_training_keeps_its_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the checkpoint of step 2, at which the first candidate was saved, and again after step 3's."""
    settings: dict[str, Any] = {
        "early_stopping": EARLY,
        "training": cpu(checkpoint={"intervalSeconds": 10}),
    }
    whole = in_own_store(tmp_path / "whole", **settings)
    expected = run_here(whole, tmp_path / "scratch-whole")
    config = in_own_store(tmp_path / "own", **settings)
    monkeypatch.setattr(callbacks.CheckpointTimer, "due", property(lambda self: True))

    die_after_checkpoint(config, tmp_path / "killed-2", step=2, pod="pod-2")
    store = open_store(config.store)
    marker = candidate_key(config.kind, config.key, 1)
    saved = store.read(marker)
    die_after_checkpoint(config, tmp_path / "killed-3", step=3, pod="pod-3")
    assert store.read(marker) == saved, "it was not saved again"
    result = run_here(config, tmp_path / "last", pod="pod-last")
    assert result.report["resumedFromStep"] == 3
    assert result.files["candidates/1/config.json"].path.startswith("attempts/pod-2/")
    assert result.files["candidates/2/config.json"].path.startswith("attempts/pod-last/")
    for name in ("candidates/1", "candidates/2", "model"):
        weights = f"{name}/model.safetensors"
        assert result.files[weights].sha256 == expected.files[weights].sha256, "to the last bit"
    left = [entry.key for entry in store.list(stage_prefix(config.kind, config.key))]
    assert not [key for key in left if "/checkpoints/" in key]


def test_a_lost_candidate_is_made_again_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = in_own_store(tmp_path / "own", early_stopping=EARLY)
    monkeypatch.setattr(callbacks.CheckpointTimer, "due", property(lambda self: True))
    die_after_checkpoint(config, tmp_path / "killed", step=3)
    open_store(config.store).delete(candidate_key(config.kind, config.key, 1))
    result = run_here(config, tmp_path / "again", pod="pod-2")
    assert result.report["resumedFromStep"] == 0
    assert result.files["candidates/1/config.json"].path.startswith("attempts/pod-2/")


def test_more_candidates_than_steps_are_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    config = in_own_store(tmp_path / "own", early_stopping=EarlyStoppingSpec(candidates=8))
    with pytest.raises(BadConfiguration, match="saves 8 candidates, but the training has 6 steps"):
        run_here(config, tmp_path / "scratch")


def test_two_ranks_under_zero_3_save_whole_candidates(tmp_path: Path) -> None:
    training = cpu(gpus_per_node=2, micro_batch_size=1, deepspeed={"zeroStage": 3})
    config = in_own_store(tmp_path / "own", early_stopping=EARLY, training=training)
    ended = run_program(config, tmp_path / "run", processes=2)
    assert ended.code == 0, ended.output[-3000:]
    result = find_result(open_store(config.store), config.kind, config.key)
    assert result is not None
    assert result.report["ranks"] == 2
    folders = [fetched(config, result, f"candidates/{one}", tmp_path / "fetched") for one in (1, 2)]
    first, second = (load_file(folder / "model.safetensors") for folder in folders)
    assert sum(tensor.numel() for tensor in first.values()) == 90_944
    assert any(not torch.equal(first[name], second[name]) for name in first)
