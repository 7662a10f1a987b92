"""What is left after `srr` was killed, and what the next start makes of it."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest
from tests.support.local_cluster import RAW

from selfrewarding.api.run import SelfRewardingRunStatus
from selfrewarding.cluster.protocol import Conflict, RunKey
from selfrewarding.local import processes
from selfrewarding.local.state import StateFolder
from selfrewarding.plan.actions import Event
from selfrewarding.plan.observed import Phase

HOST = """
import asyncio, json, os, sys
from datetime import UTC, datetime
from pathlib import Path
from selfrewarding.cluster.protocol import RunKey
from selfrewarding.local.cluster import LocalCluster
from selfrewarding.local.pod_environment import Machine
from selfrewarding.local.run_record import open_record
from selfrewarding.local.state import StateFolder

async def main(root, raw, manifests, wanted):
    state = StateFolder.of(root / "artifacts", "default", "demo")
    state.make()
    cluster = LocalCluster(state, open_record(state, raw, "default", datetime.now(UTC)), Machine(os.environ, root))
    await cluster.start()
    run = await cluster.get_run(RunKey("default", "demo"))
    for manifest in manifests:
        await cluster.create(run, manifest)
    is_up = lambda name: (state.logs / name).exists() and "up" in (state.logs / name).read_text()
    while not all(map(is_up, wanted)):
        await asyncio.sleep(0.05)
    print("running", flush=True)
    await asyncio.sleep(600)

