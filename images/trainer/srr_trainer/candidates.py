"""Models that a DPO training saves on its way, one of which will be chosen (`dpo.earlyStopping`).

    <attempt>/candidates/<n>/…       a whole model, as the one at the end
    <stage>/candidates/<n>.json      written after it: its files with their digests, for whichever pod goes on

Purpose: when candidates are due, save and upload each once, and name their files for the stage's result.
Must not: choose (that is Select); keep checkpoints (a candidate cannot be trained on).
Neighbours: `saving` writes the folders, `callbacks` the checkpoints; `program` puts the files into the result.

A candidate is saved before the checkpoint of its step: a training that goes on from a checkpoint finds all candidates of
the steps until there in the store.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from selfrewarding.api.algorithm import DpoSpec, SftSpec
from selfrewarding.contract.artifacts import CANDIDATES, candidate_key, stage_prefix
from selfrewarding.contract.program import BadConfiguration
from selfrewarding.contract.result import FileRef
from selfrewarding.contract.stages import StageKind
from selfrewarding.store import ArtifactStore, NotFound
from srr_trainer.ranks import Ranks
from srr_trainer.saving import keep_deepspeed, make_readable

_CARD = "README.md"


def candidate_steps(spec: SftSpec | DpoSpec, steps: int) -> list[int]:
    """After which steps a candidate is saved: equal parts of the training; the last candidate, the model at the end, is
    not among them. Raises BadConfiguration if there are fewer steps than candidates."""
    stopping = spec.early_stopping if isinstance(spec, DpoSpec) else None
    if stopping is None:
        return []
    count = stopping.candidates
    if steps < count:
        raise BadConfiguration(
            f"dpo.earlyStopping saves {count} candidates, but the training has {steps} steps: lower "
            "dpo.earlyStopping.candidates or dpo.batchSize, or train on more pairs (promptGeneration.count, dpo.epochs)"
        )
    return [steps * number // count for number in range(1, count)]


class CandidateStore:
    """The candidates of one training in the store. `attempt` is this pod's own prefix. Only the first rank reads and
    writes; what it finds holds for all."""

    def __init__(self, store: ArtifactStore, kind: StageKind, key: str, attempt: str, ranks: Ranks) -> None:
        self._store = store
        self._kind, self._key = kind, key
        self._stage = stage_prefix(kind, key)
        self._attempt = attempt
        self._ranks = ranks
        self._kept: dict[int, dict[str, FileRef]] = self._ranks.broadcast(
            self._read() if self._ranks.first else None
        )

    def has(self, number: int) -> bool:
        """Whether a candidate is there, by whichever pod; the same on every rank."""
        return number in self._kept

    def lacks(self, steps: Sequence[int], *, before: int) -> bool:
        """Whether a candidate of a step until `before` is not there."""
        return any(step <= before and not self.has(number) for number, step in enumerate(steps, start=1))

    def upload(self, number: int, folder: Path) -> None:
        """Upload what the first rank saved into its local `folder`, then mark it; all ranks call it."""
        if self._ranks.first:
            name = f"{CANDIDATES}/{number}"
            uploaded = self._store.upload_tree(folder, f"{self._attempt}/{name}")
            inside = self._attempt.removeprefix(f"{self._stage}/")
            files = {
                file: FileRef(path=f"{inside}/{name}/{file}", size=found.size, sha256=found.sha256)
                for file, found in uploaded.items()
            }
            marker = {file: ref.model_dump(mode="json", by_alias=True) for file, ref in files.items()}
            self._store.write(candidate_key(self._kind, self._key, number), json.dumps(marker).encode())
            self._kept[number] = files
        else:
            self._kept[number] = {}

    def files(self) -> dict[str, FileRef]:
        """The files of all candidates by logical name, for the stage's result; the first rank knows them."""
        return {
            f"{CANDIDATES}/{number}/{file}": ref
            for number, files in sorted(self._kept.items())
            for file, ref in files.items()
        }

    def _read(self) -> dict[int, dict[str, FileRef]]:
        found: dict[int, dict[str, FileRef]] = {}
        for entry in self._store.list(f"{self._stage}/{CANDIDATES}"):
            number = entry.key.rpartition("/")[2].removesuffix(".json")
            if number.isdigit() and (files := self._whole(entry.key)) is not None:
                found[int(number)] = files
        return found

    def _whole(self, marker: str) -> dict[str, FileRef] | None:
        """The files behind a marker, or None if some are gone: it is saved again."""
        try:
            named: Mapping[str, Any] = json.loads(self._store.read(marker))
        except NotFound:
            return None
        files = {file: FileRef.model_validate(ref) for file, ref in named.items()}
        folders = {f"{self._stage}/{ref.path.rpartition('/')[0]}" for ref in files.values()}
        sizes = {entry.key: entry.size for folder in folders for entry in self._store.list(folder)}
        if any(sizes.get(f"{self._stage}/{ref.path}") != ref.size for ref in files.values()):
            return None
        return files


class CandidateCallback(TrainerCallback):
    """Saves each candidate after its step, unless it is there already. `save` is collective, as all of this."""

    def __init__(
        self,
        candidates: CandidateStore,
        steps: Sequence[int],
        save: Callable[[Path], None],
        *,
        folder: Path,
        card: Callable[[int], str],
    ) -> None:
        self._candidates = candidates
        self._numbers = {step: number for number, step in enumerate(steps, start=1)}
        self._save = save
        self._folder = folder
        self._card = card
        self.seconds = 0.0
        """Time spent on candidates."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Save the candidate of this step."""
        number = self._numbers.get(state.global_step)
        if number is None or self._candidates.has(number):
            return control
        began = time.monotonic()
        # The folder is the first rank's: the others of its pod come and go while it saves and uploads.
        first = state.is_world_process_zero
        if first:  # a killed attempt of this pod may have left a part
            shutil.rmtree(self._folder, ignore_errors=True)
        with keep_deepspeed(args):
            self._save(self._folder)
        if first:
            (self._folder / _CARD).write_text(self._card(state.global_step), encoding="utf-8")
            make_readable(self._folder)
        self._candidates.upload(number, self._folder)
        if first:
            shutil.rmtree(self._folder, ignore_errors=True)
        self.seconds += time.monotonic() - began
        return control
