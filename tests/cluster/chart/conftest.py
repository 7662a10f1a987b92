"""A control plane without a node and without our kind, and Helm and kubectl that talk to it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cluster.chart.release import CRD
from tests.cluster.testbed import binaries
from tests.cluster.testbed import cluster as testbed
from tests.cluster.testbed.handle import Cluster
from tests.cluster.testbed.kubectl import Kubectl
from tests.support.helm import Helm


@pytest.fixture(scope="session")
def chart_server(possible: None) -> Iterator[Cluster]:
    """etcd, API server and controller manager for this folder alone: other tests want our kind to stay."""
    binaries.build(binaries.part("helm"))
    with testbed.passing("chart", node=False, say=print) as found:
        yield found


@pytest.fixture(scope="session")
def kube(chart_server: Cluster) -> Kubectl:
    """kubectl for this control plane."""
    return Kubectl(chart_server.kubeconfig)


@pytest.fixture
def helm(chart_server: Cluster, tmp_path: Path, kube: Kubectl) -> Iterator[Helm]:
    """Helm on a control plane without our kind; what a test leaves is removed."""
    found = Helm(binaries.path("helm"), tmp_path, chart_server.kubeconfig)
    _clean(found, kube)
    yield found
    _clean(found, kube)


@pytest.fixture
def team(helm: Helm, kube: Kubectl, new_namespace: Callable[..., Kubectl]) -> Kubectl:
    """kubectl for a namespace of users, of this test's own."""
    return new_namespace(kube)


def _clean(helm: Helm, kube: Kubectl) -> None:
    for release in json.loads(helm.run("list", "--all-namespaces", "--output", "json")):
        helm.run("uninstall", release["name"], "--namespace", release["namespace"], "--wait")
    kube.delete("crd", CRD)
