"""What is kept of an API object: the fields that the translation reads, and nothing else.

A pod as the API server sends it takes tens of kilobytes of dicts, most of it managed fields, environments and volumes;
what is kept takes about two. Equal slim objects mean that nothing has changed for a pass.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from selfrewarding.api import labels
from selfrewarding.api.run import RawObject

KEPT_ANNOTATIONS = ("batch.kubernetes.io/job-completion-index",)
_OWN_LABELS = (labels.GROUP, "batch.kubernetes.io/", "training.kubeflow.org/", "pod-template-hash")
_CONDITION = ("type", "status", "reason", "message")
_STATUS = {
    "Job": ("active", "ready", "succeeded", "failed"),
    "PyTorchJob": (),
    "Deployment": ("readyReplicas", "replicas", "observedGeneration"),
    "Pod": ("phase", "reason", "message", "startTime"),
}
_WITHOUT_STATUS = frozenset({"ConfigMap", "Service", "NetworkPolicy"})
_CONTAINER_STATE = {
    "waiting": ("reason", "message"),
    "running": ("startedAt",),
    "terminated": ("exitCode", "reason", "message", "finishedAt"),
}


def slim(raw: Mapping[str, Any]) -> RawObject:
    """The kept fields of an object; absent ones stay absent."""
    kind = sys.intern(str(raw["kind"]))
    kept: RawObject = {"kind": kind, "metadata": _metadata(raw["metadata"])}
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    if kind in _SPEC:
        kept["spec"] = _SPEC[kind](spec)
    if kind in _STATUS:
        kept["status"] = _pick(status, _STATUS[kind])
        if conditions := status.get("conditions"):
            kept["status"]["conditions"] = [_pick(one, _CONDITION) for one in conditions]
    if kind == "Pod":
        for field in ("initContainerStatuses", "containerStatuses"):
            if found := status.get(field):
                kept["status"][field] = [_container_status(one) for one in found]
    return kept


def lighten(raw: dict[str, Any], kind: str) -> RawObject:
    """An object of a list, as much of it as its reader needs: kopf holds all of them until the last list is read."""
    if kind not in _STATUS and kind not in _WITHOUT_STATUS:
        raw["metadata"].pop("managedFields", None)  # a run, say: whole but for who wrote which field
        return raw
    kept = slim({**raw, "kind": kind})
    kept["metadata"]["resourceVersion"] = raw["metadata"].get("resourceVersion")
    return kept


def _metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    kept = _pick(metadata, ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp"))
    kept["labels"] = {
        sys.intern(name): sys.intern(value)
        for name, value in (metadata.get("labels") or {}).items()
        if name.startswith(_OWN_LABELS)
    }
    annotations = metadata.get("annotations") or {}
    if found := _pick(annotations, KEPT_ANNOTATIONS):
        kept["annotations"] = found
    if owners := metadata.get("ownerReferences"):
        kept["ownerReferences"] = [_pick(one, ("kind", "name", "uid", "controller")) for one in owners]
    return kept


def _replica_specs(spec: Mapping[str, Any]) -> dict[str, Any]:
    types = spec.get("pytorchReplicaSpecs") or {}
    return {"pytorchReplicaSpecs": {name: _pick(one, ("replicas",)) for name, one in types.items()}}


def _pod_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    kept = _pick(spec, ("nodeName",))
    for field in ("initContainers", "containers"):
        if found := spec.get(field):
            kept[field] = [{"name": one.get("name"), "resources": _devices(one)} for one in found]
    return kept


def _devices(container: Mapping[str, Any]) -> dict[str, Any]:
    """Requests of extended resources, e.g. nvidia.com/gpu: all others have no slash in their name."""
    resources = container.get("resources") or {}
    both = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {"requests": {sys.intern(name): str(value) for name, value in both.items() if "/" in name}}


def _container_status(status: Mapping[str, Any]) -> dict[str, Any]:
    kept = _pick(status, ("name", "ready", "restartCount", "started"))
    for field in ("state", "lastState"):
        states = status.get(field) or {}
        kept[field] = {
            name: _pick(states[name], fields)
            for name, fields in _CONTAINER_STATE.items()
            if states.get(name) is not None
        }
    return kept


def _pick(source: Mapping[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    return {
        field: sys.intern(value) if isinstance(value, str) and len(value) < 64 else value
        for field in fields
        if (value := source.get(field)) is not None
    }


_SPEC: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "Deployment": lambda spec: _pick(spec, ("replicas",)),
    "Job": lambda spec: _pick(spec, ("parallelism",)),
    "PyTorchJob": _replica_specs,
    "Pod": _pod_spec,
}
