"""Early stopping among DPO's candidates (`dpo.earlyStopping`): its stages, their keys, and the model that comes of them."""

from typing import Any

import pytest
from tests.support.builders import SPEC, make_spec, merged, prepared, summary
from tests.support.fake_cluster import FakeCluster
from tests.support.planned_runs import cluster_at

from selfrewarding.contract.artifacts import stage_prefix
from selfrewarding.contract.config import (
    AnswerParameters,
    CompareParameters,
    PreferenceOptimizeParameters,
    SelectParameters,
)
from selfrewarding.contract.result import TerminationMessage
from selfrewarding.contract.stages import StageKind
from selfrewarding.manifests import serve_config, stage_config
from selfrewarding.manifests.config import served_name
from selfrewarding.manifests.context import RunContext
from selfrewarding.plan.aside import report_stage
from selfrewarding.plan.estimates import generated_tokens
from selfrewarding.plan.graph import build_graph
from selfrewarding.plan.stage import Graph, Stage

EARLY: dict[str, Any] = {
    "dpo": {"earlyStopping": {"candidates": 3}},
    "evaluation": {"headToHead": {"prompts": 64}},
}
REFEREE = {"evaluation": {"headToHead": {"prompts": 64, "judge": {"modelUri": "s3://models/referee"}}}}


def graph_of(spec: dict[str, Any], **changes: Any) -> Graph:
    return build_graph(make_spec(spec), run_uid="run-uid", contract=1, prepare=prepared(**changes))


def of(graph: Graph, kind: StageKind, iteration: int = 2) -> list[Stage]:
    return [one for one in graph.stages if (one.kind, one.iteration) == (kind, iteration)]


def test_the_candidates_answer_one_after_the_other_and_the_chosen_one_is_the_model() -> None:
    graph = graph_of(EARLY)
    third = graph.iterations[2]
    assert [str(one.kind) for one in third.stages] == [
        "GeneratePrompts", "Rollout", "BuildPreferences", "PreferenceOptimize", "Answer", "Answer", "Answer", "Select",
        "Evaluate", "Compare",
    ]  # fmt: skip
    (select,) = of(graph, StageKind.SELECT, 3)
    assert third.trained is select
    assert third.base is graph.iterations[1].trained
    (optimize,) = of(graph, StageKind.PREFERENCE_OPTIMIZE, 3)
    assert optimize.parents["model"] is graph.iterations[1].trained
    assert optimize.models["base"].stage is graph.iterations[1].trained
    assert optimize.models["base"].folder is None
    answers = of(graph, StageKind.ANSWER, 3)
    assert dict(select.parents) == {
        "prepare": graph.prepare, "trained": optimize,
        "candidate-1": answers[0], "candidate-2": answers[1], "candidate-3": answers[2],
    }  # fmt: skip
    (evaluate,) = of(graph, StageKind.EVALUATE, 3)
    assert evaluate.parents["model"] is select
    assert evaluate.holders["policy"].model.name == "M3"


def test_every_candidate_has_a_server_of_its_own() -> None:
    graph = graph_of(EARLY)
    answers = of(graph, StageKind.ANSWER)
    pools = [one.holders["policy"] for one in answers]
    (select,) = of(graph, StageKind.SELECT)
    made = of(graph, StageKind.EVALUATE)[0].holders["policy"]
    assert len({pool.name for pool in (*pools, made)}) == 4
    assert len({served_name(pool) for pool in pools}) == 3
    assert [pool.model.name for pool in pools] == ["M2.1", "M2.2", "M2.3"]
    assert [pool.model.folder for pool in pools] == ["candidates/1", "candidates/2", "model"]
    assert select.holders["policy"] == pools[-1], "the newest judges, as in Compare"
    assert len({one.key for one in answers}) == 3


