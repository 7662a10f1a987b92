"""How fast SFT and DPO train SmolLM2-135M on this machine's CPU, against a bare forward and backward pass.

`python tests/bench/training_speed.py MODEL_FOLDER [--processes 1 2] [--micro 2 4] [--dropout 0.1]` trains on the
quickstart's own seeds and prints tokens/s (padding left out), their ratio to a loop of forward and backward passes with
TRL's loss on the same rows in the same batches (what no trainer can beat), seconds from start to result, and memory.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "operator"), str(ROOT / "images/trainer")]

from tests.support.training_stage import Inputs, cpu, run_program  # noqa: E402

from selfrewarding.contract.config import StageConfig  # noqa: E402 (found through the line above)
from selfrewarding.contract.stages import StageKind  # noqa: E402
from selfrewarding.data.chat import ChatEncoder  # noqa: E402
from selfrewarding.store import open_store  # noqa: E402
from selfrewarding.store.results import find_result  # noqa: E402
from srr_trainer.ranks import available_cores  # noqa: E402

ROWS, PAIRS = 32, 16


def seed_rows() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Instructions, and pairs of a whole answer and its beginning."""
    lines = (ROOT / "crds/examples/seeds/instructions.jsonl").read_text(encoding="utf-8").splitlines()
    instructions, pairs = [], []
    for row in map(json.loads, lines[:ROWS]):
        prompt = [{"role": "user", "content": row["prompt"]}]
        chosen, rejected = (
            [{"role": "assistant", "content": text}] for text in (row["response"], row["response"][:60])
        )
        instructions.append({"key": row["id"], "messages": prompt + chosen})
        pairs.append({"key": row["id"], "prompt": prompt, "chosen": chosen, "rejected": rejected})
    return instructions, pairs[:PAIRS]


def bare_tokens_per_second(model: Path, rows: list[dict[str, Any]], micro: int) -> float:
    """Forward and backward alone, with TRL's fused head, on all cores; best of three passes."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.utils import add_fused_lm_head

    torch.set_num_threads(available_cores())
    encoder = ChatEncoder(AutoTokenizer.from_pretrained(model))
    examples = sorted(
        (encoder.example(row["messages"]) for row in rows), key=lambda example: len(example.input_ids)
    )
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).train()
    add_fused_lm_head(policy)
    best = 0.0
    for _ in range(3):
        began, tokens = time.monotonic(), 0
        for start in range(0, len(examples), micro):
            batch = examples[start : start + micro]
            width = max(len(example.input_ids) for example in batch)
            ids = torch.tensor(
                [example.input_ids + [0] * (width - len(example.input_ids)) for example in batch]
            )
            mask = torch.tensor([[1] * len(e.input_ids) + [0] * (width - len(e.input_ids)) for e in batch])
            labels = ids.masked_fill(mask == 0, -100)
            policy(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True).loss.backward()
            policy.zero_grad()
            tokens += int(mask.sum())
        best = max(best, tokens / (time.monotonic() - began))
    return best


def measure(config: StageConfig, folder: Path, processes: int) -> str:
    """Run one stage as a pod would; tokens/s, seconds, memory."""
    began = time.monotonic()
    ended = run_program(config, folder, processes=processes)
    if ended.code:
        raise SystemExit(f"{ended.output[-2000:]}\n{ended.termination}")
    result = find_result(open_store(config.store), config.kind, config.key)
    assert result is not None
    memory: Any = result.report["peakMemoryBytes"]
    speed = result.metrics["tokensPerSecond"]
    return f"{speed:6.0f} {time.monotonic() - began:8.1f} {memory['host'] / 2**30:8.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="Hugging Face folder of SmolLM2-135M-Instruct")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--micro", type=int, nargs="+", default=[2])
    parser.add_argument("--dropout", type=float, default=0.1)
    arguments = parser.parse_args()
    instructions, pairs = seed_rows()
    scratch = Path(tempfile.mkdtemp(prefix="training-speed-"))
    try:
        inputs = Inputs(scratch / "inputs", real_model=arguments.model.resolve())
        inputs.add_parent("prepare", StageKind.PREPARE, {"instructions.jsonl": instructions})
        inputs.add_parent("preferences", StageKind.BUILD_PREFERENCES, {"pairs.jsonl": pairs})
        for micro in arguments.micro:
            bare = bare_tokens_per_second(arguments.model, instructions, micro)
            print(f"micro batch {micro}: bare forward and backward {bare:.0f} tokens/s")
            print("stage processes tokens/s seconds GiB/rank ratio")
            for processes in arguments.processes:
                for stage in (inputs.sft_config, inputs.dpo_config):
                    training = cpu(
                        micro_batch_size=micro, gpus_per_node=processes, deepspeed={"zeroStage": 2}
                    )
                    name = "sft" if stage == inputs.sft_config else "dpo"
                    config = stage(
                        key=f"{micro}-{processes}",
                        training=training,
                        batch_size=8,
                        dropout=arguments.dropout,
                        learning_rate=5.5e-6,
                    )
                    row = measure(config, scratch / f"{name}-{micro}-{processes}", processes)
                    print(f"{name:5} {processes:9} {row} {float(row.split()[0]) / bare:6.2f}", flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
