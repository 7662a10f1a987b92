"""A run that is being deleted: one pass after the other until its finalizer may go.

Must not: know kopf; take the finalizer off (the shell does, when `retire` says so); talk to the store (a pod does).
Neighbours: `plan.retirement` decides, `manifests.retirement` makes the Job.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from selfrewarding.api.run import SelfRewardingRun
from selfrewarding.cluster.protocol import Cluster, ClusterError, Forbidden, NotFound, Refused, RunKey
from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.manifests import Images, ManifestError, RunContext, retirement_job
from selfrewarding.plan.actions import Delete, Event, StartRetirement
from selfrewarding.plan.retirement import decide_retirement, kept
from selfrewarding.plan.times import moment_of

log = logging.getLogger(__name__)

AGAIN = 10.0
"""Seconds until the next pass after one that failed."""
PATIENCE = timedelta(seconds=120)
"""From the deletion on: so long rights or a quota may be in the way of a Job before the run goes without it."""


class Retirer:
    """Passes over runs that are being deleted. Passes of one run must not overlap; those of different runs may."""

    def __init__(
        self, cluster: Cluster, clock: Callable[[], datetime], *, images: Images | None = None
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._images = images or Images()

    async def retire(self, key: RunKey) -> float | None:
        """One pass. None: the finalizer may go; else the seconds until the next pass, if nothing wakes the run before.

        Never raises. The run goes within minutes also where its artifacts cannot be deleted: an event says so.
        """
        try:
            return await self._pass(key)
        except ClusterError as error:
            log.warning("%s/%s: a pass over the deleted run failed: %s", key.namespace, key.name, error)
        except Exception:
            log.exception("%s/%s: a pass over the deleted run failed", key.namespace, key.name)
        return AGAIN

    async def _pass(self, key: RunKey) -> float | None:
        run = await self._cluster.get_run(key)
        if run is None or run.metadata.deletion_timestamp is None:
            return None if run is None else AGAIN
        if run.spec.retention.on_delete == "Keep":
            return None  # nothing to look at: what the run owns goes with it
        now = self._clock()
        try:
            decision = decide_retirement(run, await self._cluster.observe(run), now)
            for action in decision.actions:
                await self._carry_out(run, action)
        except (Forbidden, Refused, NotFound, ManifestError) as error:
            return await self._hindered(run, error, now)
        await self._tell(run, *decision.events)
        return None if decision.done else decision.requeue_after

    async def _carry_out(self, run: SelfRewardingRun, action: StartRetirement | Delete) -> None:
        match action:
            case StartRetirement():
                await self._cluster.create(run, retirement_job(self._context(run), action.attempt))
            case Delete():
                await self._cluster.delete(run, action.kind, action.name, action.uid)

    async def _hindered(self, run: SelfRewardingRun, error: Exception, now: datetime) -> float | None:
        """The cluster takes no Job (or no deletion) of us: a while it may, but a run must not stay for ever."""
        namespace_goes = isinstance(error, Refused) and error.reason == "NamespaceTerminating"
        since = moment_of(run.metadata.deletion_timestamp or "")
        if not namespace_goes and now < since + PATIENCE:
            log.info("%s/%s: %s", run.metadata.namespace, run.metadata.name, error)
            return AGAIN
        await self._tell(run, kept(run, str(error).rstrip(".")))
        return None

    async def _tell(self, run: SelfRewardingRun, *events: Event) -> None:
        """Events are for people: a run does not stay for one that was lost."""
        if not events:
            return
        try:
            await self._cluster.post_events(run, events)
        except ClusterError as error:
            log.warning("%s/%s: events were lost: %s", run.metadata.namespace, run.metadata.name, error)

    def _context(self, run: SelfRewardingRun) -> RunContext:
        pinned = run.status.pinned
        return RunContext(
            namespace=run.metadata.namespace or "default",
            name=run.metadata.name,
            uid=run.metadata.uid or "",
            spec=run.spec,
            results=run.status.results,
            contract=pinned.contract if pinned else CONTRACT_VERSION,
            images=self._images,
        )
