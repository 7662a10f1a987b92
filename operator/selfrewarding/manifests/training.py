"""Training stages as PyTorchJobs (kubeflow.org/v1, training-operator 1.9).

One Worker for each node runs torchrun without flags: its settings are PET_ variables, the numbers from the training
operator, the address of rank 0 and the rank from here. There is no Master: beside one, the training operator gives each
Worker an init container without a securityContext, and a `restricted` namespace refuses such a pod.

`Never` and `Running`: a failed rank ends the job and frees the GPUs of the others; retries are the planner's, and so
there is no backoffLimit and no time to live. `suspend` is Kueue's and never rendered.
"""

from selfrewarding.api.run import RawObject
from selfrewarding.contract import environment
from selfrewarding.manifests import sizes
from selfrewarding.manifests.config import stage_config
from selfrewarding.manifests.context import RunContext
from selfrewarding.manifests.names import stage_name
from selfrewarding.manifests.objects import config_map, last_deadline, metadata, stage_labels
from selfrewarding.manifests.overrides import with_users_template
from selfrewarding.manifests.pod import (
    METRICS_ANNOTATIONS,
    SCRATCH_PATH,
    Env,
    Mount,
    config_mount,
    container,
    disk_mount,
    disk_request,
    memory_mount,
    metrics_env,
    offline_env,
    pod_template,
    program_env,
    resources,
    tmp_mount,
    variables,
)
from selfrewarding.manifests.quantities import parse_quantity
from selfrewarding.manifests.storage import StoreAccess, store_access
from selfrewarding.plan.stage import Stage

CONTAINER = "pytorch"
"""The training operator's webhook asks for a container of this name."""
COMMAND = ("torchrun", "-m", "srr_trainer")
PORT = 23456
"""Where rank 0 waits for the others; the training operator's own default."""
RANK = "metadata.labels['training.kubeflow.org/replica-index']"
"""The training operator numbers a job's Workers from 0 in this label."""
RENDEZVOUS_SECONDS = 1800
"""How long the first rank waits for the last: nodes pull an image of some gigabytes at different speeds."""


def training_objects(context: RunContext, stage: Stage, attempt: int) -> list[RawObject]:
    """ConfigMap and PyTorchJob of an attempt of a training stage.

    Raises MissingResult, InvalidPodTemplate.
    """
    training = context.spec.training
    name, own = stage_name(context, stage, attempt), stage_labels(context, stage, attempt)
    workers = {
        "replicas": training.nodes,
        "restartPolicy": "Never",
        "template": _template(context, stage, attempt),
    }
    job = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": metadata(context, name, own, queued=True),
        "spec": {
            "nprocPerNode": str(training.gpus_per_node),
            "runPolicy": {
                "cleanPodPolicy": "Running",
                "activeDeadlineSeconds": last_deadline(context),
            },
            "pytorchReplicaSpecs": {"Worker": workers},
        },
    }
    return [config_map(context, name, own, stage_config(context, stage)), job]


def _template(context: RunContext, stage: Stage, attempt: int) -> dict[str, object]:
    spec = context.spec.training
    gpu = spec.device == "Cuda"
    disk = sizes.training_disk(context)
    mounts: list[Mount] = [
        config_mount(stage_name(context, stage, attempt)),
        disk_mount("scratch", SCRATCH_PATH, disk.limit if disk else None),
        tmp_mount(8),
        memory_mount(sizes.training_shm(context)),
    ]
    store = store_access(context.spec.artifacts)
    template = pod_template(
        context,
        labels=stage_labels(context, stage, attempt),
        annotations=METRICS_ANNOTATIONS,
        containers=[
            container(
                name=CONTAINER,
                image=spec.image or context.images.trainer,
                command=COMMAND,
                env=_env(context, stage, attempt, store),
                mounts=[mount.mount for mount in mounts] + store.mounts,
                resources=resources(
                    spec.resources,
                    cpu="1",
                    memory=sizes.training_memory(context, stage),
                    disk=disk_request(disk),
                    gpus={context.spec.scheduling.gpu_resource: spec.gpus_per_node} if gpu else None,
                ),
            )
        ],
        mounts=mounts,
        store=store,
        gpu=gpu,
        restart_policy=None,  # the job's: the training operator overwrites a pod's own and complains
    )
    return with_users_template(template, spec.pod_template, "training.podTemplate", CONTAINER)


def _env(context: RunContext, stage: Stage, attempt: int, store: StoreAccess) -> Env:
    """Environment of a trainer; the training operator adds PET_NNODES and PET_NPROC_PER_NODE behind it."""
    spec = context.spec.training
    from_hub = any((model.uri or "").startswith("hf://") for model in stage.models.values())
    values = {
        # Each Worker has a Service of its pod's name.
        environment.RENDEZVOUS_ADDRESS: f"{stage_name(context, stage, attempt)}-worker-0",
        environment.RENDEZVOUS_PORT: str(PORT),
        "PET_RDZV_CONF": f"timeout={RENDEZVOUS_SECONDS}",
    }
    if spec.device == "Cuda":
        values["NCCL_DEBUG"] = "WARN"
    if spec.resources.cpu:
        # Else torchrun gives each of several processes one thread, and torch gives a single one all cores.
        cores = int(parse_quantity(spec.resources.cpu))
        values["OMP_NUM_THREADS"] = str(max(1, cores // spec.gpus_per_node))
    rank = {"name": environment.NODE_RANK, "valueFrom": {"fieldRef": {"fieldPath": RANK}}}
    return [
        *program_env(attempt),
        *metrics_env(),
        *store.env,
        *offline_env(not from_hub),
        *variables(values),
        rank,
    ]
