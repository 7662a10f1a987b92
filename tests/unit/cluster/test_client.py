"""The way to the API server: which configuration is taken, and what a person reads where there is none."""

import pytest
import yaml

from selfrewarding.cluster.client import NoCluster, make_client

KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "here",
    "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:8001"}}],
    "users": [{"name": "u", "user": {"token": "t0ken"}}],
}


@pytest.fixture
def kubeconfig(tmp_path):
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(KUBECONFIG))
    return path


async def authorization(client):
    headers = {}
    await client.update_params_for_auth(headers, [], ["BearerToken"], "/", "GET", None)
    return headers.get("authorization") or headers.get("Authorization")


async def test_a_kubeconfig_goes_before_the_service_account(kubeconfig):
    env = {"KUBECONFIG": str(kubeconfig), "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    for given in ({"kubeconfig": kubeconfig, "environ": {}}, {"environ": env}):
        async with await make_client(**given) as client:
            assert client.configuration.host == "http://127.0.0.1:8001"
            assert await authorization(client) == "Bearer t0ken"
            assert client.user_agent.startswith("selfrewarding-operator/")


async def test_credentials_of_a_kubeconfig_are_read_again_from_time_to_time(kubeconfig, monkeypatch):
    async with await make_client(kubeconfig, {}) as client:
        kubeconfig.write_text(yaml.safe_dump(KUBECONFIG).replace("t0ken", "t1ken"))
        assert await authorization(client) == "Bearer t0ken"
        monkeypatch.setattr("selfrewarding.cluster.client._RENEW_EVERY", 0.0)
        assert await authorization(client) == "Bearer t1ken"


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"KUBECONFIG": "/nowhere/kubeconfig"}, 'the kubeconfig "/nowhere/kubeconfig"'),
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"},
            "the pod's service account",
        ),
    ],
)
async def test_without_a_way_to_a_cluster_people_are_told_what_to_set(environ, place):
    with pytest.raises(NoCluster, match="Set KUBECONFIG") as caught:
        await make_client(environ=environ)
    assert place in str(caught.value)


async def test_a_broken_kubeconfig_is_told_as_one(tmp_path):
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(KUBECONFIG | {"current-context": "elsewhere"}))
    with pytest.raises(NoCluster, match="elsewhere"):
        await make_client(path)
