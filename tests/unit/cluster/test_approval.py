"""`srr approve` in a cluster: one look, one write on what was looked at."""

import pytest
import yaml
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from tests.support.told_api_server import API, refusal

from selfrewarding.cluster.approval import approve_with, current_namespace
from selfrewarding.cluster.calls import Calls
from selfrewarding.cluster.protocol import Conflict, Forbidden, NotFound
from selfrewarding.plan.approval import NothingHeld

MODEL = {
    "name": "M2",
    "iteration": 2,
    "uri": "s3://runs/x",
    "digest": "d",
    "gate": "Held",
    "gateMessage": "too low",
}


def run(version="7", **metadata):
    return {
        "metadata": {"name": "demo", "resourceVersion": version} | metadata,
        "spec": {},
        "status": {"models": [MODEL]},
    }


@pytest.fixture
async def calls(server):
    async with ApiClient(Configuration(host=server.url)) as client:
        yield Calls(client)


async def test_the_annotation_is_set_on_what_was_looked_at(server, calls):
    server.say("GET", API, run())
    server.say("PATCH", API, run("8"))
    assert (await approve_with(calls, "lab", "demo", None)).name == "M2"
    [patch] = [asked for asked in server.asked if asked.method == "PATCH"]
    assert patch.body == {
        "metadata": {"resourceVersion": "7", "annotations": {"selfrewarding.dev/approve": "2/d"}}
    }
    assert patch.headers["Content-Type"] == "application/merge-patch+json"
    assert patch.query == {"fieldManager": "srr"}


async def test_a_status_write_in_between_is_looked_at_again(server, calls):
    server.say("GET", API, run("7"), run("8"))
    server.say("PATCH", API, (409, refusal(409, "the object has been modified", "Conflict"), {}), run("9"))
    assert (await approve_with(calls, "lab", "demo", 2)).iteration == 2
    assert [
        asked.body["metadata"]["resourceVersion"] for asked in server.asked if asked.method == "PATCH"
    ] == ["7", "8"]


async def test_a_gate_that_has_let_go_meanwhile_is_not_approved(server, calls):
    server.say("GET", API, run("7"), run("8") | {"status": {"models": []}})
    server.say("PATCH", API, (409, refusal(409, "the object has been modified", "Conflict"), {}))
    with pytest.raises(NothingHeld, match="No gate holds"):
        await approve_with(calls, "lab", "demo", None)


async def test_an_endless_quarrel_ends(server, calls):
    server.say("GET", API, run())
    server.say("PATCH", API, (409, refusal(409, "the object has been modified", "Conflict"), {}))
    with pytest.raises(Conflict, match="modified"):
        await approve_with(calls, "lab", "demo", None)
    assert len(server.paths("PATCH")) == 5


async def test_nothing_is_written_where_nothing_is_held(server, calls):
    server.say("GET", API, run() | {"status": {}})
    with pytest.raises(NothingHeld):
        await approve_with(calls, "lab", "demo", None)
    assert server.paths("PATCH") == []


async def test_missing_runs_and_rights_are_named(server, calls):
    gone = refusal(
        404, 'selfrewardingruns "demo" not found', "NotFound", name="demo", kind="selfrewardingruns"
    )
    server.say("GET", API, (404, gone, {}))
    with pytest.raises(NotFound, match="demo"):
        await approve_with(calls, "lab", "demo", None)
    server.say("GET", API, run())
    words = 'User "eve" cannot patch resource "selfrewardingruns" in API group "selfrewarding.dev" in the namespace "lab"'
    server.say("PATCH", API, (403, refusal(403, words, "Forbidden"), {}))
    with pytest.raises(Forbidden):
        await approve_with(calls, "lab", "demo", None)


def test_the_namespace_is_the_contexts(tmp_path):
    file = tmp_path / "config"
    context = {"cluster": "c", "user": "u"}
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}], "users": [{"name": "u", "user": {}}],
    }  # fmt: skip
    for namespace, expected in (({"namespace": "lab"}, "lab"), ({}, "default")):
        whole = document | {"contexts": [{"name": "here", "context": context | namespace}]}
        file.write_text(yaml.safe_dump(whole))
        assert current_namespace(file) == expected
    assert current_namespace(tmp_path / "none") == "default"
