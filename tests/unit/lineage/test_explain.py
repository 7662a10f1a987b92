"""A pair's story: every text, seed, setting and digest that led to it, and what is missing is said."""

import json
from collections import Counter
from pathlib import Path

import pytest
from tests.support.lineage_run import RUN, SHOTS, FinishedRun

from selfrewarding.contract.artifacts import PAIRS, stage_prefix
from selfrewarding.contract.result import result_bytes
from selfrewarding.contract.stages import StageKind
from selfrewarding.lineage.explain import UnknownPair, explain_row
from selfrewarding.store.results import read_jsonl
from selfrewarding.store.run_results import RunResults, results_of_run, runs_in


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Nobody changes it."""
    return FinishedRun(tmp_path_factory.mktemp("run"))


def a_pair(run: FinishedRun, iteration: int, number: int) -> dict[str, object]:
    return list(read_jsonl(run.store, run.results[f"preferences{iteration}"], PAIRS))[number]


def test_a_pair_knows_all_that_led_to_it(run: FinishedRun, results: RunResults) -> None:
    pair = a_pair(run, 3, 5)
    story = explain_row(run.store, results, str(pair["key"]))
    assert story.row == pair
    assert story.iteration == 3
    assert story.missing == []
    # The prompt, and the examples that its writer was shown.
    assert story.prompt is not None
    assert story.prompt["key"] == pair["id"]
    assert story.prompt["seed"] == 1005
    assert [shot.origin for shot in story.shots] == ["seed"] * SHOTS + ["generated"] * 2
    assert story.shots[0].text == "Seed question 5?"
    assert story.shots[0].id == "line-6"
    # All answers with seeds and judgements' texts, not the two of the pair alone.
    assert [answer["seed"] for answer in story.answers] == [20, 21, 22, 23]
    chosen = story.answers[story.row["provenance"]["chosen_index"]]
    assert chosen["text"] == pair["chosen"][0]["content"]  # type: ignore[index]
    assert chosen["judgements"][1]["text"] == "It is 5. Score: 5"
    # Who did it, with which settings and which code.
    assert {name: model.name for name, model in story.models.items()} == {
        "writes": "M2",
        "answers": "M2",
        "trained": "M3",
    }
    assert story.models["answers"].files == {
        "model/model.safetensors": run.results["m2"].files["model/model.safetensors"].sha256
    }
    assert story.sampling["answers"]["temperature"] == 0.7
    assert story.sampling["judges"]["prompt"] == "p" * 64
    assert story.sampling["writes"]["temperature"] == 0.6
    assert story.data["instructions"] == "a" * 12
    assert story.m0["origin"] == "hf://tiny/model@abc"
    assert [stage.kind for stage in story.stages] == [
        "Prepare",
        "PreferenceOptimize",
        "GeneratePrompts",
        "Rollout",
        "BuildPreferences",
        "PreferenceOptimize",
    ]
    assert all(stage.code == "0.1.0+0123456789abcdef" for stage in story.stages)
    assert story.stages[3].digest == run.digest("rollout3")
    json.dumps(story.as_json())


def test_the_first_pairs_are_by_the_fine_tuned_model(run: FinishedRun, results: RunResults) -> None:
    story = explain_row(run.store, results, str(a_pair(run, 2, 0)["key"]))
    assert story.models["answers"].name == "M1"
    assert story.models["trained"].name == "M2"
    assert {shot.origin for shot in story.shots} == {"seed"}


def test_a_prefix_is_enough_if_it_is_one_pairs(run: FinishedRun, results: RunResults) -> None:
    pair = a_pair(run, 2, 3)
    assert explain_row(run.store, results, str(pair["key"])[:10]).row == pair
    digits = Counter(
        str(a_pair(run, iteration, number)["key"])[0] for iteration in (2, 3) for number in range(8)
    )
    common, count = digits.most_common(1)[0]
    with pytest.raises(UnknownPair, match=f"{count} pairs of lab/demo or more begin so"):
        explain_row(run.store, results, common)
    with pytest.raises(UnknownPair, match="no key was given"):
        explain_row(run.store, results, "")
    with pytest.raises(
        UnknownPair, match=r"no pair of lab/demo has this key; it has 16 pairs in 2 iterations"
    ):
        explain_row(run.store, results, "feedfeedfeedfeed")


def test_a_prompts_key_leads_to_its_pair(run: FinishedRun, results: RunResults) -> None:
    """Alarms name prompts."""
    pair = a_pair(run, 2, 4)
    story = explain_row(run.store, results, str(pair["id"]))
    assert (story.kind, story.key, story.row) == ("pair", pair["key"], pair)
    assert story == explain_row(run.store, results, str(pair["key"]))


def test_a_prompt_without_a_pair_is_told_too(tmp_path: Path) -> None:
    run = FinishedRun(tmp_path, prompts=2, iterations=2)
    prompt = str(a_pair(run, 2, 1)["id"])
    preferences = run.results["preferences2"]
    emptied = preferences.model_copy(update={"files": {}})
    run.store.write(f"{stage_prefix(preferences.kind, preferences.key)}/result.json", result_bytes(emptied))
    story = explain_row(run.store, results_of_run(run.store, RUN), prompt)
    assert (story.kind, story.row, story.pairs) == ("prompt", None, ())
    assert len(story.answers) == 4
    assert story.prompt is not None
    assert "trained" not in story.models
    run.store.delete_prefix(stage_prefix(StageKind.ROLLOUT, run.results["rollout2"].key))
    story = explain_row(run.store, results_of_run(run.store, RUN), prompt)
    assert story.answers == []
    assert len(story.shots) == SHOTS + 1, "what is known of it as long as nobody has answered it"


def test_a_pair_of_the_plan_that_counts_is_taken(run: FinishedRun) -> None:
    current = [result.key for name, result in run.results.items() if not name.endswith("3")]
    results = results_of_run(run.store, RUN, current=current)
    assert explain_row(run.store, results, str(a_pair(run, 3, 1)["key"])).iteration == 3, (
        "known, if superseded"
    )
    assert {one.result.iteration for one in results.of(StageKind.BUILD_PREFERENCES)} == {2}


def test_what_is_gone_is_said_and_the_rest_is_told(tmp_path: Path) -> None:
    run = FinishedRun(tmp_path, prompts=2, iterations=2)
    pair = a_pair(run, 2, 0)
    run.store.delete_prefix(stage_prefix(StageKind.GENERATE_PROMPTS, run.results["prompts2"].key))
    story = explain_row(run.store, results_of_run(run.store, RUN), str(pair["key"]))
    assert story.prompt is None
    assert story.shots == []
    assert len(story.answers) == 4
    assert story.missing == ["the prompts result that Rollout 2 read is gone"]
    run.store.delete_prefix(f"{stage_prefix(StageKind.ROLLOUT, run.results['rollout2'].key)}/attempts")
    story = explain_row(run.store, results_of_run(run.store, RUN), str(pair["key"]))
    assert story.answers == []
    assert f"the row {pair['id']} of Rollout 2 is gone" in story.missing


def test_a_pair_that_another_prepare_fed_is_told_with_the_runs_own(tmp_path: Path) -> None:
    """Of stages that are shared with another run, or from before an edit of the spec."""
    run = FinishedRun(tmp_path, prompts=2, iterations=2)
    run.take_over()
    pair = str(a_pair(run, 2, 0)["key"])
    current = [result.key for result in run.results.values()]
    story = explain_row(run.store, results_of_run(run.store, RUN, current=current), pair)
    assert story.missing == []
    assert story.data["instructions"] == "a" * 12
    assert story.m0["origin"] == "hf://tiny/model@abc"
    assert {shot.origin for shot in story.shots} == {"seed"}
    assert story.stages[0].digest == run.digest("prepare")
    # What an edit has superseded may have read other sets: nothing is made up for it.
    results = results_of_run(run.store, RUN, current=[run.results["prepare"].key])
    story = explain_row(run.store, results, pair)
    assert story.missing == ["the prepare result that Rollout 2 read is gone"]
    assert story.data == {}


def test_the_runs_of_a_store_are_found_by_their_marks(run: FinishedRun) -> None:
    assert runs_in(run.store) == [RUN]
