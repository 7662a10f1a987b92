"""What `srr approve` may approve, and what people read where there is nothing."""

import pytest
from tests.support.planned_runs import cluster_at

from selfrewarding.api.run import SelfRewardingRunStatus
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.approval import NothingHeld, approval_of, held_model

HELD = {"gate": {"approval": "Manual"}}
STRICT = {"metric": "pairwiseAccuracy", "minimum": 0.9, "action": "Stop"}


def held_at_m1():
    cluster = cluster_at(StageKind.EVALUATE, 1, **HELD)
    cluster.succeed(cluster.job(StageKind.EVALUATE))
    cluster.settle()
    return cluster


def test_the_held_model_is_found_and_its_approval_lets_the_run_go_on() -> None:
    cluster = held_at_m1()
    model = held_model(cluster.status, {})
    assert (model.name, model.iteration) == ("M1", 1)
    assert held_model(cluster.status, {}, 1) == model
    cluster.annotations = {"selfrewarding.dev/approve": str(model.iteration)}
    cluster.settle()
    with pytest.raises(NothingHeld, match="the run is at GeneratePrompts of iteration 2"):
        held_model(cluster.status, cluster.annotations)


@pytest.mark.parametrize(("alone", "gate"), [(False, "Held"), (True, "Promoted")])
def test_a_model_that_an_edit_makes_anew_is_held_again_unless_its_iteration_is_approved(alone, gate) -> None:
    cluster = held_at_m1()
    model = held_model(cluster.status, {})
    cluster.annotations = {"selfrewarding.dev/approve": "1" if alone else approval_of(model)}
    cluster.settle()
    assert cluster.status.models[-1].gate == "Promoted"
    cluster.edit({"sft": {"learningRate": 1e-5}})
    with pytest.raises(AssertionError, match="waiting for a person"):
        cluster.finish_everything(rounds=20)
    remade = next(one for one in cluster.status.models if one.name == "M1")
    assert remade.digest != model.digest
    assert remade.gate == gate


def test_another_iteration_than_the_held_one_is_refused_with_what_is_held() -> None:
    with pytest.raises(
        NothingHeld, match=r"holds M1 \(iteration 1\), not the model of iteration 2: gate.approval"
    ):
        held_model(held_at_m1().status, {}, 2)


def test_what_is_approved_already_is_said() -> None:
    with pytest.raises(NothingHeld, match="approved already"):
        held_model(held_at_m1().status, {"selfrewarding.dev/approve": "1"})


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            {"gate": {"rules": [STRICT]}},
            "A gate has ended the run, which an approval does not undo: change gate.rules",
        ),
        (
            {"alarms": {"judgeCorrelation": {"threshold": 0.5}}, "iterations": 1},
            "No gate holds: the run is done. The run made M1",
        ),
        (
            {"judge": {"calibration": {"minPairwiseAccuracy": 0.99}}},
            "has not reached judge.calibration: change it",
        ),
        ({"alarms": {"positionBias": {"threshold": 0.3}}}, "An alarm has ended the run"),
    ],
)
def test_a_run_that_has_ended_says_by_what(spec, words) -> None:
    cluster = cluster_at(StageKind.EVALUATE, 1, **spec)
    cluster.succeed(cluster.job(StageKind.EVALUATE), metrics={"pairwiseAccuracy": 0.6, "positionBias": 0.5})
    cluster.finish_everything()
    with pytest.raises(NothingHeld) as caught:
        held_model(cluster.status, {})
    assert str(caught.value).startswith(words) or words in str(caught.value)


def test_a_run_that_has_not_started_says_so() -> None:
    with pytest.raises(NothingHeld, match="has not started"):
        held_model(SelfRewardingRunStatus(), {})
