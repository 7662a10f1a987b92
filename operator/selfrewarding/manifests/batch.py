"""Data stages as Jobs: Prepare, Resolve, BuildEvaluations, GeneratePrompts, Rollout (an Indexed Job where it has
several shards), BuildPreferences, Answer, Select, Evaluate, Compare, Report.

Retries are the planner's, so a pod fails its Job at once; a pod that is being replaced has left first
(`podReplacementPolicy: Failed`). `suspend` is Kueue's and never rendered.
"""

from selfrewarding.api.algorithm import EndpointSpec
from selfrewarding.api.run import RawObject
from selfrewarding.contract import environment
from selfrewarding.contract.config import (
    CompareParameters,
    GeneratePromptsParameters,
    PrepareParameters,
    SelectParameters,
)
from selfrewarding.contract.stages import StageKind
from selfrewarding.manifests.config import stage_config
from selfrewarding.manifests.context import RunContext
from selfrewarding.manifests.inference import PORT
from selfrewarding.manifests.names import service_name, stage_name
from selfrewarding.manifests.objects import config_map, last_deadline, metadata, stage_labels
from selfrewarding.manifests.overrides import with_users_template
from selfrewarding.manifests.pod import (
    METRICS_ANNOTATIONS,
    SCRATCH_PATH,
    Env,
    config_mount,
    container,
    disk_mount,
    disk_request,
    metrics_env,
    offline_env,
    pod_template,
    program_env,
    resources,
    tmp_mount,
    variables,
)
from selfrewarding.manifests.quantities import GIB
from selfrewarding.manifests.sizes import Disk
from selfrewarding.manifests.storage import store_access
from selfrewarding.plan.stage import Stage

CONTAINER = "sampler"
COMMAND = ("python", "-m", "srr_sampler")
API_KEY = "apiKey"
"""Key of the user's Secret for an external endpoint."""
TRACKER_VARIABLES = {
    "mlflow": ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
    "wandb": ("WANDB_API_KEY",),
}
"""Variables that the trackers' own clients read, each from the key of that name in the user's Secret."""
MEMORY_REQUEST, MEMORY_LIMIT = 1 * GIB, 4 * GIB
"""A tokenizer, and rows of text: neither grows with the model."""
ROWS_DISK = Disk(request=1 * GIB, limit=20 * GIB)
"""Rows of text on their way to the store."""


def batch_objects(context: RunContext, stage: Stage, attempt: int) -> list[RawObject]:
    """ConfigMap and Job of an attempt of a data stage.

    Raises MissingResult, InvalidPodTemplate.
    """
    name, own = stage_name(context, stage, attempt), stage_labels(context, stage, attempt)
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(context, name, own, queued=True),
        "spec": {
            "backoffLimit": 0,
            "completionMode": "Indexed" if stage.shards > 1 else "NonIndexed",
            "completions": stage.shards,
            "parallelism": stage.shards,
            "podReplacementPolicy": "Failed",
            "activeDeadlineSeconds": last_deadline(context),
            "template": _template(context, stage, attempt),
        },
    }
    return [config_map(context, name, own, stage_config(context, stage)), job]


def _template(context: RunContext, stage: Stage, attempt: int) -> dict[str, object]:
    spec = context.spec.sampler
    # Prepare may bring a model from a hub, of a size that nobody knows yet.
    disk = ROWS_DISK if stage.kind is not StageKind.PREPARE else Disk(ROWS_DISK.request, 0)
    mounts = [
        config_mount(stage_name(context, stage, attempt)),
        disk_mount("scratch", SCRATCH_PATH, disk.limit),
        tmp_mount(2),
    ]
    store = store_access(context.spec.artifacts)
    template = pod_template(
        context,
        labels=stage_labels(context, stage, attempt),
        annotations=METRICS_ANNOTATIONS,
        containers=[
            container(
                name=CONTAINER,
                image=spec.image or context.images.sampler,
                command=COMMAND,
                env=[
                    *program_env(attempt),
                    *metrics_env(),
                    *store.env,
                    *offline_env(not _asks_hub(stage)),
                    *_servers(context, stage),
                    *_trackers(context, stage),
                ],
                mounts=[mount.mount for mount in mounts] + store.mounts,
                resources=resources(
                    spec.resources,
                    cpu="500m",
                    memory=MEMORY_LIMIT,
                    memory_request=MEMORY_REQUEST,
                    disk=disk_request(disk),
                ),
            )
        ],
        mounts=mounts,
        store=store,
        gpu=False,
    )
    return with_users_template(template, spec.pod_template, "sampler.podTemplate", CONTAINER)


def _servers(context: RunContext, stage: Stage) -> Env:
    """Addresses of the pools that the stage asks, or of the external endpoint with its key."""
    env = variables(
        {
            environment.SERVER_URL[role]: f"http://{service_name(context, holder)}:{PORT}"
            for role, holder in stage.holders.items()
        }
    )
    match stage.parameters:
        case GeneratePromptsParameters(prompt_generation=prompts) if prompts.writer.endpoint is not None:
            env += _endpoint(prompts.writer.endpoint, "writer", environment.WRITER_API_KEY)
        case CompareParameters(head_to_head=compared) | SelectParameters(head_to_head=compared) if (
            compared.judge.endpoint is not None
        ):
            env += _endpoint(compared.judge.endpoint, "referee", environment.REFEREE_API_KEY)
        case _:
            pass
    return env


def _endpoint(endpoint: EndpointSpec, role: str, key: str) -> Env:
    env = variables({environment.SERVER_URL[role]: endpoint.url})
    if endpoint.api_key_secret_name:
        source = {"secretKeyRef": {"name": endpoint.api_key_secret_name, "key": API_KEY}}
        env.append({"name": key, "valueFrom": source})
    return env


def _trackers(context: RunContext, stage: Stage) -> Env:
    """Credentials of the trackers that a Report sends to. Optional: without them a tracker fails, and the report does not."""
    if stage.kind is not StageKind.REPORT:
        return []
    tracking = context.spec.tracking
    secrets = {
        "mlflow": tracking.mlflow.secret_name if tracking.mlflow else None,
        "wandb": tracking.wandb.secret_name if tracking.wandb else None,
    }
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name, "optional": True}}}
        for tracker, secret in secrets.items()
        if secret is not None
        for name in TRACKER_VARIABLES[tracker]
    ]


def _asks_hub(stage: Stage) -> bool:
    """Prepare looks at the models that lie there; whoever asks a fixed one fetches its tokenizer."""
    match stage.parameters:
        case PrepareParameters():
            wanted = [
                stage.parameters.model.uri,
                stage.parameters.judge.model_uri,
                stage.parameters.prompt_generation.writer.model_uri,
                stage.parameters.dpo.reference,
                stage.parameters.referee_uri,
            ]
        case _:
            wanted = [holder.model.uri for holder in stage.holders.values()]
    return any(uri is not None and uri.startswith("hf://") for uri in wanted)
