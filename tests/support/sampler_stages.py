"""Stages of the sampler in tests: a store with Prepare's result, configurations, and programs in their own process."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.support.scripted_server import ScriptedServer
from tests.support.stages import key_of, reference
from tests.support.tiny_tokenizer import save_tokenizer

from selfrewarding.contract import CONTRACT_VERSION, environment
from selfrewarding.contract.artifacts import (
    EVALUATION_PROMPTS,
    HELD_OUT,
    INSTRUCTIONS,
    PROMPTS,
    RANKED,
    stage_prefix,
)
from selfrewarding.contract.config import (
    AnswerParameters,
    BuildEvaluationsParameters,
    CompareParameters,
    EvaluateParameters,
    Execution,
    GeneratePromptsParameters,
    Parameters,
    RolloutParameters,
    RunRef,
    SelectParameters,
    ServedModel,
    StageConfig,
    StageRef,
)
from selfrewarding.contract.program import Surroundings
from selfrewarding.contract.result import FileRef, StageResult, result_bytes
from selfrewarding.contract.stages import StageKind
from selfrewarding.store.folder import FolderStore
from selfrewarding.store.results import read_jsonl

MODEL = "m1-0123456789abcdef"


def rows_bytes(rows: Iterable[dict[str, Any]]) -> bytes:
    """Rows as a file."""
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


class Workplace:
    """A folder store with a tokenizer, and what stages need around them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = FolderStore(folder / "artifacts")
        self.seed = 7
        self.shards = 1
        self.max_num_seqs = 8
        self.max_model_len = 8192
        self.deadline = 60

    def parent(self, kind: StageKind, name: str, files: dict[str, bytes]) -> StageRef:
        """Commit a result with these files; the reference to it."""
        key = key_of(name)
        prefix = stage_prefix(kind, key)
        refs = {}
        for logical, content in files.items():
            self.store.write(f"{prefix}/attempts/p/{logical}", content)
            refs[logical] = FileRef(
                path=f"attempts/p/{logical}", size=len(content), sha256=hashlib.sha256(content).hexdigest()
            )
        result = StageResult(
            contract=CONTRACT_VERSION, kind=kind, iteration=1, key=key, files=refs, seconds=1, pod="p"
        )
        self.store.write(f"{prefix}/result.json", result_bytes(result))
        return reference(result)

    def prepare(
        self,
        *,
        tokenizer: Path,
        instructions: Sequence[str] = (),
        ranked: Sequence[dict[str, Any]] = (),
        held_out: Sequence[dict[str, Any]] = (),
        evaluation_prompts: Sequence[dict[str, Any]] = (),
    ) -> StageRef:
        """Prepare's result with a tokenizer folder, seed sets and evaluation prompts."""
        rows = [
            {
                "key": f"i{number}",
                "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "ok"}],
            }
            for number, text in enumerate(instructions)
        ]
        files = {f"tokenizer/{path.name}": path.read_bytes() for path in sorted(tokenizer.iterdir())}
        files |= {INSTRUCTIONS: rows_bytes(rows), RANKED: rows_bytes(ranked), HELD_OUT: rows_bytes(held_out)}
        if evaluation_prompts:
            files[EVALUATION_PROMPTS] = rows_bytes(evaluation_prompts)
        return self.parent(StageKind.PREPARE, "prepare", files)

    def prompts(self, texts: Sequence[str]) -> StageRef:
        """GeneratePrompts' result."""
        rows = [
            {"key": f"p{number:03d}", "prompt": [{"role": "user", "content": text}]}
            for number, text in enumerate(texts)
        ]
        return self.parent(StageKind.GENERATE_PROMPTS, "prompts", {PROMPTS: rows_bytes(rows)})

    def config(
        self,
        parameters: RolloutParameters
        | GeneratePromptsParameters
        | BuildEvaluationsParameters
        | EvaluateParameters
        | CompareParameters
        | AnswerParameters
        | SelectParameters,
        *,
        name: str = "stage",
        servers: Sequence[str] = ("policy",),
        **parents: StageRef,
    ) -> StageConfig:
        """The configuration of a stage."""
        whole: Parameters = parameters
        served = ServedModel(
            name=MODEL, max_model_len=self.max_model_len, max_num_seqs=self.max_num_seqs, replicas=1
        )
        return StageConfig(
            contract=CONTRACT_VERSION,
            run=RunRef(namespace="default", name="test", uid="u"),
            kind=StageKind(parameters.kind),
            iteration=2,
            key=key_of(name),
            store=self.store.uri,
            seed=self.seed,
            parents=parents,
            servers={role: served for role in servers if role in {"policy", "judge", "writer", "referee"}},  # type: ignore[misc]
            parameters=whole,
            execution=Execution(shards=self.shards, deadline_seconds=self.deadline),
        )

    def here(self, pod: str = "pod-1", *, shard: int = 0) -> Surroundings:
        """The surroundings of a program in this process."""
        scratch = self.folder / "scratch" / pod
        scratch.mkdir(parents=True, exist_ok=True)
        return Surroundings(
            scratch=scratch, pod_uid=pod, attempt=1, shard=shard, rank=0, started=time.monotonic()
        )

    def run(
        self,
        program: Callable[[StageConfig, Surroundings], StageResult | None],
        config: StageConfig,
        pod: str = "pod-1",
    ) -> StageResult:
        """What the stage's program commits, run in this process."""
        result = program(config, self.here(pod))
        assert result is not None
        return result

    def rows(self, result: StageResult, name: str) -> list[dict[str, Any]]:
        """The rows of one of the result's files."""
        return list(read_jsonl(self.store, result, name))

    def uncommit(self, config: StageConfig) -> None:
        """Leave a stage as it was before its last write: all of its rows, and no result."""
        self.store.delete(f"{stage_prefix(config.kind, config.key)}/result.json")

    def start(
        self, config: StageConfig, servers: dict[str, ScriptedServer], pod: str, *, shard: int = 0
    ) -> "subprocess.Popen[str]":
        """Start the program of a stage as its container would."""
        folder = self.folder / "pods" / pod
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(config.model_dump_json(by_alias=True), encoding="utf-8")
        settings = {
            environment.CONFIG: str(folder / "config.json"),
            environment.SCRATCH: str(folder / "scratch"),
            environment.TERMINATION: str(folder / "termination"),
            environment.POD_UID: pod,
            environment.SHARD: str(shard),
            **{environment.SERVER_URL[role]: server.url for role, server in servers.items()},
        }
        with (folder / "log").open("w") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "srr_sampler"],
                env={**os.environ, **settings},
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def start_and_kill(
        self, config: StageConfig, servers: dict[str, ScriptedServer], happened: Callable[[], bool]
    ) -> None:
        """Start a stage's program as the pod `killed`, and kill it once this has happened, or after a minute."""
        program = self.start(config, servers, "killed")
        deadline = time.monotonic() + 60
        while not happened() and time.monotonic() < deadline:
            time.sleep(0.02)
        program.kill()
        program.wait()

    def log(self, pod: str) -> str:
        """What a started program printed."""
        return (self.folder / "pods" / pod / "log").read_text()

    def termination(self, pod: str) -> str:
        """The termination message of a started program."""
        return (self.folder / "pods" / pod / "termination").read_text()


def make_workplace(folder: Path) -> Workplace:
    """A workplace whose tokenizer is at `<folder>/tokenizer`."""
    save_tokenizer(folder / "tokenizer")
    return Workplace(folder)
