"""Alarms: the table beside the spec's own words, each at its threshold, and what a run makes of them."""

import re
from dataclasses import replace
from typing import Any

import pytest
from pydantic.alias_generators import to_camel
from tests.support.builders import SPEC, merged
from tests.support.fake_cluster import FakeCluster
from tests.support.planned_runs import cluster_at

from selfrewarding.api.evaluation import AlarmsSpec
from selfrewarding.api.run import AlarmStatus, Metrics, SelfRewardingRunStatus
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.alarms import ALARMS, AlarmRule, Round, said_once, sounding
from selfrewarding.plan.report import MAX_TEXT

BY_NAME = {rule.name: rule for rule in ALARMS}


def measured(rule: AlarmRule, value: float) -> Round:
    """A round in which an alarm's number has this value."""
    if rule.measured_as == "value":
        return Round(number=2, stages=(("Rollout", {rule.metric: value}),))
    now = 100 * value if rule.measured_as == "growth" else 0.5 - value
    reference = Metrics.model_validate({rule.metric: 100 if rule.measured_as == "growth" else 0.5})
    return Round(number=3, stages=(("Evaluate", {rule.metric: now}),), before=reference, base=reference)


def test_every_alarm_of_the_spec_has_its_rule_in_the_same_order() -> None:
    assert [rule.name for rule in ALARMS] == list(AlarmsSpec.model_fields)
    assert {rule.metric for rule in ALARMS} <= {to_camel(name) for name in Metrics.model_fields}


@pytest.mark.parametrize("rule", ALARMS, ids=lambda rule: rule.name)
def test_the_spec_says_the_rules_own_numbers(rule: AlarmRule) -> None:
    text = AlarmsSpec.model_fields[rule.name].description or ""
    said = re.search(r"(above|below) ([0-9.]+): (Warn|Stop)", " ".join(text.split()))
    assert said is not None, text
    assert (said[1], float(said[2]), said[3]) == (rule.direction, rule.threshold, rule.action)


@pytest.mark.parametrize("rule", ALARMS, ids=lambda rule: rule.name)
def test_an_alarm_sounds_beyond_its_threshold_and_not_at_it(rule: AlarmRule) -> None:
    step = 0.01 if rule.direction == "above" else -0.01
    assert sounding(AlarmsSpec(), measured(rule, rule.threshold - step)) == []
    if rule.measured_as == "value":
        assert sounding(AlarmsSpec(), measured(rule, rule.threshold)) == []
    (alarm,) = sounding(AlarmsSpec(), measured(rule, rule.threshold + step))
    assert (alarm.name, alarm.action, alarm.threshold) == (to_camel(rule.name), rule.action, rule.threshold)
    assert alarm.stage == ("Rollout" if rule.measured_as == "value" else "Evaluate")
    assert alarm.value == pytest.approx(rule.threshold + step)
    assert f"alarms.{alarm.name}.threshold" in alarm.message
    assert "Try " in alarm.message
    assert "`srr report` names them, `srr explain KEY` tells their story" in alarm.message
    assert ("action to Warn" in alarm.message) == (rule.action == "Stop")
    assert len(f"The alarm {alarm.name} ended the run in iteration 20: {alarm.message}") <= MAX_TEXT


@pytest.mark.parametrize("rule", ALARMS, ids=lambda rule: rule.name)
def test_a_number_that_is_not_there_never_sounds(rule: AlarmRule) -> None:
    others = {other.metric: 1e9 if other.direction == "below" else -1e9 for other in ALARMS}
    others.pop(rule.metric)
    rounds = Round(number=2, stages=(("Rollout", others),), before=Metrics(), base=Metrics())
    assert to_camel(rule.name) not in {alarm.name for alarm in sounding(AlarmsSpec(), rounds)}


@pytest.mark.parametrize("name", ["length_growth", "judge_correlation"])
@pytest.mark.parametrize("reference", [None, Metrics(), Metrics(mean_length=0)])
def test_the_first_round_has_nothing_to_be_compared_with(name: str, reference: Metrics | None) -> None:
    rule = BY_NAME[name]
    alone = Round(number=2, stages=(("Evaluate", {rule.metric: -1e9}), ("x", {rule.metric: 1e9})),
                  before=reference, base=reference)  # fmt: skip
    assert sounding(AlarmsSpec(), alone) == []


