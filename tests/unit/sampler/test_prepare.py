"""Prepare: what it writes and what it counts."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.prepare_bench import INSTRUCTION_ROWS, RANKED_ROWS, Bench, instruction, ranked
from tests.support.stages import summary_size, surroundings
from tests.support.tiny_model import CHATML, PARAMETERS, POSITIONS

from selfrewarding.contract.artifacts import EVALUATIONS, HELD_OUT, INSTRUCTIONS, RANKED
from selfrewarding.contract.program import BadData
from selfrewarding.contract.result import MAX_SUMMARY_BYTES, StageResult
from selfrewarding.store import open_store
from selfrewarding.store.errors import StoreError
from selfrewarding.store.results import read_file
from srr_sampler import prepare


def test_it_writes_the_seed_sets_the_tokenizer_and_counts(bench: Bench) -> None:
    result = bench.run()
    instructions = bench.rows(result, INSTRUCTIONS)
    assert sorted(row["messages"][0]["content"] for row in instructions) == sorted(
        row["prompt"] for row in INSTRUCTION_ROWS
    )
    assert all(row["messages"][-1]["role"] == "assistant" for row in instructions)
    assert result.counts == {
        "instructions": 10,
        "ranked": 6,
        "heldOut": 2,
        "evaluations": 0,
        "modelBytes": (bench.model / "model.safetensors").stat().st_size,
        "parameters": PARAMETERS,
        "maxPositions": POSITIONS,
    }
    assert bench.tokenizer(result).chat_template == CHATML
    assert set(result.data) == {"instructions", "ranked", "heldOut", "model"}
    assert all(len(digest) == 12 for digest in result.data.values())
    assert summary_size(result) <= MAX_SUMMARY_BYTES


def test_the_summary_of_the_largest_run_fits_a_termination_message(bench: Bench) -> None:
    seeds = bench.seeds(
        evaluations={
            "uri": bench.put("e.jsonl", [{"prompt": "P?", "response": "R", "judgement": "Good.\nScore: 4"}]),
            "format": "Evaluations",
        }
    )
    result = bench.run(seeds)
    assert set(result.data) == {"instructions", "ranked", "heldOut", "evaluations", "model"}
    counts = {name: 405_000_000_000 if "odel" in name or "par" in name else 10**7 for name in result.counts}
    assert summary_size(result, counts=counts, seconds=123456.7) <= MAX_SUMMARY_BYTES


def test_rule_01_ranked_prompts_are_split_by_prompt_before_any_judging(bench: Bench) -> None:
    """Two rows with one prompt go to one side, and each prompt is in exactly one set."""
    twins = [ranked(9), ranked(9, responses=[{"text": "A", "rank": 0}, {"text": "B", "rank": 1}])]
    seeds = bench.seeds(ranked={"uri": bench.put("r.jsonl", [*RANKED_ROWS, *twins]), "format": "Ranked"})
    result = bench.run(seeds)
    sides = {
        name: {row["prompt"][0]["content"] for row in bench.rows(result, name)} for name in (RANKED, HELD_OUT)
    }
    assert sides[RANKED].isdisjoint(sides[HELD_OUT])
    assert result.counts["ranked"] + result.counts["heldOut"] == 10
    assert result.counts["heldOut"] >= 1


def test_rule_01_held_out_rows_keep_every_answer_and_rank(bench: Bench) -> None:
    result = bench.run()
    given = {row["prompt"]: row["responses"] for row in RANKED_ROWS}
    for row in bench.rows(result, HELD_OUT):
        assert row["responses"] == given[row["prompt"][0]["content"]]


def test_held_out_rows_keep_their_category_and_another_is_measured_anew(tmp_path: Path, model: Path) -> None:
    def prepared(category: str) -> tuple[Bench, StageResult]:
        bench = Bench(tmp_path / category, model)
        rows = [ranked(number, category=category) for number in range(8)]
        held_out = {"source": {"uri": bench.put("h.jsonl", rows[:4]), "format": "Ranked"}}
        train = {"uri": bench.put("t.jsonl", rows[4:]), "format": "Ranked"}
        return bench, bench.run(bench.seeds(ranked=train, heldOut=held_out))

    (bench, first), (_, second) = prepared("Natural"), prepared("GPTInst")
    assert [row["category"] for row in bench.rows(first, HELD_OUT)] == ["Natural"] * 4
    assert first.data["heldOut"] != second.data["heldOut"], "metrics are told by category"
    assert first.data["ranked"] == second.data["ranked"], "EFT reads no category"


def test_rule_01_an_own_held_out_row_that_is_trained_on_is_refused_with_both_places(bench: Bench) -> None:
    held_out = bench.put("h.jsonl", [ranked(12), ranked(11, prompt=INSTRUCTION_ROWS[3]["prompt"].upper())])
    seeds = bench.seeds(heldOut={"source": {"uri": held_out, "format": "Ranked"}})
    with pytest.raises(BadData) as caught:
        bench.run(seeds)
    assert f"{held_out}:2: field `prompt`" in str(caught.value)
    assert "i.jsonl:4" in str(caught.value)


def test_a_ranked_prompt_among_the_instructions_is_taken_out_of_these_and_told(bench: Bench) -> None:
    rows = [*RANKED_ROWS, ranked(14, prompt=INSTRUCTION_ROWS[0]["prompt"])]
    result = bench.run(bench.seeds(ranked={"uri": bench.put("r.jsonl", rows), "format": "Ranked"}))
    assert result.counts["instructions"] == 9
    shared = result.report["seedData"]["sharedPrompts"]  # type: ignore[index]
    assert shared["dropped"] == 1
    assert shared["rows"][0]["first"]["place"].endswith("i.jsonl:1")
    assert shared["rows"][0]["second"]["place"].endswith("r.jsonl:9")


def test_near_duplicates_are_reported_and_stay(bench: Bench) -> None:
    text = "Write a short and friendly letter to the new neighbours about the party on Friday night"
    rows = [*INSTRUCTION_ROWS, {"prompt": f"{text}, please.", "response": "Dear neighbours, come on Friday."}]
    seeds = bench.seeds(
        instructions={"uri": bench.put("i.jsonl", rows), "format": "PromptResponse"},
        ranked={
            "uri": bench.put("r.jsonl", [*RANKED_ROWS, ranked(9, prompt=f"{text}.")]),
            "format": "Ranked",
        },
    )
    result = bench.run(seeds)
    assert result.counts["instructions"] == 11
    assert result.report["seedData"]["nearDuplicates"]["found"] >= 1  # type: ignore[index]


def test_own_evaluations_become_judge_turns_with_their_judgements(bench: Bench) -> None:
    evaluation = {"prompt": "What is 2 + 2?", "response": "It is 4.", "judgement": "Right.\nScore: 5"}
    seeds = bench.seeds(
        ranked=None, evaluations={"uri": bench.put("e.jsonl", [evaluation]), "format": "Evaluations"}
    )
    result = bench.run(seeds)
    (row,) = bench.rows(result, EVALUATIONS)
    assert "What is 2 + 2?" in row["messages"][0]["content"]
    assert row["messages"][1] == {"role": "assistant", "content": "Right.\nScore: 5"}
    assert set(result.data) == {"instructions", "evaluations", "model"}
    assert result.counts["heldOut"] == 0


def test_digests_follow_content_and_neither_order_nor_ids(tmp_path: Path, model: Path) -> None:
    first = Bench(tmp_path / "a", model).run()
    other = Bench(tmp_path / "b", model)
    shuffled = [row | {"id": f"x{index}"} for index, row in enumerate(reversed(INSTRUCTION_ROWS))]
    second = other.run(
        other.seeds(
            instructions={"uri": other.put("i.jsonl.gz", shuffled), "format": "PromptResponse"},
            ranked={"uri": other.put("r.jsonl", RANKED_ROWS[::-1]), "format": "Ranked"},
        )
    )
    assert second.data == first.data
    changed = Bench(tmp_path / "c", model)
    rows = [*INSTRUCTION_ROWS[:-1], instruction(9, response="Another answer.")]
    third = changed.run(
        changed.seeds(instructions={"uri": changed.put("i.jsonl", rows), "format": "PromptResponse"})
    )
    assert third.data["instructions"] != first.data["instructions"]
    assert third.data["ranked"] == first.data["ranked"]


def test_max_rows_takes_the_same_rows_whatever_their_order(tmp_path: Path, model: Path) -> None:
    results = []
    for name, rows in (("a", INSTRUCTION_ROWS), ("b", INSTRUCTION_ROWS[::-1])):
        bench = Bench(tmp_path / name, model)
        source = {"uri": bench.put("i.jsonl", rows), "format": "PromptResponse", "maxRows": 4}
        results.append(bench.run(bench.seeds(instructions=source)))
    assert results[0].counts["instructions"] == 4
    assert results[0].data["instructions"] == results[1].data["instructions"]


def test_a_second_attempt_finds_the_first_ones_result(bench: Bench) -> None:
    config = bench.config()
    first = prepare.main(config, surroundings(bench.root / "scratch"))
    second = prepare.main(config, surroundings(bench.root / "scratch", pod="pod-2"))
    assert second == first


def test_a_store_that_cannot_be_written_is_found_out_first(bench: Bench) -> None:
    (bench.root / "store").write_text("a file, no folder")
    with pytest.raises(StoreError):
        bench.run()


def test_a_model_from_a_hub_is_kept_with_the_artifacts_for_all_later_stages(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No hub can be reached here: its download is replaced, at the one function that makes it."""

    def download(uri: str, dest: Path, *, writable: bool) -> str:
        shutil.copytree(bench.model, dest)
        return f"{uri}@0123abc"

    monkeypatch.setattr(prepare, "fetch_model", download)
    result = bench.run(model={"uri": "hf://org/tiny"})
    kept = read_file(open_store((bench.root / "store").as_uri()), result, "model/model.safetensors")
    assert kept == (bench.model / "model.safetensors").read_bytes()
    assert result.report["model"]["origin"] == "hf://org/tiny@0123abc"  # type: ignore[index]
    assert result.counts["parameters"] == PARAMETERS


