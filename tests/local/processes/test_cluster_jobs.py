"""Jobs, Indexed Jobs and PyTorchJobs as processes."""

import json
import os
import signal

import pytest

from selfrewarding.cluster.protocol import Forbidden, RunKey
from selfrewarding.local.usage import UsageMeter
from selfrewarding.plan.observed import Phase

DONE = """
import json, os
summary = {"stage": "Rollout", "iteration": 2, "digest": "ab" * 8, "counts": {"rows": 3}}
open(os.environ["SRR_TERMINATION_LOG"], "w").write(json.dumps({"done": {"0123456789abcdef": summary}}))
"""


async def test_a_job_that_ends_well_leaves_its_termination_message(local, objects):
    await local.create(objects.config_map(), objects.job(DONE))
    pod = await local.ended()
    assert (pod.phase, pod.exit_code, pod.reason) == (Phase.SUCCEEDED, 0, "Completed")
    assert pod.termination.done["0123456789abcdef"].counts == {"rows": 3}
    child = await local.child("Job")
    assert (child.phase, child.stage, child.iteration, child.attempt) == (Phase.SUCCEEDED, "Rollout", 2, 1)


async def test_a_failed_job_tells_exit_code_and_failure_and_is_not_tried_again(local, objects):
    script = """
import os, sys
open(os.environ["SRR_TERMINATION_LOG"], "w").write('{"failure": "BadData", "message": "row 3 has no answer"}')
sys.exit(3)
"""
    await local.create(objects.config_map(), objects.job(script))
    pod = await local.ended()
    assert (pod.phase, pod.exit_code, pod.reason) == (Phase.FAILED, 3, "Error")
    assert (pod.termination.failure, pod.termination.message) == ("BadData", "row 3 has no answer")
    child = await local.child("Job")
    assert child.phase is Phase.FAILED
    assert "BackoffLimitExceeded" in child.message
    assert len((await local.observe()).pods) == 1
    assert local.cluster.failed_log.name == "demo-job-0.log"


async def test_paths_under_mounts_are_rewritten_and_the_environment_is_clean(
    make_local, objects, monkeypatch
):
    monkeypatch.setenv("SECRET_OF_THE_USER", "1")
    local = await make_local(
        user_env={"SECRET_OF_THE_USER": "1", "AWS_ACCESS_KEY_ID": "k", "SRR_WRITER_API_KEY": "w"}
    )
    script = """
import json, os, pathlib
scratch = pathlib.Path(os.environ["SRR_SCRATCH"])
(scratch / "out").write_text("x")
env = dict(os.environ)
env["config read"] = pathlib.Path(env["SRR_STAGE_CONFIG"]).read_text()
print("ENV " + json.dumps(env), flush=True)
"""
    secret = {"secretKeyRef": {"name": "s", "key": "k"}}
    env = [
        {"name": "SRR_WRITER_API_KEY", "valueFrom": secret},
        {"name": "AWS_ACCESS_KEY_ID", "valueFrom": secret},
        {"name": "ABSENT", "valueFrom": secret},
        {"name": "SRR_S3_ENDPOINT", "value": "https://s3.example"},
        {"name": "BELOW", "value": "/scratch/deep/er"},
        {"name": "BESIDE", "value": "/scratchy/x"},
        {"name": "EXPANDED", "value": "$(SRR_SCRATCH)/x $$(SRR_SCRATCH) $(UNKNOWN)"},
    ]
    await local.create(objects.config_map('{"a": "b"}'), objects.job(script, env=env))
    pod = await local.ended()
    line = next(line for line in local.log("demo-job-0").splitlines() if line.startswith("ENV "))
    seen = json.loads(line[4:])
    folder = local.state.pods / pod.uid / "volumes"
    assert seen["config read"] == '{"a": "b"}'
    assert seen["SRR_SCRATCH"] == str(folder / "scratch")
    assert seen["BELOW"] == str(folder / "scratch" / "deep" / "er")
    assert seen["BESIDE"] == "/scratchy/x"
    assert seen["EXPANDED"] == f"{folder}/scratch/x $(SRR_SCRATCH) $(UNKNOWN)"
    assert seen["SRR_POD_UID"] == pod.uid
    assert seen["SRR_S3_ENDPOINT"] == (local.root / "artifacts").as_uri()
    assert seen["SRR_WRITER_API_KEY"] == "w"
    assert seen["SRR_LOCAL_POD"] == f"{local.state.root}:{pod.uid}"
    assert seen["CUDA_VISIBLE_DEVICES"] == ""
    assert seen["HOME"] != os.environ.get("HOME")
    for name in ("SECRET_OF_THE_USER", "ABSENT", "AWS_ACCESS_KEY_ID"):
        assert name not in seen
    assert not folder.exists(), "volumes must go with the pod's end"


