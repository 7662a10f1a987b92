"""The order in which rows are trained on: a function of the seed alone, with little padding.

Purpose: all passes over the data as one list of indices, so that a resumed stage goes on at the exact row and the last
step is as full as the others.
Must not: import torch. Neighbours: `rows` gives the lengths, `training` trains in this order.
"""

import math
import random
from collections.abc import Sequence

from selfrewarding.contract.seeds import derive_seed

BUCKET_BATCHES = 8
"""Batches that are sorted by length together: more means less padding and less mixing."""


def training_steps(rows: int, *, batch_size: int, epochs: float) -> int:
    """Optimiser steps of `epochs` passes over `rows` rows; a part of a batch is a step."""
    return max(1, math.ceil(epochs * rows / batch_size - 1e-9))


def training_order(
    lengths: Sequence[int], *, batch_size: int, steps: int, run_seed: int, stage_key: str
) -> list[int]:
    """Indices of the rows in the order of training; length steps x batch_size.

    Every pass has every row once. Within a pass, rows of similar length share a batch and batches come in random order,
    but the first batch is the one with the longest row: what does not fit into memory fails at once. Where the passes
    asked for end within a batch, it is filled from one more pass.
    """
    needed = steps * batch_size
    order: list[int] = []
    for epoch in range(math.ceil(needed / len(lengths))):
        chance = random.Random(derive_seed(run_seed, stage_key, f"order/{epoch}"))  # noqa: S311 - no secret
        batches = _bucketed(lengths, batch_size, chance)
        if epoch == 0:
            longest = max(range(len(batches)), key=lambda index: max(lengths[row] for row in batches[index]))
            batches.insert(0, batches.pop(longest))
        order += [row for batch in batches for row in batch]
    return order[:needed]


def padding_share(lengths: Sequence[int], order: Sequence[int], micro_batch: int) -> float:
    """Share of the computed positions that are padding when `order` is cut into micro batches."""
    used = padded = 0
    for start in range(0, len(order), micro_batch):
        batch = [lengths[row] for row in order[start : start + micro_batch]]
        used += sum(batch)
        padded += max(batch) * len(batch)
    return 1 - used / padded if padded else 0.0


def _bucketed(lengths: Sequence[int], batch_size: int, chance: random.Random) -> list[list[int]]:
    rows = list(range(len(lengths)))
    chance.shuffle(rows)
    batches = []
    for start in range(0, len(rows), BUCKET_BATCHES * batch_size):
        bucket = sorted(
            rows[start : start + BUCKET_BATCHES * batch_size], key=lambda row: lengths[row], reverse=True
        )
        batches += [bucket[first : first + batch_size] for first in range(0, len(bucket), batch_size)]
    chance.shuffle(batches)
    # A batch that is not full comes last, so that the others stay whole.
    return sorted(batches, key=lambda batch: len(batch) < batch_size)
