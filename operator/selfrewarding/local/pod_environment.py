"""The environment and the folders of a pod on this machine.

Purpose: stage programs take every path, address and termination file from their environment (survival rule 13); here,
and only here, those are rewritten: mount paths to folders, the port to a free one, a Service's address to its pods'
real ones, the object store to a folder.
Must not: start anything. Neighbours: `pod_spec` reads the manifest, `pod` runs the result.
"""

import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfrewarding.api.run import RawObject
from selfrewarding.contract import environment
from selfrewarding.local.pod_spec import ContainerSpec, PodSpec, UnsupportedManifest
from selfrewarding.store.locate import open_store
from selfrewarding.store.protocol import ArtifactStore

MARKER = "SRR_LOCAL_POD"
"""`<state folder>:<pod uid>` in the environment of every process of a pod: by it a later start finds survivors."""

_PASSED_ON = (
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "CUDA_HOME",
    "PYTHONPATH",
    "TZ",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "SRR_CACHE",
)
"""What a container's image or node would bring along: libraries, proxies, the model hub."""
_S3 = re.compile(r"AWS_\w+|SRR_S3_\w+")
_EXPANSION = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_ADDRESS = re.compile(r"http://([a-z0-9.-]+):(\d+)")


@dataclass(frozen=True)
class Machine:
    """What pods get from this machine and from the user's own environment."""

    user_env: Mapping[str, str]
    s3_folder: Path | None
    """Buckets are folders in here; None: the user's own S3 settings are passed on (`--s3`)."""
    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))

    def base_env(self) -> dict[str, str]:
        """The variables that every container starts with."""
        own_bin = str(Path(sys.executable).parent)
        path = self.user_env.get("PATH", os.defpath)
        env = {"PATH": f"{own_bin}{os.pathsep}{path}", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
        env |= {name: self.user_env[name] for name in _PASSED_ON if name in self.user_env}
        if "PYTHONPATH" in env:
            # Relative entries mean the user's folder, and pods start in another one.
            env["PYTHONPATH"] = os.pathsep.join(
                str(Path(part).absolute()) for part in env["PYTHONPATH"].split(os.pathsep)
            )
        return env

    def store_env(self, declared: Mapping[str, str]) -> dict[str, str]:
        """Where the object store is, over what the manifest says."""
        if self.s3_folder is not None:
            return {environment.S3_ENDPOINT: self.s3_folder.as_uri()}
        own = {name: value for name, value in self.user_env.items() if _S3.fullmatch(name)}
        if environment.S3_ENDPOINT in declared and environment.S3_ENDPOINT not in self.user_env:
            own[environment.S3_ENDPOINT] = declared[environment.S3_ENDPOINT]
        return own


def open_run_store(uri: str, machine: Machine) -> ArtifactStore:
    """The run's artifact store as its pods see it. Raises store.errors.StoreError."""
    return open_store(uri, {**machine.user_env, **machine.store_env({})})


@dataclass(frozen=True, kw_only=True)
class PodPlace:
    """One pod on this machine."""

    name: str
    uid: str
    namespace: str
    folder: Path
    """pods/<uid>: volumes and termination message."""
    scratch: Path
    """Short temporary folder: sockets' paths have at most 107 characters."""
    state: Path
    port: int | None = None
    workload_env: Mapping[str, str] = field(default_factory=dict)
    """What the workload's controller adds, e.g. JOB_COMPLETION_INDEX or PET_*."""
    devices: Sequence[str] = ()
    processes: int = 1
    """Processes of all pods of the workload, which share the cores."""

    @property
    def termination(self) -> Path:
        """The file of the termination message."""
        return self.folder / "termination"


@dataclass(frozen=True)
class Launch:
    """A container as a process: what to start, with which variables, where."""

    command: tuple[str, ...]
    env: dict[str, str]
    working_dir: Path


def make_volumes(
    pod: PodSpec, place: PodPlace, config_maps: Callable[[str], RawObject | None]
) -> dict[str, Path]:
    """Create the folders of a pod's volumes; returns them by name. Raises OSError, UnsupportedManifest."""
    folders: dict[str, Path] = {}
    at_tmp = {mount.volume for mount in pod.program.mounts if mount.path == "/tmp"}  # noqa: S108 - a container's path
    for name, volume in pod.volumes.items():
        if name in at_tmp:
            folders[name] = place.scratch
            continue
        if "hostPath" in volume:
            folders[name] = Path(volume["hostPath"]["path"])
            continue
        if "persistentVolumeClaim" in volume:
            folder = place.state / "claims" / volume["persistentVolumeClaim"]["claimName"]
        else:
            folder = place.folder / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        folders[name] = folder
        if "configMap" in volume:
            _write_config_map(folder, volume["configMap"], config_maps)
    return folders


def launch(
    container: ContainerSpec,
    pod: PodSpec,
    place: PodPlace,
    *,
    volumes: Mapping[str, Path],
    machine: Machine,
    addresses: Callable[[str], Sequence[str]],
    config_maps: Callable[[str], RawObject | None],
) -> Launch:
    """The process for a container.

    `addresses` gives the addresses behind a Service's host name, none if it is not ours. Raises UnsupportedManifest.
    """
    paths = _real_paths(container, place, volumes)
    env = machine.base_env()
    env |= {"HOME": str(place.scratch / "home"), "TMPDIR": str(place.scratch)}
    if container.gpus == 0 or place.devices:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(place.devices[: container.gpus])
    env["OMP_NUM_THREADS"] = str(max(1, machine.cores // max(1, place.processes)))
    env |= place.workload_env
    declared: dict[str, str] = {}
    for source in container.env_from:
        declared |= _env_from(source, machine, config_maps)
    for entry in container.env:
        value = _value(entry, pod, place, machine, config_maps)
        if value is not None:
            declared[entry["name"]] = expand(value, {**env, **declared})
    declared |= machine.store_env(declared)
    declared = {name: _rewritten(name, value, paths, addresses) for name, value in declared.items()}
    if place.port is not None and environment.PORT in declared:
        declared[environment.PORT] = str(place.port)
    if environment.HOST in declared:
        # In a cluster a NetworkPolicy says who may ask a server; here only programs of this machine may.
        declared[environment.HOST] = "127.0.0.1"
    # Pods have an address each, for Prometheus to ask; here they would meet at one port.
    declared.pop(environment.METRICS_PORT, None)
    env |= declared
    # Again, behind the template's, as the training operator puts them: names of Services and labels that a template asks
    # for are not here, their values are.
    env |= place.workload_env
    env[MARKER] = f"{place.state}:{place.uid}"
    command = tuple(expand(word, env) for word in container.command)
    working_dir = (
        Path(_rewrite_path(container.working_dir, paths)) if container.working_dir else place.scratch
    )
    Path(env["HOME"]).mkdir(parents=True, exist_ok=True)
    return Launch(
        (_program(command[0], env), *command[1:]), env, working_dir if working_dir.is_dir() else place.scratch
    )


def expand(text: str, env: Mapping[str, str]) -> str:
    """Kubernetes' $(VAR) expansion: $$ is a dollar sign, an unknown variable stays as it is."""

    def replacement(match: re.Match[str]) -> str:
        name = match[1]
        return "$" if name is None else env.get(name, match[0])

    return _EXPANSION.sub(replacement, text)


def _program(name: str, env: Mapping[str, str]) -> str:
    """`python` is the interpreter that runs srr, even where its folder has no such name; others come from PATH."""
    if name in ("python", "python3"):
        return sys.executable
    return shutil.which(name, path=env["PATH"]) or name


def _real_paths(container: ContainerSpec, place: PodPlace, volumes: Mapping[str, Path]) -> dict[str, Path]:
    """Real path by container path, for mounts and the termination message."""
    paths = {
        mount.path: volumes[mount.volume] / mount.sub_path
        for mount in container.mounts
        if mount.volume in volumes
    }
    paths[container.termination_path] = place.termination
    return paths


def _rewrite_path(value: str, paths: Mapping[str, Path]) -> str:
    """A path in the container as the real one; the longest mount path wins; anything else is returned as it is."""
    for inside in sorted(paths, key=len, reverse=True):
        if value == inside or value.startswith(inside.rstrip("/") + "/"):
            rest = value[len(inside) :].strip("/")
            return str(paths[inside] / rest) if rest else str(paths[inside])
    return value


def _rewritten(
    name: str, value: str, paths: Mapping[str, Path], addresses: Callable[[str], Sequence[str]]
) -> str:
    if name in environment.SERVER_URL.values():

        def real(match: re.Match[str]) -> str:
            return ",".join(addresses(match[1])) or match[0]

        return _ADDRESS.sub(real, value)
    if name == environment.S3_ENDPOINT:
        return value
    return _rewrite_path(value, paths)


def _value(
    entry: Mapping[str, Any],
    pod: PodSpec,
    place: PodPlace,
    machine: Machine,
    config_maps: Callable[[str], RawObject | None],
) -> str | None:
    """The value of an `env` entry, None where an optional source has none."""
    source = entry.get("valueFrom")
    if not source:
        return str(entry.get("value", ""))
    if "secretKeyRef" in source:
        # A Secret of the cluster is a variable of the user here, under the name that the program asks for; S3 keys only
        # where a real S3 is used.
        needed = machine.s3_folder is None or not _S3.fullmatch(entry["name"])
        return machine.user_env.get(entry["name"]) if needed else None
    if "configMapKeyRef" in source:
        found = config_maps(source["configMapKeyRef"]["name"])
        data: Mapping[str, str] = (found or {}).get("data") or {}
        return data.get(source["configMapKeyRef"]["key"])
    if "resourceFieldRef" in source:
        return _resource(source["resourceFieldRef"]["resource"], machine)
    if "fieldRef" in source:
        return _field(source["fieldRef"]["fieldPath"], pod, place)
    raise UnsupportedManifest(
        f"the variable {entry['name']} comes from {', '.join(source)}: not known to the local backend"
    )


def _field(path: str, pod: PodSpec, place: PodPlace) -> str:
    keyed = re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", path)
    if keyed:
        found = (pod.labels if keyed[1] == "labels" else pod.annotations).get(keyed[2])
        if found is None and keyed[2] == "batch.kubernetes.io/job-completion-index":
            found = place.workload_env.get(environment.SHARD)
        return found or ""
    known = {
        "metadata.uid": place.uid,
        "metadata.name": place.name,
        "metadata.namespace": place.namespace,
        "status.podIP": "127.0.0.1",
        "status.hostIP": "127.0.0.1",
        "spec.nodeName": socket.gethostname(),
    }
    if path not in known:
        raise UnsupportedManifest(f"the field {path} of a pod is not known to the local backend")
    return known[path]


def _resource(name: str, machine: Machine) -> str:
    match name.partition(".")[2]:
        case "cpu":
            return str(machine.cores)
        case "memory":
            return str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        case "ephemeral-storage":
            return str(shutil.disk_usage("/").free)
        case _:
            raise UnsupportedManifest(f"the resource {name} of a container is not known to the local backend")


def _env_from(
    source: Mapping[str, Any], machine: Machine, config_maps: Callable[[str], RawObject | None]
) -> dict[str, str]:
    prefix = source.get("prefix", "")
    if "configMapRef" in source:
        found = config_maps(source["configMapRef"]["name"]) or {}
        return {prefix + name: value for name, value in (found.get("data") or {}).items()}
    # A Secret with S3 credentials: those of the user, where a real S3 is asked for.
    if machine.s3_folder is not None:
        return {}
    return {name: value for name, value in machine.user_env.items() if name.startswith("AWS_")}


def _write_config_map(
    folder: Path, reference: Mapping[str, Any], config_maps: Callable[[str], RawObject | None]
) -> None:
    found = config_maps(reference["name"])
    data: Mapping[str, str] = (found or {}).get("data") or {}
    wanted = {item["key"]: item["path"] for item in reference.get("items") or ()} or {
        key: key for key in data
    }
    for key, path in wanted.items():
        if key in data:
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(data[key], encoding="utf-8")
