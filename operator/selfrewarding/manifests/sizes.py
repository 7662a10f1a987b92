"""What pods need, in bytes and seconds, from the size of the model as Prepare read it. Estimates, on the generous side:
too little memory or disk ends a stage, too much only waits for a larger node. `resources` in the spec goes before them.

P stands for the number of parameters; float32 master weights are 4 P bytes (number rule 9).
"""

from dataclasses import dataclass

from selfrewarding.api.algorithm import OptimisationSpec
from selfrewarding.contract.config import PreferenceOptimizeParameters
from selfrewarding.contract.stages import StageKind
from selfrewarding.manifests.context import RunContext
from selfrewarding.manifests.quantities import GIB, parse_quantity
from selfrewarding.plan import estimates
from selfrewarding.plan.stage import Holder, Stage

DEFAULT_KV_CACHE = GIB
"""Key-value cache of a server on CPU, in bytes, where the pool does not say."""
LIBRARIES = 4 * GIB
"""Host memory of torch, CUDA, NCCL and DeepSpeed in a process, in bytes; a limit below it would end every job."""
FETCH_RATE = 50e6
"""Bytes per second at which a model comes at least from the store, and from the disk to the server."""


@dataclass(frozen=True)
class Disk:
    """An emptyDir: what is asked of the scheduler, and where the kubelet evicts the pod; bytes."""

    request: int
    limit: int


def _parameters(context: RunContext) -> int | None:
    return context.prepared.counts.get("parameters") if context.prepared else None


def model_bytes(context: RunContext, holder: Holder) -> int | None:
    """Bytes of a pool's model as it lies in the store; None for fixed models, which nobody has measured."""
    if holder.model.stage is not None and holder.model.stage.kind is not StageKind.PREPARE:
        parameters = _parameters(context)
        return 4 * parameters if parameters else None
    is_initial = holder.model.stage is not None or holder.model.uri == context.spec.model.uri
    return context.prepared.counts.get("modelBytes") if is_initial and context.prepared else None


def model_disk(size: int | None) -> Disk | None:
    """The volume that the init container copies a model of so many bytes to; None where nobody knows."""
    return Disk(request=size + GIB, limit=int(1.2 * size) + 2 * GIB) if size else None


def startup_seconds(holder: Holder, size: int | None) -> int:
    """How long a server may take from its start until it answers.

    Small models on a GPU take 30 to 100 s, on two CPU cores about as long when nothing else runs there.
    """
    base = 900 if holder.spec.device == "Cpu" else 600
    return base + int((size or 200e9) / FETCH_RATE)


def progress_seconds(startup: int, size: int | None) -> int:
    """How long a pool may take from its creation until all replicas answer: image, model and start."""
    return 1800 + int((size or 200e9) / FETCH_RATE) + startup


def kv_cache_bytes(holder: Holder) -> int:
    """Key-value cache of a server on CPU."""
    return int(parse_quantity(holder.spec.kv_cache)) if holder.spec.kv_cache else DEFAULT_KV_CACHE


def serving_memory(holder: Holder, size: int | None) -> int | None:
    """Memory of a server. On CPU it holds float32 weights and the cache; on GPUs the weights pass through once."""
    if size is None:
        return None
    if holder.spec.device == "Cpu":
        return size + kv_cache_bytes(holder) + 4 * GIB
    return size + 8 * GIB * holder.spec.tensor_parallel_size


def serving_shm(holder: Holder) -> int:
    """Shared memory of a server's processes."""
    return GIB * holder.spec.tensor_parallel_size


def training_shm(context: RunContext) -> int:
    """Shared memory of a training pod's processes (NCCL and DeepSpeed's CPU collectives)."""
    return GIB * context.spec.training.gpus_per_node


def training_memory(context: RunContext, stage: Stage) -> int | None:
    """Memory of a training pod: the planner's estimate of host memory, and what it leaves out since it decides nothing
    about fitting: shared memory, on GPUs the libraries of each process, under ZeRO-3 the model as it is gathered to be
    saved (4 P)."""
    parameters = _parameters(context)
    if not parameters:
        return None
    match stage.parameters:
        case PreferenceOptimizeParameters(positive_only=False, dpo=dpo):
            settings: OptimisationSpec = dpo
        case _:
            settings = context.spec.sft
    memory = estimates.training_memory(
        parameters, context.spec.training, settings, pairs=settings is not context.spec.sft
    )
    training = context.spec.training
    libraries = LIBRARIES * training.gpus_per_node if training.device == "Cuda" else 0
    gathered = 4 * parameters if training.deepspeed.zero_stage == 3 else 0
    return memory.host + libraries + gathered + training_shm(context)


def training_disk(context: RunContext) -> Disk | None:
    """Scratch of a training pod: base, reference and new model (12 P), and a checkpoint: weights (4 P) and this pod's
    share of master weights and moments (12 P). Half as much again before eviction: checkpoints overlap."""
    parameters = _parameters(context)
    if not parameters:
        return None
    training = context.spec.training
    request = int(parameters * (16 + 12 / training.nodes)) + 4 * GIB
    return Disk(request=request, limit=int(1.5 * request))