def test_a_fixed_referee_or_an_endpoint_chooses_as_it_compares() -> None:
    (select,) = of(graph_of(merged(EARLY, REFEREE)), StageKind.SELECT)
    (compare,) = of(graph_of(merged(EARLY, REFEREE)), StageKind.COMPARE)
    assert select.holders == compare.holders
    assert set(select.holders) == {"referee"}
    endpoint = {"url": "https://a.example.com/v1", "model": "large", "apiKeySecretName": "key"}
    spec = merged(EARLY, {"evaluation": {"headToHead": {"judge": {"endpoint": endpoint}}}})
    (select,) = of(graph_of(spec), StageKind.SELECT)
    assert not select.holders
    other = merged(
        spec, {"evaluation": {"headToHead": {"judge": {"endpoint": {"apiKeySecretName": "other"}}}}}
    )
    assert of(graph_of(other), StageKind.SELECT)[0].key == select.key, "how it is reached is in no key"


def test_runs_without_it_have_the_keys_that_they_had() -> None:
    compared = {"evaluation": EARLY["evaluation"]}
    plain = graph_of(compared)
    assert not of(plain, StageKind.SELECT)
    assert not of(plain, StageKind.ANSWER)
    (optimize,) = of(plain, StageKind.PREFERENCE_OPTIMIZE)
    assert "earlyStopping" not in optimize.parameters.model_dump(by_alias=True, exclude_none=True)["dpo"]
    (early,) = of(graph_of(EARLY), StageKind.PREFERENCE_OPTIMIZE)
    assert early.key != optimize.key, "it saves more"
    assert isinstance(early.parameters, PreferenceOptimizeParameters)


def test_who_compares_and_how_changes_no_training() -> None:
    before = graph_of(EARLY)
    after = graph_of(merged(EARLY, REFEREE))
    assert of(before, StageKind.PREFERENCE_OPTIMIZE)[0].key == of(after, StageKind.PREFERENCE_OPTIMIZE)[0].key
    assert [one.key for one in of(before, StageKind.ANSWER)] == [
        one.key for one in of(after, StageKind.ANSWER)
    ]
    assert of(before, StageKind.SELECT)[0].key != of(after, StageKind.SELECT)[0].key
    later = [of(graph, StageKind.GENERATE_PROMPTS, 3)[0].key for graph in (before, after)]
    assert later[0] != later[1], "what is behind follows from the choice"


def test_without_held_out_prompts_there_is_nothing_to_compare_and_nothing_is_saved() -> None:
    """The data have none, whatever the spec hoped for."""
    graph = graph_of(EARLY, data={"instructions": "i", "ranked": "r", "model": "m"})
    assert not of(graph, StageKind.SELECT)
    (optimize,) = of(graph, StageKind.PREFERENCE_OPTIMIZE)
    assert isinstance(optimize.parameters, PreferenceOptimizeParameters)
    assert optimize.parameters.dpo.early_stopping is None
    assert graph.iterations[1].trained is optimize


def test_a_set_of_its_own_is_answered_and_no_other() -> None:
    sets = [{"name": name, "uri": f"s3://data/{name}.jsonl"} for name in ("chat", "bench")]
    spec = merged(EARLY, {"evaluation": {"prompts": sets, "headToHead": {"set": "bench"}}})
    stages = of(graph_of(spec), StageKind.ANSWER)
    for stage in stages:
        assert isinstance(stage.parameters, AnswerParameters)
        assert [one.name for one in stage.parameters.evaluation.prompts or []] == ["bench"]
    before = graph_of(spec, data=dict(prepared().data) | {"evaluationPrompts": "1"})
    after = graph_of(spec, data=dict(prepared().data) | {"evaluationPrompts": "2"})
    assert of(before, StageKind.ANSWER)[0].key != of(after, StageKind.ANSWER)[0].key


def test_tokens_are_counted() -> None:
    graph = graph_of(EARLY)
    counts = prepared().counts | {"heldOut": 1000}
    for stage in of(graph, StageKind.ANSWER):
        assert generated_tokens(stage, counts) == 64 * 1024
    (select,) = of(graph, StageKind.SELECT)
    assert generated_tokens(select, counts) == 2 * 2 * 64 * 512, "two steps, both orders"
    few = prepared().counts | {"heldOut": 8}
    assert generated_tokens(of(graph, StageKind.ANSWER)[0], few) == 8 * 1024


def test_a_report_tells_the_candidates_apart() -> None:
    graph = graph_of(EARLY | {"iterations": 2})
    report = report_stage(
        graph, list(graph.stages), run_uid="u", decided="", spec=make_spec(EARLY), contract=1
    )
    roles = [role for role in report.parents if role.startswith(("Answer", "Select"))]
    assert roles == ["Answer-2.1", "Answer-2.2", "Answer-2.3", "Select-2"]
    assert len(report.parents) == 1 + len(list(graph.stages))


