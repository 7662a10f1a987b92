"""A training stage in small: a tiny Llama with a byte tokenizer, its parents' results in a folder, its configuration.

`Inputs` writes what Prepare and BuildPreferences would; `Inputs.config` is what the planner would write; `run_here` runs
the program in this process as one rank, `run_program` as torchrun would start it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tests.support.tiny_model import byte_tokenizer
from transformers import PreTrainedTokenizerBase

from selfrewarding.api.algorithm import DpoSpec, SftSpec
from selfrewarding.api.execution import TrainingSpec
from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.artifacts import attempt_prefix, stage_prefix
from selfrewarding.contract.config import (
    Execution,
    ModelRef,
    PreferenceOptimizeParameters,
    RunRef,
    SftParameters,
    StageConfig,
    StageRef,
)
from selfrewarding.contract.keys import digest
from selfrewarding.contract.program import Surroundings
from selfrewarding.contract.result import StageResult, result_bytes, result_digest
from selfrewarding.contract.stages import StageKind
from selfrewarding.store import open_store
from selfrewarding.store.results import commit_result, read_jsonl, upload_files

REPOSITORY = Path(__file__).parents[2]
SOURCES = [REPOSITORY / "operator", REPOSITORY / "images" / "trainer"]


def _tokenizer(model: Path | None) -> PreTrainedTokenizerBase:
    if model is None:
        return byte_tokenizer()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


def save_tiny_model(folder: Path, *, seed: int = 0) -> None:
    """A random Llama of 2 layers and 64 wide, bfloat16 like most published ones, with tied embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=264,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=256,
        pad_token_id=257,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def instruction_rows(count: int = 8) -> list[dict[str, Any]]:
    """IFT rows of different lengths."""
    return [
        {
            "key": f"i{number:03d}",
            "messages": [
                {"role": "user", "content": f"Count to {number}. " + "Please. " * (number % 5)},
                {"role": "assistant", "content": " ".join(str(step) for step in range(1, number + 2))},
            ],
        }
        for number in range(count)
    ]


def pair_rows(count: int = 8) -> list[dict[str, Any]]:
    """Pairs in TRL's conversational format."""
    return [
        {
            "key": f"p{number:03d}",
            "prompt": [{"role": "user", "content": f"Say {number} politely."}],
            "chosen": [{"role": "assistant", "content": f"Gladly: {number}." + "!" * number}],
            "rejected": [{"role": "assistant", "content": f"{number}"}],
        }
        for number in range(count)
    ]


