"""The cluster's own processes: started inside its network namespace, recorded by id and start time, stopped by record.

Must never look for a process by name: an id counts only together with the start time that was recorded with it, or
because the process lives in the cluster's own network namespace or cgroup.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.testbed.handle import Cluster

CGROUPS = Path("/sys/fs/cgroup")
_KEEPER = "keeper"


@dataclass(frozen=True)
class Process:
    """A process of this machine: its id, and when it started, in clock ticks since boot (an id is used again)."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether it still runs; one that ended and was not waited for does not."""
        return _started(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def start(cluster: Cluster, part: str, command: Sequence[str], environment: Mapping[str, str]) -> Process:
    """Start a part in the cluster's network namespace; it outlives this program. Its output goes to its log."""
    cluster.logs.mkdir(parents=True, exist_ok=True)
    with (cluster.logs / f"{part}.log").open("ab") as log:
        child = subprocess.Popen(
            ["nsenter", f"--net={cluster.namespace_file}", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
        )
    _children[child.pid] = child
    process = Process(child.pid, _started(child.pid) or 0)
    record = _record(cluster, part)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps({"pid": process.pid, "started": process.started}))
    return process


def keep(cluster: Cluster) -> None:
    """Note that the cluster is this program's: should this program die, whoever notices may take the cluster down."""
    record = _record(cluster, _KEEPER)
    record.parent.mkdir(parents=True, exist_ok=True)
    partial = record.with_suffix(".part")
    partial.write_text(json.dumps({"pid": os.getpid(), "started": _started(os.getpid())}))
    partial.rename(record)


def keep_no_longer(cluster: Cluster) -> None:
    """The cluster stays until somebody takes it down."""
    _record(cluster, _KEEPER).unlink(missing_ok=True)


def orphaned(cluster: Cluster) -> bool:
    """Whether the cluster was a program's that has died."""
    return _record(cluster, _KEEPER).exists() and running(cluster, _KEEPER) is None


# Popen warns about children that it was not asked about; this program need not stay for them.
_children: dict[int, subprocess.Popen[bytes]] = {}


def running(cluster: Cluster, part: str) -> Process | None:
    """The recorded process of a part, if it still runs."""
    try:
        recorded = json.loads(_record(cluster, part).read_text())
    except FileNotFoundError:
        return None
    process = Process(recorded["pid"], recorded["started"])
    return process if process.alive else None


def launched(cluster: Cluster, part: str) -> float:
    """When a part was started, in seconds since 1970. Raises FileNotFoundError if it never was."""
    return _record(cluster, part).stat().st_mtime


def stop(cluster: Cluster, parts: Iterable[str], *, patience: float = 5.0, kill: bool = False) -> None:
    """End parts side by side: ask, and after `patience` seconds kill (at once with `kill`)."""
    processes = [process for part in parts if (process := running(cluster, part))]
    for process in processes:
        process.signal(signal.SIGKILL if kill else signal.SIGTERM)
    if wait_gone(processes, patience):
        return
    for process in processes:
        process.signal(signal.SIGKILL)
    wait_gone(processes, 5.0)


def wait_gone(processes: Iterable[Process], seconds: float) -> bool:
    """Wait until none of them runs; False if some still do after `seconds`."""
    end = time.monotonic() + seconds
    left = list(processes)
    while left := [process for process in left if process.alive]:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def in_namespace(cluster: Cluster) -> list[Process]:
    """Every process whose network is the cluster's: its parts, containerd's shims, and whoever was sent in there."""
    try:
        wanted = cluster.namespace_file.stat()
    except FileNotFoundError:
        return []
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            network = (folder / "ns" / "net").stat()
            if (network.st_dev, network.st_ino) == (wanted.st_dev, wanted.st_ino):
                found.append(int(folder.name))
    return [Process(pid, started) for pid in found if (started := _started(pid)) is not None]


def in_pods(cluster: Cluster) -> list[Process]:
    """Every process of the cluster's pods, and of the steps of image builds, by their cgroup."""
    pids: set[int] = set()
    for root in cgroup_roots(cluster):
        for folder, _, _ in os.walk(root):  # which passes over what goes away meanwhile
            with contextlib.suppress(OSError):
                pids.update(int(line) for line in (Path(folder) / "cgroup.procs").read_text().split())
    return [Process(pid, started) for pid in sorted(pids) if (started := _started(pid)) is not None]


def cgroup_roots(cluster: Cluster) -> list[Path]:
    """The topmost cgroup of pods and of image builds, in each hierarchy that has it."""
    name = cluster.namespace
    return [root for root in (CGROUPS / name, *CGROUPS.glob(f"*/{name}")) if root.is_dir()]


def make_cgroups(cluster: Cluster) -> None:
    """Make the cgroup below which kubelet makes the pods' own; two kubelets in one would end each other's pods."""
    if (CGROUPS / "cgroup.controllers").exists():
        (CGROUPS / cluster.namespace).mkdir(exist_ok=True)
        return
    for hierarchy in CGROUPS.iterdir():
        if not (hierarchy / "cgroup.procs").exists():
            continue
        folder = hierarchy / cluster.namespace
        folder.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # empty in a new one, and then no process may enter
            if (folder / setting).exists():
                (folder / setting).write_text((hierarchy / setting).read_text())


def remove_cgroups(cluster: Cluster) -> None:
    """Remove the pods' cgroups, deepest first; their processes have ended."""
    for root in cgroup_roots(cluster):
        for folder, _, _ in os.walk(root, topdown=False):
            with contextlib.suppress(OSError):  # busy for a moment after its last process ended
                Path(folder).rmdir()


def _record(cluster: Cluster, part: str) -> Path:
    return cluster.run / "pids" / f"{part}.json"


def _started(pid: int) -> int | None:
    """When a process started, from /proc (proc_pid_stat(5), field 22); None once it ended."""
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        del _children[pid]
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
