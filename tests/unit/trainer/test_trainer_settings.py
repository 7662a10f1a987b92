"""From the spec to TRL's and DeepSpeed's settings: every number is ours."""

from pathlib import Path
from typing import Any

import pytest
from tests.support.training_stage import cpu

from selfrewarding.api.algorithm import DpoSpec, SftSpec
from selfrewarding.api.execution import TrainingSpec
from selfrewarding.contract.program import BadConfiguration
from srr_trainer.deepspeed_config import deepspeed_config
from srr_trainer.ranks import Ranks
from srr_trainer.settings import (
    accumulation_steps,
    check_optimizer,
    common_arguments,
    computes_in_bfloat16,
    dpo_arguments,
    make_plan,
    sft_arguments,
)

GPUS = TrainingSpec.model_validate({"device": "Cuda", "microBatchSize": 2, "deepspeed": {"zeroStage": 3}})


def zero(training: TrainingSpec, spec: SftSpec | None = None) -> dict[str, Any]:
    return deepspeed_config(spec or SftSpec(), training, accumulation=2, bfloat16=True)


def arguments(spec: SftSpec | DpoSpec, training: TrainingSpec) -> dict[str, Any]:
    ranks = Ranks(rank=0, local_rank=0, world=1, local_world=1, device="cpu")
    plan = make_plan(spec, training, ranks, steps=10, run_seed=1, stage_key="k", output=Path("checkpoints"))
    return common_arguments(spec, training, plan)


def test_rule_07_batch_is_ranks_times_micro_batch_times_accumulation() -> None:
    spec, training = SftSpec(batch_size=16), cpu(micro_batch_size=2)
    assert accumulation_steps(spec, training, 1) == 8
    assert accumulation_steps(spec, training, 4) == 2
    assert accumulation_steps(spec, training, 8) == 1


@pytest.mark.parametrize(
    ("world", "micro", "remedy"),
    [(1, 3, "microBatchSize to 2"), (3, 1, "multiple of the 3 ranks"), (16, 2, "microBatchSize to 1")],
)
def test_rule_07_a_batch_that_does_not_come_out_is_refused_with_its_remedy(
    world: int, micro: int, remedy: str
) -> None:
    with pytest.raises(BadConfiguration, match=remedy):
        accumulation_steps(SftSpec(batch_size=16), cpu(micro_batch_size=micro), world)


def test_rule_07_every_number_of_the_spec_reaches_trl() -> None:
    spec = SftSpec(
        batch_size=8,
        max_length=777,
        learning_rate=3e-6,
        weight_decay=0.02,
        max_gradient_norm=0.7,
        neftune_noise_alpha=5,
    )
    found = arguments(spec, cpu(micro_batch_size=2)) | sft_arguments(spec)
    expected = {
        "max_length": 777,
        "learning_rate": 3e-6,
        "weight_decay": 0.02,
        "max_grad_norm": 0.7,
        "neftune_noise_alpha": 5,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "max_steps": 10,
        "bf16": False,
        "packing": False,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["deepspeed"]["gradient_clipping"] == 0.7
    assert found["deepspeed"]["train_batch_size"] == 8


def test_rule_10_trl_does_not_switch_dropout_off_when_it_is_asked_for() -> None:
    assert dpo_arguments(DpoSpec(dropout=0.1))["disable_dropout"] is False
    assert dpo_arguments(DpoSpec(dropout=0.0))["disable_dropout"] is True


def test_dpos_losses_and_weights_are_trls() -> None:
    found = dpo_arguments(
        DpoSpec(loss=["sigmoid", "sft"], loss_weights=[1, 0.2], beta=0.05, length_desensitization=0.5)
    )
    assert (found["loss_type"], found["loss_weights"]) == (["sigmoid", "sft"], [1, 0.2])
    assert (found["beta"], found["ld_alpha"]) == (0.05, 0.5)
    assert dpo_arguments(DpoSpec(loss=["ipo"]))["loss_weights"] == [1.0]
    with pytest.raises(BadConfiguration, match="labelSmoothing"):
        dpo_arguments(DpoSpec(loss=["exo_pair"]))


def test_rule_09_weights_stay_float32_and_bfloat16_comes_by_autocast() -> None:
    config = zero(GPUS)
    assert config["bf16"] == {"enabled": False}
    assert config["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert computes_in_bfloat16(SftSpec(), GPUS)
    assert not computes_in_bfloat16(SftSpec(precision="Float32"), GPUS)


def test_rule_17_a_cpu_computes_in_float32() -> None:
    assert not computes_in_bfloat16(SftSpec(), cpu())
    with pytest.raises(BadConfiguration, match="needs a GPU"):
        computes_in_bfloat16(SftSpec(precision="BFloat16"), cpu())


def test_rule_16_the_memory_plan_reaches_deepspeed() -> None:
    offloaded = GPUS.model_validate(
        {"device": "Cuda", "deepspeed": {"zeroStage": 3, "offloadOptimizer": True, "offloadParameters": True}}
    )
    config = zero(offloaded)
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert config["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert config["optimizer"]["type"] == "AdamW", (
        "DeepSpeed's own AdamW, since torch's would crawl on the host"
    )
    assert "optimizer" not in zero(GPUS)
    assert "optimizer" not in zero(cpu(deepspeed={"zeroStage": 2, "offloadOptimizer": True})), (
        "nothing is compiled on CPU"
    )


def test_zero_3_gathers_its_weights_when_saving() -> None:
    assert zero(GPUS)["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_zero_stage_is_the_specs(stage: int) -> None:
    assert zero(cpu(deepspeed={"zeroStage": stage}))["zero_optimization"]["stage"] == stage


def test_rule_16_the_8_bit_optimizer_says_what_it_needs() -> None:
    check_optimizer(SftSpec(), cpu())
    with pytest.raises(BadConfiguration, match="needs a GPU"):
        check_optimizer(SftSpec(optimizer="AdamW8bit"), cpu())
    with pytest.raises(BadConfiguration, match="bitsandbytes"):
        check_optimizer(SftSpec(optimizer="AdamW8bit"), GPUS)
