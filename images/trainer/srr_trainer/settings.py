"""From the spec to TRL's arguments: every number is said, none is left to TRL's defaults (number rule 7).

TRL 1.16 would else take 1,024 tokens, 3 epochs, a linear decay to zero, bfloat16, and no dropout.
Must not: build trainers or models. Neighbours: `training` uses it, `deepspeed_config` is its other half.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfrewarding.api.algorithm import DpoSpec, OptimisationSpec, SftSpec
from selfrewarding.api.execution import TrainingSpec
from selfrewarding.contract.program import BadConfiguration
from selfrewarding.contract.seeds import derive_seed
from srr_trainer.deepspeed_config import BETAS, EPSILON, deepspeed_config
from srr_trainer.ranks import Ranks
from srr_trainer.schedule import warmup_steps


@dataclass(frozen=True)
class TrainingPlan:
    """How one stage trains: what follows from spec, ranks and the number of rows."""

    steps: int
    warmup_steps: int
    accumulation: int
    """Micro batches of a rank per optimiser step."""
    bfloat16: bool
    seed: int
    output: Path
    """Local folder for checkpoints."""


def make_plan(
    spec: OptimisationSpec,
    training: TrainingSpec,
    ranks: Ranks,
    *,
    steps: int,
    run_seed: int,
    stage_key: str,
    output: Path,
) -> TrainingPlan:
    """Check the spec against the ranks. Raises BadConfiguration."""
    return TrainingPlan(
        steps=steps,
        warmup_steps=warmup_steps(spec.warmup_ratio, steps),
        accumulation=accumulation_steps(spec, training, ranks.world),
        bfloat16=computes_in_bfloat16(spec, training),
        seed=derive_seed(run_seed, stage_key, "trainer"),
        output=output,
    )


def accumulation_steps(spec: OptimisationSpec, training: TrainingSpec, world: int) -> int:
    """Micro batches of a rank per step. Raises BadConfiguration unless they fill the batch exactly."""
    at_once = world * training.micro_batch_size
    if spec.batch_size % at_once:
        possible = [
            size for size in range(training.micro_batch_size, 0, -1) if spec.batch_size % (world * size) == 0
        ]
        remedy = (
            f"set training.microBatchSize to {possible[0]}"
            if possible
            else f"choose a batchSize that is a multiple of the {world} ranks"
        )
        raise BadConfiguration(
            f"batchSize {spec.batch_size} is no multiple of {world} ranks x microBatchSize "
            f"{training.micro_batch_size} = {at_once}: {remedy}"
        )
    return spec.batch_size // at_once


def computes_in_bfloat16(spec: OptimisationSpec, training: TrainingSpec) -> bool:
    """Whether matrices are multiplied in bfloat16. Raises BadConfiguration where that is asked of a CPU."""
    if training.device == "Cpu" and spec.precision == "BFloat16":
        raise BadConfiguration(
            "precision BFloat16 needs a GPU (most CPUs compute it many times slower than Float32): "
            "set precision to Auto or Float32"
        )
    return training.device == "Cuda" and spec.precision != "Float32"


def check_optimizer(spec: OptimisationSpec, training: TrainingSpec) -> None:
    """Raises BadConfiguration if the optimizer cannot run here."""
    if spec.optimizer != "AdamW8bit":
        return
    import importlib.util

    if training.device != "Cuda":
        raise BadConfiguration(
            "optimizer AdamW8bit needs a GPU: set optimizer to AdamW, or training.device to Cuda"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BadConfiguration(
            "optimizer AdamW8bit needs the package bitsandbytes, which this trainer image does not have: "
            "add it to the image, or set optimizer to AdamW"
        )


def common_arguments(spec: OptimisationSpec, training: TrainingSpec, plan: TrainingPlan) -> dict[str, Any]:
    """What SFT and DPO have in common, as keyword arguments of SFTConfig and DPOConfig."""
    return {
        "output_dir": str(plan.output),
        "seed": plan.seed,
        "data_seed": plan.seed,
        "full_determinism": False,
        # Data: one pass over a list that has all passes in order (see `order`); the last step is full.
        "num_train_epochs": 1,
        "max_steps": plan.steps,
        "train_sampling_strategy": "sequential",
        "dataloader_drop_last": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": training.device == "Cuda",
        "remove_unused_columns": True,
        "max_length": spec.max_length,
        "pad_to_multiple_of": None,
        # Optimisation.
        "per_device_train_batch_size": training.micro_batch_size,
        "gradient_accumulation_steps": plan.accumulation,
        "average_tokens_across_devices": True,
        "learning_rate": spec.learning_rate,
        "lr_scheduler_type": "constant",  # replaced by `schedule` (see training.StageTrainer)
        "warmup_steps": 0,
        "weight_decay": spec.weight_decay,
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "adam_epsilon": EPSILON,
        "max_grad_norm": spec.max_gradient_norm,
        "optim": "adamw_8bit" if spec.optimizer == "AdamW8bit" else "adamw_torch_fused",
        "label_smoothing_factor": 0.0,
        "neftune_noise_alpha": None,
        # Precision: bfloat16 comes by DeepSpeed's autocast, so that the weights stay float32.
        "bf16": False,
        "fp16": False,
        "tf32": None,
        # Memory.
        "gradient_checkpointing": training.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False}
        if training.gradient_checkpointing
        else None,
        "activation_offloading": False,
        # Place.
        "use_cpu": training.device == "Cpu",
        "deepspeed": deepspeed_config(spec, training, accumulation=plan.accumulation, bfloat16=plan.bfloat16),
        # Saving, logging: by our own callbacks.
        "save_strategy": "no",
        "save_on_each_node": True,
        "eval_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "warning",
        "push_to_hub": False,
    }


def sft_arguments(spec: SftSpec) -> dict[str, Any]:
    """What only SFTConfig has."""
    return {
        "packing": False,
        "padding_free": False,
        "shuffle_dataset": False,
        "loss_type": "nll",
        "assistant_only_loss": False,
        "completion_only_loss": True,
        "neftune_noise_alpha": spec.neftune_noise_alpha,
        # Rows come tokenised, with their labels.
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }


def dpo_arguments(spec: DpoSpec) -> dict[str, Any]:
    """What only DPOConfig has. Raises BadConfiguration for losses that need other settings."""
    if "exo_pair" in spec.loss and spec.label_smoothing == 0:
        raise BadConfiguration(
            "dpo.loss exo_pair needs dpo.labelSmoothing above 0 (its paper recommends 0.001)"
        )
    return {
        "beta": spec.beta,
        "loss_type": list(spec.loss),
        "loss_weights": spec.loss_weights or [1.0] * len(spec.loss),
        "label_smoothing": spec.label_smoothing,
        "ld_alpha": spec.length_desensitization,
        "f_divergence_type": "reverse_kl",
        "use_weighting": False,
        "discopop_tau": 0.05,
        "sync_ref_model": False,
        "padding_free": False,
        # TRL switches dropout off unless told otherwise, so the paper's 0.1 would have no effect.
        "disable_dropout": spec.dropout == 0,
        "precompute_ref_log_probs": True,
    }


def lora_config(spec: OptimisationSpec) -> Any:
    """peft's configuration, or None for full fine-tuning."""
    if spec.lora is None:
        return None
    from peft import LoraConfig

    modules = spec.lora.target_modules
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        target_modules="all-linear" if modules == "AllLinear" else list(modules),
        bias="none",
    )
