"""Survival rule 2: names of at most 52 characters that carry run UID, key and attempt."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifest_scenarios import UID, key, plan

from selfrewarding.contract.keys import artifact_label
from selfrewarding.contract.stages import StageKind
from selfrewarding.manifests import (
    RunContext,
    holder_name,
    run_label,
    service_name,
    stage_name,
)
from selfrewarding.plan.stage import Holder, Stage

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
RUN_NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?", fullmatch=True)

PLAN = plan()


def run(**changes: str) -> RunContext:
    return dataclasses.replace(PLAN.context, **changes)


def rollout(**changes: object) -> Stage:
    return dataclasses.replace(PLAN.stages[StageKind.ROLLOUT], **changes)


def policy(text: str = "a") -> Holder:
    old = PLAN.holders["policy"]
    return dataclasses.replace(old, model=dataclasses.replace(old.model, key=key(text)))


@given(RUN_NAMES, st.sampled_from(list(PLAN.stages)), st.integers(1, 99999))
def test_survival_rule_02_names_have_at_most_52_characters_and_are_dns_labels(
    name: str, kind: StageKind, attempt: int
) -> None:
    context, stage = run(name=name), dataclasses.replace(PLAN.stages[kind], iteration=20)
    made = [
        stage_name(context, stage, attempt),
        holder_name(context, policy(), 20, attempt),
        service_name(context, policy()),
    ]
    for one in made:
        assert len(one) <= 52
        assert DNS_1035.fullmatch(one)
    assert len(f"{made[0]}-worker-1022") <= 63, "the pods of the largest PyTorchJob"


def test_survival_rule_02_names_differ_by_attempt_uid_key_and_iteration_and_are_the_same_again() -> None:
    names = [
        stage_name(run(), rollout(), 1),
        stage_name(run(), rollout(), 2),
        stage_name(run(uid="another"), rollout(), 1),
        stage_name(run(), rollout(key=key("another")), 1),
        stage_name(run(), rollout(iteration=3), 1),
        stage_name(run(name="another"), rollout(), 1),
    ]
    assert len(set(names)) == len(names)
    assert stage_name(run(), rollout(), 1) == names[0]


def test_survival_rule_02_runs_whose_long_names_begin_alike_do_not_meet() -> None:
    long = "self-rewarding-llama-on-everything-we-have-got-in-the-"
    first = stage_name(run(name=f"{long}first", uid="1"), rollout(), 1)
    assert first != stage_name(run(name=f"{long}second", uid="2"), rollout(), 1)


def test_names_can_be_read() -> None:
    assert re.fullmatch(r"demo-rollout-2-a3-[0-9a-f]{10}", stage_name(run(), rollout(), 3))
    assert re.fullmatch(r"demo-policy-2-a1-[0-9a-f]{10}", holder_name(run(), policy(), 2, 1))
    assert stage_name(run(name="70b.v2"), rollout(), 1).startswith("r-70b-v2-rollout-2-a1-")


def test_a_pool_keeps_its_address_over_attempts_and_no_other_model_gets_it() -> None:
    assert service_name(run(), policy("a")) != service_name(run(), policy("b"))
    assert service_name(run(), policy("a")) != service_name(run(uid="another"), policy("a"))
    first, second = PLAN.pool(attempt=1), PLAN.pool(attempt=2)
    assert first["Service"]["metadata"]["name"] == second["Service"]["metadata"]["name"]
    assert first["Deployment"]["metadata"]["name"] != second["Deployment"]["metadata"]["name"]


@given(RUN_NAMES)
def test_the_run_label_is_a_label_value_and_the_name_where_it_fits(name: str) -> None:
    assert LABEL_VALUE.fullmatch(run_label(name))
    assert (run_label(name) == name) == (len(name) <= 63)


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_artifact_labels_are_equal_exactly_for_the_same_store_and_key(
    one: tuple[str, str], two: tuple[str, str]
) -> None:
    assert (artifact_label(*one) == artifact_label(*two)) == (one == two)
    assert re.fullmatch(r"[0-9a-f]{16}", artifact_label(*one))


@pytest.mark.parametrize("kind", [kind for kind in StageKind if kind is not StageKind.GATE])
def test_every_stage_that_runs_somewhere_has_a_name(kind: StageKind) -> None:
    assert UID not in stage_name(run(), PLAN.stages[kind], 1)