def test_a_round_that_was_rolled_back_is_no_measure_of_the_judge_but_of_lengths() -> None:
    """Round 2 is rolled back: M3 is made from M1, whose correlation it must not fall behind."""
    fell = Round(
        number=3,
        stages=(("BuildPreferences", {"meanLength": 300}), ("Evaluate", {"spearman": 0.3})),
        before=Metrics(mean_length=100, spearman=0.1),
        base=Metrics(spearman=0.5),
    )
    assert {alarm.name: alarm.value for alarm in sounding(AlarmsSpec(), fell)} == {
        "lengthGrowth": 3.0,
        "judgeCorrelation": 0.2,
    }


def test_the_specs_own_threshold_and_action_count() -> None:
    piled = Round(number=2, stages=(("Rollout", {"scorePiling": 0.95}),))
    assert sounding(AlarmsSpec.model_validate({"scorePiling": {"threshold": 0.97}}), piled) == []
    assert sounding(AlarmsSpec.model_validate({"scorePiling": {"action": "Off"}}), piled) == []
    (warned,) = sounding(AlarmsSpec.model_validate({"scorePiling": {"action": "Warn"}}), piled)
    assert (warned.action, warned.threshold) == ("Warn", 0.9)
    assert sounding(AlarmsSpec.model_validate({"scorePiling": {"threshold": 0}}), piled)[0].threshold == 0


def test_an_alarm_sounds_once_a_round_by_the_first_stage_that_shows_it() -> None:
    both = Round(number=2, stages=(("Rollout", {"validRate": 0.3}), ("Evaluate", {"validRate": 0.2})))
    (alarm,) = sounding(AlarmsSpec(), both)
    assert alarm.value == 0.3
    later = Round(number=2, stages=(("Rollout", {"validRate": 0.9}), ("Evaluate", {"validRate": 0.2})))
    assert sounding(AlarmsSpec(), later)[0].value == 0.2


def test_status_stays_small_though_every_alarm_sounds_in_every_round() -> None:
    told: list[AlarmStatus] = []
    for number in range(1, 21):
        for rule in ALARMS:
            step = 0.01 if rule.direction == "above" else -0.01
            round_ = replace(measured(rule, rule.threshold + step), number=number)
            told = said_once([*told, *sounding(AlarmsSpec(), round_)])
    status = SelfRewardingRunStatus.model_validate({"alarms": told})  # the schema's own limit holds
    assert len(status.alarms) == 300
    assert len(status.model_dump_json(by_alias=True)) < 80_000
    for alarm in status.alarms:
        assert ("Try " in alarm.message) == (alarm.iteration == 20)
        assert re.match(r"\w+: ", alarm.message)
        assert "(" in alarm.message or alarm.iteration < 20


# ---------------------------------------------------------------------- in a run


def stopped_at(kind: StageKind, metrics: dict[str, float], **spec: Any) -> FakeCluster:
    """A run whose stage of this kind in iteration 2 has just measured this."""
    cluster = cluster_at(kind, 2, **spec)
    cluster.succeed(cluster.job(kind), metrics=metrics)
    cluster.settle()
    return cluster


def rest(cluster: FakeCluster) -> FakeCluster:
    """Let what is left (the report) end."""
    cluster.finish_everything()
    return cluster


PILED = {"scorePiling": 1.0, "validRate": 0.9}


def test_an_alarm_that_stops_ends_the_run_before_the_next_stage_starts() -> None:
    cluster = stopped_at(StageKind.ROLLOUT, PILED)
    started = list(cluster.computed)
    rest(cluster)
    assert cluster.computed == started, "nothing but the report is started any more"
    assert cluster.condition("Succeeded") == ("True", "StoppedByAlarm")
    assert [model.name for model in cluster.status.models] == ["Baseline", "M1"]
    (alarm,) = cluster.status.alarms
    assert (alarm.name, alarm.iteration, alarm.action, alarm.value) == ("scorePiling", 2, "Stop", 1.0)
    message = next(c.message for c in cluster.status.conditions if c.type == "Succeeded")
    assert message.startswith(
        "The alarm scorePiling ended the run in iteration 2: Rollout: 100 % of the scored answers"
    )
    assert cluster.live_pods() == []


