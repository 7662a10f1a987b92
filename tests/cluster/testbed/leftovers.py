"""Taking a cluster away: after a stop, and after a run that was killed and stopped nothing itself.

Finds everything by what only this cluster has: recorded processes, its network namespace, its cgroup, mounts below its
folders. Images stay. Must work whatever is missing.
"""

import contextlib
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.cluster.testbed import network, parts, processes
from tests.cluster.testbed.handle import Cluster, TestbedError

# libcni keeps what it did to each container here, whatever the configuration says; kubelet links logs from there.
_CNI_RESULTS = Path("/var/lib/cni/results")
_LOG_LINKS = Path("/var/log/containers")


def clean(cluster: Cluster) -> None:
    """End everything that runs, and remove everything but images and logs. Raises TestbedError if something stays."""
    # kubelet first: it would start the pods again. containerd last, since its shims report to it.
    order = [
        part
        for part in reversed(list(parts.COMMANDS))
        if part not in {"containerd", "etcd", "kube-apiserver"}
    ]
    processes.stop(cluster, order)
    _end_pods(cluster)
    processes.stop(cluster, ("containerd", "kube-apiserver"))
    processes.stop(cluster, ("etcd",), kill=True)
    left = processes.in_namespace(cluster)
    for process in left:
        process.signal(signal.SIGKILL)
    processes.wait_gone(left, 5.0)
    _end_pods(cluster)
    _unmount(cluster)
    network.destroy(cluster)
    processes.remove_cgroups(cluster)
    _remove_files(cluster)


def purge(cluster: Cluster) -> None:
    """Remove the images and logs, too; nothing of the cluster may run."""
    _below_is_not_mounted(cluster)
    shutil.rmtree(cluster.state, ignore_errors=True)


def _end_pods(cluster: Cluster) -> None:
    """Kill pods' processes until there are none: one may have been about to start another."""
    end = time.monotonic() + 10
    while (found := processes.in_pods(cluster)) and time.monotonic() < end:
        for process in found:
            process.signal(signal.SIGKILL)
        processes.wait_gone(found, 2.0)


def _unmount(cluster: Cluster) -> None:
    mounts = _mounts(cluster)
    if mounts:
        subprocess.run(["umount", "--lazy", *mounts], capture_output=True, check=False)
    _below_is_not_mounted(cluster)


def _mounts(cluster: Cluster) -> list[str]:
    """What is mounted below the cluster's folders, innermost first (proc_pid_mountinfo(5): octal escapes)."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        where = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split()[4])
        if any(Path(where).is_relative_to(folder) for folder in (cluster.run, cluster.state)):
            found.append(where)
    return found[::-1]


def _below_is_not_mounted(cluster: Cluster) -> None:
    """Refuse to delete what may be somebody else's files."""
    if left := _mounts(cluster):
        raise TestbedError(f"still mounted, so nothing is deleted: {', '.join(left)}; unmount them by hand")


def _remove_files(cluster: Cluster) -> None:
    keep = {cluster.containerd_root, cluster.logs, cluster.state / "small-images.json"}
    for folder, kept in ((cluster.state, keep), (cluster.run, {cluster.run / "owner"})):
        for path in folder.iterdir() if folder.is_dir() else ():
            if path in kept:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    for result in _CNI_RESULTS.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another cluster's, whose pod has just ended
            if f'"netns":"{cluster.run}/' in result.read_text():
                result.unlink()
    for link in _LOG_LINKS.glob("*.log"):
        with contextlib.suppress(OSError):
            if link.is_symlink() and link.readlink().is_relative_to(cluster.state):
                link.unlink()
