"""The sampler's client against the engine's own serving benchmark, and what k samples in one request save.

`python tests/bench/rollout_client.py --model FOLDER [--prompts 64] [--tokens 64] [--rounds 2]` starts vLLM on CPU in
float32, sends the same prompts once through `vllm bench serve` and once through our client, each from an empty prefix
cache, turn by turn, and prints output tokens/s and their ratio. Then it judges answers with three samples in one
request and in three requests, and prints the prefix cache's hit rate for both.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "operator"), str(ROOT / "images/sampler")]
os.environ.setdefault("USE_TORCH", "0")

from selfrewarding.contract.config import ServedModel  # noqa: E402 (found through the line above)
from selfrewarding.data.judge_prompt import judge_prompt  # noqa: E402
from selfrewarding.data.rows import Message  # noqa: E402
from srr_sampler.client import CompletionClient  # noqa: E402
from srr_sampler.encoders import Encoder, load_encoder  # noqa: E402
from srr_sampler.sampling import CompletionRequest, Sampling  # noqa: E402

NAME = "bench"
BENCH_SERVE = (
    "from vllm.benchmarks.serve import add_cli_args, main; from vllm.utils.argparse_utils import FlexibleArgumentParser; "
    "parser = FlexibleArgumentParser(); add_cli_args(parser); main(parser.parse_args())"
)
"""`vllm bench serve`; the command itself looks for a package named vllm, which the CPU build is not."""
SEEDS = ROOT / "crds/examples/seeds"


@dataclass(frozen=True, slots=True)
class FixedLength(CompletionRequest):
    """A request that generates all its tokens, so that both sides do the same work."""

    def body(self, model: str) -> dict[str, Any]:
        return {**CompletionRequest.body(self, model), "ignore_eos": True, "stop_token_ids": []}


@contextlib.contextmanager
def server(model: Path, max_num_seqs: int) -> Iterator[str]:
    """vLLM on CPU; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", str(max_num_seqs)]
    # vLLM's CPU build dies when it cuts the prompt of a request with a seed in two.
    command += [
        "--no-enable-chunked-prefill",
        "--max-num-batched-tokens",
        "2048",
        "--generation-config",
        "vllm",
    ]
    command += ["--disable-uvicorn-access-log", "--kv-cache-memory-bytes", str(2**30)]
    environment = {
        **os.environ,
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    environment.pop("USE_TORCH", None)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 300
            while not answers(f"{url}/health"):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"vLLM did not start:\n{log.read()[-3000:].decode(errors='replace')}")
                time.sleep(1)
            yield url
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def forget(url: str) -> None:
    """Empty the prefix cache."""
    urllib.request.urlopen(
        urllib.request.Request(f"{url}/reset_prefix_cache", method="POST"), timeout=30
    ).close()


def own_benchmark(url: str, model: Path, prompts: list[str], tokens: int, folder: Path) -> float:
    """Output tokens/s by `vllm bench serve`."""
    data = folder / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": text, "output_tokens": tokens}) + "\n" for text in prompts))
    command = [sys.executable, "-c", BENCH_SERVE, "--backend", "openai"]
    command += [
        "--base-url",
        url,
        "--endpoint",
        "/v1/completions",
        "--model",
        NAME,
        "--tokenizer",
        str(model),
    ]
    command += ["--dataset-name", "custom", "--dataset-path", str(data), "--custom-output-len", str(tokens)]
    command += [
        "--skip-chat-template",
        "--disable-shuffle",
        "--num-prompts",
        str(len(prompts)),
        "--ignore-eos",
    ]
    command += ["--temperature", "0.7", "--top-p", "0.9", "--extra-body", '{"seed": 1}', "--num-warmups", "0"]
    command += [
        "--save-result",
        "--result-dir",
        str(folder),
        "--result-filename",
        "result.json",
        "--disable-tqdm",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "USE_TORCH"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"vllm bench serve failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    result = json.loads((folder / "result.json").read_text())
    assert result["completed"] == len(prompts), result
    assert result["total_output_tokens"] == len(prompts) * tokens, result["total_output_tokens"]
    return float(result["output_throughput"])


def client_of(url: str, max_num_seqs: int) -> CompletionClient:
    served = ServedModel(name=NAME, max_model_len=2048, max_num_seqs=max_num_seqs, replicas=1)
    return CompletionClient("policy", served, url)


async def our_client(url: str, encoder: Encoder, prompts: list[str], tokens: int, max_num_seqs: int) -> float:
    """Output tokens/s by our client."""
    sampling = Sampling(temperature=0.7, top_p=0.9, max_tokens=tokens)
    async with client_of(url, max_num_seqs) as client:
        await client.ready()
        begun = time.perf_counter()
        done = await asyncio.gather(
            *(
                client.complete(FixedLength(encoder.chat.text(text), sampling, seed=number))
                for number, text in enumerate(prompts)
            )
        )
        elapsed = time.perf_counter() - begun
    total = sum(answer.output_tokens for answer in done)
    assert total == len(prompts) * tokens, total
    return total / elapsed


async def judging(
    url: str, turns: list[list[int]], samples: int, together: bool, max_num_seqs: int
) -> tuple[float, float]:
    """Hit rate of the prefix cache and seconds of judging, with all samples of an answer in one request or apart."""
    sampling = Sampling(temperature=0.7, top_p=0.9, max_tokens=32)
    async with client_of(url, max_num_seqs) as client:
        await client.ready()
        before = await client.counters()
        begun = time.perf_counter()
        requests = [
            FixedLength(turn, sampling, seed=number * samples + sample, n=samples if together else 1)
            for number, turn in enumerate(turns)
            for sample in range(1 if together else samples)
        ]
        await asyncio.gather(*(client.complete(request) for request in requests))
        elapsed = time.perf_counter() - begun
        after = await client.counters()
    asked, hit = (
        after[name] - before[name]
        for name in ("vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total")
    )
    return hit / asked, elapsed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--max-num-seqs", type=int, default=32)
    given = parser.parse_args()
    encoder = load_encoder(given.model, field="--model", uri=str(given.model))
    rows = [
        json.loads(line) for line in (SEEDS / "instructions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    texts = [f"{number}. {rows[number % len(rows)]['prompt']}" for number in range(given.prompts)]
    judge = judge_prompt()
    turns = [
        encoder.chat.prompt(
            [{"role": "user", "content": judge.render((Message("user", row["prompt"]),), row["response"])}]
        )
        for row in rows[:24]
    ]
    with server(given.model, given.max_num_seqs) as url, tempfile.TemporaryDirectory() as folder:
        asyncio.run(
            our_client(url, encoder, texts[:8], 8, given.max_num_seqs)
        )  # the first requests compile kernels
        theirs, ours = [], []
        for _ in range(given.rounds):
            forget(url)
            theirs.append(own_benchmark(url, given.model, texts, given.tokens, Path(folder)))
            forget(url)
            ours.append(asyncio.run(our_client(url, encoder, texts, given.tokens, given.max_num_seqs)))
            print(f"vllm bench serve {theirs[-1]:.1f}, our client {ours[-1]:.1f} output tokens/s", flush=True)
        ratio = statistics.median(ours) / statistics.median(theirs)
        print(f"our client / vllm bench serve: {ratio:.3f} (must reach 0.95)")
        for together in (True, False):
            forget(url)
            rate, seconds = asyncio.run(judging(url, turns, 3, together, given.max_num_seqs))
            how = "3 samples in one request" if together else "3 requests of one sample"
            print(f"judging 24 answers, {how}: prefix cache hit rate {rate:.3f}, {seconds:.1f} s")


if __name__ == "__main__":
    main()
