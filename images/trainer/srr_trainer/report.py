"""What a result keeps beside counts and metrics: versions, settings as used, deviations, memory.

Must not: hold local paths or addresses with credentials: it is part of the model card.
"""

import resource
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from srr_trainer.ranks import Ranks

_PACKAGES = ("torch", "transformers", "trl", "deepspeed", "accelerate", "peft", "datasets", "safetensors")
_LOCAL = ("output_dir",)
_REPLACED = ("lr_scheduler_type", "warmup_steps")
"""Our own schedule takes their place."""


def versions() -> dict[str, str]:
    """Versions of the libraries whose numbers these are."""
    return {name: version(name) for name in _PACKAGES}


def settings_as_used(arguments: Mapping[str, Any], *, warmup_steps: int, floor: float) -> dict[str, Any]:
    """The arguments that TRL got, without places on this machine, and our schedule."""
    used = {name: value for name, value in arguments.items() if name not in (*_LOCAL, *_REPLACED)}
    return used | {"schedule": {"shape": "cosine", "warmupSteps": warmup_steps, "floor": floor}}


def peak_memory_bytes(ranks: Ranks) -> dict[str, int]:
    """Highest memory of any rank: of the process, and of its GPU if it has one."""
    # Linux counts in KiB. All of the program's pods run Linux.
    found = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if ranks.device == "cuda":
        import torch

        found["gpu"] = int(torch.cuda.max_memory_allocated())
    everywhere = ranks.gather(found)
    return {name: max(rank[name] for rank in everywhere) for name in found}
