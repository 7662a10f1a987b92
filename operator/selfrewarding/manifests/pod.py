"""Pod templates that pass the `restricted` Pod Security level.

Root file system read-only, so everything that is written has a volume: scratch, /tmp (also HOME), and shared memory
where several processes need it. Every path stands in the environment and lies below a mount: the local backend
rewrites those and nothing else (survival rule 13). Neighbour: `overrides` merges the user's template over these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfrewarding.api.execution import ResourcesSpec
from selfrewarding.contract import environment
from selfrewarding.manifests.context import RunContext
from selfrewarding.manifests.objects import CONFIG_FILE
from selfrewarding.manifests.quantities import GIB, MIB, bytes_quantity
from selfrewarding.manifests.sizes import Disk
from selfrewarding.manifests.storage import StoreAccess

USER = 65532
"""User and group of all programs; volumes belong to this group."""
CONFIG_PATH = "/etc/selfrewarding"
SCRATCH_PATH = "/scratch"
TMP_PATH = "/tmp"  # noqa: S108 - a mount of the pod's own, seen by nobody else
SHM_PATH = "/dev/shm"  # noqa: S108 - likewise
TERMINATION_PATH = "/dev/termination-log"
GRACE_SECONDS = 30
METRICS_PORT = 9400
"""Where stage programs answer Prometheus. No port of the container: with the host's network it would be claimed on the
whole node, and a second run's pods would not find a place there."""
METRICS_ANNOTATIONS = {
    "prometheus.io/scrape": "true",
    "prometheus.io/port": str(METRICS_PORT),
    "prometheus.io/path": "/metrics",
}

Env = list[dict[str, Any]]


@dataclass(frozen=True)
class Mount:
    """A volume and where it stands in a container."""

    name: str
    path: str
    source: Mapping[str, Any]
    read_only: bool = False

    @property
    def volume(self) -> dict[str, Any]:
        """Its entry in `volumes`."""
        return {"name": self.name, **self.source}

    @property
    def mount(self) -> dict[str, Any]:
        """Its entry in `volumeMounts`."""
        return {"name": self.name, "mountPath": self.path} | ({"readOnly": True} if self.read_only else {})


def config_mount(config_map: str) -> Mount:
    """The configuration."""
    return Mount("config", CONFIG_PATH, {"configMap": {"name": config_map}}, read_only=True)


def disk_mount(name: str, path: str, limit: int | None) -> Mount:
    """An empty folder on the node's disk; `limit` in bytes, None where nobody knows how much it takes."""
    return Mount(name, path, {"emptyDir": {"sizeLimit": bytes_quantity(limit)} if limit else {}})


def memory_mount(size: int) -> Mount:
    """Shared memory of so many bytes; it counts as the container's memory."""
    return Mount("shm", SHM_PATH, {"emptyDir": {"medium": "Memory", "sizeLimit": bytes_quantity(size)}})


def variables(values: Mapping[str, str]) -> Env:
    """Plain environment variables."""
    return [{"name": name, "value": value} for name, value in values.items()]


def program_env(attempt: int) -> Env:
    """What every program of ours finds in its environment."""
    return [
        *variables(
            {
                environment.CONFIG: f"{CONFIG_PATH}/{CONFIG_FILE}",
                environment.SCRATCH: SCRATCH_PATH,
                environment.TERMINATION: TERMINATION_PATH,
                environment.ATTEMPT: str(attempt),
            }
        ),
        {"name": environment.POD_UID, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        *home_env(),
    ]


def metrics_env() -> Env:
    """Lets a stage program answer Prometheus where METRICS_ANNOTATIONS say."""
    return variables({environment.METRICS_PORT: str(METRICS_PORT)})


def home_env() -> Env:
    """A home for caches. USER is set since the user ID has no entry in the image's list of users, and Python's
    getpass.getuser (torch asks it for the name of a cache folder) would fail."""
    return variables({"HOME": TMP_PATH, "USER": "srr", "PYTHONUNBUFFERED": "1"})


def offline_env(offline: bool) -> Env:
    """Hugging Face's hub: never asked unless a model of the run lies there."""
    return variables({"HF_HUB_OFFLINE": "1"} if offline else {"HF_HUB_DISABLE_TELEMETRY": "1"})


def resources(
    wanted: ResourcesSpec,
    *,
    cpu: str,
    memory: int | None,
    disk: int,
    gpus: Mapping[str, int] | None = None,
    memory_request: int | None = None,
) -> dict[str, dict[str, str]]:
    """Requests and limits of a container. Memory is bytes, `memory_request` where it may start smaller; CPU is never
    limited, since a limit only makes a program wait while cores are free."""
    asked = wanted.memory or (bytes_quantity(memory_request or memory) if memory else None)
    limit = wanted.memory or (bytes_quantity(memory) if memory else None)
    devices = {name: str(number) for name, number in (gpus or {}).items()}
    requests = {
        "cpu": wanted.cpu or cpu,
        "memory": asked,
        "ephemeral-storage": bytes_quantity(disk),
        **devices,
    }
    return {
        "requests": {name: value for name, value in requests.items() if value},
        "limits": {name: value for name, value in {"memory": limit, **devices}.items() if value},
    }


def disk_request(*disks: Disk | None) -> int:
    """Bytes of disk to ask for, with a little for /tmp and logs."""
    return sum(disk.request for disk in disks if disk) + 512 * MIB


def container(
    *,
    name: str,
    image: str,
    command: Sequence[str],
    args: Sequence[str] = (),
    env: Env,
    mounts: Sequence[dict[str, Any]],
    resources: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """A container without rights; `more` are fields of its own kind, e.g. ports and probes."""
    return {
        "name": name,
        "image": image,
        "command": list(command),
        **({"args": list(args)} if args else {}),
        "env": env,
        "resources": dict(resources),
        "volumeMounts": list(mounts),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": TERMINATION_PATH,
        "terminationMessagePolicy": "File",
        **more,
    }


def tmp_mount(gigabytes: int) -> Mount:
    """The folder of TMP_PATH, home of caches."""
    return disk_mount("tmp", TMP_PATH, gigabytes * GIB)


def pod_template(
    context: RunContext,
    *,
    labels: Mapping[str, str],
    annotations: Mapping[str, str] | None = None,
    containers: Sequence[dict[str, Any]],
    init_containers: Sequence[dict[str, Any]] = (),
    mounts: Sequence[Mount],
    store: StoreAccess,
    gpu: bool,
    restart_policy: str | None = "Never",
) -> dict[str, Any]:
    """A PodTemplateSpec; `gpu` pods also get the run's node selector and tolerations."""
    scheduling = context.spec.scheduling
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "containers": list(containers),
        # A Service named "vllm" would set VLLM_PORT, which vLLM takes for its own.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "volumes": [mount.volume for mount in mounts] + store.volumes,
    }
    if init_containers:
        spec["initContainers"] = list(init_containers)
    if restart_policy:
        spec["restartPolicy"] = restart_policy
    if store.service_account:
        spec["serviceAccountName"] = store.service_account
    if scheduling.priority_class_name:
        spec["priorityClassName"] = scheduling.priority_class_name
    if gpu and scheduling.node_selector:
        spec["nodeSelector"] = dict(scheduling.node_selector)
    if gpu and scheduling.tolerations:
        spec["tolerations"] = [
            one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in scheduling.tolerations
        ]
    own = {"labels": dict(labels)} | ({"annotations": dict(annotations)} if annotations else {})
    return {"metadata": own, "spec": spec}
