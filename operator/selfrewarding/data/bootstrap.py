"""95 % percentile bootstrap of a ratio of two sums over prompts, as every interval of the project is made.

Pure. Neighbours: `metrics` and `head_to_head` draw their own prompts for many numbers at once; single ratios come here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_GATHERED = 500_000
"""Numbers of one step: bounds its memory to some 50 MB."""


def ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    *,
    resamples: int,
    seed: int,
    scale: float = 100.0,
) -> list[float] | None:
    """The interval of `scale` x sum of numerators / sum of denominators, both prompt by prompt; None without resamples, or
    where no resample defines it."""
    prompts = len(denominators)
    if not prompts or not resamples:
        return None
    above, below = np.array(numerators, dtype=np.float64), np.array(denominators, dtype=np.float64)
    generator = np.random.default_rng(seed)
    chunk = max(1, _GATHERED // prompts)
    found = []
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        weights = generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=size).astype(np.float64)
        sums, bases = weights @ above, weights @ below
        found.append(scale * sums[bases > 0] / bases[bases > 0])
    defined = np.concatenate(found)
    return [float(bound) for bound in np.percentile(defined, [2.5, 97.5])] if len(defined) else None
