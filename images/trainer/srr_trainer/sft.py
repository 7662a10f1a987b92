"""Supervised fine-tuning with TRL: M0 to M1 and to the baseline (paper section 2.2), and DPO's positive-only variant.

The loss counts the last assistant message and its end-of-turn token; the prompt has label -100.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trl import SFTConfig, SFTTrainer

from selfrewarding.api.algorithm import SftSpec
from selfrewarding.api.execution import TrainingSpec
from srr_trainer import models
from srr_trainer.rows import TokenisedExample
from srr_trainer.settings import TrainingPlan, common_arguments, lora_config, sft_arguments
from srr_trainer.training import Built, StageTrainer, data_set


class SftStageTrainer(StageTrainer, SFTTrainer):
    """TRL's SFTTrainer with our schedule and checkpoints."""


def build_trainer(
    spec: SftSpec,
    training: TrainingSpec,
    plan: TrainingPlan,
    *,
    base: Path,
    tokenizer: Any,
    examples: Sequence[TokenisedExample],
    order: Sequence[int],
) -> Built:
    """The trainer over `examples` in `order`. Raises BadConfiguration."""
    settings = common_arguments(spec, training, plan) | sft_arguments(spec)
    arguments = SFTConfig(**copy.deepcopy(settings))
    # After the arguments: with ZeRO-3 they make `from_pretrained` give each rank its share.
    loaded = models.load(base, dropout=spec.dropout)
    trainer = SftStageTrainer(
        model=loaded.model,
        args=arguments,
        train_dataset=data_set(examples).select(order),
        processing_class=tokenizer,
        peft_config=lora_config(spec),
    )
    trainer.floor = spec.min_learning_rate / spec.learning_rate
    trainer.plan = plan
    return Built(trainer, loaded, settings, report=dict)
