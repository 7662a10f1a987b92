"""With early stopping the page says which candidate became a model."""

from tests.support.finished_run import finished_run

from selfrewarding.contract.stages import StageKind
from selfrewarding.report.collect import Loaded, collect, load
from selfrewarding.report.page import render


def test_the_page_names_the_candidate_that_was_chosen(tmp_path):
    run = finished_run(tmp_path, iterations=3, prompts=4)
    results = load(run.store, run.stages).results
    select = results["Compare-2"].model_copy(
        update={"kind": StageKind.SELECT, "report": {"chosen": "candidate 1 of 2"}}
    )
    told = collect(run.store, run.run, Loaded({**results, "Select-2": select}), run.story)
    assert [one.chosen for one in told.iterations] == [None, "candidate 1 of 2", None]
    page = render(told)
    assert "M2 is candidate 1 of 2 of its DPO" in page
    assert "M3 is" not in page
