"""Direct preference optimisation with TRL: M_(t-1) to M_t (paper section 2.4).

TRL would compute the reference log probabilities itself, cache them in a file that only one rank can open, and keep no
digest of the reference; here they come from `reference` (number rule 8) and TRL's loss reads them as columns.
"""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import DPOConfig, DPOTrainer

from selfrewarding.api.algorithm import DpoSpec
from selfrewarding.api.execution import TrainingSpec
from selfrewarding.contract.program import StageFailure
from srr_trainer import models
from srr_trainer.ranks import Ranks
from srr_trainer.reference import LogProbabilities, ReferenceStore, compute
from srr_trainer.rows import TokenisedPair
from srr_trainer.settings import TrainingPlan, common_arguments, dpo_arguments, lora_config
from srr_trainer.training import Built, StageTrainer, data_set

STEP_ZERO_TOLERANCE = 0.02
"""How far the first loss may be from log 2."""


class DpoStageTrainer(StageTrainer, DPOTrainer):
    """TRL's DPOTrainer on tokenised pairs with our reference log probabilities, order, schedule and checkpoints."""

    def __init__(
        self,
        *,
        pairs: Sequence[TokenisedPair],
        order: Sequence[int],
        reference: ReferenceStore,
        reference_model: Path | None,
        ranks: Ranks,
        **arguments: Any,
    ) -> None:
        self._pairs = pairs
        self._order = order
        self.reference = reference
        self._reference_model = reference_model
        self._ranks = ranks
        super().__init__(train_dataset=data_set(pairs), **arguments)

    def on_device(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A padded batch of rows where the model is."""
        batch: dict[str, Any] = self._prepare_inputs(self.data_collator(list(rows)))
        return batch

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        """The rows are tokenised already, injection-safe; TRL would apply the template to their text again."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, _: str, batch_size: int) -> Any:
        """Where TRL would compute and cache: take the artifact, or make it first."""
        known = self._ranks.broadcast(self.reference.read() is not None if self._ranks.first else None)
        if not known:
            computed = compute(
                self, self._pairs, self._reference_model, self._ranks, batch_size=2 * batch_size
            )
            if self._ranks.first:
                self.reference.publish(computed)
            self._ranks.barrier()
        # Every rank reads what the store has: all train with the same numbers, and with those of earlier attempts.
        found: LogProbabilities = self.reference.require()
        chosen, rejected = zip(*(found[pair.key] for pair in self._pairs), strict=True)
        dataset = dataset.add_column("ref_chosen_logps", list(chosen))
        return dataset.add_column("ref_rejected_logps", list(rejected)).select(self._order)


def build_trainer(
    spec: DpoSpec,
    training: TrainingSpec,
    ranks: Ranks,
    plan: TrainingPlan,
    *,
    base: Path,
    tokenizer: Any,
    pairs: Sequence[TokenisedPair],
    order: Sequence[int],
    reference: ReferenceStore,
    reference_model: Path | None,
) -> Built:
    """The trainer over `pairs` in `order`; `reference_model` is None where the base itself is the reference."""
    settings = common_arguments(spec, training, plan) | dpo_arguments(spec)
    arguments = DPOConfig(**copy.deepcopy(settings))
    # After the arguments: with ZeRO-3 they make `from_pretrained` give each rank its share.
    loaded = models.load(base, dropout=spec.dropout)
    trainer = DpoStageTrainer(
        pairs=pairs,
        order=order,
        reference=reference,
        reference_model=reference_model,
        ranks=ranks,
        model=loaded.model,
        args=arguments,
        processing_class=tokenizer,
        peft_config=lora_config(spec),
    )
    trainer.floor = spec.min_learning_rate / spec.learning_rate
    trainer.plan = plan
    check = StepZeroCheck(trainer, ranks)
    if reference_model is None:
        trainer.add_callback(check)

    def report() -> dict[str, object]:
        return {"referenceLogProbs": reference.digest, "stepZeroLoss": check.loss}

    return Built(trainer, loaded, settings, report)


class StepZeroCheck(TrainerCallback):
    """Before the first step the policy is the reference, so DPO's sigmoid loss is log 2 whatever the data.

    Computed without dropout on the first micro batch of every rank. Anything else means that policy and reference do
    not see the same model or tokens, and training would go astray in silence.
    """

    def __init__(self, trainer: DpoStageTrainer, ranks: Ranks) -> None:
        self._trainer = trainer
        self._ranks = ranks
        self.loss: float | None = None
        """Nats; log 2 = 0.6931 is right. None for a resumed stage, or another reference."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Check it once, on a fresh start."""
        if state.global_step:
            return control
        trainer = self._trainer
        size = args.per_device_train_batch_size
        first = self._ranks.rank * size
        rows = [trainer.train_dataset[index] for index in range(first, first + size)]
        batch = trainer.on_device(rows)
        trainer.model.eval()
        with torch.no_grad():
            chosen, rejected = trainer.compute_ref_log_probs(trainer.model_wrapped, batch)
        trainer.model.train()
        margins = (chosen - batch["ref_chosen_logps"]) - (rejected - batch["ref_rejected_logps"])
        losses = -torch.nn.functional.logsigmoid(trainer.beta * margins.double())
        self.loss = sum(self._ranks.gather(float(losses.mean()))) / self._ranks.world
        if not abs(self.loss - math.log(2)) <= STEP_ZERO_TOLERANCE:
            raise StageFailure(
                f"DPO's loss before the first step is {self.loss:.4f}, but log 2 = 0.6931 was expected: the reference "
                "log probabilities are not this model's on these tokens; delete "
                f"{trainer.reference.where} and try again"
            )
        return control