async def test_with_s3_the_users_own_settings_are_passed_on(make_local, objects):
    local = await make_local(user_env={"AWS_ACCESS_KEY_ID": "k", "AWS_REGION": "r", "OTHER": "o"}, s3=True)
    script = (
        "import os; print({n: v for n, v in os.environ.items() if n.startswith(('AWS', 'SRR_S3', 'OTHER'))})"
    )
    env = [{"name": "SRR_S3_ENDPOINT", "value": "https://s3.example"}]
    await local.create(objects.config_map(), objects.job(script, env=env))
    await local.ended()
    expected = {"SRR_S3_ENDPOINT": "https://s3.example", "AWS_ACCESS_KEY_ID": "k", "AWS_REGION": "r"}
    assert eval(local.log("demo-job-0")) == expected


async def test_an_indexed_job_gives_every_pod_its_index(local, objects):
    script = "import os; print('index', os.environ['JOB_COMPLETION_INDEX'], 'SRR-PROGRESS {\"done\": 2, \"total\": 4}')"
    await local.create(objects.config_map(), objects.job(script, shards=3))
    seen = await local.until(
        lambda seen: len([pod for pod in seen.pods if pod.phase is Phase.SUCCEEDED]) == 3
    )
    assert sorted(pod.index for pod in seen.pods) == [0, 1, 2]
    assert [local.log(f"demo-job-{number}").split()[1] for number in range(3)] == ["0", "1", "2"]
    assert sum(pod.progress.done for pod in seen.pods) == 6
    assert (await local.child("Job")).phase is Phase.SUCCEEDED


async def test_one_failed_shard_ends_the_others(local, objects):
    script = """
import os, sys, time
if os.environ["JOB_COMPLETION_INDEX"] == "1":
    sys.exit(75)
time.sleep(60)
"""
    await local.create(objects.config_map(), objects.job(script, shards=2))
    await local.until(lambda seen: [pod.exit_code for pod in seen.pods] == [75])
    assert (await local.child("Job")).phase is Phase.FAILED


async def test_a_pytorch_job_gets_the_environment_of_the_training_operator(local, objects):
    script = """
import os, time
print({n: v for n, v in os.environ.items() if n.startswith("PET_")}, flush=True)
time.sleep(int(os.environ["PET_NODE_RANK"]))
"""
    await local.create(objects.config_map(), objects.pytorch_job(script, workers=2))
    await local.until(lambda seen: len([pod for pod in seen.pods if pod.phase is Phase.SUCCEEDED]) == 2)
    first, second = (eval(local.log(f"demo-train-worker-{rank}")) for rank in (0, 1))
    assert (first.pop("PET_NODE_RANK"), second.pop("PET_NODE_RANK")) == ("0", "1")
    assert first == second
    assert first["PET_MASTER_ADDR"] == "127.0.0.1"
    assert (first["PET_NNODES"], first["PET_NPROC_PER_NODE"]) == ("2", "2")
    assert (await local.child("PyTorchJob")).phase is Phase.SUCCEEDED


async def test_a_failed_rank_ends_the_others_and_keeps_its_reason(local, objects):
    script = """
import os, sys, time
if os.environ["PET_NODE_RANK"] == "1":
    sys.exit(2)
time.sleep(60)
"""
    await local.create(objects.config_map(), objects.pytorch_job(script, workers=2))
    seen = await local.until(lambda seen: [pod.exit_code for pod in seen.pods] == [2])
    assert seen.pods[0].index == 1
    assert (await local.child("PyTorchJob")).phase is Phase.FAILED


