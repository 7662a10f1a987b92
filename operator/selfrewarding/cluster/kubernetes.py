"""`KubernetesCluster`: the `Cluster` port over the API of a real cluster.

A pass costs one GET of its run: children and pods come from the inventory that the watches feed. What a watch may have
missed is asked for once a minute while a run has pods, and right before a GPU is asked for. Outside of `observe` the
inventory takes no news from here: a change that it knows already would wake nobody when the watch tells of it.

Must not: retry (the next pass does), or decide. Neighbours: `inventory`, `observing` and the translators for what is
there, `calls` for requests, `events`, `progress` and `complaints` for what is said.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from kubernetes.aio.client.api_client import ApiClient

from selfrewarding.api import labels
from selfrewarding.api.run import RawObject, SelfRewardingRun, SelfRewardingRunStatus
from selfrewarding.cluster.calls import Call, Calls, OnRequest
from selfrewarding.cluster.claims import Claims
from selfrewarding.cluster.complaints import Complaint, ComplaintReader, does_not_start, lacks_pods
from selfrewarding.cluster.events import EventPoster
from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.kinds import CHILDREN, OPTIONAL, POD, RUN, WORKLOADS
from selfrewarding.cluster.observing import Family, complained, ended_untold, family_of
from selfrewarding.cluster.progress import ProgressReader
from selfrewarding.cluster.protocol import (
    ClusterError,
    Conflict,
    KindMissing,
    NameTaken,
    NotFound,
    Refused,
    RunKey,
)
from selfrewarding.cluster.readings import Readings
from selfrewarding.cluster.run_objects import read_run, status_patch
from selfrewarding.cluster.translate import is_owned_by, rivals_of
from selfrewarding.cluster.translate_pods import owner_among, pod_of
from selfrewarding.contract.progress import ProgressLine
from selfrewarding.manifests.names import run_label
from selfrewarding.plan.actions import Event
from selfrewarding.plan.observed import ChildKind, Observed, Phase, Pod
from selfrewarding.plan.view import GONE_AFTER, holds_accelerators

log = logging.getLogger(__name__)

VERIFY_EVERY = 60.0
"""Seconds after which a workload or pod of which nothing was heard is asked for."""
MAX_AGE = 86_400.0
"""The same for objects without pods."""
PROBE_EVERY = 30.0
"""Seconds between two questions whether a missing kind has come."""
_ASKS_FOR_GPUS = frozenset({"Deployment", "PyTorchJob"})
_APPLY = "application/apply-patch+yaml"
_JSON_PATCH = "application/json-patch+json"
_MANAGER = {"fieldManager": labels.FIELD_MANAGER}


def _now() -> datetime:
    return datetime.now(UTC)


class KubernetesCluster:
    """All runs of one cluster. The client and the inventory are the caller's; call `aclose` at the end."""

    def __init__(
        self,
        client: ApiClient,
        inventory: Inventory,
        *,
        on_request: OnRequest | None = None,
        clock: Callable[[], datetime] = _now,
        instance: str = "",
    ) -> None:
        self._calls = Calls(client, on_request)
        self._inventory = inventory
        self._claims = Claims(inventory)
        self._clock = clock
        self._progress_readings, self._complaint_readings = Readings[Any](), Readings[Any]()
        self._progress = ProgressReader(self._calls, self._progress_readings)
        self._complaints = ComplaintReader(self._calls, self._complaint_readings)
        self._events = EventPoster(self._calls, clock, instance=instance)
        self._probed = float("-inf")
        self._heard_out: dict[RunKey, set[str]] = {}
        """Jobs that ended, by UID, whose pods have been listed since."""

    async def aclose(self) -> None:
        """Stop what is being read in the background."""
        await self._progress_readings.aclose()
        await self._complaint_readings.aclose()

    def forget(self, key: RunKey) -> None:
        """A run is gone: so is what was read about it."""
        self._progress_readings.forget(key)
        self._complaint_readings.forget(key)
        self._heard_out.pop(key, None)

    async def get_run(self, key: RunKey) -> SelfRewardingRun | None:
        """See `Cluster.get_run`."""
        try:
            raw = await self._calls.ask(
                Call(verb="get", resource=RUN, namespace=key.namespace, name=key.name)
            )
        except KindMissing:
            raise
        except NotFound:
            self.forget(key)
            return None
        return read_run(raw)

    async def observe(self, run: SelfRewardingRun) -> Observed:
        """See `Cluster.observe`."""
        key = _key(run)
        await self._verify(run)
        await self._probe_kinds()
        while True:
            await self._hear_out(run)
            complaints, progress = await self._read_slowly(run)
            family = self._family(run)
            # A Job may have ended meanwhile, and its pods' watch be behind: what is seen must fit together.
            if self._heard_out.get(key, set()).issuperset(ended_untold(family)):
                break
        children, pods = complained(family, complaints, progress)
        return Observed(
            children=children,
            pods=pods,
            rivals=rivals_of(self._inventory.shared(), run.metadata.uid or ""),
            missing_kinds=self._inventory.missing_kinds,
        )

    async def create(self, run: SelfRewardingRun, manifest: RawObject) -> None:
        """See `Cluster.create`. Raises NameTaken for a stranger's object, Refused and KindMissing besides."""
        kind, metadata = manifest["kind"], manifest["metadata"]
        key, resource = _key(run), CHILDREN[kind]
        # What is to outlive its run comes without an owner, and carries the label RUN_UID instead.
        owners = {"ownerReferences": [_owner_reference(run)]} if "ownerReferences" in metadata else {}
        body = {**manifest, "metadata": {**metadata, **owners}}
        if kind in _ASKS_FOR_GPUS:
            await self._forbid_company(run)
        try:
            with self._claims.held(run, manifest):
                made = await self._calls.ask(
                    Call(verb="create", resource=resource, namespace=key.namespace, body=body, query=_MANAGER)
                )
                self._inventory.put(made)  # so that the next pass knows it, even before the watch tells
        except KindMissing:
            if kind in OPTIONAL:
                self._inventory.kind_missing(kind)
            raise
        except Conflict as error:
            try:
                await self._own(run, kind, metadata["name"])
            except NotFound:
                raise error from None  # not the name: a quota that somebody else was writing, say

    async def scale(self, run: SelfRewardingRun, name: str, replicas: int) -> None:
        """See `Cluster.scale`. Its UID goes with it, so that no other Deployment of this name is ever scaled, or made."""
        key, resource = _key(run), CHILDREN["Deployment"]
        known = self._inventory.find("Deployment", key, name)
        if known is None or not is_owned_by(known, run.metadata.uid or ""):
            known = await self._own(run, "Deployment", name)
        body = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "namespace": key.namespace, "uid": known["metadata"]["uid"]},
            "spec": {"replicas": replicas},
        }
        call = Call(
            verb="patch",
            resource=resource,
            namespace=key.namespace,
            name=name,
            body=body,
            content_type=_APPLY,
            # Forced: the operator's own creation of the object counts as another owner of the field.
            query={**_MANAGER, "force": "true"},
        )
        try:
            await self._calls.ask(call)
        except (Conflict, Refused):  # with another UID: gone, or made anew under its name
            await self._verify_child(key, known)
            await self._own(run, "Deployment", name)
            raise

    async def delete(self, run: SelfRewardingRun, kind: ChildKind, name: str, uid: str) -> None:
        """See `Cluster.delete`."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        call = Call(
            verb="delete", resource=CHILDREN[kind], namespace=_key(run).namespace, name=name, body=body
        )
        try:
            await self._calls.ask(call)
        except (
            NotFound,
            Conflict,
        ):  # gone, or another object has its name by now, and the watch has not told
            self._inventory.doubt_one(uid)

    async def patch_status(self, run: SelfRewardingRun, status: SelfRewardingRunStatus) -> None:
        """See `Cluster.patch_status`."""
        key = _key(run)
        await self._calls.ask(
            Call(
                verb="patch",
                resource=RUN,
                namespace=key.namespace,
                name=key.name,
                subresource="status",
                body=status_patch(status, run.metadata.resource_version or ""),
                content_type=_JSON_PATCH,
                query=_MANAGER,
            )
        )

    async def post_events(self, run: SelfRewardingRun, events: Sequence[Event]) -> None:
        """See `Cluster.post_events`. All are tried; raises the first ClusterError."""
        failed: list[ClusterError] = []
        for event in events:
            try:
                await self._events.post(run, event)
            except ClusterError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    # ------------------------------------------------------------------ what is there

    def _family(self, run: SelfRewardingRun) -> Family:
        return family_of(
            self._inventory.of(_key(run)),
            run.metadata.uid or "",
            run.spec.scheduling.gpu_resource,
            self._clock(),
        )

    async def _own(self, run: SelfRewardingRun, kind: str, name: str) -> RawObject:
        """The run's own object of this name. Raises NameTaken for a stranger's, Conflict for one that is on its way
        out, NotFound."""
        found = await self._calls.ask(
            Call(verb="get", resource=CHILDREN[kind], namespace=_key(run).namespace, name=name)
        )
        if not is_owned_by(found, run.metadata.uid or ""):
            raise NameTaken(
                f'{kind} "{name}" exists and does not belong to this run: delete or rename it, and the run goes on'
            )
        if found["metadata"].get("deletionTimestamp"):
            raise Conflict(f'{kind} "{name}" of this run is still being deleted')
        return found

    async def _forbid_company(self, run: SelfRewardingRun) -> None:
        """Raise Conflict if a live list shows a pod that may hold a GPU and belongs to none of the run's children that
        are there to stay (survival rule 4): the planner knows those, and lets the next one come beside them."""
        key, now = _key(run), self._clock()
        known = self._inventory.of(key).pods
        pods = await self._list_pods(key)
        staying = [one.raw for one in self._family(run).children if not one.child.deleting]
        for raw in pods:
            pod = pod_of(raw, run.spec.scheduling.gpu_resource)
            if pod is None or not holds_accelerators(pod) or not _lives(pod, now):
                continue
            if owner_among(raw, staying) is None:
                self._absorb(known, pods)  # the next pass sees what this one did not
                raise Conflict(
                    f'pod "{pod.name}" may still hold GPUs: what comes next waits until it is gone'
                )

    async def _list_pods(self, key: RunKey) -> list[RawObject]:
        """The run's pods as they are now. Raises ClusterError."""
        selector = f"{labels.MANAGED_BY}={labels.FIELD_MANAGER},{labels.RUN}={run_label(key.name)}"
        found = await self._calls.ask(
            Call(verb="list", resource=POD, namespace=key.namespace, query={"labelSelector": selector})
        )
        return [{**raw, "kind": POD.kind} for raw in found.get("items") or ()]

    def _absorb(self, known: Sequence[RawObject], pods: Sequence[RawObject]) -> None:
        """Take a live list over. `known` is from before it was asked for: a pod that came since is not in it, and is
        not gone."""
        there = {raw["metadata"]["uid"] for raw in pods}
        for raw in pods:
            self._inventory.put(raw)
        for raw in known:
            if raw["metadata"]["uid"] not in there:
                self._inventory.discard(raw["metadata"]["uid"])

    async def _refresh_pods(self, key: RunKey) -> None:
        known = self._inventory.of(key).pods
        self._absorb(known, await self._list_pods(key))

    async def _verify(self, run: SelfRewardingRun) -> None:
        """Ask for what a watch may have missed to tell. Whatever fails is asked for again in the next pass."""
        key, holdings = _key(run), self._inventory.of(_key(run))
        asked = [
            self._verify_child(key, raw)
            for raw in holdings.children
            # Nobody waits for what has no pods: one of those is only asked for when it is in doubt.
            if self._unheard(raw) > (VERIFY_EVERY if raw["kind"] in WORKLOADS else MAX_AGE)
        ]
        if any(self._unheard(raw) > VERIFY_EVERY for raw in holdings.pods):
            asked.append(self._refresh_pods(key))
        for failed in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(failed, ClusterError):
                log.debug("%s/%s: could not verify what is there: %s", key.namespace, key.name, failed)
            elif isinstance(failed, BaseException):
                raise failed

    async def _hear_out(self, run: SelfRewardingRun) -> None:
        """List the pods of a Job that has ended while no pod of it is known to have told why.

        The watch of Jobs may be ahead of that of pods: without this, a pass would take the result, or the reason of a
        failure, for lost. Once for each Job: its pods ended before it did. Raises ClusterError.
        """
        key, ended = _key(run), ended_untold(self._family(run))
        if not self._heard_out.get(key, set()).issuperset(ended):
            await self._refresh_pods(key)
        if ended:
            self._heard_out[key] = ended
        else:
            self._heard_out.pop(key, None)

    async def _read_slowly(
        self, run: SelfRewardingRun
    ) -> tuple[Mapping[str, Complaint], Mapping[str, ProgressLine]]:
        """What only events and logs tell; the watches go on meanwhile."""
        key, family, now = _key(run), self._family(run), self._clock()
        stuck = [
            one.child.uid
            for one in family.children
            if lacks_pods(one.raw, one.child, [pod.pod for pod in one.pods], now)
        ]
        stuck += [one.pod.uid for one in family.pods if does_not_start(one.pod, now)]
        return await asyncio.gather(
            self._complaints.look(key, stuck),
            self._progress.look(key, [(one.raw, one.pod) for one in family.pods]),
        )

    def _unheard(self, raw: RawObject) -> float:
        return self._inventory.unheard(raw["metadata"]["uid"])

    async def _verify_child(self, key: RunKey, raw: RawObject) -> None:
        kind, uid = raw["kind"], raw["metadata"]["uid"]
        call = Call(
            verb="get", resource=CHILDREN[kind], namespace=key.namespace, name=raw["metadata"]["name"]
        )
        try:
            found = await self._calls.ask(call)
        except NotFound:
            self._inventory.discard(uid)
            return
        if found["metadata"]["uid"] != uid:
            self._inventory.discard(uid)
        self._inventory.put(found)

    async def _probe_kinds(self) -> None:
        """Notice a kind that has come since, once in a while and for all runs together."""
        missing = self._inventory.missing_kinds
        if not missing or time.monotonic() < self._probed + PROBE_EVERY:
            return
        self._probed = time.monotonic()
        for kind in missing:
            try:
                if await self._calls.knows(CHILDREN[kind]):
                    self._inventory.kind_found(kind)
            except ClusterError as error:
                log.debug("whether the cluster knows the kind %s could not be asked: %s", kind, error)


def _key(run: SelfRewardingRun) -> RunKey:
    return RunKey(run.metadata.namespace or "default", run.metadata.name)


def _owner_reference(run: SelfRewardingRun) -> dict[str, object]:
    return {
        "apiVersion": labels.API_VERSION,
        "kind": labels.KIND,
        "name": run.metadata.name,
        "uid": run.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _lives(pod: Pod, now: datetime) -> bool:
    """As `plan.view.View.is_live`."""
    if pod.phase in (Phase.SUCCEEDED, Phase.FAILED):
        return False
    return pod.deleting_since is None or now < pod.deleting_since + GONE_AFTER
