"""When stages ran, where GPUs waited, and how that is drawn."""

from datetime import UTC, datetime, timedelta

import pytest

from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.report.axis import Axis
from selfrewarding.report.timeline import timeline

T0 = datetime(2026, 3, 2, 8, 0, 0, tzinfo=UTC)


def result(kind, end, seconds, **changes):
    finished = None if end is None else (T0 + timedelta(seconds=end)).isoformat()
    fields = {"contract": 1, "kind": kind, "iteration": 2, "key": "k" * 64, "seconds": seconds, "finished": finished,
              "pod": "p"}  # fmt: skip
    return StageResult(**(fields | changes))


def three():
    return {
        "Rollout-2": result(StageKind.ROLLOUT, 100, 100, counts={"promptTokens": 7, "outputTokens": 5}),
        "BuildPreferences-2": result(StageKind.BUILD_PREFERENCES, 110, 10),
        "PreferenceOptimize-2": result(StageKind.PREFERENCE_OPTIMIZE, 230, 100, counts={"tokens": 90}),
    }


def test_stages_stand_in_the_order_of_their_starts_with_what_they_cost():
    told = timeline(three(), gpus={"Rollout-2": 2, "PreferenceOptimize-2": 4}, handover_seconds={})
    assert [span.kind for span in told.spans] == ["Rollout", "BuildPreferences", "PreferenceOptimize"]
    assert told.gpu_hours == pytest.approx((2 * 100 + 4 * 100) / 3600)
    assert (told.tokens_in, told.tokens_out, told.tokens_trained) == (7, 5, 90)
    assert told.stage_seconds == 210


def test_between_two_stages_with_gpus_the_gap_is_idle_whatever_ran_on_cpu():
    told = timeline(three(), gpus={"Rollout-2": 2, "PreferenceOptimize-2": 4}, handover_seconds={})
    [idle] = told.idle
    assert (idle.seconds, idle.gpus, idle.before) == (30, 4, "M2 PreferenceOptimize")
    assert told.idle_gpu_hours == pytest.approx(4 * 30 / 3600)


def test_a_hand_over_that_was_measured_goes_before_the_gap():
    gpus = {"Rollout-2": 2, "PreferenceOptimize-2": 4}
    [idle] = timeline(three(), gpus=gpus, handover_seconds={"PreferenceOptimize-2": 12.0}).idle
    assert idle.seconds == 12
    [idle] = timeline(three(), gpus=gpus, handover_seconds={"PreferenceOptimize-2": 500.0}).idle
    assert idle.seconds == 30, "no longer than the gap"


def test_without_gpus_nothing_is_idle():
    assert timeline(three(), gpus={}, handover_seconds={}).idle == ()


@pytest.mark.parametrize("finished", [None, "not a time", "2026-13-45T99:00:00Z"])
def test_a_result_without_a_time_is_left_out(finished):
    results = three() | {"Evaluate-2": result(StageKind.EVALUATE, None, 5, finished=finished)}
    assert len(timeline(results, gpus={}, handover_seconds={}).spans) == 3


def spans(*times):
    return [(T0 + timedelta(seconds=start), T0 + timedelta(seconds=end)) for start, end in times]


def test_a_short_pause_is_drawn_as_long_as_it_is():
    axis = Axis.of(spans((0, 100), (110, 200)))
    assert axis.cuts == ()
    assert axis.width == 200
    assert axis.at(T0 + timedelta(seconds=150)) == 150


def test_a_week_of_suspension_is_drawn_short_and_marked():
    week = 7 * 86400
    axis = Axis.of(spans((0, 1000), (week, week + 1000)))
    [cut] = axis.cuts
    assert cut == 1000 + 0.15 * 2000
    assert axis.width == cut + 1000
    assert axis.at(T0 + timedelta(seconds=week + 10)) == cut + 10
    assert axis.at(T0 + timedelta(seconds=5000)) <= cut
    assert (cut, "7 d") in axis.ticks()


@pytest.mark.parametrize("end", [0.5, 3, 59, 700, 5000, 86400 * 3, 86400 * 90])
def test_ticks_are_few_in_order_and_on_the_axis(end):
    axis = Axis.of(spans((0, end)))
    places = [at for at, _ in axis.ticks()]
    assert places == sorted(places)
    assert 1 <= len(places) <= 9
    assert all(0 <= at <= axis.width for at in places)
    assert len({words for _, words in axis.ticks()}) == len(places)
