"""The `Cluster` port with a meter in it: what passes read and write is counted, and log lines get the stage.

Must not: change any call or answer. Neighbours: `reconcile` calls it, the adapter answers, `metrics` counts.
"""

from collections.abc import Sequence

from structlog.contextvars import bind_contextvars

from selfrewarding.api.run import RawObject, SelfRewardingRun, SelfRewardingRunStatus
from selfrewarding.cluster.protocol import Cluster, RunKey
from selfrewarding.controller.metrics import Metrics
from selfrewarding.plan.actions import Event
from selfrewarding.plan.observed import ChildKind, Observed


class MeasuredCluster:
    """A cluster whose use is measured."""

    def __init__(self, cluster: Cluster, metrics: Metrics) -> None:
        self._cluster = cluster
        self._metrics = metrics

    async def get_run(self, key: RunKey) -> SelfRewardingRun | None:
        """As the adapter's."""
        run = await self._cluster.get_run(key)
        if run is None:
            self._metrics.forget(key)
        else:
            self._metrics.seen(run)
            bind_contextvars(stage=run.status.stage)
        return run

    async def observe(self, run: SelfRewardingRun) -> Observed:
        """As the adapter's."""
        return await self._cluster.observe(run)

    async def create(self, run: SelfRewardingRun, manifest: RawObject) -> None:
        """As the adapter's."""
        await self._cluster.create(run, manifest)
        self._metrics.created(run, manifest)

    async def scale(self, run: SelfRewardingRun, name: str, replicas: int) -> None:
        """As the adapter's."""
        await self._cluster.scale(run, name, replicas)

    async def delete(self, run: SelfRewardingRun, kind: ChildKind, name: str, uid: str) -> None:
        """As the adapter's."""
        await self._cluster.delete(run, kind, name, uid)

    async def patch_status(self, run: SelfRewardingRun, status: SelfRewardingRunStatus) -> None:
        """As the adapter's."""
        await self._cluster.patch_status(run, status)
        self._metrics.written(run, status)

    async def post_events(self, run: SelfRewardingRun, events: Sequence[Event]) -> None:
        """As the adapter's."""
        await self._cluster.post_events(run, events)
