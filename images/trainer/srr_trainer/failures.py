"""How a failed training ends: which errors are the user's, and which only follow from another rank's.

Purpose: torchrun turns all exit codes into 1, so the reason must stand in the termination message (survival rule 6),
and must not be written over by ranks that merely lost their connection.
Neighbours: `__main__` puts these around `program`.
"""

import os
from collections.abc import Callable
from pathlib import Path

from selfrewarding.contract import environment
from selfrewarding.contract.config import StageConfig
from selfrewarding.contract.program import (
    BadConfiguration,
    BadData,
    PeerLost,
    Retry,
    StageFailure,
    Surroundings,
)
from selfrewarding.contract.result import StageResult, parse_termination
from selfrewarding.data.chat import ChatTemplateError
from selfrewarding.store.failures import stage_failure

StageMain = Callable[[StageConfig, Surroundings], StageResult | None]

_LOST = (
    "gloo/transport",
    "Connection closed by peer",
    "Connection reset by peer",
    "NCCL",
    "DistBackendError",
    "Timed out waiting",
    "collective operation timeout",
)


def translate(error: Exception) -> StageFailure | None:
    """The stage failure that an error means, or None for one that nobody foresaw."""
    if isinstance(error, ChatTemplateError):
        return BadData(str(error))
    if type(error).__name__ == "OutOfMemoryError":
        return BadConfiguration(
            "the GPU has too little memory: lower training.microBatchSize, switch training.gradientCheckpointing on, "
            "raise training.deepspeed.zeroStage, set training.deepspeed.offloadOptimizer, or use more GPUs "
            f"({str(error).splitlines()[0][:200]})"
        )
    return stage_failure(error)


def quiet_after_others(main: StageMain) -> StageMain:
    """`main`, but a rank that fails because another one did says only that; where that one has told why, nothing."""

    def run(config: StageConfig, here: Surroundings) -> StageResult | None:
        try:
            return main(config, here)
        except Exception as error:
            lost = _lost_connection(error)
            told = _told_already()
            if told is not None and (told != PeerLost.failure or lost or isinstance(error, Retry)):
                raise SystemExit(1) from error
            if not lost:
                raise
            first = (str(error).splitlines() or [type(error).__name__])[0][:300]
            raise PeerLost(
                f"rank {here.rank} lost the other ranks ({first}): one of them, its node or the network failed; the "
                "stage goes on from its last checkpoint."
            ) from error

    return run


def _told_already() -> str | None:
    """The failure that another rank of this pod has written; it does so before its connections close."""
    path = os.environ.get(environment.TERMINATION)
    if not path or int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == 1:
        return None
    try:
        message = parse_termination(Path(path).read_text(encoding="utf-8"))
    except OSError:
        return None
    return message.failure if message is not None else None


def _lost_connection(error: Exception) -> bool:
    """Whether a collective broke off or ran into its time limit (NCCL's and gloo's words): the reason is elsewhere."""
    if isinstance(error, StageFailure) or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return False
    text = f"{type(error).__name__}: {error}"
    return isinstance(error, RuntimeError) and any(mark in text for mark in _LOST)
