"""Deployments: init containers, ports and addresses, probes, restarts in place, scaling."""

import asyncio
import json
import urllib.request

from selfrewarding.cluster.protocol import RunKey
from selfrewarding.local import pod as pod_module
from selfrewarding.local import probes
from selfrewarding.plan.observed import Phase

KEY = RunKey("default", "demo")


async def test_a_server_gets_its_files_a_free_port_and_becomes_ready(local, objects, server_script):
    fetch = {
        "name": "fetch-model",
        "command": [
            "python",
            "-c",
            "import os; open(os.environ['SRR_MODEL_DIR'] + '/weights', 'w').write('w')",
        ],
        "env": [{"name": "SRR_MODEL_DIR", "value": "/model"}],
        "volumeMounts": [{"name": "model", "mountPath": "/model"}],
    }
    script = """
import os
print(open(os.environ["SRR_MODEL_DIR"] + "/weights").read(), os.environ["SRR_HOST"], flush=True)
"""
    fields = {"volumeMounts": [{"name": "model", "mountPath": "/model"}]}
    volumes = [{"name": "model", "emptyDir": {}}]
    manifest = objects.deployment(
        script + server_script,
        initContainers=[fetch],
        volumes=volumes,
        container_fields=fields,
        env=[{"name": "SRR_MODEL_DIR", "value": "/model"}],
    )
    await local.create(objects.config_map(), manifest)
    seen = await local.until(lambda seen: seen.pods and seen.pods[0].ready)
    child = await local.child("Deployment")
    assert (child.replicas, child.ready_replicas, child.phase) == (1, 1, Phase.RUNNING)
    assert (child.holder, seen.pods[0].stage, seen.pods[0].restarts) == ("0123456789abcdef-policy", None, 0)
    port = local.cluster.pods()[0].port
    assert port != 8000
    answer = await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/health")
    assert answer.read() == b"ok"
    assert local.log("demo-server-0").startswith("w 127.0.0.1\n")


async def test_a_jobs_address_of_a_service_is_that_of_all_its_servers(local, objects, server_script):
    script = "import os; print(os.environ['SRR_POLICY_URL'], os.environ['SRR_JUDGE_URL'], os.environ['NOTE'])"
    env = [
        {"name": "SRR_POLICY_URL", "value": "http://demo-policy:8000"},
        {"name": "SRR_JUDGE_URL", "value": "http://judge.example:8000/v1"},
        {"name": "NOTE", "value": "http://demo-policy:8000"},
    ]
    await local.create(
        objects.config_map(),
        objects.service(),
        objects.deployment(server_script, replicas=2),
        objects.job(script, env=env),
    )
    seen = await local.until(lambda seen: any(pod.phase is Phase.SUCCEEDED for pod in seen.pods))
    servers = sorted(
        (record for record in local.cluster.pods() if record.port), key=lambda record: record.index
    )
    policy, judge, note = local.log("demo-job-0").split()
    assert policy == ",".join(f"http://127.0.0.1:{record.port}" for record in servers)
    assert len({record.port for record in servers}) == 2
    assert judge == "http://judge.example:8000/v1"
    assert note == "http://demo-policy:8000"
    assert len(seen.pods) == 3


async def test_a_server_that_ends_is_started_again_in_place_with_the_same_port(
    local, objects, server_script, monkeypatch
):
    monkeypatch.setattr(pod_module, "FIRST_RESTART", 0.1)
    script = """
import os, pathlib, sys
first = pathlib.Path(os.environ["SRR_SCRATCH"], "first")
if not first.exists():
    first.touch(); print("port", os.environ["SRR_PORT"], flush=True); sys.exit(7)
print("port", os.environ["SRR_PORT"], flush=True)
"""
    await local.create(objects.config_map(), objects.deployment(script + server_script))
    seen = await local.until(lambda seen: seen.pods and seen.pods[0].ready)
    assert (seen.pods[0].restarts, seen.pods[0].exit_code, seen.pods[0].reason) == (1, 7, "Error")
    lines = [line for line in local.log("demo-server-0").splitlines() if line.startswith("port")]
    assert len(lines) == 2
    assert len(set(lines)) == 1


