"""What the local backend reads of a pod template, and refuses where a process cannot stand in for a container.

Purpose: from the manifest's dict to a few typed values. Must not: start or write anything.
Neighbours: manifests made by `manifests/`; `pod` runs what is read here, `pod_environment` fills the variables in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from selfrewarding.api.run import RawObject

PROGRAMS = ("vllm", "sampler", "pytorch")
"""Names of the containers that hold our programs."""
RestartPolicy = Literal["Always", "OnFailure", "Never"]

DEFAULT_GRACE = 30.0
"""Kubernetes' default of terminationGracePeriodSeconds."""


class UnsupportedManifest(Exception):
    """A manifest asks for something that a process on this machine cannot be."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """An httpGet or tcpSocket probe; times in seconds."""

    path: str | None
    """Path of the GET request; None: a connection is enough."""
    initial_delay: float
    period: float
    timeout: float
    failure_threshold: int
    success_threshold: int


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A volume in a container."""

    volume: str
    path: str
    sub_path: str = ""


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """One container."""

    name: str
    command: tuple[str, ...]
    """command and args, $(VAR) not yet expanded."""
    env: tuple[Mapping[str, Any], ...] = ()
    env_from: tuple[Mapping[str, Any], ...] = ()
    mounts: tuple[Mount, ...] = ()
    termination_path: str = "/dev/termination-log"
    working_dir: str | None = None
    startup: Probe | None = None
    readiness: Probe | None = None
    liveness: Probe | None = None
    gpus: int = 0


@dataclass(frozen=True, kw_only=True)
class PodSpec:
    """One pod: init containers one after the other, then the program."""

    init: tuple[ContainerSpec, ...] = ()
    program: ContainerSpec
    volumes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    restart_policy: RestartPolicy = "Always"
    grace: float = DEFAULT_GRACE
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


def read_pod(template: RawObject, *, restart_policy: str | None = None) -> PodSpec:
    """Read a PodTemplateSpec. `restart_policy` is the replica's own, where a PyTorchJob sets one.

    Raises UnsupportedManifest.
    """
    spec = template["spec"]
    containers = spec["containers"]
    named = [container for container in containers if container["name"] in PROGRAMS]
    # Further containers come from the user's pod template (log shippers and the like): nothing of ours asks them.
    program = (named or containers)[0]
    asked = restart_policy or spec.get("restartPolicy", "Always")
    # PyTorchJob's ExitCode: the pods themselves are never restarted.
    policies: dict[str, RestartPolicy] = {"Always": "Always", "OnFailure": "OnFailure"}
    metadata = template.get("metadata") or {}
    return PodSpec(
        init=tuple(_container(container) for container in spec.get("initContainers") or ()),
        program=_container(program),
        volumes={volume["name"]: volume for volume in spec.get("volumes") or ()},
        restart_policy=policies.get(asked, "Never"),
        grace=float(spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE)),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
    )


def gpus_of(resources: Mapping[str, Any]) -> int:
    """GPUs in a container's resources: every extended resource (its name holds a slash) counts as one kind of GPU."""
    wanted = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    return sum(
        int(value)
        for name, value in wanted.items()
        if "/" in name and not name.startswith(("kubernetes.io/", "requests."))
    )


def _container(raw: RawObject) -> ContainerSpec:
    command = tuple(str(word) for word in (*(raw.get("command") or ()), *(raw.get("args") or ())))
    if not raw.get("command"):
        raise UnsupportedManifest(
            f"container {raw['name']!r} has no command: without its image nobody knows what it would start; set "
            "`command` in its pod template"
        )
    return ContainerSpec(
        name=raw["name"],
        command=command,
        env=tuple(raw.get("env") or ()),
        env_from=tuple(raw.get("envFrom") or ()),
        mounts=tuple(
            Mount(
                volume=mount["name"],
                path=mount["mountPath"].rstrip("/") or "/",
                sub_path=mount.get("subPath", ""),
            )
            for mount in raw.get("volumeMounts") or ()
        ),
        termination_path=raw.get("terminationMessagePath", "/dev/termination-log"),
        working_dir=raw.get("workingDir"),
        startup=_probe(raw, "startupProbe"),
        readiness=_probe(raw, "readinessProbe"),
        liveness=_probe(raw, "livenessProbe"),
        gpus=gpus_of(raw.get("resources") or {}),
    )


def _probe(container: RawObject, name: str) -> Probe | None:
    raw = container.get(name)
    if not raw:
        return None
    if "httpGet" in raw:
        path = raw["httpGet"].get("path", "/")
    elif "tcpSocket" in raw:
        path = None
    else:
        kinds: Sequence[str] = [key for key in raw if key in ("exec", "grpc")]
        raise UnsupportedManifest(
            f"container {container['name']!r} has a {name} by {', '.join(kinds) or 'nothing'}: the local backend knows "
            "httpGet and tcpSocket"
        )
    return Probe(
        path=path,
        initial_delay=float(raw.get("initialDelaySeconds", 0)),
        period=float(raw.get("periodSeconds", 10)),
        timeout=float(raw.get("timeoutSeconds", 1)),
        failure_threshold=int(raw.get("failureThreshold", 3)),
        success_threshold=int(raw.get("successThreshold", 1)),
    )
