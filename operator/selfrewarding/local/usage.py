"""Peak memory of a run's stages, measured from outside: all processes of all pods together, by the stage under way.

Kept in `usage.json` over restarts.
Neighbours: the driver samples, `results_report` shows.
"""

import os
from collections.abc import Sequence

from pydantic import BaseModel

from selfrewarding.api import labels
from selfrewarding.local import processes
from selfrewarding.local.errors import LocalError
from selfrewarding.local.pod import PodRecord
from selfrewarding.local.state import StateFolder, read_json, write_json

_WORTH_WRITING = 1.02
"""A new peak is written if it is this much above the one on disk."""


class Usage(BaseModel):
    """The content of `usage.json`."""

    peak_bytes: int = 0
    """Of the whole run, `srr` itself included."""
    stages: dict[str, int] = {}
    """By short stage key: of all pods that lived while the stage ran, its servers included."""


class UsageMeter:
    """Samples memory and remembers the peaks."""

    def __init__(self, state: StateFolder) -> None:
        self._state = state
        self.usage = load_usage(state)
        self._written = self.usage.model_copy(deep=True)

    def sample(self, pods: Sequence[PodRecord]) -> None:
        """Measure now. Blocks for some milliseconds."""
        living = [pod for pod in pods if not pod.ended]
        sessions = [session for pod in living for session in pod.sessions]
        found = list(processes.survivors(self._state.root, sessions))
        self.record(processes.memory_of(found), processes.memory_of([*found, os.getpid()]), living)

    def record(self, pods_bytes: int, all_bytes: int, living: Sequence[PodRecord]) -> None:
        """Take one measurement in: `pods_bytes` of all pods, `all_bytes` with `srr` itself."""
        usage = self.usage
        usage.peak_bytes = max(usage.peak_bytes, all_bytes)
        for key in {pod.labels[labels.KEY] for pod in living if labels.STAGE in pod.labels}:
            usage.stages[key] = max(usage.stages.get(key, 0), pods_bytes)
        written = self._written
        if usage.peak_bytes > written.peak_bytes * _WORTH_WRITING or any(
            peak > written.stages.get(key, 0) * _WORTH_WRITING for key, peak in usage.stages.items()
        ):
            self.save()

    def save(self) -> None:
        """Write the peaks. Raises OSError."""
        write_json(self._state.usage, self.usage.model_dump(mode="json"))
        self._written = self.usage.model_copy(deep=True)


def load_usage(state: StateFolder) -> Usage:
    """The peaks so far; none if the file is not there or damaged, since nothing depends on it."""
    try:
        return Usage.model_validate(read_json(state.usage) or {})
    except (LocalError, ValueError):
        return Usage()
