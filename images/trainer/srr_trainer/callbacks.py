"""What happens beside the steps: checkpoints by time, stopping on SIGTERM, progress lines.

Purpose: rank 0 decides when to save and all ranks follow, since clocks differ and saving is collective (number
rule 15).
Neighbours: `checkpoint_timer` says when, `checkpoints` moves the files, `training` puts these into TRL's trainers.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from selfrewarding.contract.program import report_progress
from srr_trainer.checkpoint_timer import CheckpointTimer
from srr_trainer.checkpoints import CheckpointStore
from srr_trainer.ranks import Ranks
from srr_trainer.signals import StopRequest

_BYTES_PER_SECOND = 100e6
"""What a save is taken to run at until one was measured."""


class CheckpointCallback(TrainerCallback):
    """Saves by time, uploads, and stops the training when a pod is told to go."""

    def __init__(
        self,
        checkpoints: CheckpointStore,
        ranks: Ranks,
        stop: StopRequest,
        *,
        interval_seconds: float,
        checkpoint_bytes: int,
    ) -> None:
        self._checkpoints = checkpoints
        self._ranks = ranks
        self._stop = stop
        self._timer = CheckpointTimer(interval_seconds, first_guess=checkpoint_bytes / _BYTES_PER_SECOND)
        self._began = 0.0
        self.seconds = 0.0
        """Time spent on checkpoints."""
        self.stopped_at: int | None = None
        """The step after which the training was stopped, or None."""

    def on_step_end(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **__: Any
    ) -> TrainerControl:
        """Agree over all ranks whether to save and whether to stop."""
        if state.global_step >= state.max_steps:
            return control
        due = self._ranks.first and self._timer.due
        cheap = self._ranks.first and self._timer.cheap
        stop, save, cheap_for_all = self._ranks.highest(int(self._stop.asked), int(due), int(cheap))
        if stop:
            control.should_training_stop = True
            self.stopped_at = state.global_step
        if save or (stop and cheap_for_all):
            control.should_save = True
            self._began = time.monotonic()
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Upload what was just saved."""
        self._checkpoints.upload(Path(args.output_dir) / f"checkpoint-{state.global_step}", state.global_step)
        took = time.monotonic() - self._began
        self.seconds += took
        self._timer.saved(took)
        return control


class ProgressCallback(TrainerCallback):
    """A progress line per step, printed by rank 0; the first process of every node tells its metrics."""

    def __init__(self, ranks: Ranks, tokens_after: Sequence[int]) -> None:
        self._ranks = ranks
        self._tokens_after = tokens_after
        self._started = time.monotonic()
        self._first = 0

    def on_train_begin(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **__: Any
    ) -> TrainerControl:
        """Start the clock; a resumed stage starts where it was."""
        self._started, self._first = time.monotonic(), state.global_step
        self._report(state)
        return control

    def on_step_end(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **__: Any
    ) -> TrainerControl:
        """One line per step."""
        self._report(state)
        return control

    def _report(self, state: TrainerState) -> None:
        if not self._ranks.first_of_node:
            return
        steps, seconds = state.global_step - self._first, time.monotonic() - self._started
        report_progress(
            done=state.global_step,
            total=state.max_steps,
            rate=steps / seconds if steps else None,
            unit="steps",
            tokens=self._tokens_after[state.global_step],
            printed=self._ranks.first,
        )
