"""Progress of running stages, from the ends of their logs.

Must not: judge it. Neighbours: `readings` says when a log is read, `contract.progress` what a line holds.
"""

from collections.abc import Sequence
from functools import partial

from selfrewarding.api import labels
from selfrewarding.api.run import RawObject
from selfrewarding.cluster.calls import Call, Calls
from selfrewarding.cluster.kinds import POD
from selfrewarding.cluster.protocol import RunKey
from selfrewarding.cluster.readings import Readings, Wanted
from selfrewarding.cluster.translate_pods import program_of
from selfrewarding.contract.progress import ProgressLine, last_progress
from selfrewarding.contract.stages import TRAINING
from selfrewarding.plan.observed import Phase, Pod

TAIL = {"tailLines": "10", "limitBytes": "4096"}
"""How much of a log's end is read."""
LOG_TIMEOUT = 2.0
"""Seconds for one log."""


class ProgressReader:
    """The last progress line of each of a run's pods."""

    def __init__(self, calls: Calls, readings: Readings[ProgressLine]) -> None:
        self._calls = calls
        self._readings = readings

    async def look(self, key: RunKey, pods: Sequence[tuple[RawObject, Pod]]) -> dict[str, ProgressLine]:
        """Progress by pod UID. The log of one that has ended is read once more."""
        wanted: dict[str, Wanted[ProgressLine]] = {}
        for raw, pod in pods:
            container = program_of(raw)
            if container is None or not _tells_progress(raw, pod):
                continue
            read = partial(self._tail, _log(key.namespace, pod.name, container))
            wanted[pod.uid] = Wanted(
                read=read,
                last=pod.phase is not Phase.RUNNING,
                waited_for=pod.phase
                is not Phase.SUCCEEDED,  # what comes next must not wait for its last line
            )
        return await self._readings.look(key, wanted)

    async def _tail(self, call: Call) -> ProgressLine | None:
        return last_progress((await self._calls.text(call)).decode(errors="replace"))


def _log(namespace: str, pod: str, container: str) -> Call:
    return Call(
        verb="get",
        resource=POD,
        namespace=namespace,
        name=pod,
        subresource="log",
        query={"container": container, **TAIL},
        timeout=LOG_TIMEOUT,
    )


def _tells_progress(raw: RawObject, pod: Pod) -> bool:
    """Pods of stages that run or ran; of a training job rank 0 alone, which tells for all."""
    stage = (raw["metadata"].get("labels") or {}).get(labels.STAGE)
    if stage is None or pod.phase is Phase.PENDING:
        return False
    return stage not in TRAINING or pod.index == 0
