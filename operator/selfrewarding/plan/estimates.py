"""What a run needs before it has started: tokens, GPU memory and host memory per stage (number rule 16).

Purpose: pure arithmetic from the spec and the model's size, for `srr plan` and for the token budget.
Must not: claim precision. Every figure is rounded up where it is unsure, and says on what it rests.
Neighbours: `checks` asks for tokens; `srr plan` shows `estimate_run` and refuses what `misfits` names.

Sources: 16 bytes a parameter for full AdamW in mixed precision (2 weights, 2 gradients, 4 master weights, 4 + 4
moments): Rajbhandari et al., arXiv 1910.02054 section 3.1; what each ZeRO stage shards: section 5 there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from selfrewarding.api.algorithm import LoraSpec, OptimisationSpec
from selfrewarding.api.evaluation import HELD_OUT_SET, AnswersSpec, EvaluationSpec, HeadToHeadSpec
from selfrewarding.api.execution import TrainingSpec
from selfrewarding.api.run import SelfRewardingRunSpec
from selfrewarding.contract.config import (
    AnswerParameters,
    BuildEvaluationsParameters,
    CompareParameters,
    EvaluateParameters,
    GeneratePromptsParameters,
    PreferenceOptimizeParameters,
    RolloutParameters,
    SelectParameters,
    SftParameters,
)
from selfrewarding.contract.stages import TRAINING, StageKind
from selfrewarding.plan.stage import Graph, Holder, Stage

GIB = 2**30
_ANSWERS_PER_RANKED_PROMPT = 4
"""Where Prepare has not counted them; OASST trees have about this many ranked answers."""
_VOCABULARY = 128_000
"""Size of a large vocabulary: logits in float32 are a good part of the activations."""
_RUNTIME = 2 * GIB
"""CUDA context, NCCL buffers, fragmentation: per process."""
_LAYER_WIDTHS = 34
"""Bytes of activations of one transformer layer per token and hidden width (Korthikanti et al., arXiv 2205.05198,
without the attention matrix, which fused kernels do not keep)."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The widths of a Llama-like model, guessed from its number of parameters (12 L h^2, with h about 128 L)."""

    parameters: int

    @property
    def hidden(self) -> int:
        """Hidden width."""
        return round(math.cbrt(self.parameters * 128 / 12))

    @property
    def layers(self) -> int:
        """Layers."""
        return max(1, round(self.hidden / 128))

    @property
    def cache_bytes_per_token(self) -> int:
        """Keys and values in 16 bits, with one key head for eight query heads."""
        return 2 * 2 * self.layers * self.hidden // 8


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of one stage or pool in bytes."""

    gpus: int
    """GPUs of all its pods; 0 on CPU, where everything is in `host`."""
    per_gpu: int
    """On each GPU."""
    host: int
    """In each pod."""


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """What one stage needs."""

    kind: StageKind
    iteration: int
    generated_tokens: int
    """Every text at its longest, judgements asked for once."""
    trained_tokens: int
    """Every row at its longest."""
    training: Memory | None
    serving: Mapping[str, Memory]
    """By role: policy, judge, writer, referee; fixed models count as large as M0."""


def estimate_run(graph: Graph, spec: SelfRewardingRunSpec, counts: Mapping[str, int]) -> list[StageEstimate]:
    """Estimates for all stages in order; `counts` are Prepare's: parameters, instructions, ranked and so on."""
    return [_estimate(stage, spec, counts) for stage in graph.stages]


