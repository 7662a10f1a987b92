"""Reference log probabilities: an artifact of their own, computed once and read by every rank (number rule 8).

    stages/ReferenceLogProbs/<digest>/logprobs.jsonl

A header row {"rows", "sha256", …} and one row {"key", "chosen", "rejected"} per pair: sums of log probabilities over an
answer's tokens in nats, without dropout, as decimal text that gives the same float64 again.

Purpose: name, compute, publish and read them. The digest covers token ids (so pairs, template and tokenizer), the
reference's weights, and what else changes the sums. Neighbours: `dpo` puts them into TRL's batches.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfrewarding.contract.keys import digest
from selfrewarding.store import ArtifactStore, Corrupt, NotFound
from srr_trainer.ranks import Ranks
from srr_trainer.rows import TokenisedPair, tokens_digest

logger = logging.getLogger(__name__)

LogProbabilities = dict[str, tuple[float, float]]
"""Pair key → sums of the chosen and of the rejected answer, in nats."""


class ReferenceStore:
    """The artifact of one set of pairs under one reference model."""

    def __init__(
        self,
        store: ArtifactStore,
        pairs: Sequence[TokenisedPair],
        *,
        model_digest: str,
        max_length: int,
        ld_alpha: float | None,
        bfloat16: bool,
    ) -> None:
        self._store = store
        self._keys = [pair.key for pair in pairs]
        self.digest = digest(
            {
                "tokens": tokens_digest(pairs),
                "model": model_digest,
                "maxLength": max_length,
                "ldAlpha": ld_alpha,
                "bfloat16": bfloat16,
            }
        )
        self.folder = f"stages/ReferenceLogProbs/{self.digest}"
        """Folder of the artifact in the store."""
        self._path = f"{self.folder}/logprobs.jsonl"

    @property
    def where(self) -> str:
        """Its address, for messages and reports."""
        return f"{self._store.uri}/{self._path}"

    def read(self) -> LogProbabilities | None:
        """What is in the store, or None if there is nothing whole."""
        try:
            header, _, body = self._store.read(self._path).partition(b"\n")
        except NotFound:
            return None
        try:
            expected = json.loads(header)["sha256"]
            rows = [json.loads(line) for line in body.splitlines()]
        except (ValueError, KeyError, TypeError):
            expected, rows = None, []
        found = {row["key"]: (row["chosen"], row["rejected"]) for row in rows}
        if hashlib.sha256(body).hexdigest() != expected or set(found) != set(self._keys):
            logger.warning("%s is damaged and is made again", self.where)
            return None
        return found

    def require(self) -> LogProbabilities:
        """What is in the store. Raises Corrupt if there is nothing whole."""
        found = self.read()
        if found is None:
            raise Corrupt(f"{self.where} was just written and cannot be read: delete it and try again")
        return found

    def publish(self, values: LogProbabilities) -> None:
        """Write them unless another pod was quicker; the first ones stay, damaged ones go."""
        rows = [
            json.dumps({"key": key, "chosen": values[key][0], "rejected": values[key][1]}).encode() + b"\n"
            for key in self._keys
        ]
        body = b"".join(rows)
        header = {"rows": len(rows), "sha256": hashlib.sha256(body).hexdigest()}
        content = json.dumps(header).encode() + b"\n" + body
        if not self._store.create(self._path, content) and self.read() is None:
            self._store.write(self._path, content)


def compute(
    trainer: Any, pairs: Sequence[TokenisedPair], model: Path | None, ranks: Ranks, *, batch_size: int
) -> LogProbabilities:
    """Log probabilities of all pairs under the model in a folder, or under the trainer's own before training (None).

    Every rank computes a share; the result is on all ranks. The forward pass and the sum are TRL's, so that they are
    exactly what the loss compares them with.
    """
    from trl.models.utils import prepare_deepspeed
    from trl.trainer.utils import add_fused_lm_head

    from srr_trainer import models

    policy = trainer.model
    if model is None:
        reference = policy
    else:
        reference = models.load(model, dropout=0.0).model
        add_fused_lm_head(reference)
    engine = prepare_deepspeed(reference, trainer.accelerator)
    share: LogProbabilities = {}
    for batch in _batches(pairs, batch_size, ranks):
        inputs = trainer.on_device([pair.columns() for pair in batch])
        chosen, rejected = trainer.compute_ref_log_probs(engine, inputs)
        for pair, chosen_sum, rejected_sum in zip(batch, chosen.tolist(), rejected.tolist(), strict=True):
            share[pair.key] = (float(chosen_sum), float(rejected_sum))
    engine.destroy()
    policy.train()
    merged: LogProbabilities = {}
    for part in ranks.gather(share):
        merged |= part
    return merged


def _batches(pairs: Sequence[TokenisedPair], size: int, ranks: Ranks) -> list[list[TokenisedPair]]:
    """This rank's batches, longest first. All ranks get equally many: under ZeRO-3 every forward pass is collective."""
    ordered = sorted(pairs, key=lambda pair: (-pair.length, pair.key))
    batches = [list(ordered[start : start + size]) for start in range(0, len(ordered), size)]
    own = batches[ranks.rank :: ranks.world]
    while len(own) < -(-len(batches) // ranks.world):
        own.append(batches[-1])
    return own
