"""The frame around every stage program: read the configuration, run, tell how it ended.

Exit codes: 0 done, 2 bad configuration, 3 bad data, 4 a parent's result is missing, 75 retry, 1 anything else. torchrun
turns codes of its children into 1, so the reason also stands in the termination message (design: survival rule 6).
"""

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from selfrewarding.contract import CONTRACT_VERSION, environment
from selfrewarding.contract.config import RetireConfig, ServeConfig, StageConfig
from selfrewarding.contract.keys import short
from selfrewarding.contract.result import StageResult, TerminationMessage, summary_message, summary_of

PROGRESS_PREFIX = "SRR-PROGRESS "

Document = TypeVar("Document", StageConfig, ServeConfig, RetireConfig)


class ExitCode(IntEnum):
    """How a stage program ends."""

    DONE = 0
    UNKNOWN = 1
    BAD_CONFIGURATION = 2
    BAD_DATA = 3
    PARENT_MISSING = 4
    RETRY = 75


class StageFailure(Exception):
    """A stage cannot go on; the text is one sentence for people, with the next step."""

    code = ExitCode.UNKNOWN
    failure = "Unknown"


class BadConfiguration(StageFailure):
    """The spec asks for something that cannot work."""

    code = ExitCode.BAD_CONFIGURATION
    failure = "BadConfiguration"


class BadData(StageFailure):
    """The data cannot be used."""

    code = ExitCode.BAD_DATA
    failure = "BadData"


class ParentMissing(StageFailure):
    """A parent's result is not in the store; `key` must be computed again."""

    code = ExitCode.PARENT_MISSING
    failure = "ParentMissing"

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


class Retry(StageFailure):
    """Something outside failed for now, e.g. a server."""

    code = ExitCode.RETRY
    failure = "Retry"


class StoreUnavailable(StageFailure):
    """The store of artifacts or data cannot be used: it does not answer, refuses the credentials, is full, or lacks a
    bucket or file. Whoever mends it need not touch the run: it is tried until it works, without end."""

    code = ExitCode.RETRY
    failure = "StoreUnavailable"


class PeerLost(StageFailure):
    """A collective broke off or ran into its time limit: another rank, its node or the network failed. It says the least of
    all failures: whatever else is known of the attempt explains it."""

    code = ExitCode.RETRY
    failure = "PeerLost"


class ServerKeyRefused(StageFailure):
    """The run's own servers refuse the key that this pod derived: the Secret changed since they started, so they must be
    started again."""

    code = ExitCode.RETRY
    failure = "ServerKeyRefused"


@dataclass(frozen=True)
class Surroundings:
    """What a program knows from its environment."""

    scratch: Path
    pod_uid: str
    attempt: int
    shard: int
    rank: int
    """Global rank under torchrun, else 0."""
    started: float
    """time.monotonic() at the start."""


def surroundings() -> Surroundings:
    """Read the environment; KeyError names a variable that is missing."""
    scratch = Path(os.environ[environment.SCRATCH])
    scratch.mkdir(parents=True, exist_ok=True)
    return Surroundings(
        scratch=scratch,
        pod_uid=os.environ[environment.POD_UID],
        attempt=int(os.environ.get(environment.ATTEMPT, "1")),
        shard=int(os.environ.get(environment.SHARD, "0")),
        rank=int(os.environ.get("RANK", "0")),
        started=time.monotonic(),
    )


def read_config() -> StageConfig:
    """The StageConfig of this pod. Raises BadConfiguration."""
    return _read(StageConfig)


def read_serve_config() -> ServeConfig:
    """The ServeConfig of this serving pod. Raises BadConfiguration."""
    return _read(ServeConfig)


def read_retire_config() -> RetireConfig:
    """The RetireConfig of this pod. Raises BadConfiguration."""
    return _parse(RetireConfig, os.environ.get(environment.RETIRE, ""), f"the variable {environment.RETIRE}")


