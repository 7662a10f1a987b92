"""The cluster's network namespace, and the link between it and the host. No way leads out of the machine."""

import contextlib
import subprocess
from pathlib import Path

from tests.cluster.testbed.handle import Cluster, TestbedError


def create(cluster: Cluster) -> None:
    """Make the namespace with its addresses and routes. Raises TestbedError."""
    host, inner = _links(cluster)
    _ip("netns", "add", cluster.namespace)
    _ip("link", "add", host, "type", "veth", "peer", "name", inner, "netns", cluster.namespace)
    _ip("address", "add", f"{cluster.host_address}/30", "dev", host)
    _ip("link", "set", host, "up")
    _ip("route", "replace", cluster.pod_cidr, "via", cluster.address)
    inside = ("-n", cluster.namespace)
    _ip(*inside, "link", "set", "lo", "up")
    _ip(*inside, "address", "add", f"{cluster.address}/30", "dev", inner)
    _ip(*inside, "link", "set", inner, "up")
    # kube-proxy translates a Service's address once a route was found: without one the API server could not
    # call webhooks ("network is unreachable").
    _ip(*inside, "route", "add", cluster.service_cidr, "via", cluster.host_address)
    _run("nsenter", f"--net={cluster.namespace_file}", "--", "sysctl", "-qw", "net.ipv4.ip_forward=1")


def destroy(cluster: Cluster) -> None:
    """Remove whatever is there of it; the caller has ended the processes inside."""
    host, _ = _links(cluster)
    for arguments in (("link", "delete", host), ("netns", "delete", cluster.namespace)):
        with contextlib.suppress(TestbedError):
            _ip(*arguments)


def exists(cluster: Cluster) -> bool:
    """Whether the link's host end is there: it goes with the namespace."""
    return Path(f"/sys/class/net/{_links(cluster)[0]}").exists()


def _links(cluster: Cluster) -> tuple[str, str]:
    return f"srr{cluster.index}-host", f"srr{cluster.index}-node"


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise TestbedError(f"`{' '.join(command)}` failed: {result.stderr.strip()}")
