"""Serving pools: a Deployment of vLLM servers behind a headless Service, closed to all pods but the run's.

Headless, since the client spreads its requests over the replicas itself. `Recreate`, since two servers of one pool
never share a GPU. The NetworkPolicy is not for show: vLLM's API key, which pods derive themselves
(`contract.server_key`), does not guard all of its routes, and without a shared secret there is none.
"""

import math
from typing import Any

from selfrewarding.api import labels
from selfrewarding.api.execution import ResourcesSpec
from selfrewarding.api.run import RawObject
from selfrewarding.contract import environment
from selfrewarding.manifests import sizes
from selfrewarding.manifests.config import serve_config
from selfrewarding.manifests.context import RunContext
from selfrewarding.manifests.errors import InvalidOption
from selfrewarding.manifests.names import holder_name, run_label, service_name
from selfrewarding.manifests.objects import config_map, holder_labels, metadata
from selfrewarding.manifests.overrides import with_users_template
from selfrewarding.manifests.pod import (
    SCRATCH_PATH,
    Env,
    config_mount,
    container,
    disk_mount,
    disk_request,
    home_env,
    memory_mount,
    offline_env,
    pod_template,
    program_env,
    resources,
    tmp_mount,
    variables,
)
from selfrewarding.manifests.quantities import GIB, parse_quantity
from selfrewarding.manifests.server_arguments import server_arguments
from selfrewarding.manifests.sizes import Disk
from selfrewarding.manifests.storage import store_access, streamer_env
from selfrewarding.plan.stage import Holder

CONTAINER = "vllm"
COMMAND = ("python3", "-m", "vllm.entrypoints.openai.api_server")
"""The module, not the command `vllm`: the CPU build's metadata has another name, and the command fails there.
`python3`: the published GPU image promises no `python`."""
FETCH = "fetch-model"
FETCH_COMMAND = ("python", "-m", "srr_sampler", "fetch-model")

PORT = 8000
PORT_NAME = "http"
MODEL_PATH = "/model"
CACHE_PATH = "/cache"
SERVER_CONFIG_PATH = f"{MODEL_PATH}/vllm-server.yaml"
PROBE_SECONDS = 5
ROOM_TO_FETCH = Disk(0, 2 * GIB)
"""Scratch of the init container: it writes the model where the server reads it."""
POOL_FIELDS = {
    "policy": "serving",
    "judge": "serving.judge",
    "writer": "serving.promptWriter",
    "referee": "serving.referee",
}


def inference_objects(context: RunContext, holder: Holder, iteration: int, attempt: int) -> list[RawObject]:
    """ConfigMap, Service, NetworkPolicy and Deployment of an attempt of a serving pool.

    Service and NetworkPolicy have the same name in every attempt, and select the pods of any.
    Raises MissingResult, InvalidOption, InvalidPodTemplate.
    """
    own = holder_labels(context, holder, iteration, attempt)
    name = holder_name(context, holder, iteration, attempt)
    size = sizes.model_bytes(context, holder)
    startup = sizes.startup_seconds(holder, size)
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(context, name, own, queued=True),
        "spec": {
            "replicas": holder.spec.replicas,
            "revisionHistoryLimit": 0,
            "strategy": {"type": "Recreate"},
            "progressDeadlineSeconds": sizes.progress_seconds(startup, size),
            "selector": {"matchLabels": {**_selector(context, holder), labels.ATTEMPT: str(attempt)}},
            "template": _template(context, holder, iteration, attempt, startup),
        },
    }
    return [
        config_map(context, name, own, serve_config(context, holder)),
        _service(context, holder, own),
        _network_policy(context, holder, own),
        deployment,
    ]


def _selector(context: RunContext, holder: Holder) -> dict[str, str]:
    """Pods of the pool: the label HOLDER contains the model key (survival rule 7)."""
    return {labels.RUN: run_label(context.name), labels.HOLDER: holder.name}


def _service(context: RunContext, holder: Holder, own: dict[str, str]) -> RawObject:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(context, service_name(context, holder), own),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": False,
            "selector": _selector(context, holder),
            "ports": [{"name": PORT_NAME, "port": PORT, "protocol": "TCP", "targetPort": PORT_NAME}],
        },
    }


def _network_policy(context: RunContext, holder: Holder, own: dict[str, str]) -> RawObject:
    visitors = {"podSelector": {"matchLabels": {labels.RUN: run_label(context.name)}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(context, service_name(context, holder), own),
        "spec": {
            "podSelector": {"matchLabels": _selector(context, holder)},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [visitors], "ports": [{"port": PORT, "protocol": "TCP"}]}],
        },
    }