# Chat template and stop tokens


def test_the_shipped_seeds_are_taken_whole(bench: Bench, repository: Path) -> None:
    seeds = repository / "crds" / "examples" / "seeds"
    result = bench.run(
        {
            "instructions": {"uri": (seeds / "instructions.jsonl").as_uri(), "format": "PromptResponse"},
            "ranked": {"uri": (seeds / "ranked.jsonl").as_uri(), "format": "Ranked"},
        }
    )
    assert result.counts["instructions"] == 84
    assert result.counts["ranked"] + result.counts["heldOut"] == 32
    assert result.counts["heldOut"] == 8


@pytest.fixture
def open_assistant(repository: Path) -> Path:
    path = repository.parent / "shared" / "data" / "openassistant" / "en_100_tree.jsonl"
    if not path.exists():
        pytest.skip("the real Open Assistant trees lie beside the repository, and are not there")
    return path


def test_real_open_assistant_trees_become_three_sets_without_a_common_prompt(
    bench: Bench, open_assistant: Path
) -> None:
    result = bench.run(
        {"instructions": {"uri": open_assistant.as_uri(), "format": "OpenAssistant", "language": "English"}},
        sft={"maxLength": 16000},
        responses={"maxTokens": 512},
    )
    told = result.report["seedData"]["trees"]  # type: ignore[index]
    assert told["read"] == 100
    assert told["kept"] + sum(told["skipped"].values()) == 100
    prompts = [
        *(row["messages"][0]["content"] for row in bench.rows(result, INSTRUCTIONS)),
        *(row["prompt"][0]["content"] for row in bench.rows(result, RANKED)),
        *(row["prompt"][0]["content"] for row in bench.rows(result, HELD_OUT)),
    ]
    assert len(set(prompts)) == len(prompts)
    assert len(prompts) >= 90
    assert result.counts["ranked"] > 20
    assert result.counts["heldOut"] >= 5


# The program


def test_it_never_imports_torch_and_leaves_a_summary(bench: Bench) -> None:
    config = bench.root / "config.json"
    config.write_text(bench.config().model_dump_json(by_alias=True, exclude_none=True))
    code = (
        "import sys\nfrom srr_sampler.__main__ import main\ncode = main([])\n"
        "heavy = {'torch', 'datasets', 'vllm'} & sys.modules.keys()\nprint('HEAVY', sorted(heavy))\nsys.exit(code)"
    )
    environment = os.environ | {
        "SRR_STAGE_CONFIG": str(config),
        "SRR_SCRATCH": str(bench.root / "scratch"),
        "SRR_POD_UID": "pod-1",
        "SRR_TERMINATION_LOG": str(bench.root / "termination"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    message = json.loads((bench.root / "termination").read_text())
    (summary,) = message["done"].values()
    assert summary["counts"]["parameters"] == PARAMETERS
    assert read_file(
        open_store((bench.root / "store").as_uri()),
        prepare.main(bench.config(), surroundings(bench.root)),
        HELD_OUT,
    )