async def test_a_failing_init_container_is_told_with_its_message(local, objects):
    message = json.dumps({"failure": "ParentMissing", "message": "the model is gone", "parent": "ff00"})
    fetch = {
        "name": "fetch-model",
        "command": [
            "python",
            "-c",
            f"import os, sys; open(os.environ['SRR_TERMINATION_LOG'], 'w').write('{message}'); sys.exit(4)",
        ],
        "env": [{"name": "SRR_TERMINATION_LOG", "value": "/dev/termination-log"}],
    }
    await local.create(objects.config_map(), objects.deployment("", initContainers=[fetch]))
    seen = await local.until(lambda seen: seen.pods and seen.pods[0].restarts)
    pod = seen.pods[0]
    assert (pod.waiting_reason, pod.exit_code, pod.ready, pod.phase) == (
        "CrashLoopBackOff",
        4,
        False,
        Phase.PENDING,
    )
    assert (pod.termination.failure, pod.termination.parent) == ("ParentMissing", "ff00")


async def test_a_server_that_does_not_answer_in_time_is_started_again(local, objects, monkeypatch):
    monkeypatch.setattr(pod_module, "FIRST_RESTART", 0.1)
    fields = {
        "startupProbe": {
            "httpGet": {"path": "/health", "port": "http"},
            "periodSeconds": 1,
            "failureThreshold": 1,
        }
    }
    await local.create(
        objects.config_map(), objects.deployment("import time; time.sleep(60)", container_fields=fields)
    )
    seen = await local.until(lambda seen: seen.pods and seen.pods[0].restarts)
    assert seen.pods[0].exit_code == 143
    assert "the startup probe had no answer for 1 s" in local.log("demo-server-0")


async def test_a_server_that_no_longer_answers_is_started_again(local, objects, server_script, monkeypatch):
    monkeypatch.setattr(probes, "PATIENT", 0.2)
    monkeypatch.setattr(pod_module, "FIRST_RESTART", 0.1)
    script = server_script.replace(
        '"/health"', '"/health" and not os.path.exists(os.environ["SRR_SCRATCH"] + "/sick")'
    )
    live = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 0.2, "failureThreshold": 2}
    await local.create(
        objects.config_map(), objects.deployment(script, container_fields={"livenessProbe": live})
    )
    seen = await local.until(lambda seen: seen.pods and seen.pods[0].ready)
    sick = local.state.pods / seen.pods[0].uid / "volumes" / "scratch" / "sick"
    sick.touch()
    await local.until(lambda seen: seen.pods[0].restarts and not seen.pods[0].ready)
    sick.unlink()
    await local.until(lambda seen: seen.pods[0].ready)
    assert "the liveness probe failed 2 times" in local.log("demo-server-0")


async def test_scaling_starts_and_ends_servers(local, objects, server_script):
    await local.create(objects.config_map(), objects.service(), objects.deployment(server_script))
    await local.until(lambda seen: [pod.ready for pod in seen.pods] == [True])
    run = await local.cluster.get_run(KEY)
    await local.cluster.scale(run, "demo-server", 2)
    await local.until(lambda seen: [pod.ready for pod in seen.pods] == [True, True])
    await local.cluster.scale(run, "demo-server", 0)
    await local.until(lambda seen: not seen.pods)
    child = await local.child("Deployment")
    assert (child.replicas, child.ready_replicas) == (0, 0)


async def test_a_deleted_server_leaves_within_its_grace_and_no_new_one_comes(local, objects, server_script):
    await local.create(objects.config_map(), objects.deployment(server_script))
    await local.until(lambda seen: seen.pods and seen.pods[0].ready)
    await local.delete(await local.child("Deployment"))
    await local.until(lambda seen: not seen.pods)
    assert not [child for child in (await local.observe()).children if child.kind == "Deployment"]


async def test_a_pod_that_cannot_be_started_says_why_and_waits(local, objects):
    env = [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.unknown"}}}]
    await local.create(objects.config_map(), objects.deployment("", env=env))
    seen = await local.until(lambda seen: seen.pods and seen.pods[0].waiting_reason)
    assert (seen.pods[0].waiting_reason, seen.pods[0].phase) == ("CreateContainerConfigError", Phase.PENDING)
    assert "spec.unknown" in seen.pods[0].waiting_message
    await local.delete(await local.child("Deployment"))
    assert (await local.observe()).pods == ()
