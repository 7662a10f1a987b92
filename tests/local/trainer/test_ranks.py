"""The trainer as torchrun starts it: two ranks over gloo, sharded by ZeRO, killed and stopped."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.support.training_stage import (
    Inputs,
    cpu,
    end_of,
    instruction_rows,
    log_of,
    pair_rows,
    prepared_inputs,
    run_here,
    run_program,
    start_program,
)

from selfrewarding.api.algorithm import LoraSpec
from selfrewarding.contract.artifacts import stage_prefix
from selfrewarding.contract.config import StageConfig
from selfrewarding.contract.stages import StageKind
from selfrewarding.store import open_store
from selfrewarding.store.results import find_result


def two_ranks(zero_stage: int, **changes: Any) -> Any:
    return cpu(gpus_per_node=2, micro_batch_size=1, deepspeed={"zeroStage": zero_stage}, **changes)


def losses(config: StageConfig, name: str = "loss") -> list[float]:
    result = find_result(open_store(config.store), config.kind, config.key)
    assert result is not None
    return [row[name] for row in log_of(config, result)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return prepared_inputs(tmp_path_factory.mktemp("inputs"))


def in_own_store(folder: Path, key: str, **settings: Any) -> StageConfig:
    """The same stage (same key, so the same seeds) in a store of its own."""
    own = Inputs(folder)
    own.add_model("m0", seed=0)
    own.add_parent("prepare", StageKind.PREPARE, {"instructions.jsonl": instruction_rows()})
    own.add_parent("preferences", StageKind.BUILD_PREFERENCES, {"pairs.jsonl": pair_rows()})
    return own.dpo_config(key=key, **settings)


def test_zero_2_and_zero_3_on_two_ranks_equal_one_rank_to_four_digits(tmp_path: Path) -> None:
    """DPO with reference log probabilities from both ranks; ZeRO-3 saves all parameters, gathered from both."""
    found = {}
    one = in_own_store(tmp_path / "one", "same", epochs=2)
    run_here(one, tmp_path / "scratch")
    found["one"] = losses(one) + losses(one, "rewards/margins")
    for name, stage in (("zero-2", 2), ("zero-3", 3)):
        config = in_own_store(tmp_path / name, "same", epochs=2, training=two_ranks(stage))
        ended = run_program(config, tmp_path / name / "run", processes=2)
        assert ended.code == 0, ended.output[-3000:]
        assert list(ended.termination) == ["done"]
        result = find_result(open_store(config.store), config.kind, config.key)
        assert result is not None
        assert result.report["ranks"] == 2
        assert result.report["parameters"] == 90_944
        found[name] = losses(config) + losses(config, "rewards/margins")
    assert found["zero-2"] == pytest.approx(found["one"], abs=5e-5)
    assert found["zero-3"] == pytest.approx(found["one"], abs=5e-5)


def test_rule_16_adapters_under_zero_3_are_merged_into_a_whole_model(inputs: Inputs, tmp_path: Path) -> None:
    config = inputs.sft_config(
        key="lora-zero-3", lora=LoraSpec(rank=4, alpha=8), learning_rate=1e-2, epochs=2, training=two_ranks(3)
    )
    ended = run_program(config, tmp_path, processes=2)
    assert ended.code == 0, ended.output[-3000:]
    assert losses(config)[-1] < losses(config)[0]


def test_rule_15_two_ranks_stopped_by_sigterm_go_on_where_they_were(inputs: Inputs, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"batch_size": 2, "epochs": 50}
    config = inputs.sft_config(key="stopped", training=two_ranks(3), **settings)
    process = start_program(config, tmp_path, processes=2)
    assert process.stdout is not None
    for line in process.stdout:
        if '"done": 3,' in line:
            os.kill(process.pid, signal.SIGTERM)
            break
    ended = end_of(process, tmp_path)
    assert ended.code != 0
    assert ended.termination["failure"] == "Retry", ended.output[-3000:]

    again = run_program(config, tmp_path / "again", processes=2, pod="pod-2")
    assert again.code == 0, again.output[-3000:]
    result = find_result(open_store(config.store), config.kind, config.key)
    assert result is not None
    assert int(str(result.report["resumedFromStep"])) >= 3
    assert [row["step"] for row in log_of(config, result)] == list(range(1, 201))
    left = [entry.key for entry in open_store(config.store).list(stage_prefix(config.kind, config.key))]
    assert not [key for key in left if "/checkpoints/" in key]


def test_the_rank_that_failed_says_why_and_not_the_one_that_lost_it(inputs: Inputs, tmp_path: Path) -> None:
    config = inputs.sft_config(key="bad", training=two_ranks(2), max_length=64)
    own = Inputs(tmp_path)
    own.add_model("m0", seed=0)
    rows = [{"key": "a", "messages": [{"role": "user", "content": "Q"}]}]
    prepare = own.add_parent("prepare", StageKind.PREPARE, {"instructions.jsonl": rows})
    config = config.model_copy(update={"store": own.uri, "parents": {"prepare": prepare}})
    ended = run_program(config, tmp_path / "run", processes=2)
    assert ended.code != 0
    assert ended.termination["failure"] == "BadData"
    assert "row a: the last message" in ended.termination["message"]
