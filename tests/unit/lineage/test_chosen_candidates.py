"""Stories of a run with early stopping: the model that learned from a pair is the candidate that was chosen."""

from pathlib import Path

import pytest
from tests.support.builders import make_spec
from tests.support.lineage_run import RUN, FinishedRun, with_answers

from selfrewarding.contract.config import StageRef, Story
from selfrewarding.contract.stages import StageKind
from selfrewarding.exports.answers import model_answers, trained_models
from selfrewarding.lineage.cards import model_cards
from selfrewarding.lineage.explain import PairStory, explain_row
from selfrewarding.store.models import CHOSEN, choice
from selfrewarding.store.results import read_jsonl
from selfrewarding.store.run_results import RunResults, results_of_run


def make_run(folder: Path) -> FinishedRun:
    """M2 is the first candidate of its training."""
    made = FinishedRun(folder, prompts=2, iterations=2)
    trained = made.commit(
        "m2", StageKind.PREFERENCE_OPTIMIZE, 2,
        {f"{folder}/{name}": [f"{folder} {name}".encode()] for folder in ("model", "candidates/1")
         for name in ("model.safetensors", "config.json")},
        parents={"prepare": "prepare", "model": "m1", "preferences": "preferences2"}, metrics={"loss": 0.5},
    )  # fmt: skip
    ref = StageRef(kind=trained.kind, iteration=2, key=trained.key, digest=made.digest("m2"))
    made.commit(
        "select2", StageKind.SELECT, 2, {}, parents={"prepare": "prepare", "trained": "m2"},
        metrics={"selected": 1.0, "winRateOfCandidate2": 0.4},
        report={CHOSEN: choice(ref, "candidates/1"), "chosen": "candidate 1 of 2"},
    )  # fmt: skip
    made.commit(
        "evaluate2", StageKind.EVALUATE, 2, {}, parents={"prepare": "prepare", "model": "select2"},
        metrics={"pairwiseAccuracy": 0.62},
    )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Nobody changes it."""
    return make_run(tmp_path_factory.mktemp("run"))


def test_the_model_that_learned_from_a_pair_is_the_one_that_was_chosen(
    run: FinishedRun, results: RunResults
) -> None:
    pair = next(iter(read_jsonl(run.store, run.results["preferences2"], "pairs.jsonl")))
    story = explain_row(run.store, results, str(pair["key"]))
    assert isinstance(story, PairStory)
    trained = story.models["trained"]
    assert (trained.name, trained.stage.kind) == ("M2", "Select")
    candidate = run.results["m2"].files["candidates/1/model.safetensors"].sha256
    assert trained.files == {"candidates/1/model.safetensors": candidate}
    assert {"PreferenceOptimize", "Select"} <= {stage.kind for stage in story.stages}


def test_there_is_one_card_for_it_with_the_numbers_of_training_and_choice(
    run: FinishedRun, results: RunResults
) -> None:
    found = [one.result for one in results.stages]
    cards = model_cards(run.store, RUN, found, Story(spec=make_spec()), "spec: {}\n")
    assert list(cards) == ["Baseline", "M1", "M2"]
    card = cards["M2"]
    assert "chosen by pairwise comparison" in card
    assert "| selected | 1 | – | Select 2 |" in card
    assert "| loss | 0.5 | – | PreferenceOptimize 2 |" in card
    assert "| pairwiseAccuracy | 0.62 | – | Evaluate 2 |" in card
    assert "candidates/1/model.safetensors `" in card
    assert '"dpo"' in card


def test_exports_take_the_answers_of_the_chosen_model(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    with_answers(made, {"m1": "First", "select2": "Chosen"})
    results = results_of_run(made.store, RUN)
    assert {name: one.result.kind for name, one in trained_models(results).items()} == {
        "Baseline": StageKind.TRAIN_BASELINE,
        "M1": StageKind.SUPERVISED_FINE_TUNE,
        "M2": StageKind.SELECT,
    }
    answers = model_answers(made.store, results, prompts="alpaca")
    assert answers.model == "M2"
    assert answers.rows[0]["answers"][0]["text"].startswith("Chosen")