def test_a_run_that_an_alarm_has_ended_stays_ended() -> None:
    cluster = rest(stopped_at(StageKind.ROLLOUT, PILED))
    writes = cluster.status_writes
    for _ in range(5):
        cluster.later(600)
        cluster.settle()
    assert cluster.status_writes == writes
    assert cluster.events.count("Alarm") == 1
    assert cluster.events.count("StoppedByAlarm") == 1


@pytest.mark.parametrize(
    "alarms",
    [
        {"scorePiling": {"threshold": 1}},
        {"scorePiling": {"action": "Off"}},
        {"scorePiling": {"action": "Warn"}},
    ],
)
def test_an_edit_of_threshold_or_action_decides_anew_and_computes_nothing_again(
    alarms: dict[str, Any],
) -> None:
    cluster = rest(stopped_at(StageKind.ROLLOUT, PILED))
    cluster.edit({"alarms": alarms})
    cluster.finish_everything()
    assert cluster.condition("Succeeded") == ("True", "AllIterationsDone")
    assert len(cluster.computed) == len(set(cluster.computed)), "no stage ran twice"
    assert [alarm.action for alarm in cluster.status.alarms] == (
        ["Warn"] if alarms["scorePiling"].get("action") == "Warn" else []
    )


def test_a_stricter_threshold_stops_a_run_under_way_but_not_for_rows_that_are_trained_on() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2)
    cluster.succeed(cluster.job(StageKind.ROLLOUT), metrics={"scorePiling": 0.6})
    for _ in range(40):
        cluster.settle()
        cluster.run_pods()
        if any(
            one.stage and (one.stage.kind, one.stage.iteration) == (StageKind.ROLLOUT, 3)
            for one in cluster.jobs()
        ):
            break
        for owned in list(cluster.jobs()):
            cluster.succeed(owned)
        cluster.later(31)
    cluster.edit({"alarms": {"scorePiling": {"threshold": 0.5}}})
    cluster.settle()
    assert cluster.status.alarms == [], "iteration 2 is history, and iteration 3 has not measured it"
    cluster.succeed(cluster.job(StageKind.ROLLOUT, 3), metrics={"scorePiling": 0.55})
    rest(cluster)
    assert [(alarm.iteration, alarm.value) for alarm in cluster.status.alarms] == [(3, 0.55)]
    assert [model.name for model in cluster.status.models] == ["Baseline", "M1", "M2"]


def test_a_warning_is_told_once_and_kept() -> None:
    cluster = stopped_at(StageKind.ROLLOUT, {"truncatedRate": 0.5})
    cluster.finish_everything()
    assert cluster.condition("Succeeded") == ("True", "AllIterationsDone")
    assert [(alarm.name, alarm.iteration) for alarm in cluster.status.alarms] == [("truncated", 2)]
    assert cluster.events.count("Alarm") == 1


def test_a_warning_of_the_next_round_takes_over_what_to_try() -> None:
    cluster = cluster_at(StageKind.ROLLOUT, 2)
    for number in (2, 3):
        while not any(
            one.child.iteration == number for one in cluster.jobs() if one.child.stage is StageKind.ROLLOUT
        ):
            for one in list(cluster.jobs()):
                cluster.succeed(one)
            cluster.later(31)
            cluster.settle()
            cluster.run_pods()
        cluster.succeed(cluster.job(StageKind.ROLLOUT, number), metrics={"truncatedRate": 0.5})
    cluster.finish_everything()
    first, second = (alarm.message for alarm in cluster.status.alarms)
    assert first == "Rollout: 50 % of the answers were cut by length"
    assert second.startswith(
        f"{first} (alarms.truncated.threshold: at most 0.3). Try a higher responses.maxTokens"
    )
    assert cluster.events.count("Alarm") == 2


