"""Whether a part is Ready: asked of the part itself, as a client would meet it. Must not start or change anything."""

import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import datetime

from tests.cluster.testbed import processes, small_images
from tests.cluster.testbed.api import Api
from tests.cluster.testbed.handle import NODE_NAME, Cluster, TestbedError


def reason(cluster: Cluster, part: str) -> str | None:
    """Why a part is not Ready, in a few words; None if it is."""
    if processes.running(cluster, part) is None:
        return "it does not run"
    try:
        return _PROBES[part](cluster)
    except (OSError, TestbedError) as error:
        return str(error) or type(error).__name__


def _http(url: str) -> str | None:
    # Their certificates are made by themselves; what counts is the answer.
    trusting = ssl._create_unverified_context()
    with urllib.request.urlopen(
        url, timeout=2, context=trusting if url.startswith("https") else None
    ) as answer:
        return None if answer.status == 200 else f"{url} answered {answer.status}"


def _api_server(cluster: Cluster) -> str | None:
    try:
        status, text = Api(cluster).request("GET", "/readyz")
    except FileNotFoundError:
        return "there are no certificates"
    return None if status == 200 else text


def _controllers(cluster: Cluster) -> str | None:
    if blocked := _http(f"https://{cluster.address}:10257/healthz"):
        return blocked
    # No pod is accepted before this one is there.
    account = Api(cluster).get("/api/v1/namespaces/default/serviceaccounts/default")
    return None if account else "the service account `default` is not there yet"


def _node(cluster: Cluster) -> str | None:
    node = Api(cluster).get(f"/api/v1/nodes/{NODE_NAME}")
    if node is None:
        return "the node is not registered"
    found = [each for each in node["status"].get("conditions", ()) if each["type"] == "Ready"]
    if not found:
        return "the node has no condition Ready yet"
    # Whole seconds; what the kubelet before this one said does not count.
    said = datetime.fromisoformat(found[0]["lastHeartbeatTime"]).timestamp()
    if said < int(processes.launched(cluster, "kubelet")):
        return "kubelet has not reported since it started"
    return None if found[0]["status"] == "True" else f"the node is not Ready: {found[0].get('message', '')}"


def _containerd(cluster: Cluster) -> str | None:
    if not cluster.containerd_socket.exists():
        return f"there is no {cluster.containerd_socket}"
    small_images.ctr(cluster, "version")
    return None


def _s3(cluster: Cluster) -> str | None:
    with socket.create_connection((cluster.address, 7070), timeout=2):
        return None


_PROBES: Mapping[str, Callable[[Cluster], str | None]] = {
    "etcd": lambda cluster: _http(f"http://{cluster.address}:2381/health"),
    "kube-apiserver": _api_server,
    "kube-controller-manager": _controllers,
    "kube-scheduler": lambda cluster: _http(f"https://{cluster.address}:10259/readyz"),
    "containerd": _containerd,
    "kubelet": _node,
    "kube-proxy": lambda cluster: _http(f"http://{cluster.address}:10256/healthz"),
    "coredns": lambda cluster: _http(f"http://{cluster.address}:8181/ready"),
    "versitygw": _s3,
}
