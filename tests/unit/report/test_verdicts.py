"""The first four answers say no more than the numbers do."""

import dataclasses

import pytest

from selfrewarding.report.story import (
    AlarmStory,
    Comparison,
    IterationStory,
    JudgeQuality,
    Measure,
    RunStory,
)
from selfrewarding.report.verdicts import verdicts
from selfrewarding.report.wording import ALARM_NAMES


def story(rate=None, accuracy=None, **changes):
    comparisons = () if rate is None else (Comparison(opponent="previous", against="M1", win_rate=rate),)
    judge = JudgeQuality(metrics={} if accuracy is None else {"pairwiseAccuracy": accuracy})
    one = IterationStory(number=2, model="M2", comparisons=comparisons, judge=judge)
    return dataclasses.replace(
        RunStory(
            namespace="lab",
            name="demo",
            iterations_wanted=3,
            iterations=(one,),
            compared=True,
            fixed_judge="j",
        ),
        **changes,
    )


@pytest.mark.parametrize(
    ("rate", "answer", "tone"),
    [
        (Measure(value=0.56, low=0.51, high=0.61), "Yes, better", "good"),
        (Measure(value=0.7, low=0.49, high=0.9), "No difference shown", "plain"),
        (Measure(value=0.5, low=0.5, high=0.5), "No difference shown", "plain"),
        (Measure(value=0.4, low=0.31, high=0.49), "No, worse", "bad"),
        (Measure(value=0.62), "62.0 % wins", "plain"),
    ],
)
def test_better_only_where_the_interval_says_so(rate, answer, tone):
    better = verdicts(story(rate))[0]
    assert (better.answer, better.tone) == (answer, tone)
    assert "M2 wins" in better.detail


def test_a_model_that_judges_itself_is_said_to():
    better = verdicts(story(Measure(value=0.6, low=0.55, high=0.65), fixed_judge=None))[0]
    assert (better.answer, better.tone) == ("Better, by its own judgement", "plain")
    assert "The model itself was the judge" in better.detail


def test_what_is_not_measured_says_why():
    assert "evaluation.headToHead is not set" in verdicts(story(compared=False))[0].detail
    assert verdicts(story())[0].detail == "No comparison is finished yet."
    unjudged = Comparison(
        opponent="previous",
        against="M1",
        win_rate=None,
        undefined={"winRate": "no prompt with two valid verdicts"},
    )
    compared = IterationStory(number=2, model="M2", comparisons=(unjudged,))
    assert "no prompt with two valid verdicts" in verdicts(story(iterations=(compared,)))[0].detail
    undefined = JudgeQuality(metrics={}, undefined={"pairwiseAccuracy": "no pair of different human ranks"})
    one = IterationStory(number=1, model="M1", judge=undefined)
    assert "no pair of different human ranks" in verdicts(story(iterations=(one,)))[1].detail


@pytest.mark.parametrize(
    ("accuracy", "answer"),
    [
        (Measure(value=0.64, low=0.6, high=0.68), "Better than chance"),
        (Measure(value=0.52, low=0.47, high=0.57), "Not shown"),
        (Measure(value=0.52), "52.0 % right"),
    ],
)
def test_a_judge_is_trusted_only_above_chance(accuracy, answer):
    assert verdicts(story(accuracy=accuracy))[1].answer == answer


def test_what_a_judge_is_told_of_is_its_own():
    """A dedicated judge scores, a fixed one compares: neither's number is the newest model's."""
    rate, accuracy = Measure(value=0.6), Measure(value=0.64, low=0.6, high=0.68)
    run = story(rate, accuracy)
    before = dataclasses.replace(run.iterations[0], number=1, model="M1")
    now = dataclasses.replace(run.iterations[0], position_bias=Measure(value=0.25))
    both = dataclasses.replace(run, iterations=(before, now))

    def told(**who):
        return verdicts(dataclasses.replace(both, **who))[1].detail

    own = told(fixed_judge=None)
    assert own.startswith("As judge M2 orders 64.0 % of the held-out pairs")
    assert "M1 did 64.0 %" in own
    assert "Comparing answers, M2 preferred the same place in both orders in 25.0 %" in own
    assert "Comparing answers, the fixed judge preferred" in told()
    dedicated = told(dedicated_judge=True)
    assert dedicated.startswith("The dedicated judge orders 64.0 % of the held-out pairs")
    assert "M1 did" not in dedicated


def test_alarms_that_are_off_are_no_good_news():
    quiet = verdicts(story())[2]
    assert (quiet.tone, "Turned off" in quiet.detail) == ("good", False)
    off = verdicts(story(alarms_off=("tieRate", "positionBias")))[2]
    assert off.tone == "plain"
    assert off.detail == (
        "All other measured signs of a collapse stay within their thresholds. Turned off, and so not looked at: "
        "Most prompts are ties (tieRate), The judge prefers a place (positionBias)."
    )
    nothing = verdicts(story(alarms_off=tuple(ALARM_NAMES)))[2]
    assert (nothing.answer, nothing.tone) == ("Not looked at", "plain")
    alarm = AlarmStory(name="tieRate", iteration=2, action="Warn", value=0.9, threshold=0.8, message="m")
    assert "(positionBias)" in verdicts(story(alarms=(alarm,), alarms_off=("positionBias",)))[2].detail


def test_alarms_are_counted_and_stops_are_named():
    alarm = AlarmStory(name="tieRate", iteration=2, action="Warn", value=0.9, threshold=0.8, message="m")
    assert verdicts(story())[2].answer == "No alarm"
    assert verdicts(story(alarms=(alarm,)))[2].answer == "1 alarm"
    stopped = verdicts(story(alarms=(alarm, dataclasses.replace(alarm, action="Stop"))))[2]
    assert (stopped.answer, stopped.tone) == ("2 alarms", "bad")
    assert "1 of them stopped the run" in stopped.detail
