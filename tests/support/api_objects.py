"""API objects as a Kubernetes 1.36 API server sends them, with all that the operator must look past."""

import copy
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from selfrewarding.api import labels

Raw = dict[str, Any]

CREATED = datetime(2026, 1, 31, 11, 0, 0, tzinfo=UTC)
RUN_UID = "11111111-2222-3333-4444-555555555555"
KEY = "0123456789abcdef"
HOLDER = f"{KEY}-policy"


def at(seconds: float) -> str:
    """A time so many seconds after the children were created, as the API writes it."""
    return (CREATED + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, status: str = "True", reason: str = "", message: str = "") -> Raw:
    """A condition of any kind's status."""
    found = {"type": kind, "status": status, "lastTransitionTime": at(30), "lastProbeTime": None}
    return found | ({"reason": reason} if reason else {}) | ({"message": message} if message else {})


def child(
    kind: str,
    *,
    name: str = "demo-rollout-1-a1-0a1b2c3d4e",
    uid: str = "job-uid",
    stage: str | None = "Rollout",
    holder: str | None = None,
    attempt: int = 1,
    iteration: int = 1,
    run: str = "demo",
    run_uid: str = RUN_UID,
    namespace: str = "lab",
    spec: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    artifact: str | None = "feedfacefeedface",
    version: int = 1000,
    **metadata: Any,
) -> Raw:
    """A child of a run."""
    marks = {
        labels.MANAGED_BY: labels.FIELD_MANAGER,
        labels.RUN: run,
        labels.ITERATION: str(iteration),
        labels.ATTEMPT: str(attempt),
        labels.KEY: KEY,
        labels.STAGE: stage,
        labels.HOLDER: holder,
        labels.ARTIFACT: artifact if stage else None,
    }
    versions = {"Job": "batch/v1", "Deployment": "apps/v1", "PyTorchJob": "kubeflow.org/v1"}
    return {
        "apiVersion": versions.get(kind, "v1"),
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid,
            "resourceVersion": str(version),
            "generation": 1,
            "creationTimestamp": at(0),
            "labels": {key: value for key, value in marks.items() if value is not None},
            "ownerReferences": [
                {
                    "apiVersion": labels.API_VERSION,
                    "kind": labels.KIND,
                    "name": run,
                    "uid": run_uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
            "managedFields": [
                {"manager": labels.FIELD_MANAGER, "operation": "Update", "fieldsV1": {"f:spec": {}}}
            ],
        }
        | metadata,
        "spec": dict(spec or {}),
        "status": dict(status or {}),
    }


def deployment(*, replicas: int = 1, ready: int = 0, conditions: Sequence[Raw] = (), **more: Any) -> Raw:
    """A serving pool's Deployment."""
    status = {"observedGeneration": 1, "replicas": replicas, "conditions": list(conditions)}
    if ready:
        status |= {"readyReplicas": ready, "availableReplicas": ready}
    fields: Raw = {
        "name": "demo-policy-1-a1-0a1b2c3d4e",
        "uid": "deployment-uid",
        "stage": None,
        "holder": HOLDER,
    }
    return child("Deployment", **(fields | {"spec": {"replicas": replicas}, "status": status} | more))


def waiting(reason: str, message: str = "") -> Raw:
    """State of a container that waits."""
    return {"waiting": {"reason": reason} | ({"message": message} if message else {})}


def running() -> Raw:
    """State of a container that runs."""
    return {"running": {"startedAt": at(20)}}


def ended(code: int, reason: str | None = None, message: str | None = None) -> Raw:
    """State of a container that ended."""
    found: Raw = {
        "exitCode": code,
        "reason": reason or ("Completed" if code == 0 else "Error"),
        "startedAt": at(20),
        "finishedAt": at(60),
        "containerID": "containerd://0123",
    }
    return {"terminated": found | ({"message": message} if message is not None else {})}


def container_status(
    name: str, state: Raw | None = None, *, last: Raw | None = None, restarts: int = 0, ready: bool = False
) -> Raw:
    """One entry of containerStatuses or initContainerStatuses."""
    return {
        "name": name,
        "image": f"example.test/{name}:1",
        "imageID": "sha256:0123",
        "ready": ready,
        "started": ready,
        "restartCount": restarts,
        "state": state or {},
        "lastState": last or {},
    }


def pod(
    *containers: Raw,
    inits: Sequence[Raw] = (),
    owner: Raw | None = None,
    name: str = "demo-rollout-1-a1-0a1b2c3d4e-x7k2p",
    uid: str = "pod-uid",
    phase: str | None = "Running",
    gpus: int = 0,
    conditions: Sequence[Raw] = (),
    node: str | None = "node-1",
    status: Mapping[str, Any] | None = None,
    marks: Mapping[str, str] | None = None,
    version: int = 2000,
    **metadata: Any,
) -> Raw:
    """A pod of a child, which is a Job by default; containers are `container_status`es."""
    parent = owner or child("Job")
    controller = {
        "apiVersion": parent["apiVersion"],
        "kind": parent["kind"],
        "name": parent["metadata"]["name"],
        "uid": parent["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    own = dict(parent["metadata"]["labels"])
    if parent["kind"] == "Deployment":
        own["pod-template-hash"] = "6b7f5c9d4"
        controller |= {
            "kind": "ReplicaSet",
            "name": f"{parent['metadata']['name']}-6b7f5c9d4",
            "uid": "rs-uid",
        }
    if parent["kind"] == "Job":
        own |= {
            "batch.kubernetes.io/controller-uid": parent["metadata"]["uid"],
            "job-name": parent["metadata"]["name"],
        }
    default = {"Job": "sampler", "PyTorchJob": "pytorch", "Deployment": "vllm"}[parent["kind"]]
    names = [one["name"] for one in containers] or [default]
    resources = {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"memory": "4Gi"}}
    if gpus:
        resources = {name: {**values, "nvidia.com/gpu": str(gpus)} for name, values in resources.items()}
    scheduled = [condition("PodScheduled")] if node else []
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "generateName": name[:-5],
            "namespace": parent["metadata"]["namespace"],
            "uid": uid,
            "resourceVersion": str(version),
            "creationTimestamp": at(1),
            "labels": own | dict(marks or {}),
            "ownerReferences": [controller],
        }
        | metadata,
        "spec": {
            "containers": [
                {
                    "name": each,
                    "image": "example.test/x:1",
                    "env": [{"name": "A", "value": "b" * 200}],
                    "resources": copy.deepcopy(resources if each == names[0] else {}),
                }
                for each in names
            ],
            "initContainers": [
                {"name": one["name"], "image": "example.test/x:1", "resources": {}} for one in inits
            ],
            "restartPolicy": "Never",
            "schedulerName": "default-scheduler",
        }
        | ({"nodeName": node} if node else {}),
        "status": {
            "qosClass": "Burstable",
            "conditions": [*scheduled, *conditions],
            "containerStatuses": list(containers),
            "initContainerStatuses": list(inits),
            "startTime": at(2),
        }
        | ({"phase": phase} if phase else {})
        | dict(status or {}),
    }