def generated_tokens(stage: Stage, counts: Mapping[str, int]) -> int:
    """Tokens that a stage generates if every text is as long as it may be; 0 for stages that generate none."""
    parameters = stage.parameters
    match parameters:
        case GeneratePromptsParameters(prompt_generation=prompts):
            return (prompts.max_requests or 4 * prompts.count) * prompts.max_tokens
        case RolloutParameters(responses=responses, judge=judge):
            answers = _prompts(stage) * responses.samples
            return answers * (responses.max_tokens + judge.samples * judge.max_tokens)
        case BuildEvaluationsParameters(evaluations=evaluations, judge=judge):
            return _answers(counts, "ranked") * evaluations.samples * judge.max_tokens
        case EvaluateParameters(judge=judge, evaluation=evaluation):
            judged = _answers(counts, "heldOut") * (evaluation.samples or judge.samples) * judge.max_tokens
            return (
                judged
                + _evaluation_prompts(evaluation, counts) * (evaluation.answers or AnswersSpec()).max_tokens
            )
        case AnswerParameters(evaluation=evaluation):
            return _compared_prompts(evaluation, counts) * (evaluation.answers or AnswersSpec()).max_tokens
        case SelectParameters(head_to_head=compared, folders=folders):
            return (len(folders) - 1) * _verdicts(compared, counts) * compared.max_tokens
        case CompareParameters(head_to_head=compared):
            roles = stage.parents.keys() & {"previous", "initial", "baseline"}
            opponents = len({stage.parents[role].key for role in roles})  # M1 may have two roles
            return opponents * _verdicts(compared, counts) * compared.max_tokens
        case _:
            return 0


def trained_tokens(stage: Stage, counts: Mapping[str, int]) -> int:
    """Tokens that a training stage goes over if every row is as long as it may be; a DPO pair is two rows."""
    match stage.parameters:
        case SftParameters(kind=kind, sft=sft):
            judged = counts.get("evaluations", counts.get("ranked", 0)) if kind == "SupervisedFineTune" else 0
            return math.ceil((counts.get("instructions", 0) + judged) * sft.epochs) * sft.max_length
        case PreferenceOptimizeParameters(dpo=dpo, positive_only=positive, sft=sft):
            prompts = _prompts(stage.parents["preferences"].parents["rollout"])
            settings: OptimisationSpec = sft if positive and sft is not None else dpo
            return math.ceil(prompts * settings.epochs) * settings.max_length * (1 if positive else 2)
        case _:
            return 0


def training_memory(
    parameters: int, training: TrainingSpec, settings: OptimisationSpec, *, pairs: bool = False
) -> Memory:
    """Memory of a training stage. `pairs`: chosen and rejected go through the model together."""
    ranks = training.nodes * training.gpus_per_node
    zero = training.deepspeed
    on_cpu = training.device == "Cpu"
    weights, gradients, optimizer = _state(parameters, training, settings)
    activations = _activations(parameters, training, settings, sequences=2 if pairs else 1)
    per_rank = activations + _RUNTIME
    host_per_rank = 2 * GIB + 4 * parameters / (ranks if zero.zero_stage == 3 else 1)
    for size, offloaded in (
        (weights, zero.offload_parameters),
        (gradients, False),
        (optimizer, zero.offload_optimizer),
    ):
        if offloaded:
            host_per_rank += 1.2 * size
        else:
            per_rank += size
    if on_cpu:
        host = training.gpus_per_node * (per_rank + 2 * GIB)
        return Memory(gpus=0, per_gpu=0, host=math.ceil(host))
    return Memory(
        gpus=ranks, per_gpu=math.ceil(per_rank), host=math.ceil(training.gpus_per_node * host_per_rank)
    )


def least_training_memory(parameters: int, training: TrainingSpec, settings: OptimisationSpec) -> int:
    """Bytes of host memory that a training pod cannot do without: the weights, gradients and optimizer state that lie
    there. No activations, no libraries: with less than this it fails for certain, with a little more most likely too."""
    weights, gradients, optimizer = _state(parameters, training, settings)
    if training.device == "Cpu":
        return math.ceil(training.gpus_per_node * (weights + gradients + optimizer))
    zero = training.deepspeed
    offloaded = zero.offload_parameters * weights + zero.offload_optimizer * optimizer
    return math.ceil(training.gpus_per_node * offloaded)


def least_serving_memory(parameters: int, holder: Holder, *, dtype: str) -> int:
    """Bytes of host memory that a server cannot do without: its weights, on CPU. On their way to a GPU they only pass
    through it."""
    return _weight_bytes(holder, dtype) * parameters if holder.spec.device == "Cpu" else 0