def test_growth_and_fall_are_of_the_models_that_status_keeps() -> None:
    """Metrics of an iteration that is over are trimmed from its results: the models have them."""
    cluster = FakeCluster(spec=merged(SPEC, {}))
    lengths = {2: 100.0, 3: 250.0}
    spearman = {1: 0.4, 2: 0.39, 3: 0.3}
    for _ in range(80):
        cluster.settle()
        if not cluster.jobs() and not cluster.pods and cluster.is_finished():
            break
        cluster.run_pods()
        for owned in list(cluster.jobs()):
            assert owned.stage is not None
            number = owned.stage.iteration
            told = {
                StageKind.BUILD_PREFERENCES: {"meanLength": lengths.get(number, 0)},
                StageKind.EVALUATE: {"spearman": spearman.get(number, 0)},
            }.get(owned.stage.kind)
            cluster.succeed(owned, metrics=told)
        cluster.later(31)
    found = {alarm.name: (alarm.iteration, alarm.value) for alarm in cluster.status.alarms}
    assert found == {"lengthGrowth": (3, 2.5), "judgeCorrelation": (3, pytest.approx(0.09))}


def test_an_alarm_of_the_last_stage_stops_before_the_next_iteration() -> None:
    cluster = stopped_at(StageKind.EVALUATE, {"positionBias": 0.9, "pairwiseAccuracy": 0.7})
    rest(cluster)
    assert cluster.condition("Succeeded") == ("True", "StoppedByAlarm")
    assert [model.name for model in cluster.status.models] == ["Baseline", "M1", "M2"]
    cluster.edit({"alarms": {"positionBias": {"action": "Warn"}}})
    cluster.finish_everything()
    assert [model.name for model in cluster.status.models] == ["Baseline", "M1", "M2", "M3"]
    assert [(alarm.name, alarm.action) for alarm in cluster.status.alarms] == [("positionBias", "Warn")]


@pytest.mark.parametrize(
    ("judge", "alarms", "action"),
    [
        pytest.param({}, {}, "Stop", id="the model itself rewards by place"),
        pytest.param({"modelUri": "s3://models/referee"}, {}, "Warn", id="a fixed judge only measures"),
        pytest.param(
            {"endpoint": {"url": "https://llm.example.com/v1", "model": "large"}}, {}, "Warn", id="an endpoint too"
        ),
        pytest.param(
            {"modelUri": "s3://models/referee"}, {"positionBias": {"action": "Stop"}}, "Stop", id="what the spec says counts"
        ),
    ],
)  # fmt: skip
def test_the_bias_of_a_judge_that_is_not_the_model_ends_no_run(
    judge: dict[str, Any], alarms: dict[str, Any], action: str
) -> None:
    cluster = cluster_at(StageKind.COMPARE, 2, evaluation={"headToHead": {"judge": judge}}, alarms=alarms)
    cluster.succeed(cluster.job(StageKind.COMPARE), metrics={"positionBias": 0.9})
    cluster.settle()
    (alarm,) = cluster.status.alarms
    assert (alarm.name, alarm.action) == ("positionBias", action)


def test_a_run_that_finds_all_results_in_the_store_is_stopped_as_well() -> None:
    first = stopped_at(StageKind.ROLLOUT, PILED, alarms={"scorePiling": {"action": "Off"}})
    first.finish_everything()
    second = FakeCluster(spec=merged(SPEC, {}), store=first.store)
    second.finish_everything()
    assert second.condition("Succeeded") == ("True", "StoppedByAlarm")
    assert [alarm.iteration for alarm in second.status.alarms] == [2]


def test_an_edit_that_makes_the_rows_anew_forgets_their_alarm() -> None:
    cluster = rest(stopped_at(StageKind.ROLLOUT, PILED))
    cluster.edit({"judge": {"samples": 5}})
    cluster.finish_everything()
    assert cluster.condition("Succeeded") == ("True", "AllIterationsDone")
    assert cluster.status.alarms == []
