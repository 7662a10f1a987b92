"""Plays the kubelet: finds pods a node, runs them, ends them with a termination message, removes deleted ones.

Purpose: real controllers and the real operator see pods move as on a node, in milliseconds. Must not: create pods.
Neighbours: `census` tells it of pods; `stage_answers` knows what programs say; `player` holds the knobs.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.cluster.faults.api_client import CONFIG_MAPS, LEASES, NODES, PODS, Api, ApiError, Raw
from tests.cluster.faults.census import Change
from tests.cluster.faults.stage_answers import answer, parse_config

from selfrewarding.api import labels

NODE = "player"
HEARTBEAT = 8.0
"""Seconds; the node lifecycle controller gives a node 50 s before it calls it lost."""


def stamp() -> str:
    """Now, as the API writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Failure:
    """One pod that fails, once: the first that matches and reaches its end."""

    stage: str
    namespace: str | None = None
    exit_code: int = 1
    reason: str = "Error"
    message: str = ""
    """The container's termination message."""
    pod_reason: str | None = None
    """`status.reason` of the pod, e.g. Evicted."""


@dataclass
class Pace:
    """How fast the player plays, in seconds."""

    start: float = 0.0
    """From a pod's creation until it runs."""
    run: float = 0.0
    """From there until a Job's pod ends, or a server answers."""
    grace: float = 0.05
    """From a pod's deletion until it is gone."""


@dataclass
class Kubelet:
    """All pods of ours, wherever they are."""

    api: Api
    group: asyncio.TaskGroup
    """Pods live here, so that an error of the player's ends the test."""
    pace: Pace = field(default_factory=Pace)
    failures: list[Failure] = field(default_factory=list)
    paces: dict[str, Pace] = field(default_factory=dict)
    """Other paces, by namespace."""
    holds: dict[str, Callable[[Raw], bool]] = field(default_factory=dict)
    """Whether a pod that runs shall go on running for now, by namespace; asked again every `look` seconds."""
    look: float = 0.05
    retires: dict[str, Callable[[Raw], str]] = field(default_factory=dict)
    """What the program says that clears a deleted run's artifacts away, by namespace; it has no ConfigMap."""
    told: dict[str, str] = field(default_factory=dict)
    """What stages have told so far: the store that Resolve looks into."""
    ended: dict[str, float] = field(default_factory=dict)
    """When a pod's end was written, by UID; of a server, when it became ready (monotonic clock)."""
    _lives: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _deaths: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def serve(self) -> None:
        """Keep the node alive until cancelled."""
        await self.api.ensure(NODES, None, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NODE}}
        while True:
            ready = {
                "type": "Ready",
                "status": "True",
                "reason": "KubeletReady",
                "lastHeartbeatTime": stamp(),
            }
            await self.api.patch(NODES, None, NODE, {"status": {"conditions": [ready]}}, "status")
            try:
                await self.api.ensure(LEASES, "kube-node-lease", lease)
                now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                spec = {"holderIdentity": NODE, "leaseDurationSeconds": 40, "renewTime": now}
                await self.api.patch(LEASES, "kube-node-lease", NODE, {"spec": spec})
            except ApiError as error:
                if error.code != 404:  # the namespace comes a few seconds after the API server
                    raise
            await asyncio.sleep(HEARTBEAT)

    def heard(self, change: Change) -> None:
        """A pod came, changed or went."""
        if change.kind != PODS.plural:
            return
        pod, uid = change.object, change.uid
        if change.type == "DELETED":
            for tasks in (self._lives, self._deaths):
                if (task := tasks.pop(uid, None)) is not None:
                    task.cancel()
        elif pod["metadata"].get("deletionTimestamp"):
            if (task := self._lives.pop(uid, None)) is not None:
                task.cancel()
            if uid not in self._deaths:
                self._deaths[uid] = self.group.create_task(self._end(pod))
        elif uid not in self._lives and pod.get("status", {}).get("phase") in (None, "Pending", "Running"):
            self._lives[uid] = self.group.create_task(self._live(pod))

    async def close(self) -> None:
        """Forget all pods."""
        tasks = [*self._lives.values(), *self._deaths.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------------ one pod

    async def _live(self, pod: Raw) -> None:
        try:
            pace = self._pace_of(pod)
            await asyncio.sleep(pace.start)
            await self._bind(pod)
            serving = labels.HOLDER in pod["metadata"]["labels"]
            if not serving:
                await self._write(pod, running(pod, ready=True))
            await asyncio.sleep(pace.run)
            if serving:
                await self._write(pod, running(pod, ready=True))
                self.ended[pod["metadata"]["uid"]] = time.monotonic()
                return
            while self._is_held(pod):  # noqa: ASYNC110 - a test's question, which no event answers
                await asyncio.sleep(self.look)
            await self._finish(pod)
        except ApiError as error:
            if error.code not in (404, 409):  # deleted meanwhile
                raise

    def _pace_of(self, pod: Raw) -> Pace:
        return self.paces.get(pod["metadata"]["namespace"], self.pace)

    def _is_held(self, pod: Raw) -> bool:
        which = self.holds.get(pod["metadata"]["namespace"])
        return which is not None and which(pod)

    async def _finish(self, pod: Raw) -> None:
        failure = self._failure_of(pod)
        if failure is None:
            await self._write(pod, ended(pod, exit_code=0, reason="Completed", message=await self._says(pod)))
        else:
            body = ended(pod, exit_code=failure.exit_code, reason=failure.reason, message=failure.message)
            await self._write(pod, body | ({"reason": failure.pod_reason} if failure.pod_reason else {}))
        self.ended[pod["metadata"]["uid"]] = time.monotonic()

    def _failure_of(self, pod: Raw) -> Failure | None:
        stage, namespace = pod["metadata"]["labels"].get(labels.STAGE), pod["metadata"]["namespace"]
        for failure in self.failures:
            if failure.stage == stage and failure.namespace in (None, namespace):
                self.failures.remove(failure)
                return failure
        return None

    async def _says(self, pod: Raw) -> str:
        """The first rank's message; the others leave none."""
        names = pod["metadata"]["labels"]
        ranks = ("batch.kubernetes.io/job-completion-index", "training.kubeflow.org/replica-index")
        if any(names.get(rank, "0") != "0" for rank in ranks):
            return ""
        if names.get(labels.STAGE) == "Retire":
            says = self.retires.get(pod["metadata"]["namespace"])
            return says(pod) if says is not None else ""
        volumes = pod["spec"]["volumes"]
        name = next(one["configMap"]["name"] for one in volumes if one["name"] == "config")
        config_map = await self.api.get(CONFIG_MAPS, pod["metadata"]["namespace"], name)
        config = parse_config(config_map["data"]["config.json"]) if config_map else None
        return answer(config, self.told) if config is not None else ""

    async def _end(self, pod: Raw) -> None:
        """What a kubelet does with a pod that is being deleted: let it stop, then take it off the API server."""
        if pod["status"].get("phase") not in ("Succeeded", "Failed"):
            await asyncio.sleep(self._pace_of(pod).grace)
            if pod["metadata"].get(
                "finalizers"
            ):  # a Job's: its controller waits for the end of a pod that it tracks
                with contextlib.suppress(ApiError):
                    await self._write(pod, ended(pod, exit_code=143, reason="Error", message=""))
        metadata = pod["metadata"]
        await self.api.delete(
            PODS,
            metadata["namespace"],
            metadata["name"],
            gracePeriodSeconds=0,
            preconditions={"uid": metadata["uid"]},
        )

    async def _bind(self, pod: Raw) -> None:
        if pod["spec"].get("nodeName"):
            return
        metadata = pod["metadata"]
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": metadata["name"]},
            "target": target,
        }
        path = PODS.path(metadata["namespace"], metadata["name"], "binding")
        await self.api.call("POST", path, binding)

    async def _write(self, pod: Raw, status: Raw) -> None:
        metadata = pod["metadata"]
        body = {"metadata": {"uid": metadata["uid"]}, "status": status}
        await self.api.patch(PODS, metadata["namespace"], metadata["name"], body, "status")


