"""Rows that measured models: what `judgeCorrelation`, Evaluate's `validRate` and `positionBias` name has a story too."""

import json
from pathlib import Path

import pytest
from tests.support.lineage_run import RUN, FinishedRun

from selfrewarding.lineage.explain import UnknownPair, explain_row
from selfrewarding.lineage.measured import MeasuredStory
from selfrewarding.store.run_results import RunResults, results_of_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Nobody changes it."""
    found = FinishedRun(tmp_path_factory.mktemp("run"), prompts=2)
    found.compare(2, {"previous": 1})
    found.compare(3, {"previous": 2, "initial": 1})
    return found


def measured(run: FinishedRun, results: RunResults, wanted: str) -> MeasuredStory:
    story = explain_row(run.store, results, wanted)
    assert isinstance(story, MeasuredStory)
    json.dumps(story.as_json())
    return story


def test_a_held_out_row_has_the_judgements_of_every_round(run: FinishedRun, results: RunResults) -> None:
    row = run.held_out[1]
    story = measured(run, results, row.key)
    assert [(one.stage.iteration, one.model.name if one.model else None) for one in story.judged] == [
        (1, "M1"), (2, "M2"), (3, "M3"),
    ]  # fmt: skip
    newest = story.judged[2]
    assert newest.row["responses"][0]["judgements"][0]["text"].startswith("M3 likes it.")
    assert newest.judge["model"] == "m3-key"
    assert newest.stage.digest == run.digest("evaluate3")
    assert [(one.row["opponent"], one.against.name if one.against else None) for one in story.compared] == [
        ("previous", "M1"), ("previous", "M2"), ("initial", "M1"),
    ], "the same prompt was answered and compared too"  # fmt: skip
    assert measured(run, results, row.key[:12]) == story


def test_a_comparison_is_told_by_its_opponent(run: FinishedRun, results: RunResults) -> None:
    row = run.held_out[0]
    story = measured(run, results, f"previous/{row.key}")
    assert story.key == f"previous/{row.key}"
    assert story.judged == []
    assert [one.model.name if one.model else None for one in story.compared] == ["M2", "M3"]
    assert all(one.row["key"] == story.key for one in story.compared)
    assert (
        measured(run, results, f"initial/{row.key[:9]}").compared[0].judge["modelUri"]
        == "s3://models/referee"
    )


def test_what_is_not_one_row_is_refused(run: FinishedRun, results: RunResults) -> None:
    for wanted, said in (
        ("previous/", "3 held-out rows or comparisons of lab/demo or more begin so"),
        (f"baseline/{run.held_out[0].key}", "no pair of lab/demo has this key"),
        ("shown first", "no prompt, held-out row or comparison has it either"),
    ):
        with pytest.raises(UnknownPair, match=said):
            explain_row(run.store, results, wanted)


def test_rounds_that_an_edit_has_superseded_are_left_out(run: FinishedRun) -> None:
    current = [result.key for name, result in run.results.items() if not name.endswith("3")]
    story = explain_row(run.store, results_of_run(run.store, RUN, current=current), run.held_out[0].key)
    assert isinstance(story, MeasuredStory)
    assert [one.stage.iteration for one in (*story.judged, *story.compared)] == [1, 2, 2]


def test_a_model_that_is_gone_takes_its_name_alone(tmp_path: Path) -> None:
    run = FinishedRun(tmp_path, prompts=1, iterations=2)
    run.compare(2, {"previous": 1})
    run.store.delete(f"stages/SupervisedFineTune/{run.results['m1'].key}/result.json")
    story = explain_row(run.store, results_of_run(run.store, RUN), run.held_out[0].key)
    assert isinstance(story, MeasuredStory)
    assert [one.model.name if one.model else None for one in story.judged] == [None, "M2"]
    assert story.compared[0].against is None
