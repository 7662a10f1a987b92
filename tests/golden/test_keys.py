"""Stage keys of released specs never change: a new release must go on with old runs, and old results must be found.

If this fails, something in a key changed: the dump of a parameter (a new field with a default other than None), the
digests or parents of a stage. Undo it, or raise `CONTRACT_VERSION` and say in the changelog that runs compute again. Then
write the file anew: `SRR_WRITE_KEYS=1 python -m pytest tests/golden/test_keys.py`.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from selfrewarding.api.presets import effective
from selfrewarding.api.run import StageSummary
from selfrewarding.plan.graph import build_graph

GOLDEN = Path(__file__).with_name("keys.json")
CONTRACT = 1

BASE: dict[str, Any] = {
    "model": {"uri": "s3://models/llama-3.2-3b"},
    "artifacts": {"uri": "s3://runs/golden"},
    "seedData": {"instructions": {"uri": "s3://data/oasst2.trees.jsonl.gz", "format": "OpenAssistant"}},
}
SPECS: dict[str, dict[str, Any]] = {
    "paper": BASE
    | {
        "preset": "paper-2401.10020",
        "promptGeneration": {"count": 5000, "writer": {"modelUri": "s3://models/llama-2-70b-chat"}},
    },
    "small with a dedicated judge and a roll-back": BASE
    | {
        "preset": "small",
        "seed": 7,
        "judge": {"modelUri": "s3://models/judge"},
        "dpo": {"reference": "Initial", "loss": ["sigmoid", "sft"], "lossWeights": [1.0, 0.2]},
    },
    "own rows, positive examples, Korean": BASE
    | {
        "iterations": 2,
        "seedData": BASE["seedData"]
        | {"evaluations": {"uri": "s3://data/eft.jsonl", "format": "Evaluations"}},
        "preferences": {"rule": "PositiveOnly", "positiveScore": 4.5},
        "promptGeneration": {
            "filters": {"language": "Korean"},
            "writer": {"endpoint": {"url": "https://llm.example.com/v1", "model": "large"}},
        },
        "sft": {"lora": {"rank": 8}},
    },
}
PREPARED = StageSummary(
    stage="Prepare",
    iteration=0,
    digest="0123456789abcdef",
    data={
        "instructions": "1" * 12, "ranked": "2" * 12, "heldOut": "3" * 12, "evaluations": "4" * 12, "model": "5" * 12,
    },
)  # fmt: skip


def keys_of(name: str) -> dict[str, str]:
    """Keys of a spec's stages; the one with a roll-back has its second model rolled back."""
    spec = effective(SPECS[name])
    graph = build_graph(spec, run_uid="golden", contract=CONTRACT, prepare=PREPARED)
    if "roll-back" in name:
        rolled = {graph.iterations[1].trained.key: "RolledBack"}
        graph = build_graph(spec, run_uid="golden", contract=CONTRACT, prepare=PREPARED, gates=rolled)  # type: ignore[arg-type]
    return {f"{stage.kind} {stage.iteration}": stage.key for stage in graph.stages}


@pytest.fixture(scope="module")
def golden() -> dict[str, dict[str, str]]:
    if os.environ.get("SRR_WRITE_KEYS"):
        found = {name: keys_of(name) for name in SPECS}
        GOLDEN.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    loaded: dict[str, dict[str, str]] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("name", sorted(SPECS))
def test_keys_of_old_runs_stay(name: str, golden: dict[str, dict[str, str]]) -> None:
    assert keys_of(name) == golden[name], (
        "a release must not compute old runs again: see the top of this file"
    )


def test_every_golden_key_is_checked(golden: dict[str, dict[str, str]]) -> None:
    assert golden.keys() == SPECS.keys()
    assert all(len(key) == 64 for keys in golden.values() for key in keys.values())
