"""Fixtures of the tests that need a cluster: a whole one, or the control plane alone.

Their tests are skipped, with one line that says why, where no test cluster can run (no root, no Go). Run them in one
process: a cluster is shared by a session. SRR_CLUSTER names the whole cluster (`default`, as `make cluster-up` has
it): one that runs already is used and left running.
"""

import functools
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.testbed import cluster as testbed
from tests.cluster.testbed.handle import Cluster
from tests.cluster.testbed.kubectl import Kubectl

_missing = functools.cache(testbed.missing)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip from one place, not in the fixture: pytest then prints one line for all these tests, not one for each."""
    if "possible" in getattr(item, "fixturenames", ()):
        _skip_if_missing()


def _skip_if_missing() -> None:
    if reason := _missing():
        pytest.skip(f"NO TEST CLUSTER, SO THE OPERATOR IS NOT TESTED ON KUBERNETES: {reason}")


@pytest.fixture(scope="session")
def possible() -> None:
    """Asked for by whatever starts a cluster; by name, or through `request.getfixturevalue`."""
    _skip_if_missing()


@pytest.fixture(scope="session")
def cluster(possible: None) -> Iterator[Cluster]:
    """A whole cluster: pods run, training-operator runs, S3 answers."""
    with testbed.lasting(os.environ.get("SRR_CLUSTER", "default"), say=print) as found:
        yield found


@pytest.fixture(scope="session")
def api_server(possible: None) -> Iterator[Cluster]:
    """etcd, API server and controller manager of this session's own, in seconds; no node, no pods, no CRD of ours."""
    with testbed.passing("api", node=False, say=print) as found:
        yield found


@pytest.fixture(scope="session")
def kubeconfig(cluster: Cluster) -> Path:
    """The administrator's kubeconfig of the whole cluster."""
    return cluster.kubeconfig


@pytest.fixture(scope="session")
def kube(cluster: Cluster) -> Kubectl:
    """kubectl for the whole cluster."""
    return Kubectl(cluster.kubeconfig)


@pytest.fixture(scope="session")
def api_kube(api_server: Cluster) -> Kubectl:
    """kubectl for the control plane alone."""
    return Kubectl(api_server.kubeconfig)


@pytest.fixture(scope="session")
def crd(api_kube: Kubectl, repository: Path) -> str:
    """Our CRD, served by the control plane alone; its name. (The whole cluster gets it from the chart.)"""
    name = "selfrewardingruns.selfrewarding.dev"
    api_kube.apply(repository / "crds" / "selfrewardingruns.yaml")
    api_kube.wait(f"crd/{name}", "condition=Established")
    return name


@pytest.fixture
def new_namespace() -> Iterator[Callable[..., Kubectl]]:
    """Make namespaces with random names, under Pod Security's `restricted` unless told otherwise; gone afterwards."""
    made: list[Kubectl] = []

    def make(kube: Kubectl, enforce: str = "restricted") -> Kubectl:
        name = f"test-{uuid.uuid4().hex[:8]}"
        labels = {"pod-security.kubernetes.io/enforce": enforce}
        metadata: dict[str, Any] = {"name": name, "labels": labels}
        kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        made.append(kube.of(name))
        made[-1].wait("serviceaccount/default", "create", 30)
        return made[-1]

    yield make
    for kube in made:
        kube.delete("namespace", kube.namespace, wait=False)


@pytest.fixture
def namespace(kube: Kubectl, new_namespace: Callable[..., Kubectl]) -> Kubectl:
    """kubectl for a restricted namespace of this test's own on the whole cluster."""
    return new_namespace(kube)


@pytest.fixture
def api_namespace(api_kube: Kubectl, new_namespace: Callable[..., Kubectl]) -> Kubectl:
    """kubectl for a restricted namespace of this test's own on the control plane alone."""
    return new_namespace(api_kube)