def _read(document: type[Document]) -> Document:
    path = os.environ.get(environment.CONFIG, "")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise BadConfiguration(f"{environment.CONFIG}={path!r} cannot be read: {error.strerror}") from error
    return _parse(document, text, path)


def _parse(document: type[Document], text: str, place: str) -> Document:
    with contextlib.suppress(ValueError, AttributeError):
        version = json.loads(text).get("contract")
        if version != CONTRACT_VERSION:
            raise BadConfiguration(
                f"the run was planned for contract version {version}, this image knows {CONTRACT_VERSION}: use the "
                "image of the operator's release"
            )
    try:
        return document.model_validate_json(text)
    except ValidationError as error:
        raise BadConfiguration(f"{place}: {error}") from error


def run_stage(
    main: Callable[[StageConfig, Surroundings], StageResult | TerminationMessage | None],
    *,
    translate: Callable[[Exception], StageFailure | None],
) -> int:
    """Run a program and return its exit code; the termination message is written either way.

    `main` returns the result that is in the store now (rank 0), or None where another pod or rank tells it. `translate`
    turns errors of the store and of data into stage failures (`store.failures.stage_failure`); None: not one of these.
    """
    return run_program(lambda: main(read_config(), surroundings()), translate=translate)


def run_program(
    body: Callable[[], StageResult | TerminationMessage | None],
    *,
    translate: Callable[[Exception], StageFailure | None],
) -> int:
    """As `run_stage`, for a program that reads its own configuration (a serving pod's init container)."""
    try:
        outcome = body()
    except Exception as error:  # noqa: BLE001 - the last frame: everything is told, the unknown with its traceback
        failure = error if isinstance(error, StageFailure) else translate(error)
        if failure is None:
            traceback.print_exc()
            failure = StageFailure(f"{type(error).__name__}: {error}")
        parent = short(failure.key) if isinstance(failure, ParentMissing) else None
        _terminate(TerminationMessage(failure=failure.failure, message=str(failure)[:1024], parent=parent))
        print(f"{failure.failure}: {failure}", file=sys.stderr, flush=True)
        return failure.code
    match outcome:
        case StageResult():
            _write_termination(summary_message(outcome.key, summary_of(outcome)))
        case TerminationMessage():
            _terminate(outcome)
        case None:
            pass
    return ExitCode.DONE


@dataclass(frozen=True, slots=True)
class Progress:
    """A progress line as the program itself sees it."""

    done: int
    total: int
    rate: float | None
    """Per second."""
    unit: str
    tokens: int
    """Generated or trained so far."""


_listeners: list[Callable[[Progress], None]] = []


def listen_to_progress(listener: Callable[[Progress], None]) -> None:
    """Tell `listener` every progress line too (metrics); what it raises is dropped."""
    _listeners.append(listener)


def report_progress(
    *,
    done: int,
    total: int,
    rate: float | None = None,
    unit: str = "rows",
    tokens: int = 0,
    printed: bool = True,
) -> None:
    """Print a progress line; the last one in the log's tail is what status shows (rate is per second).

    Of several processes that do the same, one prints; those of other pods tell their listeners alone.
    """
    for listener in _listeners:
        with contextlib.suppress(Exception):
            listener(Progress(done, total, rate, unit, tokens))
    if not printed:
        return
    eta = (total - done) / rate if rate else None
    line = {"done": done, "total": total, "rate": rate, "etaSeconds": eta, "unit": unit, "tokens": tokens}
    print(PROGRESS_PREFIX + json.dumps(line), flush=True)


def _terminate(message: TerminationMessage) -> None:
    _write_termination(message.model_dump_json(by_alias=True, exclude_defaults=True))


def _write_termination(text: str) -> None:
    path = os.environ.get(environment.TERMINATION)
    if path:
        with contextlib.suppress(OSError):
            Path(path).write_text(text, encoding="utf-8")