def serving_memory(parameters: int, holder: Holder, *, dtype: str) -> Memory:
    """Memory of a server: weights, and the cache of one sequence of full length, within vLLM's share of the GPU."""
    width = _weight_bytes(holder, dtype)
    weights = width * parameters
    cache = Shape(parameters=parameters).cache_bytes_per_token * holder.max_model_len * width // 2
    if holder.spec.device == "Cpu":
        return Memory(gpus=0, per_gpu=0, host=weights + max(cache, GIB) + 4 * GIB)
    split = holder.spec.tensor_parallel_size
    per_gpu = ((weights + cache) / split + _RUNTIME) / holder.spec.gpu_memory_utilization
    return Memory(gpus=holder.gpus, per_gpu=math.ceil(per_gpu), host=weights + 8 * GIB * split)


def misfits(
    estimates: list[StageEstimate],
    spec: SelfRewardingRunSpec,
    *,
    gpu_memory: int,
    host_memory: int | None = None,
) -> list[str]:
    """What cannot fit, one sentence each with its remedies. `gpu_memory`: bytes of a GPU; `host_memory`: of a node."""
    found: dict[str, None] = {}
    for one in estimates:
        name = f"{one.kind} of iteration {one.iteration}"
        if one.training is not None:
            remedy = _training_remedy(spec, host=False)
            _add(found, f"{name} needs about {{}} on each of {one.training.gpus} GPUs, which have {{}}: {remedy}",
                 one.training.per_gpu, gpu_memory)  # fmt: skip
            if host_memory is not None:
                remedy = _training_remedy(spec, host=True)
                _add(found, f"{name} needs about {{}} of host memory in each pod, and a node has {{}}: {remedy}",
                     one.training.host, host_memory)  # fmt: skip
        for role, memory in one.serving.items():
            field = _POOL_FIELDS[role]
            _add(found, f"The server ({role}) of {name} needs about {{}} on each GPU, which has {{}}: raise "
                 f"{field}.tensorParallelSize, or lower {field}.maxModelLen", memory.per_gpu, gpu_memory)  # fmt: skip
    return list(found)


_POOL_FIELDS = {
    "policy": "serving",
    "judge": "serving.judge",
    "writer": "serving.promptWriter",
    "referee": "serving.referee",
}


