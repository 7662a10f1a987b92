"""Plays the Kubeflow training operator: PyTorchJob in, pods and conditions out (research facts: operators, 2).

Purpose: what our operator sees of training, without the real thing and its webhook. Must not: run pods; `kubelet` does.
Neighbours: `census` tells it of jobs and pods; the real training operator runs in the end-to-end tests.
"""

import asyncio
import contextlib
import copy
import json
from collections import defaultdict
from dataclasses import dataclass, field

from tests.cluster.faults.api_client import EVENTS, PODS, PYTORCH_JOBS, Api, ApiError, Raw
from tests.cluster.faults.census import Census, Change
from tests.cluster.faults.kubelet import stamp

JOB_NAME = "training.kubeflow.org/job-name"
REPLICA_TYPE = "training.kubeflow.org/replica-type"
REPLICA_INDEX = "training.kubeflow.org/replica-index"
_OVER = frozenset({"Succeeded", "Failed"})


@dataclass
class TrainingOperator:
    """All PyTorchJobs that there are."""

    api: Api
    group: asyncio.TaskGroup
    census: Census
    _locks: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    _made: set[str] = field(default_factory=set)
    """Jobs whose pods have been created: `Never`, so a pod that is gone is not made again."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def heard(self, change: Change) -> None:
        """A job or one of its pods changed."""
        uid = None
        if change.kind == PYTORCH_JOBS.plural and change.type != "DELETED":
            uid = change.uid
        elif change.kind == PODS.plural and change.label(JOB_NAME):
            uid = change.object["metadata"]["ownerReferences"][0]["uid"]
        if uid is not None:
            task = self.group.create_task(self._sync(uid))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Forget all jobs."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _sync(self, uid: str) -> None:
        async with self._locks[uid]:
            job = self.census.present[PYTORCH_JOBS.plural].get(uid)
            if job is None or job["metadata"].get("deletionTimestamp") or _is(job, "Succeeded", "Failed"):
                return
            try:
                if uid not in self._made:
                    await self._create_pods(job)
                    self._made.add(uid)
                await self._write_status(job)
            except ApiError as error:
                if error.code not in (404, 409):  # the job went meanwhile
                    raise

    async def _create_pods(self, job: Raw) -> None:
        metadata = job["metadata"]
        for role, replica in job["spec"]["pytorchReplicaSpecs"].items():
            for index in range(replica.get("replicas", 1)):
                template = copy.deepcopy(replica["template"])
                own = {JOB_NAME: metadata["name"], REPLICA_TYPE: role.lower(), REPLICA_INDEX: str(index)}
                owner = {
                    "apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": metadata["name"],
                    "uid": metadata["uid"], "controller": True, "blockOwnerDeletion": True,
                }  # fmt: skip
                body = {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {
                        "name": f"{metadata['name']}-{role.lower()}-{index}",
                        "labels": template["metadata"]["labels"] | own,
                        "ownerReferences": [owner],
                    },
                    "spec": template["spec"] | {"restartPolicy": "Never"},
                }
                await self._create(job, body)

    async def _create(self, job: Raw, body: Raw) -> None:
        """Create a pod, again and again while a quota or a policy forbids it; why, an event says once.

        (A namespace's ServiceAccount comes a moment after the namespace: without it pods are forbidden, too.)
        """
        metadata, told = job["metadata"], False
        while metadata["uid"] in self.census.present[PYTORCH_JOBS.plural]:
            try:
                await self.api.ensure(PODS, metadata["namespace"], body)
            except ApiError as error:
                if error.code != 403:
                    raise
                if not told and "serviceaccount" not in str(error):
                    await self._complain(job, json.loads(str(error).partition(": ")[2])["message"])
                    told = True
                await asyncio.sleep(0.1)
            else:
                return

    async def _complain(self, job: Raw, said: str) -> None:
        metadata = job["metadata"]
        about = {name: metadata[name] for name in ("name", "namespace", "uid")}
        event = {
            "metadata": {"generateName": f"{metadata['name']}."},
            "involvedObject": {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", **about},
            "type": "Warning", "reason": "FailedCreatePod", "message": f"Error creating: {said}",
            "firstTimestamp": stamp(), "lastTimestamp": stamp(), "count": 1,
            "source": {"component": "pytorchjob-controller"},
        }  # fmt: skip
        with contextlib.suppress(ApiError):  # a namespace on its way out takes none
            await self.api.create(EVENTS, metadata["namespace"], event)

    async def _write_status(self, job: Raw) -> None:
        metadata = job["metadata"]
        pods = [
            pod
            for pod in self.census.present[PODS.plural].values()
            if pod["metadata"].get("ownerReferences", [{}])[0].get("uid") == metadata["uid"]
        ]
        phases = {pod["metadata"]["name"]: pod.get("status", {}).get("phase", "Pending") for pod in pods}
        wanted = job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"]
        state, message = "Created", f"PyTorchJob {metadata['name']} is created."
        if "Failed" in phases.values() or (len(phases) < wanted and _is(job, "Running")):
            state, message = "Failed", f"PyTorchJob {metadata['name']} is failed because a replica failed."
        elif list(phases.values()).count("Succeeded") == wanted:
            state, message = "Succeeded", f"PyTorchJob {metadata['name']} is successfully completed."
        elif "Running" in phases.values():
            state, message = "Running", f"PyTorchJob {metadata['name']} is running."
        if _is(job, state):
            return
        body = {"status": self._status(job, phases, state, message)}
        await self.api.patch(PYTORCH_JOBS, metadata["namespace"], metadata["name"], body, "status")
        if state in _OVER:  # cleanPodPolicy: Running
            for name in (name for name, phase in phases.items() if phase not in _OVER):
                await self.api.delete(PODS, metadata["namespace"], name)

    def _status(self, job: Raw, phases: dict[str, str], state: str, message: str) -> Raw:
        before = [one for one in job.get("status", {}).get("conditions", []) if one["type"] != state]
        for one in before:
            if one["type"] == "Running" and state in _OVER:
                one["status"] = "False"
        now = stamp()
        new = {
            "type": state, "status": "True", "reason": f"PyTorchJob{state}", "message": message,
            "lastTransitionTime": now, "lastUpdateTime": now,
        }  # fmt: skip
        counts = {
            role: {
                name: number
                for name, phase in (("active", "Running"), ("succeeded", "Succeeded"), ("failed", "Failed"))
                if (number := sum(p == phase and f"-{role.lower()}-" in pod for pod, p in phases.items()))
            }
            for role in job["spec"]["pytorchReplicaSpecs"]
        }
        return {
            "conditions": [*before, new],
            "replicaStatuses": counts,
            "startTime": job.get("status", {}).get("startTime") or now,
        } | ({"completionTime": now} if state in _OVER else {})


def _is(job: Raw, *states: str) -> bool:
    conditions = job.get("status", {}).get("conditions", [])
    return any(one["type"] in states and one["status"] == "True" for one in conditions)