async def test_kill_9_of_a_pods_program_is_exit_code_137(local, objects):
    await local.create(
        objects.config_map(), objects.job("import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    )
    await local.until(
        lambda _: (local.state.logs / "demo-job-0.log").exists() and local.log("demo-job-0").strip()
    )
    os.kill(int(local.log("demo-job-0")), signal.SIGKILL)
    pod = await local.ended()
    assert (pod.phase, pod.exit_code, pod.reason, pod.termination) == (Phase.FAILED, 137, "Error", None)


async def test_kill_9_of_a_pods_shim_takes_its_processes_along(local, objects):
    script = """
import subprocess, time
subprocess.Popen(["sleep", "61"], start_new_session=True)
print(1, flush=True)
time.sleep(60)
"""
    await local.create(objects.config_map(), objects.job(script))
    await local.until(
        lambda _: (local.state.logs / "demo-job-0.log").exists() and local.log("demo-job-0").strip()
    )
    assert len(local.living()) == 3
    os.kill(local.cluster.pods()[0].sessions[-1].pid, signal.SIGKILL)
    pod = await local.ended()
    assert (pod.phase, pod.exit_code) == (Phase.FAILED, 137)
    assert local.living() == {}


async def test_what_a_program_leaves_running_ends_with_it(local, objects):
    await local.create(
        objects.config_map(),
        objects.job("import subprocess; subprocess.Popen(['sleep', '62'], start_new_session=True)"),
    )
    pod = await local.ended()
    assert pod.phase is Phase.SUCCEEDED
    assert local.living() == {}


async def test_deletion_gives_the_program_its_grace(local, objects):
    script = """
import pathlib, signal, sys, time
def stop(*_):
    print("asked to stop", flush=True); time.sleep(0.3); print("saved", flush=True); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("up", flush=True)
time.sleep(60)
"""
    await local.create(objects.config_map(), objects.job(script))
    await local.until(
        lambda _: (local.state.logs / "demo-job-0.log").exists() and "up" in local.log("demo-job-0")
    )
    await local.delete(await local.child("Job"))
    seen = await local.observe()
    assert [child.kind for child in seen.children] == ["ConfigMap"]
    assert seen.pods[0].deleting_since is not None
    await local.until(lambda seen: not seen.pods)
    assert local.log("demo-job-0").split("\n")[:3] == ["up", "asked to stop", "saved"]
    assert list(local.state.pods.iterdir()) == []


async def test_after_the_grace_a_program_is_killed(local, objects):
    script = """
import signal, subprocess, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 63; sleep 63"])
print("up", flush=True)
time.sleep(60)
"""
    await local.create(objects.config_map(), objects.job(script, terminationGracePeriodSeconds=1))
    await local.until(
        lambda _: (local.state.logs / "demo-job-0.log").exists() and "up" in local.log("demo-job-0")
    )
    await local.delete(await local.child("Job"))
    await local.until(lambda seen: not seen.pods, within=30)
    assert local.living() == {}


async def test_a_command_that_does_not_exist_fails_with_its_name_in_the_log(local, objects):
    fields = {"command": ["no-such-program"]}
    await local.create(objects.config_map(), objects.job("", container_fields=fields))
    pod = await local.ended()
    assert pod.exit_code == 128
    assert "no-such-program" in local.log("demo-job-0")


async def test_creating_twice_is_creating_once(local, objects):
    manifest = objects.job("import time; time.sleep(60)")
    await local.create(objects.config_map(), manifest, manifest)
    assert len((await local.observe()).pods) == 1
    child = await local.child("Job")
    await local.delete(child)
    await local.delete(child)  # an absent one is fine


async def test_deletion_needs_the_right_uid(local, objects):
    await local.create(objects.config_map(), objects.job("import time; time.sleep(60)"))
    run = await local.cluster.get_run(RunKey("default", "demo"))
    await local.cluster.delete(run, "Job", "demo-job", "another-uid")
    assert [child.kind for child in (await local.observe()).children] == ["ConfigMap", "Job"]


async def test_more_gpus_than_the_machine_has_are_refused_with_both_numbers(make_local, objects):
    local = await make_local(user_env={"CUDA_VISIBLE_DEVICES": "0"})
    fields = {"resources": {"limits": {"nvidia.com/gpu": "2"}}}
    with pytest.raises(Forbidden, match="asks for 2 GPUs, this machine has 1"):
        await local.create(objects.config_map(), objects.job("", container_fields=fields))


async def test_a_pod_waits_until_the_gpus_are_free_and_sees_only_its_own(make_local, objects):
    local = await make_local(user_env={"CUDA_VISIBLE_DEVICES": "4,7"})
    fields = {"resources": {"limits": {"nvidia.com/gpu": "2"}}}
    script = "import os, pathlib, time\nprint('gpus', os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\ntime.sleep(1)"
    await local.create(
        objects.config_map(),
        objects.job(script, name="first", container_fields=fields),
        objects.job(script, name="second", container_fields=fields),
    )
    pods = {pod.name: pod for pod in (await local.observe()).pods}
    assert (pods["second-0"].scheduled, pods["second-0"].gpus) == (False, 2)
    assert "2 GPUs wanted, 0 of 2 free" in pods["second-0"].scheduling_message
    await local.until(lambda seen: all(pod.phase is Phase.SUCCEEDED for pod in seen.pods))
    assert local.log("first-0") == local.log("second-0") == "gpus 4,7\n"


async def test_a_probe_that_a_process_cannot_have_is_refused(local, objects):
    fields = {"startupProbe": {"exec": {"command": ["true"]}}}
    with pytest.raises(Forbidden, match="startupProbe by exec"):
        await local.create(objects.config_map(), objects.deployment("", container_fields=fields))
    assert "Deployment" not in [child.kind for child in (await local.observe()).children]


async def test_memory_of_a_pods_processes_is_measured_from_outside(local, objects):
    script = "import time; held = bytearray(200 << 20); print('up', flush=True); time.sleep(60)"
    await local.create(objects.config_map(), objects.job(script))
    await local.until(
        lambda _: (local.state.logs / "demo-job-0.log").exists() and "up" in local.log("demo-job-0")
    )
    meter = UsageMeter(local.state)
    meter.sample(local.cluster.pods())
    [peak] = meter.usage.stages.values()
    assert 200 << 20 <= peak <= 300 << 20
    assert meter.usage.peak_bytes > peak
