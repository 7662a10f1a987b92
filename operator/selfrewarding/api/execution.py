"""How it is computed: pools, pods, nodes, limits. Nothing here is part of a stage's key, so it can be changed at any time."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from selfrewarding.api.base import ApiModel, Rule

Device = Literal["Cuda", "Cpu"]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
PodTemplate = Annotated[
    dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})
]
"""A PodTemplateSpec that is merged over ours as `kubectl patch --type=strategic` would."""


class ResourcesSpec(ApiModel):
    """What one pod asks for besides its GPUs."""

    cpu: Quantity | None = None
    """CPU request, e.g. "8"."""
    memory: Quantity | None = None
    """Memory request and limit, e.g. "64Gi"; absent: estimated from the model's size."""


class ServingPoolSpec(ApiModel):
    """A pool of vLLM servers."""

    replicas: int = Field(default=1, ge=1, le=256)
    """Servers."""
    tensor_parallel_size: int = Field(default=1, ge=1, le=16)
    """GPUs per server."""
    device: Device = "Cuda"
    """Cpu needs the image of vLLM's CPU build."""
    max_model_len: int | None = Field(default=None, ge=256)
    """Longest sequence in tokens; absent: what the stages of the run need."""
    max_num_seqs: int | None = Field(default=None, ge=1)
    """Sequences that a server decodes at once; the client keeps it full."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of the GPU memory that vLLM may take."""
    kv_cache: Quantity | None = None
    """Memory for the key-value cache on CPU, e.g. "2Gi"."""
    load: Literal["Copy", "Streamer"] = "Copy"
    """Copy: an init container copies the weights from the store. Streamer: vLLM reads them from S3 by itself."""
    extra_args: dict[str, str] = {}
    """More options of `vllm serve` without the dashes, e.g. {"quantization": "fp8"}."""
    image: str | None = None
    """Image of the server."""
    resources: ResourcesSpec = ResourcesSpec()
    """CPU and memory of a server."""
    pod_template: PodTemplate | None = None
    """Merged over the pod template that we make."""


class ServingSpec(ServingPoolSpec):
    """vLLM: the pool of the model in training, and pools for fixed models."""

    judge: ServingPoolSpec | None = None
    """Pool of a dedicated judge (`judge.modelUri`); absent: as the first pool."""
    prompt_writer: ServingPoolSpec | None = None
    """Pool of a fixed prompt writer (`promptGeneration.writer.modelUri`); absent: as the first pool."""
    referee: ServingPoolSpec | None = None
    """Pool of a fixed judge of comparisons (`evaluation.headToHead.judge.modelUri`); absent: as the first pool."""


