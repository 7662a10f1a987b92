"""Model cards: digests of data and weights, metrics with intervals, the gate, what it was made from, the manifest."""

import json
from pathlib import Path

import pytest
from tests.support.builders import make_spec
from tests.support.lineage_run import RUN, FinishedRun

from selfrewarding.api.run import ModelStatus
from selfrewarding.contract.config import Story
from selfrewarding.contract.stages import StageKind
from selfrewarding.lineage.cards import model_cards

MANIFEST = (
    "apiVersion: selfrewarding.dev/v1alpha1\nspec:\n  judge: https://user:secret@judge.example.com/v1\n"
)


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    run = FinishedRun(tmp_path_factory.mktemp("run"), prompts=2)
    opponents = {
        "previous": {
            "win_rate": 55.0,
            "intervals": {"win_rate": [50.0, 60.0]},
            "length_controlled_win_rate": None,
        }
    }
    run.commit(
        "compare2", StageKind.COMPARE, 2, {"metrics.json": [json.dumps({"opponents": opponents}).encode()]},
        parents={"answers": "evaluate2", "previous": "evaluate1"}, metrics={"winRate": 0.55},
    )  # fmt: skip
    story = Story(
        spec=make_spec({"seed": 7}),
        models=[ModelStatus(name="M2", iteration=2, uri="u", digest="d", gate="Held", gate_message="a | b")],
    )
    return model_cards(run.store, RUN, run.results.values(), story, MANIFEST)


def test_there_is_a_card_for_each_model(cards: dict[str, str]) -> None:
    assert list(cards) == ["Baseline", "M1", "M2", "M3"]
    for card in cards.values():
        assert card.startswith('---\nlibrary_name: "transformers"\n')
        assert "secret" not in card
        assert MANIFEST.replace("user:secret@", "") in card


def test_a_card_has_metrics_with_intervals_and_digests(cards: dict[str, str]) -> None:
    card = cards["M2"]
    assert "| pairwiseAccuracy | 0.62 | 0.55 to 0.65 | Evaluate 2 |" in card
    assert "| win rate against previous | 0.55 | 0.5 to 0.6 | Compare 2 |" in card
    assert "| winRate | 0.55 | – | Compare 2 |" in card
    assert "| instructions | `aaaaaaaaaaaa` | 12 |" in card
    assert "- gate: Held (a | b)" in card
    assert "seed 7, contract 1" in card
    assert "model/model.safetensors `" in card
    assert "0.1.0+0123456789abcdef" in card
    assert "win rate against previous" not in cards["M1"], (
        "what was measured of another model is not its number"
    )


def test_a_card_of_stages_that_another_prepare_fed_names_the_data_of_the_runs_own(tmp_path: Path) -> None:
    run = FinishedRun(tmp_path, prompts=1, iterations=2)
    run.take_over()
    story = Story(spec=make_spec())
    cards = model_cards(run.store, RUN, run.results.values(), story, MANIFEST)
    for name in ("Baseline", "M1", "M2"):
        assert "- M0: hf://tiny/model@abc" in cards[name]
        assert "| instructions | `aaaaaaaaaaaa` | 12 |" in cards[name]
        assert f"| Prepare | 0 | `{run.results['prepare'].key}` |" in cards[name]


def test_a_card_names_the_fixed_models_with_their_digests(tmp_path: Path) -> None:
    run = FinishedRun(tmp_path, prompts=1, iterations=1, judge="s3://user:secret@models/judge-70b")
    (card, *_) = model_cards(run.store, RUN, run.results.values(), Story(spec=make_spec()), MANIFEST).values()
    assert "- fixed judge: s3://models/judge-70b (digest `eeeeeeeeeeee`)" in card


def test_a_card_names_the_stages_that_the_model_depends_on_and_no_others(cards: dict[str, str]) -> None:
    def stages(card: str) -> list[str]:
        table = card.partition("## Made from")[2].partition("## Manifest")[0]
        return [" ".join(line.split(" | ")[:2])[2:] for line in table.splitlines()[4:] if line]

    assert stages(cards["Baseline"]) == ["Prepare 0", "TrainBaseline 1"]
    assert stages(cards["M1"]) == [
        "Prepare 0",
        "TrainBaseline 1",
        "BuildEvaluations 1",
        "SupervisedFineTune 1",
    ]
    assert stages(cards["M2"])[4:] == [
        "GeneratePrompts 2",
        "Rollout 2",
        "BuildPreferences 2",
        "PreferenceOptimize 2",
    ]


def test_a_metrics_file_that_is_gone_takes_its_intervals_alone(tmp_path: Path) -> None:
    run = FinishedRun(tmp_path, prompts=2, iterations=1)
    result = run.commit(
        "compare1", StageKind.COMPARE, 1, {"metrics.json": [b"{}"]},
        parents={"answers": "evaluate1"}, metrics={"winRate": 0.5},
    )  # fmt: skip
    run.store.delete(f"stages/Compare/{result.key}/{result.files['metrics.json'].path}")
    card = model_cards(run.store, RUN, run.results.values(), Story(spec=make_spec()), MANIFEST)["M1"]
    assert "| winRate | 0.5 | – | Compare 1 |" in card
