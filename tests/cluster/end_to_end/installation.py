"""The operator as a user installs it: by the chart, in a namespace of its own; a team's namespace with a Secret; a bucket.

Neighbours: `conftest` makes fixtures of this, `chaos` a program.
"""

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cluster.end_to_end import bucket
from tests.cluster.end_to_end.run_spec import SECRET
from tests.cluster.end_to_end.watching import RUN_KIND
from tests.cluster.testbed import binaries, images
from tests.cluster.testbed.handle import Cluster, TestbedError
from tests.cluster.testbed.kubectl import Kubectl
from tests.support.small_run import REPOSITORY

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

SYSTEM, TEAM = "selfrewarding-system", "team-a"
RELEASE = "selfrewarding-operator"
CHART = REPOSITORY / "charts" / RELEASE


@dataclass(frozen=True)
class Installed:
    """A cluster with our operator in it, and what its users have."""

    cluster: Cluster
    team: Kubectl
    system: Kubectl
    s3: "S3Client"

    def explain(self, name: str) -> str:
        """All that a person would look at when a run does not end."""
        parts = [self.team("describe", RUN_KIND, name)]
        parts += [self.team("get", "pods,jobs,deployments,pytorchjobs", "-o", "wide")]
        parts += [self.system("logs", "-l", f"app.kubernetes.io/name={RELEASE}", "--tail=60", "--prefix")]
        for pod in self.team.list("pods"):
            with contextlib.suppress(TestbedError):  # gone, or not started yet
                log = self.team("logs", pod["metadata"]["name"], "--all-containers", "--tail=25")
                parts += [f"--- {pod['metadata']['name']}", log]
        return "\n".join(parts)


def packaged_model(folder: Path) -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder below `folder`."""
    model = folder / "smollm2-135m-instruct"
    subprocess.run([sys.executable, "-m", "selfrewarding.local.packaged_model", str(model)], check=True)
    return model


def install(cluster: Cluster, model: Path, image_names: Sequence[str] = ()) -> Installed:
    """Build the images that changed (of all, or of those named), fill the bucket, install the chart, make the team's
    namespace under `restricted`."""
    images.build(cluster, image_names, print)
    s3 = bucket.client(cluster)
    bucket.fill(s3, model)
    # A new image has the name of the old one: the Deployment must have another reason to start new pods.
    operator = images.Recipe.read("operator").key(images.Base.chosen(None))
    command = [
        *(str(binaries.path("helm")), "upgrade", "--install", RELEASE, str(CHART)),
        *("--kubeconfig", str(cluster.kubeconfig), "--namespace", SYSTEM, "--create-namespace"),
        *("--set", "image.pullPolicy=Never", "--set-string", f"podAnnotations.inputs={operator}"),
        *("--wait", "--timeout", "3m"),
    ]
    subprocess.run(command, check=True)
    team = Kubectl(cluster.kubeconfig, TEAM)
    team.apply(restricted_namespace(TEAM))
    team.apply(store_secret(cluster))
    return Installed(cluster, team, team.of(SYSTEM), s3)


def restricted_namespace(name: str) -> dict[str, Any]:
    """A namespace under Pod Security's `restricted`."""
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": enforced}}


def store_secret(cluster: Cluster) -> dict[str, Any]:
    """The Secret that runs name: the keys of the cluster's S3 server."""
    keys = {name: text for name, text in cluster.s3_settings().items() if name.startswith("AWS_")}
    wanted = {name: keys[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": wanted}
