"""Lists as kopf gets them: light, and all the same to whoever reads them."""

import copy

import pytest
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from tests.support.api_objects import child, container_status, deployment, ended, pod
from tests.support.told_api_server import API, KEY, PODS, stored_run

from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.session import open_session
from selfrewarding.cluster.slim import lighten

OBJECTS = {
    "ConfigMap": child("ConfigMap"),
    "Service": child("Service"),
    "NetworkPolicy": child("NetworkPolicy"),
    "Deployment": deployment(ready=1),
    "Job": child("Job", status={"active": 1, "ready": 1}),
    "PyTorchJob": child("PyTorchJob", spec={"pytorchReplicaSpecs": {"Worker": {"replicas": 2}}}),
    "Pod": pod(container_status("sampler", ended(0, message="{}")), phase="Succeeded", gpus=1),
}


class Nobody:
    """A listener that does not listen."""

    def asks(self, asked): ...

    def answered(self, asked, code, seconds): ...


def holdings(raw):
    inventory = Inventory()
    assert inventory.put(raw) == KEY
    return inventory.of(KEY)


@pytest.mark.parametrize("kind", OBJECTS)
def test_a_light_object_reads_as_the_whole_one(kind):
    light = lighten(copy.deepcopy(OBJECTS[kind]), kind)
    assert holdings(light) == holdings(OBJECTS[kind])
    assert light["metadata"]["resourceVersion"] == OBJECTS[kind]["metadata"]["resourceVersion"]


async def test_a_list_is_light_and_a_run_is_whole(server):
    run = stored_run()
    run["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    whole = OBJECTS["Pod"] | {"spec": OBJECTS["Pod"]["spec"] | {"volumes": [{"name": "large"}]}}
    bare = {name: value for name, value in whole.items() if name not in ("kind", "apiVersion")}
    server.say("GET", PODS, {"kind": "PodList", "items": [bare]})
    server.say("GET", API.rpartition("/")[0], {"kind": "SelfRewardingRunList", "items": [run]})
    server.say("GET", API, stored_run())
    async with ApiClient(Configuration(host=server.url)) as client:
        session = open_session(client, Nobody())
        async with session:
            [listed] = (await (await session.get(server.url + PODS)).json())["items"]
            [known] = (await (await session.get(server.url + API.rpartition("/")[0])).json())["items"]
            single = await (await session.get(server.url + API)).json()
    assert "volumes" not in listed["spec"]
    assert holdings(listed) == holdings(whole)
    assert known == stored_run() == single
