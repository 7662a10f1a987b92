"""The test cluster itself: what the other tests take for granted about it."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.testbed import binaries, handle, leftovers, network, parts, processes
from tests.cluster.testbed import cluster as testbed
from tests.cluster.testbed.handle import Cluster, TestbedError
from tests.cluster.testbed.kubectl import Kubectl
from tests.cluster.testbed.parts import SHELL_IMAGE

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
Namespaces = Callable[..., Kubectl]


def pod(name: str, script: str, **container: Any) -> dict[str, Any]:
    """A pod that the level `restricted` admits; it runs a shell script once."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "main",
                    "image": SHELL_IMAGE,
                    "command": ["sh", "-c", script],
                    "securityContext": RESTRICTED,
                    "resources": {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "10m"}},
                }
                | container
            ],
        },
    }


def run(kube: Kubectl, name: str, script: str, **container: Any) -> str:
    """What a pod's script prints; the pod must succeed."""
    kube.apply(pod(name, script, **container))
    try:
        kube.wait(f"pod/{name}", "jsonpath={.status.phase}=Succeeded")
    except TestbedError as error:
        raise AssertionError(f"{error}\n{kube('describe', 'pod', name)}\n{kube.logs(name)}") from error
    return kube.logs(name)


def test_a_restricted_pod_runs_and_its_log_is_read(namespace: Kubectl) -> None:
    assert run(namespace, "hello", "id -u; touch /file 2>&1 || true").split("\n")[:2] == [
        "65532",
        "touch: /file: Read-only file system",
    ]


def test_pod_security_is_enforced(namespace: Kubectl) -> None:
    manifest = pod("root", "id")
    manifest["spec"]["securityContext"] = {"runAsUser": 0}
    with pytest.raises(TestbedError, match="violates PodSecurity"):
        namespace.apply(manifest)


def test_services_are_found_by_name_and_balance_to_pods(namespace: Kubectl) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}
    ports = {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]}
    server = pod("server", "echo served > /tmp/page; httpd -f -p 8080 -h /tmp")
    server["spec"]["volumes"] = [{"name": "tmp", "emptyDir": {}}]
    server["spec"]["containers"][0]["volumeMounts"] = [{"name": "tmp", "mountPath": "/tmp"}]
    namespace.apply([server, {**service, "spec": ports}])
    namespace.wait("pod/server", "condition=Ready")
    full = f"web.{namespace.namespace}.svc.cluster.local"
    script = (
        f"nslookup web && for name in web {full}; do fetch http://$name/page; done; ! nslookup absent.example"
    )
    printed = run(namespace, "client", script)
    assert printed.count("served") == 2
    assert "Address: 10.96." in printed


def test_the_host_reaches_pods(namespace: Kubectl, cluster: Cluster) -> None:
    namespace.apply(pod("server", "echo from a pod | nc -l -p 8080"))
    namespace.wait("pod/server", "condition=Ready")
    address = namespace.get("pod", "server")["status"]["podIP"]
    with socket.create_connection((address, 8080), timeout=10) as connection:
        assert connection.recv(100) == b"from a pod\n"


def test_s3_is_one_address_for_host_and_pods(namespace: Kubectl, cluster: Cluster) -> None:
    import boto3
    from botocore.config import Config

    settings = cluster.s3_settings()
    client = boto3.client(
        "s3",
        endpoint_url=cluster.s3_endpoint,
        region_name=settings["AWS_REGION"],
        aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    bucket = f"test-{uuid.uuid4().hex[:8]}"
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="row", Body=b"written by the host")
    url = client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "row"}, ExpiresIn=120)
    script = f"fetch '{url}'; fetch {cluster.s3_endpoint}/{bucket}/row"
    printed = run(namespace, "reader", script)
    assert "written by the host" in printed
    assert "403 Forbidden" in printed, "without a signature nothing may be read"
    assert cluster.s3_environment.stat().st_mode & 0o077 == 0


