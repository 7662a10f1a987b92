"""From a manifest's environment to the one on this machine; GPUs, ports and probes."""

import asyncio
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrewarding.local.devices import Devices, visible_gpus
from selfrewarding.local.pod_environment import Machine, PodPlace, expand, launch, make_volumes
from selfrewarding.local.pod_spec import Probe, UnsupportedManifest, gpus_of, read_pod
from selfrewarding.local.ports import free_port
from selfrewarding.local.probes import answers


@pytest.fixture
def place(tmp_path: Path) -> PodPlace:
    """Where a pod is on this machine."""
    return PodPlace(
        name="p",
        uid="u",
        namespace="ns",
        folder=tmp_path / "pod",
        scratch=tmp_path / "s",
        state=tmp_path,
        processes=3,
    )


def launched(objects, place, *, env=(), machine=None, **more):
    pod = read_pod(objects.template("", env=list(env), **more))
    maps = {"settings": {"data": {"a": "1", "b": "2"}}}
    place.scratch.mkdir(exist_ok=True)
    volumes = make_volumes(pod, place, maps.get)
    machine = machine or Machine({"PATH": "/usr/bin"}, place.state, cores=8)
    return launch(
        pod.program,
        pod,
        place,
        volumes=volumes,
        machine=machine,
        addresses=lambda host: (),
        config_maps=maps.get,
    )


def test_values_come_from_where_kubernetes_takes_them(objects, place):
    def field(path):
        return {"valueFrom": {"fieldRef": {"fieldPath": path}}}

    env = [
        {"name": "NAME", **field("metadata.name")},
        {"name": "SPACE", **field("metadata.namespace")},
        {"name": "IP", **field("status.podIP")},
        {"name": "STAGE", **field("metadata.labels['selfrewarding.dev/stage']")},
        {"name": "CORES", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "a"}}},
        {"name": "GONE", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "a", "optional": True}}},
    ]
    fields = {
        "envFrom": [{"configMapRef": {"name": "settings"}, "prefix": "P_"}, {"secretRef": {"name": "s3"}}]
    }
    seen = launched(objects, place, env=env, container_fields=fields).env
    assert {name: seen[name] for name in ("NAME", "SPACE", "IP", "STAGE", "CORES", "A", "P_a", "P_b")} == {
        "NAME": "p", "SPACE": "ns", "IP": "127.0.0.1", "STAGE": "Rollout", "CORES": "8", "A": "1", "P_a": "1", "P_b": "2",
    }  # fmt: skip
    assert "GONE" not in seen
    assert seen["OMP_NUM_THREADS"] == "2"


def test_a_manifests_own_thread_count_wins(objects, place):
    assert (
        launched(objects, place, env=[{"name": "OMP_NUM_THREADS", "value": "5"}]).env["OMP_NUM_THREADS"]
        == "5"
    )


def test_tmp_is_a_short_folder_of_the_pods_own(objects, place):
    fields = {"volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}
    volumes = [{"name": "tmp", "emptyDir": {}}]
    env = [{"name": "HOME", "value": "/tmp"}]
    seen = launched(objects, place, env=env, container_fields=fields, volumes=volumes).env
    assert (seen["HOME"], seen["TMPDIR"]) == (str(place.scratch), str(place.scratch))


def test_claims_outlive_pods_and_host_paths_are_themselves(objects, place):
    fields = {
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "host", "mountPath": "/host"}]
    }
    volumes = [
        {"name": "data", "persistentVolumeClaim": {"claimName": "shared"}},
        {"name": "host", "hostPath": {"path": "/srv"}},
    ]
    env = [{"name": "DATA", "value": "/data/x"}, {"name": "HOST", "value": "/host/y"}]
    seen = launched(objects, place, env=env, container_fields=fields, volumes=volumes).env
    assert (seen["DATA"], seen["HOST"]) == (str(place.state / "claims/shared/x"), "/srv/y")


def test_relative_entries_of_pythonpath_become_absolute(objects, place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    machine = Machine({"PATH": "/usr/bin", "PYTHONPATH": "operator:/abs"}, None)
    assert launched(objects, place, machine=machine).env["PYTHONPATH"] == f"{tmp_path}/operator:/abs"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"command": []}, "has no command"),
        ({"readinessProbe": {"grpc": {"port": 1}}}, "readinessProbe by grpc"),
    ],
)
def test_what_a_process_cannot_be_is_refused(objects, fields, words):
    with pytest.raises(UnsupportedManifest, match=words):
        read_pod(objects.template("", container_fields=fields))


def test_the_program_is_found_among_the_users_containers(objects):
    template = objects.template("")
    template["spec"]["containers"].insert(0, {"name": "log-shipper", "image": "x", "command": ["ship"]})
    assert read_pod(template).program.name == "sampler"


def test_gpus_are_the_extended_resources():
    wanted = {
        "limits": {"nvidia.com/gpu": "2", "memory": "1Gi"},
        "requests": {"nvidia.com/gpu": "2", "cpu": "1"},
    }
    assert gpus_of(wanted) == 2
    assert gpus_of({}) == 0


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)/x", "1/x"),
        ("$$(A)", "$(A)"),
        ("$(B)", "$(B)"),
        ("$A ${A}", "$A ${A}"),
        ("$(A)$(A)", "11"),
        ("$", "$"),
    ],
)
def test_expansion_is_that_of_kubernetes(text, expanded):
    assert expand(text, {"A": "1"}) == expanded


@given(st.text())
def test_expansion_never_raises_and_leaves_text_without_dollars(text):
    expanded = expand(text, {"A": "1"})
    assert "$" in text or expanded == text


def test_gpus_of_the_machine(tmp_path):
    for name in ("nvidia0", "nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == ("0", "2", "10")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "GPU-a, 3"}, tmp_path) == ("GPU-a", "3")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}, tmp_path) == ()


def test_gpus_are_given_whole_or_not_at_all():
    devices = Devices(("0", "1", "2"))
    assert devices.take("a", 2) == ("0", "1")
    assert devices.take("b", 2) is None
    assert devices.take("c", 0) == ()
    devices.give_back("a")
    assert devices.take("b", 3) == ("0", "1", "2")


def test_a_port_that_is_listened_on_is_not_free():
    port = free_port(set())
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        taken = set(range(20_000, 30_000)) - {port}
        with pytest.raises(OSError, match="are taken"):
            free_port(taken)
    assert free_port(taken) == port


async def test_a_probe_without_a_path_is_a_connection():
    probe = Probe(path=None, initial_delay=0, period=1, timeout=1, failure_threshold=1, success_threshold=1)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await answers(probe, port)
    server.close()
    await server.wait_closed()
    assert not await answers(probe, port)
