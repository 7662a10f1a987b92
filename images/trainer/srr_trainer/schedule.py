"""Learning rate over the steps: linear rise, then a cosine from the peak to a floor.

The paper states both ends (5.5e-6 to 1.1e-6, section 3.1.2). transformers' cosine schedules with a floor miss one end
by a step: one never reaches the floor, the other never the peak, which matters where a stage has few steps.
"""

import math


def learning_rate_factor(step: int, *, steps: int, warmup_steps: int, floor: float) -> float:
    """Share of the peak learning rate that step `step` (from 0) of `steps` trains with; the last one is `floor`."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    last = steps - 1
    if last <= warmup_steps:
        return 1.0
    progress = min(1.0, (step - warmup_steps) / (last - warmup_steps))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_steps(ratio: float, steps: int) -> int:
    """Steps of the rise; at least one step is left for the peak."""
    return min(math.ceil(ratio * steps), steps - 1)
