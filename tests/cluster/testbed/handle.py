"""A test cluster's name, addresses and files: what every other module here, and every test, asks for.

Addresses come from the cluster's index, so clusters side by side never clash; the index is claimed machine-wide under
`/run/selfrewarding/<index>/`, the state lies in `$SRR_CACHE/cluster/<name>/`. Must not start or stop anything.
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.cluster.testbed import binaries

RUN = Path("/run/selfrewarding")
NODE_NAME = "node"
# 10.99.<index>.0/30 and the like: one byte.
_MOST = 200


class TestbedError(Exception):
    """The cluster cannot do what was asked; the text says what was found and what to do."""

    __test__ = False


@dataclass(frozen=True)
class Cluster:
    """A cluster, running or not. `node`: with scheduler, kubelet and pods; otherwise the control plane alone."""

    name: str
    index: int
    state: Path
    node: bool = True
    training_operator: bool = True

    @property
    def run(self) -> Path:
        """Sockets, process ids and mounts: gone after a restart of the machine."""
        return RUN / str(self.index)

    @property
    def namespace(self) -> str:
        """The network namespace's name for `ip netns`; also the name of the cgroup that holds the pods."""
        return f"srr-{self.index}"

    @property
    def namespace_file(self) -> Path:
        """For `nsenter --net=`. Not `ip netns exec`: that mounts /sys anew, and kubelet finds no cgroups there."""
        return Path("/run/netns") / self.namespace

    @property
    def host_address(self) -> str:
        """The host's end of the link; pods reach what listens there."""
        return f"10.99.{self.index}.1"

    @property
    def address(self) -> str:
        """The node's address: API server, S3 server and DNS, reached by pods and by the host alike."""
        return f"10.99.{self.index}.2"

    @property
    def pod_cidr(self) -> str:
        """The pods' addresses; the host has a route to them."""
        return f"10.244.{self.index}.0/24"

    @property
    def service_cidr(self) -> str:
        """The Services' addresses, for pods and for the API server."""
        return f"10.96.{self.index}.0/24"

    @property
    def api_server(self) -> str:
        """The API server's address."""
        return f"https://{self.address}:6443"

    @property
    def s3_endpoint(self) -> str:
        """The S3 server's address, for path-style requests."""
        return f"http://{self.address}:7070"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's; it holds its keys and needs no other file."""
        return self.state / "kubeconfig"

    @property
    def s3_environment(self) -> Path:
        """The S3 server's address and keys as lines NAME=value, mode 0600 (for `--from-env-file`)."""
        return self.state / "s3.env"

    @property
    def pki(self) -> Path:
        """Keys and certificates."""
        return self.state / "pki"

    @property
    def logs(self) -> Path:
        """A log for each part, kept until the next start."""
        return self.state / "logs"

    @property
    def audit_log(self) -> Path:
        """One JSON line for each request of anybody who is no part of the cluster itself."""
        return self.logs / "audit.jsonl"

    @property
    def containerd_root(self) -> Path:
        """Images and their layers: kept when the cluster stops, since they are dear to make."""
        return self.state / "containerd"

    @property
    def containerd_socket(self) -> Path:
        """Where containerd listens; images for pods are in its namespace k8s.io."""
        return self.run / "containerd.sock"

    @property
    def kubelet_root(self) -> Path:
        """The pods' volumes."""
        return self.state / "kubelet"

    def s3_settings(self) -> dict[str, str]:
        """What a stage program's environment needs to reach the S3 server. Raises OSError if there is none yet."""
        lines = self.s3_environment.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if line)

    def write(self) -> None:
        """Write `cluster.json` for whoever is not Python."""
        document = {
            **asdict(self),
            "state": str(self.state),
            "address": self.address,
            "hostAddress": self.host_address,
            "apiServer": self.api_server,
            "kubeconfig": str(self.kubeconfig),
            "podCIDR": self.pod_cidr,
            "serviceCIDR": self.service_cidr,
            "networkNamespace": self.namespace,
            "s3": {"endpoint": self.s3_endpoint, "environmentFile": str(self.s3_environment)},
            "containerd": {"socket": str(self.containerd_socket), "namespace": "k8s.io"},
            "auditLog": str(self.audit_log),
            "logs": str(self.logs),
        }
        partial = self.state / "cluster.json.part"
        partial.write_text(json.dumps(document, indent=2) + "\n")
        partial.rename(self.state / "cluster.json")


def state_folder(name: str) -> Path:
    """Where a cluster of that name keeps its files; raises TestbedError for a bad name."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?", name):
        raise TestbedError(f"a cluster's name is up to 30 of a-z, 0-9 and -, not {name!r}")
    return binaries.cache() / "cluster" / name


def load(name: str) -> Cluster | None:
    """The cluster of that name, if it was ever started and not taken down."""
    try:
        document = json.loads((state_folder(name) / "cluster.json").read_text())
    except FileNotFoundError:
        return None
    return Cluster(
        document["name"],
        document["index"],
        Path(document["state"]),
        document["node"],
        document["training_operator"],
    )


def claim(name: str) -> int:
    """The index of the cluster of that name: the one that it has, or the lowest free one. Raises TestbedError."""
    state = state_folder(name)
    with _claims():
        owners = {int(path.parent.name): path.read_text() for path in RUN.glob("*/owner")}
        for index, owner in owners.items():
            if owner == str(state):
                return index
        free = next((index for index in range(_MOST) if index not in owners), None)
        if free is None:
            raise TestbedError(f"{_MOST} test clusters are claimed in {RUN}: take some down")
        (RUN / str(free)).mkdir(exist_ok=True)
        (RUN / str(free) / "owner").write_text(str(state))
        return free


def release(cluster: Cluster) -> None:
    """Give the index back; the caller has stopped everything that used it."""
    with _claims():
        (cluster.run / "owner").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not there, or something is left in it
            cluster.run.rmdir()


def claimed() -> list[Cluster]:
    """The clusters of this cache that have an index: those that run, and those that a killed run left."""
    with _claims():
        owners = {int(path.parent.name): Path(path.read_text()) for path in RUN.glob("*/owner")}
    home = binaries.cache() / "cluster"
    return [Cluster(state.name, index, state) for index, state in owners.items() if state.parent == home]


@contextlib.contextmanager
def _claims() -> Iterator[None]:
    RUN.mkdir(mode=0o755, exist_ok=True)
    with (RUN / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Keep others from starting or stopping the cluster of that name meanwhile."""
    lock = _lock_file(name)
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if _is_still(lock, held.fileno()):  # not one that its last holder has removed
                yield
                return


def forget(name: str) -> None:
    """Remove the lock of a cluster that leaves nothing else; whoever waits for it makes a new one."""
    _lock_file(name).unlink(missing_ok=True)


def _lock_file(name: str) -> Path:
    return state_folder(name).with_suffix(".lock")


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
