"""The arguments of vLLM's OpenAI-compatible server (0.32 on CPU, 0.33 on GPUs).

Every number that matters is said, so that neither a model's generation_config.json nor a default of another release
changes a run. Paths and addresses come as `$(VARIABLE)`. Neighbour: `inference` makes the pod around them.
"""

import json

from selfrewarding.contract import environment
from selfrewarding.manifests import sizes
from selfrewarding.manifests.config import served_model
from selfrewarding.manifests.context import RunContext
from selfrewarding.manifests.errors import InvalidOption
from selfrewarding.plan.stage import Holder

SHUTDOWN_SECONDS = 10
"""Time for answers under way after SIGTERM, well below the pod's grace period; what is cut off is asked for again."""
STREAMS = 32
"""Streams by which the Run:ai streamer reads S3; its own default of 8 is six times slower (performance notes of the
streamer's project: 4.9 s against 28 s for 15 GB)."""
LOGPROBS_MODE = "raw_logprobs"
"""Log probabilities before temperature and top-p, but behind the mask of structured outputs (vLLM applies it to the
logits before sampling): for a choice among scores they are the scores' probabilities under the judge, and no other
token is among them. `processed_logprobs` would lack the scores that top-p cuts off."""
CPU_BATCHED_TOKENS = 2048
"""Tokens that a step computes on CPU (vLLM's own default there); it must hold the longest sequence."""
MIN_LOGPROBS = 20
"""vLLM's own limit of log probabilities per token; judge.scores may need more."""

DTYPES = {"BFloat16": "bfloat16", "Float16": "float16", "Float32": "float32"}
OURS = frozenset(
    {
        "model",
        "tokenizer",
        "served-model-name",
        "host",
        "port",
        "uds",
        "config",
        "api-key",
        "ssl-keyfile",
        "ssl-certfile",
    }
)
"""Options that clients and Services rely on."""


def server_arguments(context: RunContext, holder: Holder, field: str) -> list[str]:
    """Arguments behind `python3 -m vllm.entrypoints.openai.api_server`.

    `field` is the pool's place in the spec. Raises InvalidOption for an extra argument that is ours to set.
    """
    served, spec = served_model(holder), holder.spec
    scores = context.spec.judge.scores
    arguments = [
        # The file holds what no manifest may: the server's key, and with Streamer the address of the weights.
        *("--config", f"$({environment.SERVER_CONFIG})"),
        *_source(holder),
        *("--served-model-name", served.name),
        *("--host", f"$({environment.HOST})"),
        *("--port", f"$({environment.PORT})"),
        *("--dtype", _dtype(context, holder)),
        *("--max-model-len", str(served.max_model_len)),
        *("--max-num-seqs", str(served.max_num_seqs)),
        *("--tensor-parallel-size", str(spec.tensor_parallel_size)),
        *("--generation-config", "vllm"),
        *("--logprobs-mode", LOGPROBS_MODE),
        *("--max-logprobs", str(max(MIN_LOGPROBS, scores.maximum - scores.minimum + 1))),
        *("--shutdown-timeout", str(SHUTDOWN_SECONDS)),
        "--disable-uvicorn-access-log",
    ]
    if spec.device == "Cpu":
        # Compilation takes minutes on CPU and gains little. An unsaid cache takes a share of the node's memory.
        arguments += ["--enforce-eager", "--kv-cache-memory-bytes", str(sizes.kv_cache_bytes(holder))]
        # vLLM 0.32 dies on CPU ("CPU Generator does not use offset") when a step's token budget cuts the prompt of a
        # request that has a seed, and all of ours have one (number rule 13). Without chunks a prompt is never cut.
        arguments += ["--no-enable-chunked-prefill"]
        arguments += ["--max-num-batched-tokens", str(max(CPU_BATCHED_TOKENS, served.max_model_len))]
    else:
        arguments += ["--gpu-memory-utilization", f"{spec.gpu_memory_utilization:g}"]
    return arguments + _extra(holder, field)


def _source(holder: Holder) -> list[str]:
    if holder.spec.load == "Copy":
        return ["--model", f"$({environment.MODEL_DIR})"]
    extra: dict[str, object] = {"concurrency": STREAMS}
    if holder.spec.tensor_parallel_size > 1:
        extra["distributed"] = True
    return [
        *("--tokenizer", f"$({environment.MODEL_DIR})"),
        *("--load-format", "runai_streamer"),
        *("--model-loader-extra-config", json.dumps(extra)),
    ]


def _dtype(context: RunContext, holder: Holder) -> str:
    wanted = context.spec.model.serving_dtype
    if wanted == "Auto":
        return "float32" if holder.spec.device == "Cpu" else "bfloat16"
    return DTYPES[wanted]


def _extra(holder: Holder, field: str) -> list[str]:
    """The pool's extra arguments behind ours, so that they win; an empty value makes a switch of an option."""
    result = []
    for given, value in sorted(holder.spec.extra_args.items()):
        name = given.replace("_", "-")
        if name.startswith("-") or not name:
            raise InvalidOption(
                f"{field}.extraArgs has {given!r}: give the option's name without dashes in front"
            )
        if name in OURS:
            raise InvalidOption(
                f"{field}.extraArgs.{given}: this option is set by the operator, leave it out"
            )
        result += [f"--{name}", value] if value else [f"--{name}"]
    return result
