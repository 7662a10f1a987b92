"""GeneratePrompts: the same prompts whatever happens on the way, few-shot examples, filters, limits."""

import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.support.sampler_stages import Workplace
from tests.support.scripted_server import Asked, ScriptedServer, default_reply
from tests.support.stages import summary_size

from selfrewarding.api.algorithm import (
    EndpointSpec,
    PromptFiltersSpec,
    PromptGenerationSpec,
    PromptWriterSpec,
)
from selfrewarding.contract.artifacts import EVIDENCE, stage_prefix
from selfrewarding.contract.config import GeneratePromptsParameters, StageConfig
from selfrewarding.contract.program import BadData
from selfrewarding.contract.result import MAX_SUMMARY_BYTES, StageResult
from selfrewarding.data.prompt_measures import measure_prompts
from selfrewarding.store.chunks import read_rows
from srr_sampler import generate_prompts
from srr_sampler.harvest import Harvest, Shot, window_of

SEEDS = [f"Tell me about subject number {word} in one short line" for word in "abcdefghijklmnop"]
HELD_OUT = [
    {"key": "h0", "prompt": [{"role": "user", "content": "held out words one two three"}], "responses": []}
]
EVALUATED = [
    {"key": "e0", "set": "bench", "id": "81", "turns": ["benchmark words seven eight nine", "Now shorter."]}
]


def configure(place: Workplace, tokenizer: Path, *, name: str = "prompts", **spec: Any) -> StageConfig:
    return place.config(
        GeneratePromptsParameters(
            prompt_generation=PromptGenerationSpec(**{"count": 60, "max_tokens": 256} | spec)
        ),
        name=name,
        prepare=place.prepare(
            tokenizer=tokenizer, instructions=SEEDS, held_out=HELD_OUT, evaluation_prompts=EVALUATED
        ),
    )


def rows_of(place: Workplace, result: StageResult, file: str = "prompts.jsonl") -> list[dict[str, Any]]:
    return place.rows(result, file)


