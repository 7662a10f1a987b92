"""What SFT and DPO share: TRL's trainers with our order, schedule and checkpoints.

Purpose: a mixin for TRL's trainers, data sets from tokenised rows, and `run`: train, from a checkpoint if there is one.
Must not: touch TRL's losses. Neighbours: `sft` and `dpo` build the trainers, `program` calls them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from selfrewarding.api.execution import TrainingSpec
from selfrewarding.contract.program import Retry
from srr_trainer.callbacks import CheckpointCallback, ProgressCallback
from srr_trainer.checkpoints import Checkpoint, CheckpointStore
from srr_trainer.models import LoadedModel, parameter_count
from srr_trainer.ranks import Ranks
from srr_trainer.rows import TokenisedExample, TokenisedPair
from srr_trainer.schedule import learning_rate_factor
from srr_trainer.settings import TrainingPlan
from srr_trainer.signals import StopRequest

_CHECKPOINT_BYTES = 16
"""Per parameter: weights, float32 masters and AdamW's two moments."""


class StageTrainer:
    """Mixed into TRL's trainers before them. Set `floor`, the lowest learning rate's share of the peak, and `plan`."""

    floor: float
    plan: TrainingPlan
    _logged_at: float | None = None

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The paper's cosine with a floor, in place of transformers' (see `schedule`)."""
        from torch.optim.lr_scheduler import LambdaLR

        trainer: Any = self
        if trainer.lr_scheduler is None:
            factor = partial(
                learning_rate_factor,
                steps=num_training_steps,
                warmup_steps=self.plan.warmup_steps,
                floor=self.floor,
            )
            trainer.lr_scheduler = LambdaLR(trainer.optimizer if optimizer is None else optimizer, factor)
            # transformers makes a new one for every `train`, if it made the last one.
            trainer._created_lr_scheduler = True  # noqa: SLF001
        return trainer.lr_scheduler

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Nothing: checkpoints have DeepSpeed's own state, and the model at the end is written by `saving`."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the model's card is written once, by `card`."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's metrics, and the seconds since the row before."""
        now = time.monotonic()
        if "loss" in logs and self._logged_at is not None:
            logs["seconds"] = round(now - self._logged_at, 3)
        self._logged_at = now
        super().log(logs, start_time)  # type: ignore[misc]  # TRL's trainer comes next in the order of classes


@dataclass(frozen=True)
class Built:
    """A trainer that is ready to run."""

    trainer: Any
    loaded: LoadedModel
    arguments: dict[str, Any]
    """What TRL was told."""
    report: Callable[[], dict[str, object]]
    """What only this kind of training reports, asked for after training."""


@dataclass(frozen=True)
class Trained:
    """What a training left behind, beside the trainer's model."""

    log: list[dict[str, Any]]
    """One row per step: TRL's metrics, the pass over the data, tokens so far."""
    resumed_from: int
    """Step of the checkpoint that it began at; 0 for a fresh start."""
    tokens_per_second: float
    checkpoint_seconds: float


def data_set(rows: Sequence[TokenisedExample | TokenisedPair]) -> Any:
    """The rows as datasets.Dataset, in memory: no cache file that ranks would have to share."""
    from datasets import Dataset

    columns = [row.columns() for row in rows]
    return Dataset.from_dict({name: [row[name] for row in columns] for name in columns[0]})


def tokens_after_steps(
    rows: Sequence[TokenisedExample | TokenisedPair], order: Sequence[int], batch_size: int
) -> list[int]:
    """Tokens trained on after 0, 1, 2 … steps, padding left out; length steps + 1."""
    per_step = [
        sum(rows[index].tokens for index in order[start : start + batch_size])
        for start in range(0, len(order), batch_size)
    ]
    return list(accumulate(per_step, initial=0))


def run(
    trainer: Any,
    training: TrainingSpec,
    ranks: Ranks,
    checkpoints: CheckpointStore,
    stop: StopRequest,
    *,
    newest: Checkpoint | None,
    tokens_after: Sequence[int],
    rows: int,
    batch_size: int,
    besides: Callable[[], float] = lambda: 0.0,
) -> Trained:
    """Train to the end, from the checkpoint `newest` if there is one. Raises Retry if SIGTERM came first.

    `besides`: seconds that other callbacks took, which are no training.
    """
    from transformers import PrinterCallback

    resume: Path | None = None
    if newest is not None:
        resume = Path(trainer.args.output_dir) / f"checkpoint-{newest.step}"
        checkpoints.restore(newest, resume)

    saver = CheckpointCallback(
        checkpoints,
        ranks,
        stop,
        interval_seconds=training.checkpoint.interval_seconds,
        checkpoint_bytes=_CHECKPOINT_BYTES * parameter_count(trainer.model),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(saver)
    trainer.add_callback(ProgressCallback(ranks, tokens_after))
    stop.steps_follow = True
    began = time.monotonic()
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    seconds = time.monotonic() - began - saver.seconds - besides()
    stop.steps_follow = False
    if saver.stopped_at is not None:
        raise Retry(f"stopped by SIGTERM after step {saver.stopped_at} of {trainer.state.max_steps}")

    first = newest.step if newest else 0
    return Trained(
        log=_log_rows(trainer.state.log_history, tokens_after, rows=rows, batch_size=batch_size),
        resumed_from=first,
        tokens_per_second=(tokens_after[-1] - tokens_after[first]) / max(seconds, 1e-9),
        checkpoint_seconds=saver.seconds,
    )


def mean_of_last_tenth(log: Sequence[dict[str, Any]], name: str) -> float:
    """Mean of a logged metric over the last tenth of the steps, at least one."""
    values = [float(row[name]) for row in log[-max(1, len(log) // 10) :]]
    return sum(values) / len(values)


def _log_rows(
    history: Sequence[dict[str, Any]], tokens_after: Sequence[int], *, rows: int, batch_size: int
) -> list[dict[str, Any]]:
    """The steps of the trainer's log. TRL's own token count begins anew after a resume, so it is replaced."""
    log = []
    for entry in history:
        if "loss" not in entry:
            continue
        step = int(entry["step"])
        row = {name: value for name, value in entry.items() if name not in ("epoch", "num_tokens", "step")}
        log.append({"step": step, "epoch": step * batch_size / rows, "tokens": tokens_after[step]} | row)
    return log
