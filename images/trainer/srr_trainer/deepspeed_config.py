"""DeepSpeed's configuration, written from the spec: no value is left to a default that may change.

Must not: import deepspeed (this is a pure function, shown by `srr plan` and tested as data).
Source: DeepSpeed's configuration reference (JSON), version 0.19.
"""

from typing import Any

from selfrewarding.api.algorithm import OptimisationSpec
from selfrewarding.api.execution import TrainingSpec

BETAS = (0.9, 0.999)
"""AdamW's decay rates (the paper does not state them)."""
EPSILON = 1e-8

_BUCKET = {"Cuda": 200_000_000, "Cpu": 20_000_000}
"""Elements that are reduced or gathered at once: two such buffers are held, and a CPU gains nothing by large ones."""


def deepspeed_config(
    spec: OptimisationSpec, training: TrainingSpec, *, accumulation: int, bfloat16: bool
) -> dict[str, Any]:
    """The configuration, by `accumulation` micro batches of a rank per step.

    Weights stay float32 whatever the precision of the computation: bfloat16 comes by autocast, so what is trained,
    sharded and saved are the master weights themselves (number rule 9).
    """
    config: dict[str, Any] = {
        "train_batch_size": spec.batch_size,
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": spec.max_gradient_norm,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "torch_autocast": {"enabled": bfloat16, "dtype": "bfloat16"},
        "zero_optimization": _zero(training),
        # torch's AdamW runs everywhere without being compiled first; DeepSpeed would refuse it without these two.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if uses_deepspeed_adam(spec, training):
        config["optimizer"] = {
            "type": "AdamW",
            "params": {
                "lr": spec.learning_rate,
                "betas": list(BETAS),
                "eps": EPSILON,
                "weight_decay": spec.weight_decay,
            },
        }
    return config


def uses_deepspeed_adam(spec: OptimisationSpec, training: TrainingSpec) -> bool:
    """Whether DeepSpeed's own AdamW steps: only for a state kept beside a GPU, where torch's is many times slower."""
    offload = training.deepspeed.offload_optimizer
    return offload and training.device == "Cuda" and spec.optimizer == "AdamW"


def _zero(training: TrainingSpec) -> dict[str, Any]:
    deepspeed = training.deepspeed
    cuda = training.device == "Cuda"
    zero: dict[str, Any] = {"stage": deepspeed.zero_stage}
    if deepspeed.zero_stage >= 1:
        zero |= {
            "reduce_scatter": True,
            "reduce_bucket_size": _BUCKET[training.device],
            "allgather_partitions": True,
            "allgather_bucket_size": _BUCKET[training.device],
            "overlap_comm": cuda,
            "contiguous_gradients": True,
        }
    if deepspeed.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": cuda}
    if deepspeed.zero_stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": 50_000_000,
            "stage3_param_persistence_threshold": 100_000,
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            # Without it a save writes a folder with no weights and no error.
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    if deepspeed.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": cuda}
    return zero
