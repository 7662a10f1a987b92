"""A run on a `FakeCluster` whose sampler stages are the real programs, asking a scripted server: the planner's own
configurations go in, and what it reads are the termination messages that come out. Training makes no model: what the models
say is scripted.
"""

import json
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tests.support.fake_cluster import FakeCluster
from tests.support.prepare_bench import Bench
from tests.support.scripted_server import ScriptedServer

from selfrewarding.api.presets import effective
from selfrewarding.api.run import StageSummary
from selfrewarding.contract import CONTRACT_VERSION, environment
from selfrewarding.contract.artifacts import EVIDENCE, attempt_prefix, stage_prefix
from selfrewarding.contract.config import StageConfig
from selfrewarding.contract.keys import short
from selfrewarding.contract.program import Surroundings
from selfrewarding.contract.result import StageResult, parse_termination, summary_message, summary_of
from selfrewarding.contract.stages import TRAINING, StageKind
from selfrewarding.manifests.config import stage_config
from selfrewarding.manifests.context import RunContext
from selfrewarding.plan.stage import Stage
from selfrewarding.store import open_store
from selfrewarding.store.results import commit_result, find_result, read_jsonl
from srr_sampler.__main__ import _MODULES

DIGITS = "0123456789abcdef"


class Loop(FakeCluster):
    """See the module."""

    def __init__(self, root: Path, model: Path, server: ScriptedServer, **blocks: Any) -> None:
        bench = Bench(root, model)
        held_out = [
            {
                "prompt": f"Held out question {DIGITS[number]}?",
                "responses": [
                    {"text": f"A good answer to it, number {number}.", "rank": 0},
                    {"text": f"No {number}.", "rank": 1},
                ],
            }
            for number in range(12)
        ]
        seeds = bench.seeds(heldOut={"source": {"uri": bench.put("h.jsonl", held_out), "format": "Ranked"}})
        spec = {
            "model": {"uri": model.as_uri()},
            "artifacts": {"uri": (root / "store").as_uri()},
            "seedData": seeds,
            "iterations": 2,
            "sft": {"maxLength": 4096},
            "dpo": {"maxLength": 4096},
            "evaluations": {"minExamples": 0, "samples": 1},
            "promptGeneration": {"count": 24},
            "responses": {"samples": 4},
            "judge": {"samples": 2, "retries": 0},
            "evaluation": {"samples": 1, "bootstrap": 100},
            "training": {"device": "Cpu"},
            "serving": {"device": "Cpu", "maxModelLen": 8192},
        } | blocks
        super().__init__(spec=spec)
        self.root, self.server = root, server
        self.results: dict[tuple[StageKind, int], StageResult] = {}
        """What the programs committed, by kind and iteration."""

    def evidence(self, kind: StageKind, iteration: int) -> dict[str, list[dict[str, Any]]]:
        """A stage's evidence.json."""
        result = self.results[kind, iteration]
        store = open_store(self.spec["artifacts"]["uri"])
        (found,) = [file for name, file in result.files.items() if name == EVIDENCE]
        return dict(json.loads(store.read(f"{stage_prefix(result.kind, result.key)}/{found.path}")))

    def rows(self, kind: StageKind, iteration: int, file: str) -> list[dict[str, Any]]:
        """Rows of a stage's file."""
        return list(
            read_jsonl(open_store(self.spec["artifacts"]["uri"]), self.results[kind, iteration], file)
        )

    def started(self, kind: StageKind, iteration: int) -> bool:
        """Whether an attempt of a stage was ever started."""
        return (kind, iteration) in self.results

    def _result(self, stage: Stage, metrics: dict[str, float] | None) -> StageSummary:
        del metrics  # the programs measure
        config = stage_config(self._context(), stage)
        if stage.kind in TRAINING or stage.kind is StageKind.REPORT:
            result: StageResult | None = self._committed(config)
        else:
            for role, served in config.servers.items():
                assert role == "policy"
                self.server.model = served.name
            result = import_module(f"srr_sampler.{_MODULES[stage.kind]}").main(config, self._here(stage))
        assert result is not None
        self.results[stage.kind, stage.iteration] = result
        told = parse_termination(summary_message(result.key, summary_of(result)))
        assert told is not None
        return told.done[short(result.key)]

    def _context(self) -> RunContext:
        run = self.run
        return RunContext(
            namespace="lab",
            name="demo",
            uid=run.metadata.uid or "",
            spec=effective(self.spec),
            results=run.status.results,
            contract=CONTRACT_VERSION,
        )

    def _here(self, stage: Stage) -> Surroundings:
        scratch = self.root / "scratch" / stage.short
        scratch.mkdir(parents=True, exist_ok=True)
        return Surroundings(
            scratch=scratch,
            pod_uid=f"pod-{stage.short}",
            attempt=1,
            shard=0,
            rank=0,
            started=time.monotonic(),
        )

    def _committed(self, config: StageConfig) -> StageResult:
        store = open_store(config.store)
        store.write(f"{attempt_prefix(config.kind, config.key, 'pod')}/note", b"trained")
        result = StageResult(
            contract=CONTRACT_VERSION, kind=config.kind, iteration=config.iteration, key=config.key,
            counts={"steps": 1}, metrics={"loss": 1.0}, seconds=1.0, pod="pod",
        )  # fmt: skip
        return find_result(store, config.kind, config.key) or commit_result(store, result)


def at_policy(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every policy's server be this one."""
    monkeypatch.setenv(environment.SERVER_URL["policy"], server.url)
