"""`judge.calibration`: a judge that is no good is found before the first rollout spends anything."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError
from tests.support.builders import SPEC, merged
from tests.support.fake_cluster import FakeCluster
from tests.support.planned_runs import cluster_at

from selfrewarding.api.algorithm import CalibrationSpec
from selfrewarding.api.run import Metrics, SelfRewardingRunSpec, StageSummary
from selfrewarding.contract.config import ReportParameters
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.calibration import why_not_calibrated


def evaluated(pairs: int | None = 120, **metrics: float) -> StageSummary:
    counts = {} if pairs is None else {"pairs": pairs}
    return StageSummary(stage="Evaluate", iteration=1, digest="d", counts=counts, metrics=metrics)


@pytest.mark.parametrize(
    ("spec", "metrics", "pairs", "says"),
    [
        pytest.param({}, {"pairwise_accuracy": 0.651, "valid_rate": 0.9}, 120, None, id="the paper's baseline"),
        pytest.param({}, {"pairwise_accuracy": 0.5, "valid_rate": 0.5}, 20, None, id="at the bars"),
        pytest.param({}, {"pairwise_accuracy": 0.266}, 120, "pairwise accuracy is 0.266 (120 pairs)", id="a coin is better"),
        pytest.param({}, {"pairwise_accuracy": 0.7, "valid_rate": 0.4}, 120, "0.4 of its judgements", id="no form"),
        pytest.param({}, {"pairwise_accuracy": 0.9}, 19, "only 19 pairs", id="too few pairs to say anything"),
        pytest.param({}, {}, 0, "only 0 pairs", id="nothing could be judged"),
        pytest.param({"minPairs": 1}, {}, None, "is not defined", id="no number at all"),
        pytest.param({"minPairwiseAccuracy": 0.7}, {"pairwise_accuracy": 0.69}, 120, "0.69", id="an own bar"),
        pytest.param({"minPairs": 500}, {"pairwise_accuracy": 0.9}, None, None, id="pairs that nobody told are not held against it"),
    ],
)  # fmt: skip
def test_calibration(
    spec: dict[str, Any], metrics: dict[str, float], pairs: int | None, says: str | None
) -> None:
    why = why_not_calibrated(CalibrationSpec.model_validate(spec), Metrics(**metrics), evaluated(pairs))
    if says is None:
        assert why is None
    else:
        assert why is not None
        assert says in why
        assert "judge.format Structured with judge.scoring Expected, more EFT rows" in why


def test_the_interval_is_told_where_the_summary_has_it() -> None:
    told = evaluated(pairs=80, pairwiseAccuracyLow=0.21, pairwiseAccuracyHigh=0.43)
    why = why_not_calibrated(CalibrationSpec(), Metrics(pairwise_accuracy=0.32), told)
    assert why is not None
    assert "0.32 (95 % interval 0.21 to 0.43, 80 pairs), minPairwiseAccuracy is 0.5" in why


def test_all_that_is_missing_is_told_at_once() -> None:
    why = why_not_calibrated(CalibrationSpec(), Metrics(pairwise_accuracy=0.1, valid_rate=0.2), evaluated(3))
    assert why is not None
    for part in ("0.2 of its judgements", "only 3 pairs", "accuracy is 0.1"):
        assert part in why


# ---------------------------------------------------------------------- in a run

CALIBRATED = {"judge": {"calibration": {}}}


def measured_first(metrics: dict[str, float], **spec: Any) -> FakeCluster:
    cluster = cluster_at(StageKind.EVALUATE, 1, **merged(CALIBRATED, spec))
    cluster.succeed(cluster.job(StageKind.EVALUATE), metrics=metrics)
    cluster.finish_everything()
    return cluster


def test_a_judge_that_is_no_good_ends_the_run_before_its_first_rollout() -> None:
    cluster = measured_first({"pairwiseAccuracy": 0.3, "validRate": 0.9})
    assert cluster.condition("Failed") == ("True", "JudgeNotCalibrated")
    assert [model.name for model in cluster.status.models] == ["Baseline", "M1"]
    assert cluster.live_pods() == []
    assert "JudgeNotCalibrated" in cluster.events
    message = next(c.message for c in cluster.status.conditions if c.type == "Failed")
    assert "pairwise accuracy is 0.3" in message


def test_the_report_tells_that_the_judge_ended_the_run() -> None:
    cluster = cluster_at(StageKind.EVALUATE, 1)
    cluster.succeed(cluster.job(StageKind.EVALUATE), metrics={"pairwiseAccuracy": 0.3, "validRate": 0.9})
    cluster.settle()
    cluster.run_pods()
    before = report_of(cluster)
    assert before.uncalibrated is None
    cluster.edit(CALIBRATED)
    for _ in range(3):
        cluster.settle()
        cluster.run_pods()
        for one in cluster.jobs():
            if one.child.stage is not StageKind.REPORT:
                cluster.succeed(one)
        cluster.later(31)
    after = report_of(cluster)
    assert after.uncalibrated is not None
    assert "pairwise accuracy is 0.3" in after.uncalibrated
    assert cluster.condition("Ready") == ("True", "Reporting")


def report_of(cluster: FakeCluster) -> ReportParameters:
    """What the newest report that runs was asked for."""
    stage = [one.stage for one in cluster.jobs() if one.child.stage is StageKind.REPORT][-1]
    assert stage is not None
    assert isinstance(stage.parameters, ReportParameters)
    return stage.parameters


@pytest.mark.parametrize(
    "calibration", [None, {"minPairwiseAccuracy": 0.25}], ids=["taken away", "a lower bar"]
)
def test_an_edit_of_the_bar_goes_on_and_computes_nothing_again(calibration: dict[str, Any] | None) -> None:
    cluster = measured_first({"pairwiseAccuracy": 0.3, "validRate": 0.9})
    cluster.spec["judge"] = {} if calibration is None else {"calibration": calibration}
    cluster.generation += 1
    cluster.finish_everything()
    assert cluster.condition("Succeeded") == ("True", "AllIterationsDone")
    assert len(cluster.computed) == len(set(cluster.computed))


def test_a_good_judge_is_not_looked_at_again() -> None:
    """Later judges have gates and alarms; the summary that calibration read is trimmed by then."""
    cluster = measured_first({"pairwiseAccuracy": 0.7, "validRate": 0.9})
    assert cluster.condition("Succeeded") == ("True", "AllIterationsDone")


def test_a_bar_that_comes_after_the_first_rollout_changes_nothing() -> None:
    cluster = cluster_at(StageKind.BUILD_PREFERENCES, 2)
    cluster.edit({"judge": {"calibration": {"minPairwiseAccuracy": 0.99}}})
    cluster.finish_everything()
    assert cluster.condition("Succeeded") == ("True", "AllIterationsDone")


def test_one_iteration_has_no_rollout_to_protect() -> None:
    cluster = measured_first({"pairwiseAccuracy": 0.1}, iterations=1)
    assert cluster.condition("Succeeded") == ("True", "AllIterationsDone")


def test_calibration_is_no_part_of_any_key() -> None:
    plain, calibrated = FakeCluster(), FakeCluster(spec=merged(SPEC, CALIBRATED))
    plain.finish_everything()
    calibrated.finish_everything()
    assert calibrated.computed == plain.computed


def test_held_out_rows_that_cannot_be_are_refused_with_the_spec() -> None:
    own = {"seedData": {"ranked": None, "evaluations": {"uri": "s3://d/e.jsonl", "format": "Evaluations"}}}
    SelfRewardingRunSpec.model_validate(merged(SPEC, own))
    with pytest.raises(
        ValidationError, match=r"judge\.calibration measures the judge on held-out ranked rows"
    ) as error:
        SelfRewardingRunSpec.model_validate(merged(merged(SPEC, own), CALIBRATED))
    assert "give seedData.ranked or seedData.heldOut.source" in str(error.value)


def test_held_out_rows_that_prepare_does_not_find_end_the_run_before_any_gpu() -> None:
    cluster = cluster_at(StageKind.PREPARE, **CALIBRATED)
    cluster.succeed(cluster.job(StageKind.PREPARE))
    for key, summary in cluster.store.items():
        data = {name: value for name, value in summary.data.items() if name != "heldOut"}
        cluster.store[key] = summary.model_copy(update={"data": data})
        for uid, pod in cluster.pods.items():
            if pod.termination is not None:
                done = dict.fromkeys(pod.termination.done, cluster.store[key])
                termination = pod.termination.model_copy(update={"done": done})
                cluster.pods[uid] = replace(pod, termination=termination)
    cluster.finish_everything()
    assert cluster.condition("Failed") == ("True", "JudgeNotCalibrated")
    assert cluster.computed == []