class DeepSpeedSpec(ApiModel):
    """DeepSpeed's memory plan."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    """What is sharded over the ranks: nothing, optimizer state, + gradients, + weights."""
    offload_optimizer: bool = False
    """Keep the optimizer state in host memory."""
    offload_parameters: bool = False
    """Keep the weights in host memory (ZeRO-3)."""

    cel_rules = (
        Rule(
            "!has(self.offloadParameters) || !self.offloadParameters || !has(self.zeroStage) || self.zeroStage == 3",
            "deepspeed.offloadParameters needs deepspeed.zeroStage 3",
        ),
        Rule(
            "!has(self.offloadOptimizer) || !self.offloadOptimizer || !has(self.zeroStage) || self.zeroStage != 0",
            "deepspeed.offloadOptimizer needs deepspeed.zeroStage 1, 2 or 3",
        ),
    )

    @model_validator(mode="after")
    def _offload_needs_zero3(self) -> "DeepSpeedSpec":
        if self.offload_parameters and self.zero_stage != 3:
            raise ValueError("deepspeed.offloadParameters needs deepspeed.zeroStage 3")
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("deepspeed.offloadOptimizer needs deepspeed.zeroStage 1, 2 or 3")
        return self


class CheckpointSpec(ApiModel):
    """Checkpoints inside a training stage."""

    interval_seconds: int = Field(default=900, ge=1)
    """Time between two checkpoints; longer if saving one takes more than a twentieth of it."""


class TrainingSpec(ApiModel):
    """DeepSpeed PyTorchJobs for SFT and DPO."""

    backend: Literal["PyTorchJob"] = "PyTorchJob"
    """Kubernetes object that runs the training."""
    device: Device = "Cuda"
    """Cpu trains on gloo in float32."""
    nodes: int = Field(default=1, ge=1, le=1024)
    """Pods: a PyTorchJob's Workers, one on each node."""
    gpus_per_node: int = Field(default=1, ge=1, le=16)
    """Processes per pod, each with its GPU (Cpu: processes)."""
    micro_batch_size: int = Field(default=1, ge=1)
    """Examples that a rank computes at once; the batch size must be a multiple of ranks x micro batch."""
    gradient_checkpointing: bool = True
    """Recompute activations to save memory."""
    deepspeed: DeepSpeedSpec = DeepSpeedSpec()
    """DeepSpeed's memory plan."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """Checkpoints."""
    image: str | None = None
    """Image of the trainer."""
    resources: ResourcesSpec = ResourcesSpec()
    """CPU and memory of a pod."""
    pod_template: PodTemplate | None = None
    """Merged over the pod template that we make."""


class SamplerSpec(ApiModel):
    """The Jobs that prepare, ask, judge and pair."""

    parallelism: int = Field(default=1, ge=1, le=256)
    """Pods of the Rollout's Indexed Job; each takes its share of the prompts."""
    image: str | None = None
    """Image of the sampler."""
    resources: ResourcesSpec = ResourcesSpec()
    """CPU and memory of a pod."""
    pod_template: PodTemplate | None = None
    """Merged over the pod template that we make."""


class TolerationSpec(ApiModel):
    """A toleration of the pods (core/v1 Toleration)."""

    key: str | None = None
    """Taint key."""
    operator: Literal["Exists", "Equal"] | None = None
    """How the key is compared."""
    value: str | None = None
    """Taint value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect."""
    toleration_seconds: int | None = None
    """How long NoExecute is tolerated."""


class SchedulingSpec(ApiModel):
    """Where pods run, and who goes first."""

    queue_name: str | None = None
    """Kueue LocalQueue; set as label on Jobs, PyTorchJobs and Deployments."""
    priority_class_name: str | None = None
    """PriorityClass of all pods."""
    node_selector: dict[str, str] = {}
    """Labels of the nodes for GPU pods."""
    tolerations: list[TolerationSpec] = []
    """Taints that GPU pods tolerate."""
    gpu_resource: str = "nvidia.com/gpu"
    """Name of the extended resource of one GPU."""


class LimitsSpec(ApiModel):
    """When to give up."""

    stage_deadline_seconds: int = Field(default=7 * 24 * 3600, ge=60)
    """Longest time of one stage, waiting included; suspension does not count."""
    retries: int = Field(default=3, ge=0, le=100)
    """Failures of a stage that are tried again; lost nodes and evictions do not count."""
    gang_timeout_seconds: int = Field(default=600, ge=10)
    """All pods of a stage must be scheduled within this time, or all are deleted and tried later."""
    max_tokens: int | None = Field(default=None, ge=1)
    """The run stops before a stage whose estimate goes beyond this number of generated tokens."""
    max_gpu_hours: float | None = Field(default=None, gt=0)
    """The run stops once it has used so many GPU-hours."""


class RetentionSpec(ApiModel):
    """What is kept."""

    on_delete: Literal["Keep", "Delete"] = "Keep"
    """Whether deleting the run deletes its artifacts, by a Job that the deletion waits for; those that other runs share are
    kept. If it cannot (no Secret, no store), the run goes within minutes all the same and an event says what is left."""
    checkpoints: Literal["Delete", "Keep"] = "Delete"
    """What happens to a training stage's checkpoints once the stage is done."""
