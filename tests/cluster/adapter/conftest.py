"""A run of each test's own, and the adapter that looks after it."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from tests.cluster.adapter.scene import Here
from tests.cluster.faults.api_client import NAMESPACES, RUNS, Api
from tests.cluster.faults.runs import install_crds
from tests.cluster.testbed.handle import Cluster
from tests.support.builders import SPEC

from selfrewarding.api import labels
from selfrewarding.cluster.client import make_client
from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.kubernetes import KubernetesCluster


@pytest_asyncio.fixture
async def here(api_server: Cluster, repository: Path) -> AsyncIterator[Here]:
    """A run in a namespace, and an adapter that nobody has told anything."""
    namespace, requests = f"adapter-{uuid.uuid4().hex[:8]}", []
    async with Api(api_server.kubeconfig) as api, await make_client(api_server.kubeconfig) as client:
        await install_crds(api, repository)
        await api.create(NAMESPACES, None, {"metadata": {"name": namespace}})
        run = {
            "apiVersion": labels.API_VERSION,
            "kind": labels.KIND,
            "metadata": {"name": "demo"},
            "spec": SPEC,
        }
        await api.create(RUNS, namespace, run)
        inventory = Inventory()
        cluster = KubernetesCluster(
            client, inventory, on_request=lambda verb, kind, code, _: requests.append((verb, kind, code))
        )
        yield Here(api, cluster, inventory, namespace, requests, api_server.kubeconfig)
        await cluster.aclose()
        await api.delete(NAMESPACES, None, namespace)