def test_a_pytorch_job_of_two_pods_succeeds(kube: Kubectl, new_namespace: Namespaces) -> None:
    # Its init container has no security context of its own, which `restricted` would refuse.
    baseline = new_namespace(kube, "baseline")

    def replica(meet: str) -> dict[str, Any]:
        script = f'echo "rank $RANK of $WORLD_SIZE with $MASTER_ADDR:$MASTER_PORT"; {meet}'
        container = {"name": "pytorch", "image": SHELL_IMAGE, "command": ["sh", "-c", script]}
        return {
            "replicas": 1,
            "restartPolicy": "Never",
            "template": {"spec": {"containers": [container]}},
        }

    # The master ends once the worker has found it by name; BusyBox's nc cannot look names up.
    address = "$(nslookup $MASTER_ADDR | sed -n 's/Address: //p')"
    worker = replica(f"until echo met | nc {address} $MASTER_PORT; do sleep 0.2; done")
    job = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "train"},
        "spec": {
            "runPolicy": {"cleanPodPolicy": "None"},
            "pytorchReplicaSpecs": {"Master": replica("nc -l -p $MASTER_PORT"), "Worker": worker},
        },
    }
    baseline.apply(job)
    baseline.wait("pytorchjob/train", "condition=Succeeded", 90)
    assert baseline.logs("train-master-0").split("\n")[:2] == ["rank 0 of 2 with train-master-0:23456", "met"]
    assert baseline.logs("train-worker-0").strip() == "rank 1 of 2 with train-master-0:23456"


def test_training_operators_webhook_refuses_a_bad_job(namespace: Kubectl) -> None:
    job = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": "bad"}, "spec": {}}
    with pytest.raises(TestbedError, match=r"validator\.pytorchjob|spec\.pytorchReplicaSpecs"):
        namespace.apply({**job, "spec": {"pytorchReplicaSpecs": {"Nobody": {}}}})


def test_gpus_are_counted(namespace: Kubectl) -> None:
    def gpus(count: int) -> dict[str, Any]:
        return {"resources": {"limits": {"nvidia.com/gpu": count, "cpu": "100m", "memory": "32Mi"}}}

    run(namespace, "fits", "true", **gpus(testbed.GPUS))
    namespace.apply(pod("too-many", "true", **gpus(testbed.GPUS + 1)))
    namespace.wait("pod/too-many", "condition=PodScheduled=false", 20)
    conditions = namespace.get("pod", "too-many")["status"]["conditions"]
    assert "Insufficient nvidia.com/gpu" in conditions[0]["message"]


@pytest.mark.parametrize("kill", [False, True], ids=["stop", "kill -9"])
def test_containers_survive_a_restart_of_containerd(namespace: Kubectl, cluster: Cluster, kill: bool) -> None:
    namespace.apply(pod("lasting", "while sleep 0.2; do date +%s; done"))
    namespace.wait("pod/lasting", "condition=Ready")
    before = namespace.get("pod", "lasting")["status"]["containerStatuses"][0]
    assert testbed.restart_part(cluster, "containerd", kill=kill) < 20
    time.sleep(3)  # kubelet looks once a second
    assert run(namespace, "after", "echo new pods start").strip() == "new pods start"
    after = namespace.get("pod", "lasting")["status"]["containerStatuses"][0]
    assert (after["containerID"], after["restartCount"]) == (before["containerID"], 0)
    assert "running" in after["state"]
    assert namespace.logs("lasting", "--tail=1"), "kubelet still finds its log"


def test_gpus_are_offered_again_after_a_restart_of_kubelet(cluster: Cluster, kube: Kubectl) -> None:
    testbed.restart_part(cluster, "kubelet")
    assert kube.get("node", handle.NODE_NAME)["status"]["allocatable"]["nvidia.com/gpu"] == str(testbed.GPUS)


def test_requests_of_others_are_in_the_audit_log(namespace: Kubectl, cluster: Cluster) -> None:
    mark = f"marked-{uuid.uuid4().hex[:8]}"
    namespace.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": mark}})
    end = time.monotonic() + 10
    while mark not in cluster.audit_log.read_text() and time.monotonic() < end:
        time.sleep(0.2)
    lines = [line for line in cluster.audit_log.read_text().splitlines() if mark in line]
    assert len(lines) == 1
    assert '"verb":"patch"' in lines[0]
    assert '"username":"kubernetes-admin"' in lines[0]


@pytest.fixture(scope="module")
def second(cluster: Cluster) -> Iterator[Cluster]:
    """Another cluster beside the first."""
    with testbed.passing("second", with_training_operator=False, say=print) as found:
        yield found