def readable(size: float) -> str:
    """A size as people say it, in decimal units: 1.13 TB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _estimate(stage: Stage, spec: SelfRewardingRunSpec, counts: Mapping[str, int]) -> StageEstimate:
    parameters = counts.get("parameters")
    training, serving = None, {}
    if parameters is not None and stage.kind in TRAINING:
        pairs = stage.kind is StageKind.PREFERENCE_OPTIMIZE and spec.preferences.rule != "PositiveOnly"
        settings: OptimisationSpec = spec.dpo if pairs else spec.sft
        training = training_memory(parameters, spec.training, settings, pairs=pairs)
    if parameters is not None:
        dtype = spec.model.serving_dtype
        serving = {role: serving_memory(parameters, one, dtype=dtype) for role, one in stage.holders.items()}
    return StageEstimate(
        kind=stage.kind,
        iteration=stage.iteration,
        generated_tokens=generated_tokens(stage, counts),
        trained_tokens=trained_tokens(stage, counts),
        training=training,
        serving=serving,
    )


def _state(parameters: int, training: TrainingSpec, settings: OptimisationSpec) -> tuple[float, float, float]:
    """Bytes of weights, gradients and optimizer state on each rank, wherever they lie."""
    ranks = training.nodes * training.gpus_per_node
    stage = training.deepspeed.zero_stage
    trained = parameters if settings.lora is None else _adapter_parameters(parameters, settings.lora)
    # 2 + 2 + 4 bytes with 16-bit weights; in float32 the weights are their own master: 4 + 4.
    full = settings.precision == "Float32" or (training.device == "Cpu" and settings.precision == "Auto")
    weight = 4 if full else 2
    moments = 2 if settings.optimizer == "AdamW8bit" else 8
    weights = weight * parameters / (ranks if stage == 3 else 1)
    gradients = weight * trained / (ranks if stage >= 2 else 1)
    optimizer = (moments + (0 if full else 4)) * trained / (ranks if stage >= 1 else 1)
    return weights, gradients, optimizer


def _weight_bytes(holder: Holder, dtype: str) -> int:
    """Bytes of one weight of a server."""
    return 4 if dtype == "Float32" or (dtype == "Auto" and holder.spec.device == "Cpu") else 2


def _add(found: dict[str, None], sentence: str, needed: int, available: int) -> None:
    if needed > available:
        found[sentence.format(readable(needed), readable(available))] = None


def _training_remedy(spec: SelfRewardingRunSpec, *, host: bool) -> str:
    """What a person can still turn on, the cheapest in speed first."""
    zero, training = spec.training.deepspeed, spec.training
    if host:
        return "take training.nodes up, or offload less (training.deepspeed)"
    ways = []
    if not training.gradient_checkpointing:
        ways.append("set training.gradientCheckpointing")
    if training.micro_batch_size > 1:
        ways.append("lower training.microBatchSize")
    if zero.zero_stage < 3:
        ways.append("set training.deepspeed.zeroStage to 3")
    ways.append("take more GPUs (training.nodes, training.gpusPerNode)")
    if not zero.offload_optimizer:
        ways.append("set training.deepspeed.offloadOptimizer")
    if spec.sft.lora is None or spec.dpo.lora is None:
        ways.append("train adapters (sft.lora and dpo.lora)")
    return "; or ".join(ways)


def _prompts(stage: Stage) -> int:
    """New prompts of the round that a Rollout reads."""
    parameters = stage.parents["prompts"].parameters
    return parameters.prompt_generation.count if isinstance(parameters, GeneratePromptsParameters) else 0


def _evaluation_prompts(evaluation: EvaluationSpec, counts: Mapping[str, int]) -> int:
    """Prompts that each model answers once: the sets' own, and those of the held-out rows where they are compared on."""
    compared = evaluation.head_to_head
    held_out = compared.prompts if compared is not None and compared.set == HELD_OUT_SET else 0
    return counts.get("evaluationTurns", 0) + min(held_out, counts.get("heldOut", held_out))


def _verdicts(compared: HeadToHeadSpec, counts: Mapping[str, int]) -> int:
    """Judgements that comparing two models takes, both orders of each prompt; none of them ours where an endpoint judges."""
    if compared.judge.endpoint is not None:
        return 0
    there = counts.get("heldOut" if compared.set == HELD_OUT_SET else "evaluationPrompts", compared.prompts)
    return 2 * min(compared.prompts, there)


def _compared_prompts(evaluation: EvaluationSpec, counts: Mapping[str, int]) -> int:
    """Turns that a candidate answers: of the prompts that it is compared on, all turns of a set counted at most."""
    compared = evaluation.head_to_head or HeadToHeadSpec()
    there = counts.get("heldOut" if compared.set == HELD_OUT_SET else "evaluationTurns", compared.prompts)
    return min(compared.prompts, there) if compared.set == HELD_OUT_SET else there


def _answers(counts: Mapping[str, int], name: str) -> int:
    return counts.get(f"{name}Answers", _ANSWERS_PER_RANKED_PROMPT * counts.get(name, 0))


def _adapter_parameters(parameters: int, lora: LoraSpec) -> int:
    """Rank-r adapters on all linear layers: r (in + out) for each of seven matrices, three of them wide."""
    shape = Shape(parameters=parameters)
    return round(shape.layers * lora.rank * shape.hidden * (4 * 2 + 3 * 3.7))


def _activations(
    parameters: int, training: TrainingSpec, settings: OptimisationSpec, *, sequences: int
) -> float:
    """Activations and logits of a micro batch of the longest rows."""
    shape = Shape(parameters=parameters)
    tokens = training.micro_batch_size * sequences * settings.max_length
    one_layer = _LAYER_WIDTHS * shape.hidden * tokens
    kept = (
        2 * shape.hidden * tokens * shape.layers
        if training.gradient_checkpointing
        else one_layer * shape.layers
    )
    return kept + one_layer + 8 * _VOCABULARY * tokens
