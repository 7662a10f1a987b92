"""A held-out row's story names who judged it: the model that was measured, or the run's own judge beside it."""

import dataclasses
import io

import pytest
from rich.console import Console
from tests.support.lineage_run import RUN, FinishedRun

from selfrewarding.cli.measured_story import print_measured
from selfrewarding.lineage.measured import MeasuredStory, measured_rows
from selfrewarding.store.run_results import results_of_run


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> MeasuredStory:
    run = FinishedRun(tmp_path_factory.mktemp("run"), prompts=1, iterations=2)
    (story,) = measured_rows(run.store, results_of_run(run.store, RUN), run.held_out[0].key)
    return story


def told(story: MeasuredStory) -> str:
    screen = io.StringIO()
    print_measured(Console(file=screen, width=120, highlight=False), story, full=False)
    return screen.getvalue()


def test_the_model_that_was_measured_is_the_judge(story: MeasuredStory) -> None:
    assert "M2 as judge (Evaluate 2):" in told(story)
    assert "dedicated" not in told(story)


def test_a_dedicated_judge_is_named_in_its_place(story: MeasuredStory) -> None:
    uri = "s3://models/judge-70b"
    judged = [dataclasses.replace(one, judge=one.judge | {"modelUri": uri}) for one in story.judged]
    text = told(dataclasses.replace(story, judged=judged))
    assert f"the dedicated judge {uri} (Evaluate 2):" in text
    assert "as judge" not in text