# ---------------------------------------------------------------------- pod statuses, as a kubelet writes them


def _conditions(*, ready: bool, reason: str | None = None) -> list[Raw]:
    truths = {"PodScheduled": True, "Initialized": True, "ContainersReady": ready, "Ready": ready}
    return [
        {"type": type_, "status": str(truth), "lastTransitionTime": stamp()}
        | ({"reason": reason} if reason and not truth else {})
        for type_, truth in truths.items()
    ]


def _container(one: Raw, state: Raw, *, ready: bool) -> Raw:
    return {
        "name": one["name"], "image": one["image"], "imageID": "", "restartCount": 0, "ready": ready,
        "started": ready, "state": state,
    }  # fmt: skip


def _terminated(exit_code: int, reason: str, message: str) -> Raw:
    state: dict[str, Any] = {
        "exitCode": exit_code,
        "reason": reason,
        "startedAt": stamp(),
        "finishedAt": stamp(),
    }
    return {"terminated": state | ({"message": message} if message else {})}


def running(pod: Raw, *, ready: bool) -> Raw:
    """A pod whose containers run."""
    done = _terminated(0, "Completed", "")
    return {
        "phase": "Running",
        "startTime": pod["status"].get("startTime") or stamp(),
        "podIP": "10.244.0.9",
        "podIPs": [{"ip": "10.244.0.9"}],
        "conditions": _conditions(ready=ready),
        "initContainerStatuses": [
            _container(one, done, ready=True) for one in pod["spec"].get("initContainers", [])
        ],
        "containerStatuses": [
            _container(one, {"running": {"startedAt": stamp()}}, ready=ready)
            for one in pod["spec"]["containers"]
        ],
    }


def ended(pod: Raw, *, exit_code: int, reason: str, message: str) -> Raw:
    """A pod whose program has ended."""
    state = _terminated(exit_code, reason, message)
    return {
        "phase": "Failed" if exit_code else "Succeeded",
        "conditions": _conditions(ready=False, reason="PodFailed" if exit_code else "PodCompleted"),
        "containerStatuses": [_container(one, state, ready=False) for one in pod["spec"]["containers"]],
    }