root, (raw, manifests, wanted) = Path(sys.argv[1]), json.load(sys.stdin)
asyncio.run(main(root, raw, manifests, wanted))
"""

WORKER = """
import signal, subprocess, sys, time
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", DEAF], start_new_session=True)
time.sleep(0.3)
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
def host(tmp_path):
    """Another process that runs manifests in a local cluster on the same folder, until it is killed."""
    started = []
    env = os.environ | {"TMPDIR": str(tmp_path)}  # what a killed host leaves goes with the test's folder

    def start(*manifests, wanted):
        process = subprocess.Popen(
            [sys.executable, "-c", HOST, str(tmp_path)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        process.stdin.write(json.dumps([RAW, manifests, wanted]))
        process.stdin.close()
        assert process.stdout.readline() == "running\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def state_of(tmp_path):
    return StateFolder.of(tmp_path / "artifacts", "default", "demo")


def sessions_of(state):
    return [
        processes.Session.model_validate(session)
        for path in state.pods.glob("*/pod.json")
        for session in json.loads(path.read_text())["sessions"]
    ]


def wait_until(condition, timeout=60.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_pods_end_when_srr_is_killed(host, tmp_path, objects):
    process = host(objects.config_map(), objects.job(WORKER), wanted=["demo-job-0.log"])
    state = state_of(tmp_path)
    assert len(processes.survivors(state.root, sessions_of(state))) == 3
    process.kill()
    wait_until(lambda: not processes.survivors(state.root, sessions_of(state)))


async def test_kill_9_of_the_whole_tree_leaves_nothing_after_the_next_start(
    host, tmp_path, objects, server_script, make_local
):
    process = host(
        objects.config_map(),
        objects.job(WORKER),
        objects.deployment("print('up', flush=True)\n" + server_script),
        wanted=["demo-job-0.log", "demo-server-0.log"],
    )
    state = state_of(tmp_path)
    sessions = sessions_of(state)
    shims = {session.pid for session in sessions}
    # Everything that a supervisor would find by its parent dies; the grandchild with a session of its own stays.
    # Stopped first, so that neither srr nor a shim gets to react to the other's death.
    os.kill(process.pid, signal.SIGSTOP)
    for pid in (*shims, process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not shims & processes.survivors(state.root, sessions).keys())
    orphans = processes.survivors(state.root, sessions)
    assert orphans, "the test needs an orphan"

    local = await make_local()
    assert local.cluster.killed_at_start == len(orphans)
    assert not orphans.keys() & processes.survivors(state.root, sessions).keys()
    seen = await local.observe()
    job_pod = next(pod for pod in seen.pods if pod.holder is None)
    assert (job_pod.phase, job_pod.reason, job_pod.exit_code) == (Phase.FAILED, "NodeLost", None)
    assert (await local.child("Job")).phase is Phase.FAILED
    # The Deployment goes on with a new pod, as in a cluster.
    seen = await local.until(lambda seen: any(pod.ready for pod in seen.pods))
    assert [child.kind for child in seen.children] == ["ConfigMap", "Deployment", "Job"]
    await local.cluster.stop()
    assert not processes.survivors(state.root, sessions_of(state))


async def test_a_program_that_overwrote_its_environment_is_found_by_its_session(tmp_path, host, objects):
    script = """
import ctypes, os, time
# What setproctitle does: the memory that /proc/self/environ shows is written over.
environ = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
start = min(environ[number] for number in range(len(os.environ)))
ctypes.memset(start, 0, len(open("/proc/self/environ", "rb").read()) - 8)
print("up", flush=True)
time.sleep(600)
"""
    process = host(objects.config_map(), objects.job(script), wanted=["demo-job-0.log"])
    state = state_of(tmp_path)
    sessions = sessions_of(state)
    found = processes.survivors(state.root, sessions)
    assert None in found.values()
    assert None not in processes.survivors(state.root, []).values()
    process.kill()
    process.wait()
    processes.kill_survivors(state.root, sessions)
    assert processes.survivors(state.root, sessions) == {}


async def test_a_result_that_was_written_while_nobody_looked_counts(make_local, objects, tmp_path):
    local = await make_local()
    await local.create(objects.config_map(), objects.job("import time; time.sleep(600)"))
    await local.until(lambda seen: seen.pods[0].phase is Phase.RUNNING)
    record = local.cluster.pods()[0]
    folder = local.state.pods / record.uid
    frozen = (folder / "pod.json").read_bytes()
    objects_before = {path: path.read_bytes() for path in local.state.objects.iterdir()}
    local.cluster.kill()
    await local.cluster.stop()
    # As if srr had died between the program's end and its own note of it.
    for path, content in objects_before.items():
        path.write_bytes(content)
    folder.mkdir(exist_ok=True)
    (folder / "pod.json").write_bytes(frozen)
    (folder / "exit-sampler.json").write_text('{"code": 0, "signal": null}')
    again = await make_local()
    assert (await again.ended()).phase is Phase.SUCCEEDED
    assert (await again.child("Job")).phase is Phase.SUCCEEDED


async def test_stopping_deletes_what_has_not_ended_and_keeps_what_has(make_local, objects):
    local = await make_local()
    await local.create(
        objects.config_map(),
        objects.job("", name="done"),
        objects.job("import time; time.sleep(600)", name="open"),
    )
    await local.until(lambda seen: any(pod.phase is Phase.SUCCEEDED for pod in seen.pods))
    await local.cluster.stop()
    again = await make_local()
    seen = await again.observe()
    assert [(child.kind, child.name, child.phase) for child in seen.children] == [
        ("Job", "done", Phase.SUCCEEDED)
    ]
    assert [(pod.name, pod.phase) for pod in seen.pods] == [("done-0", Phase.SUCCEEDED)]


def test_an_old_session_whose_number_is_another_process_now_is_left_alone(tmp_path):
    other = subprocess.Popen(["sleep", "30"], start_new_session=True)
    try:
        session = processes.Session(
            pid=other.pid, start_ticks=processes.start_ticks(other.pid) - 1, boot_id=processes.boot_id()
        )
        assert processes.survivors(tmp_path, [session]) == {}
        before_boot = session.model_copy(
            update={"start_ticks": session.start_ticks + 1, "boot_id": "earlier"}
        )
        assert processes.survivors(tmp_path, [before_boot]) == {}
        assert other.pid in processes.survivors(
            tmp_path, [before_boot.model_copy(update={"boot_id": processes.boot_id()})]
        )
    finally:
        other.kill()
        other.wait()


async def test_status_survives_and_a_stale_write_is_refused(make_local):
    local = await make_local()
    key = RunKey("default", "demo")
    run = await local.cluster.get_run(key)
    await local.cluster.patch_status(run, SelfRewardingRunStatus(iteration=2, stage="Rollout"))
    with pytest.raises(Conflict, match="resourceVersion"):
        await local.cluster.patch_status(run, SelfRewardingRunStatus(iteration=1))
    again = await (await make_local()).cluster.get_run(key)
    assert (again.status.iteration, again.status.stage, again.metadata.uid) == (
        2,
        "Rollout",
        run.metadata.uid,
    )
    assert await local.cluster.get_run(RunKey("default", "other")) is None


async def test_equal_events_are_written_once(make_local):
    local = await make_local()
    run = await local.cluster.get_run(RunKey("default", "demo"))
    event = Event(type="Normal", reason="StageStarted", message="Rollout starts.")
    await local.cluster.post_events(run, [event])
    await local.cluster.post_events(
        run, [event, Event(type="Warning", reason="AttemptFailed", message="Oh.")]
    )
    lines = [json.loads(line) for line in local.state.events.read_text().splitlines()]
    assert [line["message"] for line in lines] == ["Rollout starts.", "Oh."]
    assert datetime.fromisoformat(lines[0]["time"]) <= datetime.now(UTC)