def test_two_clusters_live_side_by_side(
    kube: Kubectl, cluster: Cluster, second: Cluster, new_namespace: Namespaces
) -> None:
    assert {cluster.address, cluster.pod_cidr, cluster.service_cidr}.isdisjoint(
        {second.address, second.pod_cidr, second.service_cidr}
    )
    here, there = new_namespace(kube), new_namespace(Kubectl(second.kubeconfig))
    lasting = pod("lasting", "sleep 1000")
    for each in (here, there):
        each.apply(lasting)
        each.wait("pod/lasting", "condition=Ready")
    time.sleep(12)  # kubelet ends pods that it does not know within ten seconds
    for each in (here, there):
        assert each.get("pod", "lasting")["status"]["phase"] == "Running"
        assert run(each, "one-more", "echo ran").strip() == "ran"


def test_up_again_finds_it_running(second: Cluster) -> None:
    said: list[str] = []
    assert testbed.up(second.name, with_training_operator=False, say=said.append) == second
    assert said == [f"cluster {second.name} is already up"]
    with pytest.raises(TestbedError, match="take it down first"):
        testbed.up(second.name, say=said.append)


def test_a_killed_cluster_is_cleaned_and_started_anew(second: Cluster, new_namespace: Namespaces) -> None:
    there = new_namespace(Kubectl(second.kubeconfig))
    there.apply(pod("lasting", "sleep 1000"))
    there.wait("pod/lasting", "condition=Ready")
    of_pods = processes.in_pods(second)
    assert of_pods
    killed = processes.in_namespace(second)
    for process in killed:
        process.signal(signal.SIGKILL)
    assert processes.wait_gone(killed, 10)
    assert set(testbed.dead_parts(second)) >= {"etcd", "kubelet", "containerd"}

    said: list[str] = []
    testbed.up(second.name, with_training_operator=False, say=said.append)
    assert any(line.startswith("leftovers") for line in said)
    assert not any(process.alive for process in of_pods)
    fresh = new_namespace(Kubectl(second.kubeconfig))
    assert run(fresh, "hello", "echo new").strip() == "new"


@pytest.mark.usefixtures("possible")
def test_nothing_stays_after_down() -> None:
    with testbed.passing("gone", with_training_operator=False, say=print) as gone:
        kube = Kubectl(gone.kubeconfig)
        kube.apply(pod("lasting", "sleep 1000"))
        kube.wait("pod/lasting", "condition=Ready")
        running = processes.in_namespace(gone)
        assert running
        assert processes.in_pods(gone)
    assert not any(process.alive for process in running)
    assert not network.exists(gone)
    assert not gone.namespace_file.exists()
    assert not gone.state.exists()
    assert not gone.run.exists()
    assert not processes.cgroup_roots(gone)
    assert leftovers._mounts(gone) == []
    assert not [file for file in leftovers._CNI_RESULTS.glob("*") if f"{gone.run}/" in file.read_text()]
    assert handle.load(gone.name) is None


def test_the_cluster_of_a_killed_session_is_taken_down_by_the_next(
    api_server: Cluster, repository: Path
) -> None:
    script = textwrap.dedent("""
        import os, signal
        from tests.cluster.testbed import cluster
        with cluster.passing("killed", node=False, say=print) as found:
            print(found.name, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    session = subprocess.run(
        [sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=False
    )
    assert session.returncode == -signal.SIGKILL, session.stderr
    left = handle.load(session.stdout.split()[-1])
    assert left is not None
    assert testbed.dead_parts(left) == [], "its parts outlive it"

    testbed.remove_orphans(print)
    assert testbed.dead_parts(left) == list(parts.CONTROL_PLANE)
    assert not network.exists(left)
    assert not left.state.exists()
    assert not left.run.exists()
    assert testbed.dead_parts(api_server) == [], "that of a session that lives is left alone"


def test_what_a_user_asks_for_while_a_session_has_it_stays(possible: None) -> None:
    with testbed.passing("wanted", node=False, say=print) as found:
        assert processes.running(found, "keeper") is not None
        testbed.up(found.name, node=False, say=print)
        assert processes.running(found, "keeper") is None
        assert not processes.orphaned(found)


def test_without_root_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    reason = testbed.missing()
    assert reason is not None
    assert "needs root" in reason
    assert "\n" not in reason


def test_without_go_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SRR_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = testbed.missing()
    assert reason is not None
    assert "needs Go" in reason
    assert "\n" not in reason
    with pytest.raises(binaries.BuildError, match="no `go` on PATH"):
        binaries.build(binaries.part("etcd"))


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(TestbedError, match="a cluster's name"):
        handle.state_folder("../elsewhere")
