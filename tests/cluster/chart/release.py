"""A release of the chart on a control plane: what the tests in this folder share.

Must not: assert what a release should do. Neighbours: `tests/support/helm.py` runs Helm, `testbed/kubectl.py` kubectl.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.testbed.kubectl import Kubectl
from tests.support.helm import CHART, Helm

RELEASE, NAMESPACE = "srr", "selfrewarding-system"
NAME = "srr-selfrewarding-operator"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{NAME}"
CRD = "selfrewardingruns.selfrewarding.dev"
RUNS = ("selfrewarding.dev", "selfrewardingruns")


def install(helm: Helm, *arguments: str, chart: Path = CHART) -> str:
    """What Helm says, with the notes. Raises HelmFailed."""
    return helm.run(
        "install", RELEASE, str(chart), "--namespace", NAMESPACE, "--create-namespace", *arguments
    )


def upgrade(helm: Helm, *arguments: str, chart: Path = CHART) -> str:
    """The same for an upgrade."""
    return helm.run("upgrade", RELEASE, str(chart), "--namespace", NAMESPACE, *arguments)


def uninstall(helm: Helm) -> str:
    """The same for the end."""
    return helm.run("uninstall", RELEASE, "--namespace", NAMESPACE)


def may(
    kube: Kubectl,
    verb: str,
    group: str,
    resource: str,
    *,
    name: str = "",
    account: str = ACCOUNT,
) -> bool:
    """Whether the API server would let somebody; `resource` may have a subresource. The namespace "" means all."""
    resource, _, subresource = resource.partition("/")
    attributes = {
        "namespace": kube.namespace,
        "verb": verb,
        "group": group,
        "resource": resource,
        "subresource": subresource,
        "name": name,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": account, "resourceAttributes": attributes},
    }
    said = kube.of("default")("create", "--filename=-", "--output=json", text=json.dumps(review))
    return bool(json.loads(said)["status"]["allowed"])


def rights(kube: Kubectl, account: str) -> set[tuple[str, str, str]]:
    """What the API server says that somebody may do in a namespace: API group, resource, verb."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": kube.namespace},
    }
    said = kube(
        "create", "--filename=-", "--output=json", "--validate=false", "--as", account, "--as-group",
        "system:authenticated", text=json.dumps(review),
    )  # fmt: skip
    return {
        (group, resource, verb)
        for rule in json.loads(said)["status"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def eventually(true: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Wait until `true()` is. Raises AssertionError."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.1)
