"""PyTorchJobs: the rules of the training operator's webhook and controller (v1.9.4), and our own."""

from typing import Any

import pytest
from manifest_scenarios import CPU, LLAMA2_70B, PAPER, SMOLLM2, Plan, plan

from selfrewarding.api.run import RawObject
from selfrewarding.contract import environment
from selfrewarding.contract.stages import TRAINING, StageKind
from selfrewarding.plan import estimates

TRAINED = sorted(TRAINING)


def job(block: dict[str, Any] | None = None, **more: Any) -> RawObject:
    return plan(block, **more).workload(StageKind.PREFERENCE_OPTIMIZE)


def container(made: RawObject, replica: str = "Worker") -> dict[str, Any]:
    only = made["spec"]["pytorchReplicaSpecs"][replica]["template"]["spec"]["containers"]
    assert len(only) == 1
    return only[0]


def env(made: RawObject) -> dict[str, str | None]:
    return {entry["name"]: entry.get("value") for entry in container(made)["env"]}


def broken_rules(made: RawObject) -> list[str]:
    """The webhook's and the controller's rules that a PyTorchJob breaks."""
    spec = made["spec"]
    replicas, policy = spec["pytorchReplicaSpecs"], spec["runPolicy"]
    pods = [replica["template"]["spec"] for replica in replicas.values()]
    rules = {
        "only Workers: beside a Master they get an init container that `restricted` refuses": set(replicas)
        == {"Worker"},
        "at least one": all(replica["replicas"] >= 1 for replica in replicas.values()),
        "a container named pytorch with an image": all(
            any(one["name"] == "pytorch" and one.get("image") for one in pod["containers"]) for pod in pods
        ),
        "nprocPerNode is the text of a whole number": isinstance(spec["nprocPerNode"], str)
        and spec["nprocPerNode"].isdecimal(),
        "Running pods are cleaned": policy["cleanPodPolicy"] == "Running",
        "a pod is never restarted": all(replica["restartPolicy"] == "Never" for replica in replicas.values()),
        "the template leaves the restart policy to the replica": all(
            "restartPolicy" not in pod for pod in pods
        ),
        "retries and life time are ours": not {"backoffLimit", "ttlSecondsAfterFinished", "suspend"}
        & set(policy),
        "rank 0's name resolves before it is asked for": all(
            "readinessProbe" not in one for pod in pods for one in pod["containers"]
        ),
    }
    return [name for name, holds in rules.items() if not holds]


@pytest.mark.parametrize("block", [{}, CPU, PAPER], ids=["plain", "cpu", "paper"])
@pytest.mark.parametrize("kind", TRAINED)
def test_pytorch_jobs_keep_the_rules(block: dict[str, Any], kind: StageKind) -> None:
    assert broken_rules(plan(block).workload(kind)) == []


def test_the_rules_see_a_job_that_breaks_them() -> None:
    bad = job()
    bad["spec"]["nprocPerNode"] = "auto"
    bad["spec"]["runPolicy"]["backoffLimit"] = 3
    bad["spec"]["pytorchReplicaSpecs"]["Master"] = bad["spec"]["pytorchReplicaSpecs"].pop("Worker")
    assert len(broken_rules(bad)) == 3


