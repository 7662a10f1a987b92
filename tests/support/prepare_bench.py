"""Prepare on a folder of its own: usual seed rows, and a run's settings that a test changes where it needs to."""

import gzip
import json
from pathlib import Path
from typing import Any

from tests.support.stages import stage_config, surroundings
from transformers import PreTrainedTokenizerFast

from selfrewarding.api.algorithm import DpoSpec, JudgeSpec, PromptGenerationSpec, ResponsesSpec, SftSpec
from selfrewarding.api.data import ModelSpec, SeedDataSpec
from selfrewarding.api.evaluation import PromptSetSpec
from selfrewarding.contract.config import PrepareParameters, StageConfig
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.store import open_store
from selfrewarding.store.results import download_folder, read_jsonl
from srr_sampler import prepare

DIGITS = "0123456789abcdef"
Row = dict[str, Any]


def instruction(number: int, **more: Any) -> Row:
    return {
        "prompt": f"Instruction {DIGITS[number]} about {number * 7}?",
        "response": f"Answer {number}.",
    } | more


def ranked(number: int, **more: Any) -> Row:
    responses = [{"text": f"Best {number}.", "rank": 0}, {"text": f"Worst {number}.", "rank": 1}]
    return {"prompt": f"Ranked question {number * 13} of {DIGITS[number]}?", "responses": responses} | more


INSTRUCTION_ROWS = [instruction(number) for number in range(10)]
RANKED_ROWS = [ranked(number) for number in range(8)]


class Bench:
    """A run's places, and Prepare on them."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root, self.model = root, model
        (root / "data").mkdir(parents=True)

    def put(self, name: str, content: list[Row] | bytes) -> str:
        path = self.root / "data" / name
        if not isinstance(content, bytes):
            content = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in content)
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path.as_uri()

    def seeds(self, **sources: Any) -> Row:
        """`seedData` with the usual instructions and ranked rows unless said otherwise."""
        found = dict(sources)
        if "instructions" not in found:
            found["instructions"] = {"uri": self.put("i.jsonl", INSTRUCTION_ROWS), "format": "PromptResponse"}
        if "ranked" not in found:
            found["ranked"] = {"uri": self.put("r.jsonl", RANKED_ROWS), "format": "Ranked"}
        return {name: value for name, value in found.items() if value is not None}

    def config(self, seeds: Row | None = None, **blocks: Any) -> StageConfig:
        spec: Row = {"uri": self.model.as_uri()} | blocks.pop("model", {})
        limit = blocks.pop("max_model_len", None)
        prompt_sets = blocks.pop("prompt_sets", None)
        referee = blocks.pop("referee_uri", None)
        answer_tokens = blocks.pop("answer_tokens", None)
        planned_len = blocks.pop("planned_len", None)
        parameters = PrepareParameters(
            model=ModelSpec.model_validate(spec),
            seed_data=SeedDataSpec.model_validate(seeds or self.seeds()),
            sft=SftSpec.model_validate({"maxLength": 8192} | blocks.pop("sft", {})),
            prompt_generation=PromptGenerationSpec.model_validate(blocks.pop("prompts", {})),
            responses=ResponsesSpec.model_validate(blocks.pop("responses", {})),
            judge=JudgeSpec.model_validate(blocks.pop("judge", {})),
            dpo=DpoSpec(),
            prompt_sets=None
            if prompt_sets is None
            else [PromptSetSpec.model_validate(one) for one in prompt_sets],
            answer_tokens=answer_tokens,
            referee_uri=referee,
            max_model_len=limit,
            planned_len=planned_len,
            run_uid="uid",
        )
        assert not blocks
        return stage_config(StageKind.PREPARE, parameters, (self.root / "store").as_uri(), iteration=0)

    def run(self, seeds: Row | None = None, **blocks: Any) -> StageResult:
        return prepare.main(self.config(seeds, **blocks), surroundings(self.root / "scratch"))

    def rows(self, result: StageResult, name: str) -> list[Row]:
        return list(read_jsonl(open_store((self.root / "store").as_uri()), result, name))

    def tokenizer(self, result: StageResult) -> PreTrainedTokenizerFast:
        folder = self.root / "fetched-tokenizer"
        download_folder(open_store((self.root / "store").as_uri()), result, "tokenizer", folder)
        return PreTrainedTokenizerFast.from_pretrained(str(folder))
