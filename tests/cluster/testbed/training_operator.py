"""Kubeflow's training-operator, unmodified: its own manifests and its own program, in an image under the expected name.

Two things are ours, or it would start longer than all the rest of the cluster: how often its Deployment is asked for
readiness (as published first after 10 to 25 seconds), and the first certificate of its webhook. It would make one
itself, and wait ten seconds for kubelet to bring it; its rotation finds ours good, and gives it to the API server.
"""

import base64
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

from tests.cluster.testbed import binaries, pki
from tests.cluster.testbed.api import Api
from tests.cluster.testbed.handle import Cluster, TestbedError
from tests.cluster.testbed.small_images import SmallImage

NAMESPACE = "kubeflow"
_SECRET = "training-operator-webhook-cert"
_OVERLAY = {
    "apiVersion": "kustomize.config.k8s.io/v1beta1",
    "kind": "Kustomization",
    "resources": ["../standalone"],
    "patches": [
        {
            "target": {"kind": "Deployment", "name": "training-operator"},
            "patch": json.dumps(
                [
                    {
                        "op": "replace",
                        "path": f"/spec/template/spec/containers/0/readinessProbe/{field}",
                        "value": 1,
                    }
                    for field in ("initialDelaySeconds", "periodSeconds", "timeoutSeconds")
                ]
            ),
        }
    ],
}
# Accepted only once the webhook's Service has an endpoint and its certificate is the one the API server knows.
_PROBE = {
    "apiVersion": "kubeflow.org/v1",
    "kind": "PyTorchJob",
    "metadata": {"name": "probe", "namespace": "default"},
    "spec": {
        "pytorchReplicaSpecs": {
            "Master": {
                "replicas": 1,
                "template": {"spec": {"containers": [{"name": "pytorch", "image": "none"}]}},
            }
        }
    },
}
_PROBE_PATH = "/apis/kubeflow.org/v1/namespaces/default/pytorchjobs?dryRun=All"


def render(cluster: Cluster) -> str:
    """Its manifests as one YAML text. Raises TestbedError."""
    folder = cluster.state / "training-operator"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(binaries.part("training-operator").folder / "manifests", folder)
    overlay = folder / "overlays" / "testbed"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(json.dumps(_OVERLAY))
    result = subprocess.run(
        [binaries.path("kubectl"), "kustomize", overlay], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise TestbedError(f"training-operator's manifests cannot be rendered: {result.stderr.strip()}")
    return result.stdout


def image(manifests: str) -> SmallImage:
    """Its image, named as the manifests name it. Raises TestbedError."""
    found = re.search(r"^\s*image: (\S*/training-operator:\S+)$", manifests, re.MULTILINE)
    if found is None:
        raise TestbedError("training-operator's manifests name no image of that name")
    return SmallImage(found[1], {"manager": binaries.path("training-operator")}, command=("/manager",))


def apply(cluster: Cluster, manifests: str) -> None:
    """Apply its manifests server-side. Raises TestbedError, OSError."""
    api = Api(cluster)
    head = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    api.apply(f"/api/v1/namespaces/{NAMESPACE}", head)
    api.apply(f"/api/v1/namespaces/{NAMESPACE}/secrets/{_SECRET}", _webhook_certificate(cluster))
    command = [str(binaries.path("kubectl")), f"--kubeconfig={cluster.kubeconfig}", "apply", "--server-side"]
    result = subprocess.run(
        [*command, "--force-conflicts", "--filename=-"],
        input=manifests,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise TestbedError(f"training-operator's manifests were refused: {result.stderr.strip()}")


def _webhook_certificate(cluster: Cluster) -> dict[str, Any]:
    files = {
        "ca.crt": f"{pki.WEBHOOK_CA}.crt",
        "ca.key": f"{pki.WEBHOOK_CA}.key",
        "tls.crt": f"{pki.WEBHOOK}.crt",
        "tls.key": f"{pki.WEBHOOK}.key",
    }
    data = {key: base64.b64encode((cluster.pki / file).read_bytes()).decode() for key, file in files.items()}
    metadata = {"name": _SECRET, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


def answer(api: Api) -> str | None:
    """None once a PyTorchJob would be accepted; otherwise what stands in the way."""
    try:
        status, text = api.request("POST", _PROBE_PATH, _PROBE)
    except OSError as error:
        return str(error)
    return None if status == 201 else text[:300]


def wait(api: Api, seconds: float, abandoned: Callable[[], bool]) -> None:
    """Wait until a PyTorchJob would be accepted. Raises TestbedError with what stood in the way."""
    end = time.monotonic() + seconds
    while reason := answer(api):
        if abandoned() or time.monotonic() > end:
            raise TestbedError(f"training-operator accepts no PyTorchJob after {seconds:.0f} s: {reason}")
        time.sleep(0.2)
