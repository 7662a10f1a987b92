"""The sampler's programs, as containers start them.

    python -m srr_sampler                 the stage that SRR_STAGE_CONFIG describes
    python -m srr_sampler fetch-model     a serving pod's init container
    python -m srr_sampler retire          clears a deleted run's artifacts away

Must not: import a stage's module before it is asked for. Resolve starts in a fraction of a second that way;
transformers and numpy take seconds. Neighbours: `contract.program` is the frame that tells how a program ended.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType

from selfrewarding.contract import environment
from selfrewarding.contract.config import StageConfig
from selfrewarding.contract.program import (
    BadConfiguration,
    ExitCode,
    Retry,
    Surroundings,
    run_program,
    run_stage,
)
from selfrewarding.contract.result import StageResult, TerminationMessage
from selfrewarding.contract.stages import StageKind
from selfrewarding.store.failures import stage_failure
from selfrewarding.tracking.prometheus import measured

FETCH_MODEL = "fetch-model"
RETIRE = "retire"
_MODULES = {
    StageKind.PREPARE: "prepare",
    StageKind.RESOLVE: "resolve",
    StageKind.BUILD_EVALUATIONS: "build_evaluations",
    StageKind.GENERATE_PROMPTS: "generate_prompts",
    StageKind.ROLLOUT: "rollout",
    StageKind.BUILD_PREFERENCES: "build_preferences",
    StageKind.ANSWER: "answer",
    StageKind.SELECT: "select",
    StageKind.EVALUATE: "evaluate",
    StageKind.COMPARE: "compare",
    StageKind.REPORT: "report",
}

Main = Callable[[StageConfig, Surroundings], StageResult | TerminationMessage | None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program that the arguments name; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _stop)
    if given == [FETCH_MODEL]:
        return run_program(_fetch_model, translate=stage_failure)
    if given == [RETIRE]:
        return run_program(_retire, translate=stage_failure)
    if given:
        sys.stderr.write(f"unknown arguments {' '.join(given)!r}: expected none, {FETCH_MODEL} or {RETIRE}\n")
        return ExitCode.BAD_CONFIGURATION
    return run_stage(measured(_run), translate=stage_failure)


def _run(config: StageConfig, here: Surroundings) -> StageResult | TerminationMessage | None:
    name = _MODULES.get(config.kind)
    if name is None:
        raise BadConfiguration(
            f"{config.kind} is no stage of the sampler (it has {', '.join(_MODULES)}): the pod has the wrong image"
        )
    stage: Main = import_module(f"srr_sampler.{name}").main
    return stage(config, here)


def _fetch_model() -> None:
    fetch_model: Callable[[], None] = import_module("srr_sampler.fetch_model").main
    fetch_model()


def _retire() -> TerminationMessage:
    retire: Callable[[], TerminationMessage] = import_module("srr_sampler.retire").main
    return retire()


def _stop(number: int, frame: FrameType | None) -> None:
    """SIGTERM: end at once and say that the stage can be tried again.

    Nothing is to be saved here: these stages start again from what is in the store, and unfinished writes are swept by
    the next writer. Stages that ask servers put their own handler in this one's place and hand in their rows first.
    An exception would be held up by threads that wait for the store, hence `_exit`.
    """
    del number, frame
    message = TerminationMessage(
        failure=Retry.failure, message="stopped by SIGTERM; the stage is tried again"
    )
    path = os.environ.get(environment.TERMINATION)
    try:
        if path:
            Path(path).write_text(
                message.model_dump_json(by_alias=True, exclude_defaults=True), encoding="utf-8"
            )
    finally:
        os._exit(ExitCode.RETRY)


if __name__ == "__main__":
    # transformers imports torch where it is installed (one environment for all programs): seconds for a tokenizer.
    os.environ.setdefault("USE_TORCH", "0")
    sys.exit(main())
