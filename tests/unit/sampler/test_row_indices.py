"""The indices that GeneratePrompts, Rollout and BuildPreferences write lead to every row of their files."""

from pathlib import Path

from tests.support.sampler_stages import Workplace
from tests.support.scripted_server import ScriptedServer
from tests.support.stages import surroundings

from selfrewarding.api.algorithm import JudgeSpec, PreferencesSpec, PromptGenerationSpec, ResponsesSpec
from selfrewarding.contract.artifacts import (
    PAIRS,
    PAIRS_INDEX,
    PROMPTS,
    PROMPTS_INDEX,
    ROLLOUT,
    ROLLOUT_INDEX,
)
from selfrewarding.contract.config import (
    BuildPreferencesParameters,
    GeneratePromptsParameters,
    RolloutParameters,
    StageRef,
)
from selfrewarding.contract.result import StageResult, result_bytes, result_digest
from selfrewarding.store.results import read_jsonl
from selfrewarding.store.row_index import find_rows
from srr_sampler import build_preferences, generate_prompts, rollout


def check(place: Workplace, result: StageResult, name: str, index: str) -> StageRef:
    rows = list(read_jsonl(place.store, result, name))
    assert rows
    for row in rows:
        assert row in [found.row for found in find_rows(place.store, result, name, index, row["key"])]
    assert result.files[index].size % len(rows) == 0, "one line of fixed width for each row"
    digest = result_digest(result_bytes(result))
    return StageRef(kind=result.kind, iteration=result.iteration, key=result.key, digest=digest)


def test_every_row_is_found_by_its_stages_index(
    place: Workplace, server: ScriptedServer, tokenizer_folder: Path
) -> None:
    prepare = place.prepare(
        tokenizer=tokenizer_folder,
        instructions=[f"Tell me about subject {word} in one line" for word in "abcdefghij"],
    )
    spec = PromptGenerationSpec(count=12, max_tokens=256)
    config = place.config(GeneratePromptsParameters(prompt_generation=spec), name="prompts", prepare=prepare)
    prompts = check(place, place.run(generate_prompts.main, config), PROMPTS, PROMPTS_INDEX)

    asked = RolloutParameters(
        responses=ResponsesSpec(samples=3, max_tokens=64), judge=JudgeSpec(min_valid_rate=0)
    )
    config = place.config(asked, name="rollout", prepare=prepare, prompts=prompts)
    answered = check(place, place.run(rollout.main, config), ROLLOUT, ROLLOUT_INDEX)

    rule = BuildPreferencesParameters(
        preferences=PreferencesSpec(rule="AllAboveMargin", min_pairs=1, truncated="Allow"),
        scoring="Sampled",
        maximum_score=5,
        min_valid=1,
    )
    config = place.config(rule, name="preferences", servers=(), rollout=answered)  # type: ignore[arg-type]
    check(place, build_preferences.main(config, surroundings(place.folder / "here")), PAIRS, PAIRS_INDEX)