def _template(
    context: RunContext, holder: Holder, iteration: int, attempt: int, startup: int
) -> dict[str, object]:
    spec, images, gpu = holder.spec, context.images, holder.spec.device == "Cuda"
    field = POOL_FIELDS[holder.pool]
    if spec.load == "Streamer" and not context.spec.artifacts.uri.startswith("s3://"):
        raise InvalidOption(
            f"{field}.load Streamer reads weights from S3, but artifacts.uri is "
            f"{context.spec.artifacts.uri!r}: use Copy"
        )
    size = sizes.model_bytes(context, holder)
    # With Streamer only the configuration and the tokenizer are copied.
    model = sizes.model_disk(size) if spec.load == "Copy" else Disk(GIB, 2 * GIB)
    cache = Disk(2 * GIB, 20 * GIB)
    config = config_mount(holder_name(context, holder, iteration, attempt))
    scratch = disk_mount("scratch", SCRATCH_PATH, ROOM_TO_FETCH.limit)
    tmp = tmp_mount(8)
    weights = disk_mount("model", MODEL_PATH, model.limit if model else None)
    caches = disk_mount("cache", CACHE_PATH, cache.limit)
    shm = memory_mount(sizes.serving_shm(holder))
    store = store_access(context.spec.artifacts)
    template = pod_template(
        context,
        labels=holder_labels(context, holder, iteration, attempt),
        init_containers=[
            container(
                name=FETCH,
                image=context.spec.sampler.image or images.sampler,
                command=FETCH_COMMAND,
                env=[*program_env(attempt), *store.env, *_fetch_env(holder)],
                mounts=[mount.mount for mount in (config, scratch, tmp, weights)] + store.mounts,
                resources=resources(
                    ResourcesSpec(),
                    cpu="500m",
                    memory=2 * GIB,
                    memory_request=GIB // 2,
                    disk=disk_request(model, cache),
                ),
            )
        ],
        containers=[
            container(
                name=CONTAINER,
                image=spec.image or (images.vllm if gpu else images.vllm_cpu),
                command=COMMAND,
                args=server_arguments(context, holder, field),
                env=[
                    *_server_env(holder, startup),
                    *([*store.env, *streamer_env(context.spec.artifacts)] if spec.load == "Streamer" else []),
                ],
                mounts=[
                    *(mount.mount for mount in (tmp, shm, caches)),
                    {**weights.mount, "readOnly": True},
                    *(store.mounts if spec.load == "Streamer" else []),
                ],
                resources=resources(
                    spec.resources,
                    cpu="1",
                    memory=sizes.serving_memory(holder, size),
                    disk=disk_request(model, cache),
                    gpus={context.spec.scheduling.gpu_resource: spec.tensor_parallel_size} if gpu else None,
                ),
                **_probes(startup),
            )
        ],
        mounts=[config, scratch, tmp, shm, caches, weights],
        store=store,
        gpu=gpu,
        restart_policy="Always",
    )
    return with_users_template(template, spec.pod_template, f"{field}.podTemplate", CONTAINER)


def _fetch_env(holder: Holder) -> Env:
    values = {
        environment.MODEL_DIR: MODEL_PATH,
        environment.MODEL_LOAD: holder.spec.load,
        environment.SERVER_CONFIG: SERVER_CONFIG_PATH,
    }
    from_hub = (holder.model.uri or "").startswith("hf://")
    return variables(values) + offline_env(not from_hub)


def _server_env(holder: Holder, startup: int) -> Env:
    values = {
        environment.MODEL_DIR: MODEL_PATH,
        environment.SERVER_CONFIG: SERVER_CONFIG_PATH,
        environment.HOST: "0.0.0.0",  # noqa: S104 - other pods ask it; the NetworkPolicy says which
        environment.PORT: str(PORT),
        "VLLM_CACHE_ROOT": CACHE_PATH,
        "VLLM_ENGINE_READY_TIMEOUT_S": str(startup),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if holder.spec.device == "Cpu":
        # vLLM would bind its threads to cores that it finds on the node, one for each physical core: several servers on
        # a node would choose the same, and the other half would stay idle.
        values["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        # --enforce-eager leaves one function compiled, which ranks log probabilities: the first judge request with
        # expected scores would start a C++ compiler in the middle of the server's work, and end it where there is none.
        values["TORCHDYNAMO_DISABLE"] = "1"
        if holder.spec.resources.cpu:
            values["OMP_NUM_THREADS"] = str(max(1, int(parse_quantity(holder.spec.resources.cpu))))
    return home_env() + offline_env(True) + variables(values)


def _probes(startup: int) -> dict[str, Any]:
    """vLLM answers on /health once the model is loaded, with 503 once the engine is dead, and late when it is busy."""
    health = {"httpGet": {"path": "/health", "port": PORT_NAME}, "periodSeconds": PROBE_SECONDS}
    return {
        "ports": [{"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": {
            **health,
            "timeoutSeconds": 5,
            "failureThreshold": math.ceil(startup / PROBE_SECONDS),
        },
        "readinessProbe": {**health, "timeoutSeconds": 5, "failureThreshold": 6},
        "livenessProbe": {**health, "periodSeconds": 10, "timeoutSeconds": 30, "failureThreshold": 6},
        # vLLM is no program of ours: the end of its log says more than an empty file.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