@pytest.mark.parametrize("nodes", [1, 2, 16])
def test_one_worker_for_each_node(nodes: int) -> None:
    assert job({"training": {"nodes": nodes}})["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == nodes


def test_ranks_meet_at_the_first_workers_service() -> None:
    made = job({"training": {"nodes": 2}})
    told = env(made)
    assert told["PET_MASTER_ADDR"] == f"{made['metadata']['name']}-worker-0"
    assert told["PET_MASTER_PORT"] == "23456"
    (rank,) = (one for one in container(made)["env"] if one["name"] == "PET_NODE_RANK")
    label = rank["valueFrom"]["fieldRef"]["fieldPath"]
    assert label == "metadata.labels['training.kubeflow.org/replica-index']"


def test_torchrun_runs_without_flags_and_every_process_has_its_gpu() -> None:
    made = job(PAPER)
    assert container(made)["command"] == ["torchrun", "-m", "srr_trainer"]
    assert "args" not in container(made)
    assert made["spec"]["nprocPerNode"] == "8"
    for side in ("requests", "limits"):
        assert container(made)["resources"][side]["nvidia.com/gpu"] == "8"


def test_on_cpu_there_are_processes_and_no_gpus() -> None:
    made = job({**CPU, "training": {"device": "Cpu", "gpusPerNode": 2}})
    assert made["spec"]["nprocPerNode"] == "2"
    assert not any("gpu" in name for name in container(made)["resources"]["limits"])
    assert "NCCL_DEBUG" not in env(made)


def test_another_gpu_resource_is_asked_by_its_name() -> None:
    made = job({"scheduling": {"gpuResource": "amd.com/gpu"}})
    assert container(made)["resources"]["limits"]["amd.com/gpu"] == "1"


@pytest.mark.parametrize(
    ("cpu", "processes", "threads"), [("8", 4, "2"), ("2", 1, "2"), ("1500m", 1, "1"), ("500m", 1, "1")]
)
def test_threads_are_the_cores_of_a_process(cpu: str, processes: int, threads: str) -> None:
    made = job({"training": {"gpusPerNode": processes, "resources": {"cpu": cpu}}})
    assert env(made)["OMP_NUM_THREADS"] == threads


def test_without_a_number_of_cores_threads_are_left_to_torch() -> None:
    assert "OMP_NUM_THREADS" not in env(job())


def test_the_hub_is_asked_only_for_a_model_that_lies_there() -> None:
    made = plan({"model": {"uri": "hf://org/m0"}})
    assert env(made.workload(StageKind.SUPERVISED_FINE_TUNE)).get("HF_HUB_OFFLINE") is None
    assert env(made.workload(StageKind.PREFERENCE_OPTIMIZE))["HF_HUB_OFFLINE"] == "1"


def test_the_deadline_lies_behind_the_planners() -> None:
    made = job({"limits": {"stageDeadlineSeconds": 7200}})
    assert made["spec"]["runPolicy"]["activeDeadlineSeconds"] > 7200


def memory(made: Plan) -> int:
    text = container(made.workload(StageKind.PREFERENCE_OPTIMIZE))["resources"]["limits"]["memory"]
    return int(text[:-2]) * {"Mi": 2**20, "Gi": 2**30}[text[-2:]]


def test_memory_and_disk_grow_with_the_model_that_prepare_read() -> None:
    small, large = plan(), plan(counts=LLAMA2_70B)
    assert memory(small) < memory(large)
    disk = container(large.workload(StageKind.PREFERENCE_OPTIMIZE))["resources"]["requests"][
        "ephemeral-storage"
    ]
    assert int(disk.removesuffix("Gi")) * 2**30 > 28 * LLAMA2_70B["parameters"]


def test_offload_asks_for_the_memory_that_it_moves_to_the_host() -> None:
    sharded = {"training": {"deepspeed": {"zeroStage": 3}}}
    moved = {"training": {"deepspeed": {"zeroStage": 3, "offloadOptimizer": True}}}
    extra = memory(plan(moved, counts=LLAMA2_70B)) - memory(plan(sharded, counts=LLAMA2_70B))
    assert extra >= 12 * LLAMA2_70B["parameters"]


def test_the_quickstart_model_trains_on_cpu_within_ten_gigabytes() -> None:
    without = {name: value for name, value in CPU["training"].items() if name != "resources"}
    assert memory(plan({**CPU, "training": without}, counts=SMOLLM2)) < 10 * 2**30


def test_memory_is_left_open_while_nobody_knows_the_model() -> None:
    resources = container(plan(counts={}).workload(StageKind.PREFERENCE_OPTIMIZE))["resources"]
    assert "memory" not in resources["requests"]
    assert "memory" not in resources["limits"]


def test_the_users_memory_and_cores_go_before_the_estimate() -> None:
    resources = container(job(CPU))["resources"]
    assert resources["requests"]["cpu"] == "2"
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == "8Gi"
    assert "cpu" not in resources["limits"]


def test_shared_memory_is_memory_and_scratch_is_disk() -> None:
    volumes = job()["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["volumes"]
    found = {volume["name"]: volume.get("emptyDir") for volume in volumes}
    assert found["shm"]["medium"] == "Memory"
    assert "medium" not in found["scratch"]
    assert env(job())[environment.SCRATCH] == "/scratch"


def test_memory_is_what_the_plan_shows_and_what_libraries_take_besides() -> None:
    made = plan(PAPER, counts=LLAMA2_70B)
    shown = estimates.training_memory(
        LLAMA2_70B["parameters"], made.context.spec.training, made.context.spec.dpo, pairs=True
    )
    gathered = 4 * LLAMA2_70B["parameters"]
    assert memory(made) >= shown.host + gathered + 8 * 2**30
    without = plan(counts=LLAMA2_70B)
    assert memory(plan({"training": {"deepspeed": {"zeroStage": 3}}}, counts=LLAMA2_70B)) > memory(without)
