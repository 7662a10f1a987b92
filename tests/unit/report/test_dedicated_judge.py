"""A run with a judge of its own: the page does not tell that judge's numbers as the newest model's."""

import pytest
from tests.support.finished_run import finished_run

from selfrewarding.report.collect import collect, load
from selfrewarding.report.verdicts import verdicts


@pytest.mark.parametrize(
    ("uri", "who"), [(None, "As judge M2 orders"), ("s3://models/judge-70b", "The dedicated judge orders")]
)
def test_who_judged_is_read_from_the_spec(tmp_path, uri, who):
    run = finished_run(tmp_path, iterations=2, prompts=4)
    judge = run.story.spec.judge.model_copy(update={"model_uri": uri})
    spec = run.story.spec.model_copy(update={"judge": judge})
    story = run.story.model_copy(update={"spec": spec})
    told = collect(run.store, run.run, load(run.store, run.stages), story)
    assert verdicts(told)[1].detail.startswith(who)
