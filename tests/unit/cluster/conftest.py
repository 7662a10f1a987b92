"""The adapter against an API server that answers as it is told."""

from datetime import UTC, datetime

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from tests.support.set_clock import SetClock
from tests.support.told_api_server import Server

from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.kubernetes import KubernetesCluster


@pytest.fixture
async def server():
    told = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", told.handle)
    async with TestServer(app) as running_server:
        told.url = str(running_server.make_url("")).rstrip("/")
        yield told


@pytest.fixture
def inventory():
    return Inventory()


@pytest.fixture
def requests():
    return []


@pytest.fixture
def clock():
    return SetClock(datetime(2026, 1, 31, 11, 1, tzinfo=UTC))


@pytest.fixture
async def cluster(server, inventory, requests, clock):
    configuration = Configuration(host=server.url)
    configuration.api_key["BearerToken"] = "bearer t0ken"
    async with ApiClient(configuration) as client:
        made = KubernetesCluster(
            client, inventory, on_request=lambda *told: requests.append(told), clock=clock, instance="srr-0"
        )
        yield made
        await made.aclose()