@dataclass
class Inputs:
    """A store with the parents' results."""

    folder: Path
    parents: dict[str, StageRef] = field(default_factory=dict)
    real_model: Path | None = None
    """A folder with a model and its tokenizer, in place of the tiny ones."""

    @property
    def uri(self) -> str:
        return (self.folder / "store").as_uri()

    @property
    def model_uri(self) -> str:
        return (self.real_model or self.folder / "models" / "m0").as_uri()

    def add_model(self, name: str, *, seed: int) -> str:
        """Save another random model; returns its URI."""
        folder = self.folder / "models" / name
        if not folder.exists():
            save_tiny_model(folder, seed=seed)
        return folder.as_uri()

    def add_parent(
        self, role: str, kind: StageKind, files: Mapping[str, Sequence[Mapping[str, Any]]]
    ) -> StageRef:
        """Commit a result with JSONL files (and, for Prepare, the tokenizer)."""
        key = digest([role, kind, dict(files)])
        local = self.folder / "local" / key
        local.mkdir(parents=True)
        for name, rows in files.items():
            (local / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        if kind is StageKind.PREPARE:
            _tokenizer(self.real_model).save_pretrained(local / "tokenizer")
        store = open_store(self.uri)
        uploaded = upload_files(store, local, attempt_prefix(kind, key, "pod"), stage_prefix(kind, key))
        result = commit_result(
            store,
            StageResult(
                contract=CONTRACT_VERSION,
                kind=kind,
                iteration=0,
                key=key,
                files=uploaded,
                data={"instructions": "0a1b2c3d4e5f"},
                seconds=1,
                pod="pod",
            ),
        )
        ref = StageRef(kind=kind, iteration=0, key=key, digest=result_digest(result_bytes(result)))
        self.parents[role] = ref
        return ref

    def sft_config(
        self,
        *,
        kind: str = "SupervisedFineTune",
        key: str = "sft",
        training: TrainingSpec | None = None,
        **sft: Any,
    ) -> StageConfig:
        """An SFT stage over the parents that are there."""
        spec = SftSpec(
            **({"batch_size": 4, "epochs": 1, "max_length": 256, "dropout": 0.0, "learning_rate": 1e-3} | sft)
        )
        parents = {role: self.parents[role] for role in ("prepare", "evaluations") if role in self.parents}
        return self._config(StageKind(kind), key, SftParameters(kind=kind, sft=spec), parents, training)  # type: ignore[arg-type]

    def dpo_config(
        self,
        *,
        key: str = "dpo",
        training: TrainingSpec | None = None,
        positive_only: bool = False,
        sft: SftSpec | None = None,
        reference: ModelRef | None = None,
        **dpo: Any,
    ) -> StageConfig:
        """A PreferenceOptimize stage."""
        spec = DpoSpec(
            **({"batch_size": 4, "epochs": 1, "max_length": 256, "dropout": 0.0, "learning_rate": 1e-3} | dpo)
        )
        parameters = PreferenceOptimizeParameters(dpo=spec, positive_only=positive_only, sft=sft)
        parents = {role: self.parents[role] for role in ("prepare", "preferences")}
        config = self._config(StageKind.PREFERENCE_OPTIMIZE, key, parameters, parents, training)
        if reference is None:
            return config
        return config.model_copy(update={"models": config.models | {"reference": reference}})

    def _config(
        self,
        kind: StageKind,
        key: str,
        parameters: Any,
        parents: dict[str, StageRef],
        training: TrainingSpec | None,
    ) -> StageConfig:
        return StageConfig(
            contract=CONTRACT_VERSION,
            run=RunRef(namespace="test", name="tiny", uid="u"),
            kind=kind,
            iteration=1,
            key=digest(key),
            store=self.uri,
            seed=7,
            parents=parents,
            models={"base": ModelRef(name="M0", uri=self.model_uri)},
            parameters=parameters,
            execution=Execution(training=training or cpu(), deadline_seconds=600),
        )


def cpu(**changes: Any) -> TrainingSpec:
    """One process on the CPU, nothing sharded, no checkpoint in time."""
    settings: dict[str, Any] = {
        "device": "Cpu",
        "micro_batch_size": 2,
        "gradient_checkpointing": False,
        "deepspeed": {"zeroStage": 0},
        "checkpoint": {"intervalSeconds": 3600},
    }
    return TrainingSpec.model_validate(settings | changes)


def prepared_inputs(folder: Path) -> Inputs:
    """M0, instructions and pairs."""
    inputs = Inputs(folder)
    inputs.add_model("m0", seed=0)
    inputs.add_parent("prepare", StageKind.PREPARE, {"instructions.jsonl": instruction_rows()})
    inputs.add_parent("preferences", StageKind.BUILD_PREFERENCES, {"pairs.jsonl": pair_rows()})
    return inputs


def surroundings(scratch: Path, *, pod: str = "pod-1") -> Surroundings:
    """What the environment of a pod says."""
    return Surroundings(scratch=scratch, pod_uid=pod, attempt=1, shard=0, rank=0, started=time.monotonic())


def forget_accelerate() -> None:
    """Let a second trainer be built in this process with another DeepSpeed configuration."""
    from accelerate.state import AcceleratorState, GradientState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    unset_hf_deepspeed_config()


def run_here(config: StageConfig, scratch: Path, *, pod: str = "pod-1") -> StageResult:
    """Run a stage in this process, as one rank with one thread: a tiny model gains nothing by more."""
    from srr_trainer import ranks
    from srr_trainer.program import main

    forget_accelerate()
    with mock.patch.object(ranks, "available_cores", return_value=1):
        result = main(config, surroundings(scratch, pod=pod))
    assert result is not None
    return result


def die_after_checkpoint(config: StageConfig, scratch: Path, *, step: int, pod: str = "pod-1") -> None:
    """Run a stage in this process until the checkpoint of this step is saved, and die there as if killed."""
    from srr_trainer.callbacks import CheckpointCallback

    on_save = CheckpointCallback.on_save

    def save_and_die(self: Any, args: Any, state: Any, control: Any, **others: Any) -> Any:
        on_save(self, args, state, control, **others)
        if state.global_step == step:
            raise KeyboardInterrupt
        return control

    with mock.patch.object(CheckpointCallback, "on_save", save_and_die), pytest.raises(KeyboardInterrupt):
        run_here(config, scratch, pod=pod)


def log_of(config: StageConfig, result: StageResult) -> list[dict[str, Any]]:
    """The rows of the training log in the store."""
    return list(read_jsonl(open_store(config.store), result, "training.jsonl"))


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    termination: dict[str, Any]
    output: str


def start_program(
    config: StageConfig, folder: Path, *, processes: int, pod: str = "pod-1"
) -> subprocess.Popen[str]:
    """Start the program as a pod would, with `processes` ranks."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stage.json").write_text(
        config.model_dump_json(by_alias=True, exclude_none=True), encoding="utf-8"
    )
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(path) for path in SOURCES),
        "SRR_STAGE_CONFIG": str(folder / "stage.json"),
        "SRR_SCRATCH": str(folder / "scratch"),
        "SRR_TERMINATION_LOG": str(folder / "termination"),
        "SRR_POD_UID": pod,
        "SRR_ATTEMPT": "1",
        "PET_NNODES": "1",
        "PET_NPROC_PER_NODE": str(processes),
        "PET_STANDALONE": "1",
    }
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    launcher = ["-m", "torch.distributed.run"] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "srr_trainer"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
    )


def end_of(process: subprocess.Popen[str], folder: Path, *, seconds: float = 300) -> Ended:
    """Wait for a program."""
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    path = folder / "termination"
    termination = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return Ended(code=process.returncode, termination=termination, output=output)


def run_program(config: StageConfig, folder: Path, *, processes: int, pod: str = "pod-1") -> Ended:
    """Run the program to its end."""
    return end_of(start_program(config, folder, processes=processes, pod=pod), folder)