def test_programs_are_told_where_a_candidate_lies() -> None:
    spec = make_spec(EARLY)
    graph = graph_of(EARLY)
    context = RunContext(
        namespace="lab",
        name="demo",
        uid="run-uid",
        spec=spec,
        contract=1,
        results={stage.short: summary(stage) for stage in graph.stages} | {graph.prepare.short: prepared()},
    )
    first, *_, last = of(graph, StageKind.ANSWER)
    (optimize,) = of(graph, StageKind.PREFERENCE_OPTIMIZE)
    for stage, folder in ((first, "candidates/1"), (last, "model")):
        served = serve_config(context, stage.holders["policy"])
        assert served.model.stage is not None
        assert (served.model.stage.key, served.model.folder) == (optimize.key, folder)
        assert served.prepare is not None
        assert served.prepare.key == graph.prepare.key
    evaluate = serve_config(context, of(graph, StageKind.EVALUATE)[0].holders["policy"])
    assert evaluate.model.stage is not None
    assert (evaluate.model.stage.kind, evaluate.model.folder) == (StageKind.SELECT, None)
    (select,) = of(graph, StageKind.SELECT)
    config = stage_config(context, select)
    assert isinstance(config.parameters, SelectParameters)
    assert config.parameters.folders == ["candidates/1", "candidates/2", "model"]
    (compare,) = of(graph, StageKind.COMPARE)
    assert isinstance(compare.parameters, CompareParameters)
    assert config.parameters.head_to_head == compare.parameters.head_to_head


def test_a_run_comes_to_its_end_and_its_models_are_those_that_were_chosen() -> None:
    cluster = FakeCluster(spec=merged(SPEC, EARLY | {"iterations": 2}))
    cluster.finish_everything()
    assert cluster.condition("Succeeded") == ("True", "AllIterationsDone")
    kinds = [cluster.store[key].stage for key in cluster.computed]
    assert (kinds.count("Answer"), kinds.count("Select")) == (3, 1)
    models = {model.name: model for model in cluster.status.models}
    assert set(models) == {"Baseline", "M1", "M2"}
    key = next(key for key in cluster.computed if cluster.store[key].stage == "Select")
    assert models["M2"].uri.endswith(stage_prefix(StageKind.SELECT, key))
    assert models["M2"].gate == "Promoted"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"dpo": {"earlyStopping": {}}}, "set evaluation.headToHead"),
        (merged(EARLY, {"preferences": {"rule": "PositiveOnly"}}), "does no DPO"),
        (merged(EARLY, {"dpo": {"earlyStopping": {"candidates": 1}}}), "greater than or equal to 2"),
        (merged(EARLY, {"dpo": {"earlyStopping": {"candidates": 9}}}), "less than or equal to 8"),
        (
            EARLY
            | {"seedData": {"ranked": None, "evaluations": {"uri": "s3://d/e", "format": "Evaluations"}}},
            "there are none: give seedData.ranked",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_spec(spec)


def test_a_training_that_the_store_lost_is_computed_again_and_the_choice_stands() -> None:
    """Whoever wants the files of M2 finds its choice, and the training that it names gone."""
    cluster = cluster_at(StageKind.PREFERENCE_OPTIMIZE, 3, **EARLY)
    started = list(cluster.computed)
    lost = next(key for key in started if cluster.store[key].stage == StageKind.PREFERENCE_OPTIMIZE)
    del cluster.store[lost]
    gone = TerminationMessage(failure="ParentMissing", message="it is gone", parent=lost[:16])
    cluster.fail(cluster.job(StageKind.PREFERENCE_OPTIMIZE, 3), termination=gone)
    cluster.finish_everything()
    again = [key for key in cluster.computed[len(started) :] if key in started]
    kinds = [(cluster.store[key].stage, cluster.store[key].iteration) for key in again]
    assert kinds == [("PreferenceOptimize", 2), ("PreferenceOptimize", 3)]
    assert cluster.condition("Succeeded") == ("True", "AllIterationsDone")