def test_new_prompts_are_made_until_there_are_enough(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    result = place.run(generate_prompts.main, configure(place, tokenizer_folder))
    rows = rows_of(place, result)
    assert len(rows) == result.counts["prompts"] == 60
    assert len({row["key"] for row in rows}) == 60
    assert [row["request"] for row in rows] == sorted(row["request"] for row in rows)
    for row in rows:
        assert row["prompt"] == [{"role": "user", "content": row["prompt"][0]["content"]}]
        assert "/" not in row["key"]
    assert result.counts["requests"] == 8, "eight prompts from each request"
    assert len(server.requests) <= 8 + 8, "no more than a window beyond what was needed"


def test_examples_are_six_seeds_and_two_of_the_prompts_made_a_window_before(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    config = configure(place, tokenizer_folder, count=160)
    rows = rows_of(place, place.run(generate_prompts.main, config))
    window = window_of(PromptGenerationSpec(count=160))
    request_of = {row["key"]: row["request"] for row in rows}
    for row in rows:
        made = [shot for shot in row["shots"] if shot in request_of]
        assert len(row["shots"]) == 8
        assert len(made) == (0 if row["request"] < window else 2)
        assert all(request_of[shot] <= row["request"] - window for shot in made)
    asked = server.requests[0]
    shown = [line for line in asked.prompt.splitlines() if line[:1].isdigit() and line[1] == "."]
    assert len(shown) == 8 + 1
    assert shown[-1] == "9."
    assert all(line[3:] in SEEDS for line in shown[:8])
    assert asked.body["temperature"] == 0.6
    assert asked.body["top_p"] == 0.9
    assert asked.body["stop"] == ["\n17."]


def test_which_prompts_are_accepted_does_not_depend_on_the_order_of_completions(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    straight = rows_of(place, place.run(generate_prompts.main, configure(place, tokenizer_folder)))
    jumbled = Workplace(place.folder / "jumbled")

    def slow_for_some(asked: Asked, seed: int) -> tuple[str, str]:
        time.sleep(0.02 * (seed % 3))
        return default_reply(asked, seed)

    server.reply = slow_for_some
    server.slots = None
    config = configure(jumbled, tokenizer_folder)
    assert rows_of(jumbled, jumbled.run(generate_prompts.main, config)) == straight


def test_rule_13_a_kill_changes_neither_the_prompts_nor_asks_anything_twice(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    undisturbed = Workplace(place.folder / "undisturbed")
    whole = undisturbed.run(generate_prompts.main, configure(undisturbed, tokenizer_folder, count=240))

    config = configure(place, tokenizer_folder, count=240)
    prefix = f"stages/GeneratePrompts/{config.key}"
    server.delay = 1.0
    server.slots = 4
    restart(server)
    place.start_and_kill(config, {"policy": server}, lambda: any(place.store.list(f"{prefix}/attempts")))
    before = {row.key: row.data for row in read_rows(place.store, prefix, log="completions")}
    assert 0 < len(before) < 30, place.log("killed")

    server.delay = 0
    restart(server)
    server.requests.clear()
    result = place.run(generate_prompts.main, config, "resumed")
    after = {row.key: row.data for row in read_rows(place.store, prefix, log="completions")}
    assert {key: after[key] for key in before} == before
    assert rows_of(place, result) == rows_of(undisturbed, whole)
    assert rows_of(place, result, "dropped.jsonl") == rows_of(undisturbed, whole, "dropped.jsonl")
    assert result.counts == whole.counts
    assert server.repeated() == []
    seeds = {json.loads(row)["seed"] for row in before.values()}
    assert not seeds & {asked.body["seed"] for asked in server.requests}


def restart(server: ScriptedServer) -> None:
    stopper = threading.Thread(target=server.stop)
    stopper.start()
    stopper.join()
    server.start()


def test_dropped_prompts_come_with_their_reasons_and_the_counts_add_up(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    bad = [
        SEEDS[0],
        "held out words one two three",
        "benchmark words seven eight nine",
        "too short",
        "Draw me a sheep in a box",
        "Write a program that prints the numbers to ten",
        "«Quotes» first are dropped here too",
    ]

    def mixed(asked: Asked, seed: int) -> tuple[str, str]:
        text, reason = default_reply(asked, seed)
        lines = text.splitlines()
        for place_of, dropped in enumerate(bad[: 1 + seed % len(bad)]):
            lines[place_of] = f"{'' if not place_of else f'{9 + place_of}.'} {dropped}"
        return "\n".join(lines), reason

    server.reply = mixed
    result = place.run(generate_prompts.main, configure(place, tokenizer_folder, count=30))
    dropped = rows_of(place, result, "dropped.jsonl")
    reasons = Counter(row["reason"] for row in dropped)
    assert set(reasons) >= {"similar", "too_short", "keyword"}
    named = {
        "similar": "similar",
        "too_short": "tooShort",
        "keyword": "keyword",
        "write_a_program": "writeAProgram",
    }
    for reason, name in named.items():
        assert result.counts.get(name, 0) == reasons[reason]
    similar = [row for row in dropped if row["reason"] == "similar"]
    assert all(row["maxRougeL"] > 0.7 for row in similar)
    texts = {row["text"] for row in similar}
    kept_away = {"held out words one two three", "benchmark words seven eight nine"}
    assert kept_away <= texts
    accepted = {row["prompt"][0]["content"] for row in rows_of(place, result, "prompts.jsonl")}
    assert not kept_away & accepted, "each was dropped the first time too, not only as a repetition"


def test_rule_12_of_a_completion_that_was_cut_only_the_last_prompt_is_lost(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = lambda asked, seed: (default_reply(asked, seed)[0], "length")
    result = place.run(generate_prompts.main, configure(place, tokenizer_folder, count=14))
    assert result.counts["requests"] == result.counts["cut"] == 2
    assert Counter(row["request"] for row in rows_of(place, result)) == {0: 7, 1: 7}


def test_rule_12_korean_seeds_give_korean_prompts(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    def korean(asked: Asked, seed: int) -> tuple[str, str]:
        lines = [f"{seed % 9973} 번째 이야기를 {number}{seed % 97} 문장으로 써 주세요" for number in range(8)]
        numbered = [f"{9 + number}. {line}" for number, line in enumerate(lines)]
        return "\n".join(numbered).removeprefix("9."), "stop"

    server.reply = korean
    filters = PromptFiltersSpec(language="Korean", min_words=2, max_rouge_l=0.9)
    result = place.run(generate_prompts.main, configure(place, tokenizer_folder, count=8, filters=filters))
    assert len(rows_of(place, result)) == 8
    assert "과제" in server.requests[0].prompt


def test_too_few_prompts_fail_with_counts_by_reason(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    server.reply = lambda asked, seed: (f" {SEEDS[seed % len(SEEDS)]}", "stop")
    config = configure(place, tokenizer_folder, count=20, min_count=5, max_requests=12)
    with pytest.raises(
        BadData, match=r"0 new prompts after 12 requests.*asks for 5 \(wanted 20\); dropped: 12 similar"
    ):
        place.run(generate_prompts.main, config)
    assert len(server.requests) == 12


def test_fewer_than_wanted_but_enough_is_a_result(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    config = configure(place, tokenizer_folder, count=40, max_requests=3)
    result = place.run(generate_prompts.main, config)
    assert len(rows_of(place, result)) == 24


def test_a_fixed_writer_at_an_endpoint_is_asked_by_chat(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRR_WRITER_API_KEY", "secret-key")
    writer = PromptWriterSpec(endpoint=EndpointSpec(url=f"{server.url}/v1", model=server.model))
    result = place.run(generate_prompts.main, configure(place, tokenizer_folder, count=16, writer=writer))
    assert len(rows_of(place, result)) == 16
    assert {asked.path for asked in server.requests} == {"/v1/chat/completions"}
    assert {asked.headers["authorization"] for asked in server.requests} == {"Bearer secret-key"}
    assert "secret-key" not in result.model_dump_json()


def test_a_finished_stage_asks_nothing(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    config = configure(place, tokenizer_folder)
    first = place.run(generate_prompts.main, config)
    server.requests.clear()
    assert place.run(generate_prompts.main, config, "another") == first
    assert server.requests == []


def test_the_summary_fits_the_termination_message(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    result = place.run(generate_prompts.main, configure(place, tokenizer_folder, count=8))
    names = [*result.counts, *generate_prompts._REASONS.values()]
    size = summary_size(result, counts=dict.fromkeys(names, 123_456_789), seconds=604_800.0)
    assert size <= MAX_SUMMARY_BYTES


def test_useful_requests_follow_the_yield() -> None:
    spec = PromptGenerationSpec(count=100)
    harvest = Harvest(spec, [Shot("i0", "Name a fruit that is yellow")], [], "continuation")
    assert harvest.useful_requests() == 61
    harvest.accepted.extend({} for _ in range(80))
    harvest.read = 10
    assert harvest.useful_requests() == 5


def test_new_prompts_are_measured_against_each_other_and_the_seeds(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    result = place.run(generate_prompts.main, configure(place, tokenizer_folder, count=16))
    texts = {row["key"]: row["prompt"][0]["content"] for row in rows_of(place, result)}
    measured = measure_prompts(list(texts.values()), SEEDS, "English")
    assert result.metrics["promptDiversity"] == pytest.approx(measured.diversity)
    assert result.metrics["promptSimilarity"] == pytest.approx(measured.similarity)
    content = place.store.read(f"{stage_prefix(result.kind, result.key)}/{result.files[EVIDENCE].path}")
    evidence = json.loads(content)
    for name in ("promptDiversity", "promptSimilarity"):
        assert len(evidence[name]) == 5
        assert {row["key"] for row in evidence[name]} <= set(texts)
    assert evidence["promptSimilarity"][0]["value"] == pytest.approx(max(measured.similarities), abs=1e-6)
