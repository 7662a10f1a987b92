"""Plays the parts of a cluster that the API server tests lack: the kubelet and the Kubeflow training operator.

Jobs, Deployments, garbage collection and ServiceAccounts are the real controller manager's. Everything that happens to
our objects is written down in `census`.

Purpose: whole runs against a real API server in seconds. Must not: know the operator's code beyond labels and contract.
Neighbours: `kubelet`, `training_operator`, `census`; `runs` makes runs and waits for them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.faults.api_client import Api, Raw
from tests.cluster.faults.census import Census
from tests.cluster.faults.kubelet import Failure, Kubelet, Pace
from tests.cluster.faults.training_operator import TrainingOperator


@dataclass(frozen=True)
class Player:
    """The parts, under way."""

    api: Api
    """Straight to the API server, past any proxy."""
    census: Census
    kubelet: Kubelet
    training: TrainingOperator

    def fail_once(self, failure: Failure) -> None:
        """Let one pod fail."""
        self.kubelet.failures.append(failure)

    def hold(self, namespace: str, which: Callable[[Raw], bool]) -> None:
        """Let the pods of a namespace's Jobs that `which` names run on and on."""
        self.kubelet.holds[namespace] = which

    def release(self, namespace: str) -> None:
        """Let the pods that are held end."""
        self.kubelet.holds.pop(namespace, None)

    def set_pace(self, namespace: str, pace: Pace) -> None:
        """Play the pods of a namespace at another pace."""
        self.kubelet.paces[namespace] = pace


@asynccontextmanager
async def playing(
    kubeconfig: Path, pace: Pace | None = None, *, keep_bodies: bool = True
) -> AsyncIterator[Player]:
    """A player for as long as the block lasts. A part of it that fails ends the block with that error."""
    try:
        async with Api(kubeconfig) as api, asyncio.TaskGroup() as group:
            census = Census(keep_bodies=keep_bodies)
            kubelet = Kubelet(api, group, pace or Pace())
            training = TrainingOperator(api, group, census)
            census.listeners += [kubelet.heard, training.heard]
            node = group.create_task(kubelet.serve())
            watches = census.start(api, group)
            for listed in watches:
                await listed.wait()
            try:
                yield Player(api, census, kubelet, training)
            finally:
                await kubelet.close()
                await training.close()
                for task in (node, *census.tasks):
                    task.cancel()
    except BaseExceptionGroup as found:
        # Of several errors the first is the cause: the block's own, or the part's that ended it.
        raise found.exceptions[0] from found
