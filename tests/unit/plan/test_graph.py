"""The stages of a run: which there are, what each reads, which servers it asks."""

from typing import Any

import pytest
from tests.support.builders import make_spec, merged, prepared

from selfrewarding.contract.config import PrepareParameters
from selfrewarding.contract.keys import short
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.aside import resolve_stage
from selfrewarding.plan.graph import build_graph, outline
from selfrewarding.plan.stage import Graph, Stage

WRITER = {"promptGeneration": {"writer": {"modelUri": "s3://models/writer"}}}
ENDPOINT = {
    "promptGeneration": {"writer": {"endpoint": {"url": "https://a.example.com/v1", "model": "large"}}}
}
JUDGE = {"judge": {"modelUri": "s3://models/judge"}}
OWN_ROWS = {"seedData": {"evaluations": {"uri": "s3://data/eft", "format": "Evaluations"}}}
NO_RANKS = {"seedData": OWN_ROWS["seedData"] | {"ranked": None}}


def graph_of(
    spec: dict[str, Any] | None = None, *, gates: dict[str, Any] | None = None, **summary: Any
) -> Graph:
    return build_graph(
        make_spec(spec), run_uid="run-uid", contract=1, prepare=prepared(**summary), gates=gates
    )


def names(graph: Graph) -> list[str]:
    return [f"{stage.kind}{stage.iteration}" for stage in graph.stages]


def find(graph: Graph, kind: StageKind, iteration: int) -> Stage:
    return next(stage for stage in graph.stages if (stage.kind, stage.iteration) == (kind, iteration))


def test_only_prepare_is_known_before_the_data_is_read() -> None:
    graph = build_graph(make_spec(), run_uid="run-uid", contract=1)
    assert names(graph) == ["Prepare0"]


def test_the_paper_has_three_iterations_of_which_the_first_is_supervised() -> None:
    later = ["GeneratePrompts", "Rollout", "BuildPreferences", "PreferenceOptimize", "Evaluate"]
    first = ["TrainBaseline1", "BuildEvaluations1", "SupervisedFineTune1", "Evaluate1"]
    expected = ["Prepare0", *first, *[f"{name}{t}" for t in (2, 3) for name in later]]
    assert names(graph_of()) == expected


@pytest.mark.parametrize(
    ("spec", "first"),
    [
        pytest.param(
            OWN_ROWS, ["SupervisedFineTune1", "Evaluate1"], id="own rows: nothing writes EFT targets"
        ),
        pytest.param(
            JUDGE,
            ["BuildEvaluations1", "SupervisedFineTune1", "Evaluate1"],
            id="a dedicated judge: no baseline",
        ),
    ],
)
def test_the_first_iteration_leaves_out_what_nobody_needs(spec: dict[str, Any], first: list[str]) -> None:
    assert names(graph_of(spec | {"iterations": 1})) == ["Prepare0", *first]


def test_without_held_out_prompts_nothing_is_evaluated() -> None:
    data = dict.fromkeys(("instructions", "evaluations", "model"), "1" * 12)
    assert names(graph_of(NO_RANKS | {"iterations": 1}, data=data)) == ["Prepare0", "SupervisedFineTune1"]


@pytest.mark.parametrize(
    ("spec", "kind", "expected"),
    [
        ({}, StageKind.GENERATE_PROMPTS, {"policy": "M1"}),
        (WRITER, StageKind.GENERATE_PROMPTS, {"writer": "PromptWriter"}),
        (ENDPOINT, StageKind.GENERATE_PROMPTS, {}),
        ({}, StageKind.ROLLOUT, {"policy": "M1"}),
        (JUDGE, StageKind.ROLLOUT, {"policy": "M1", "judge": "Judge"}),
        ({}, StageKind.EVALUATE, {"policy": "M2"}),
        (JUDGE, StageKind.EVALUATE, {"judge": "Judge"}),
        ({}, StageKind.BUILD_PREFERENCES, {}),
        ({}, StageKind.PREFERENCE_OPTIMIZE, {}),
    ],
)
def test_each_stage_asks_its_own_servers(
    spec: dict[str, Any], kind: StageKind, expected: dict[str, str]
) -> None:
    stage = find(graph_of(spec), kind, 2)
    assert {role: holder.model.name for role, holder in stage.holders.items()} == expected


def test_evaluate_uses_the_server_that_the_next_iteration_goes_on_with() -> None:
    graph = graph_of()
    evaluate = find(graph, StageKind.EVALUATE, 2).holders["policy"]
    assert evaluate == find(graph, StageKind.GENERATE_PROMPTS, 3).holders["policy"]
    assert evaluate == find(graph, StageKind.ROLLOUT, 3).holders["policy"]
    assert evaluate.name == f"{short(find(graph, StageKind.PREFERENCE_OPTIMIZE, 2).key)}-policy"


def test_a_pool_of_its_own_serves_the_fixed_models() -> None:
    spec = JUDGE | {"serving": {"replicas": 2, "judge": {"replicas": 3, "tensorParallelSize": 4}}}
    holders = find(graph_of(spec), StageKind.ROLLOUT, 2).holders
    assert (holders["policy"].gpus, holders["judge"].gpus) == (2, 12)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("Previous", ("M2", None)),
        ("Initial", ("M1", None)),
        ("s3://models/ref", ("Reference", "s3://models/ref")),
    ],
)
def test_dpo_is_held_to_the_chosen_reference(reference: str, expected: tuple[str, str | None]) -> None:
    stage = find(graph_of({"dpo": {"reference": reference}}), StageKind.PREFERENCE_OPTIMIZE, 3)
    assert (stage.models["reference"].name, stage.models["reference"].uri) == expected
    assert stage.models["base"].name == "M2"
    assert ("initial" in stage.parents) == (reference == "Initial")


def test_positive_examples_alone_need_no_reference() -> None:
    graph = graph_of({"preferences": {"rule": "PositiveOnly"}})
    stage = find(graph, StageKind.PREFERENCE_OPTIMIZE, 2)
    assert stage.models.keys() == {"base"}
    assert getattr(stage.parameters, "positive_only", None) is True


def test_after_a_roll_back_the_next_iteration_starts_from_the_model_before() -> None:
    plain = graph_of()
    m2 = find(plain, StageKind.PREFERENCE_OPTIMIZE, 2)
    rolled = graph_of(gates={m2.key: "RolledBack"})
    assert find(rolled, StageKind.PREFERENCE_OPTIMIZE, 3).models["base"].name == "M1"
    assert find(rolled, StageKind.GENERATE_PROMPTS, 3).holders["policy"].model.name == "M1"
    assert rolled.iterations[2].base == rolled.iterations[0].trained
    assert find(rolled, StageKind.EVALUATE, 2) == find(plain, StageKind.EVALUATE, 2), (
        "what is done stays done"
    )


def test_roll_backs_are_in_the_keys_of_what_comes_after_them_even_where_no_model_is_read() -> None:
    m2 = find(graph_of(WRITER), StageKind.PREFERENCE_OPTIMIZE, 2)
    rolled = graph_of(WRITER, gates={m2.key: "RolledBack"})
    prompts = find(rolled, StageKind.GENERATE_PROMPTS, 3)
    assert "model" not in prompts.parents
    assert prompts != find(graph_of(WRITER), StageKind.GENERATE_PROMPTS, 3)


@pytest.mark.parametrize(
    ("spec", "counts", "expected"),
    [
        pytest.param({"serving": {"maxModelLen": 1024}}, {}, 1024, id="what the spec says"),
        pytest.param(
            {"serving": {"maxModelLen": 8192}},
            {"maxPositions": 2048},
            2048,
            id="never above the model's limit",
        ),
        pytest.param({}, {"maxPositions": 2048}, 2048, id="an estimate stays below the limit too"),
        pytest.param({"sft": {"maxLength": 6000}}, {}, 6144, id="ranked rows are as long as training rows"),
    ],
)
def test_servers_take_sequences_as_long_as_their_stages_need(
    spec: dict[str, Any], counts: dict[str, int], expected: int
) -> None:
    holder = find(graph_of(spec, counts=counts), StageKind.ROLLOUT, 2).holders["policy"]
    assert holder.max_model_len == expected


def test_a_request_always_fits_the_estimated_length() -> None:
    spec = make_spec({"responses": {"maxTokens": 3000}, "judge": {"maxTokens": 2000}})
    holder = find(outline(spec, contract=1), StageKind.ROLLOUT, 2).holders["policy"]
    assert holder.max_model_len >= 3000 + 2000 + 768
    assert holder.max_model_len % 256 == 0


BENCH = {"name": "mtbench", "uri": "s3://data/question.jsonl", "format": "MtBench"}
CHAT = {"name": "chat", "uri": "s3://data/chat.jsonl"}
ANSWERS = {"maxTokens": 4000}


@pytest.mark.parametrize(
    ("evaluation", "answered", "compared"),
    [
        pytest.param({"prompts": [CHAT]}, 1 * 4000, 0, id="one turn"),
        pytest.param({"prompts": [CHAT, BENCH]}, 2 * 4000, 0, id="the second turn stands behind the first answer"),
        pytest.param({"headToHead": {}}, 1 * 4000, 2 * 4000, id="two answers to held-out prompts are compared"),
        pytest.param(
            {"prompts": [CHAT, BENCH], "headToHead": {"set": "mtbench"}}, 2 * 4000, 4 * 4000,
            id="two conversations are compared",
        ),
        pytest.param(
            {"prompts": [CHAT, BENCH], "headToHead": {"set": "chat"}}, 2 * 4000, 2 * 4000,
            id="of a set with one turn",
        ),
    ],
)  # fmt: skip
def test_servers_take_evaluation_prompts_with_all_their_turns(
    evaluation: dict[str, Any], answered: int, compared: int
) -> None:
    referee = {"judge": {"modelUri": "s3://models/referee"}}
    if compared:
        evaluation = evaluation | {"headToHead": evaluation["headToHead"] | referee}
    graph = graph_of({"evaluation": evaluation | {"answers": ANSWERS}})
    policy = find(graph, StageKind.EVALUATE, 1).holders["policy"].max_model_len
    assert answered < policy < answered + 4000
    if compared:
        length = find(graph, StageKind.COMPARE, 2).holders["referee"].max_model_len
        assert compared < length < compared + 4000


def test_prepare_knows_how_long_answers_get_where_a_later_turn_stands_behind_them() -> None:
    def told(*sets: dict[str, str]) -> int | None:
        spec = make_spec({"evaluation": {"prompts": list(sets), "answers": ANSWERS}})
        parameters = outline(spec, contract=1).prepare.parameters
        assert isinstance(parameters, PrepareParameters)
        return parameters.answer_tokens

    assert told(CHAT) is None, "no key changes by what is not read"
    assert told(CHAT, BENCH) == 4000


def test_prepare_knows_the_length_that_the_servers_are_planned_with() -> None:
    def told(evaluation: dict[str, Any]) -> tuple[int | None, int]:
        graph = graph_of({"evaluation": evaluation})
        parameters = graph.prepare.parameters
        assert isinstance(parameters, PrepareParameters)
        return parameters.planned_len, find(graph, StageKind.EVALUATE, 1).holders["policy"].max_model_len

    planned, served = told({"prompts": [CHAT, BENCH], "answers": ANSWERS})
    assert planned == served
    assert told({"headToHead": {}})[0] is None, "no key changes by what is not read"


@pytest.mark.parametrize(
    ("training", "expected"),
    [({"nodes": 2, "gpusPerNode": 8}, 16), ({"nodes": 2, "gpusPerNode": 8, "device": "Cpu"}, 0)],
)
def test_training_holds_all_gpus_of_its_nodes(training: dict[str, Any], expected: int) -> None:
    graph = graph_of({"training": training})
    assert find(graph, StageKind.SUPERVISED_FINE_TUNE, 1).gpus == expected
    assert find(graph, StageKind.BUILD_PREFERENCES, 2).gpus == 0


def test_only_the_rollout_is_sharded() -> None:
    graph = graph_of({"sampler": {"parallelism": 4}})
    assert {stage.kind for stage in graph.stages if stage.shards > 1} == {StageKind.ROLLOUT}


def test_a_model_from_a_hub_is_read_from_the_copy_that_prepare_keeps() -> None:
    graph = graph_of({"model": {"uri": "hf://org/name@main"}})
    base = find(graph, StageKind.SUPERVISED_FINE_TUNE, 1).models["base"]
    assert base.uri is None
    assert base.stage == graph.prepare


def test_resolve_is_another_one_for_other_questions() -> None:
    graph, spec = graph_of(), make_spec()
    stages = list(graph.stages)
    one, two = (resolve_stage(some, spec=spec, contract=1) for some in (stages[1:3], stages[1:4]))
    assert one != two
    assert one.parents == {}


def test_the_outline_shows_every_stage_before_anybody_has_read_the_data() -> None:
    assert names(outline(make_spec(), contract=1)) == names(graph_of())
    assert names(outline(make_spec(NO_RANKS | {"iterations": 1}), contract=1)) == [
        "Prepare0",
        "SupervisedFineTune1",
    ]


def test_a_deep_graph_is_compared_and_printed_by_its_keys() -> None:
    graph = graph_of({"iterations": 20})
    last = list(graph.stages)[-1]
    assert last == find(graph_of({"iterations": 20}), StageKind.EVALUATE, 20)
    assert len(repr(last)) < 500


COMPARED: dict[str, Any] = {"evaluation": {"headToHead": {}}}


def roles(stage: Stage) -> dict[str, str]:
    """What a stage reads, Prepare aside: role → stage, the baseline's Evaluate by its model."""
    named = {}
    for role, parent in stage.parents.items():
        measured = parent.parents.get("model")
        named[role] = f"{parent.kind}{parent.iteration}" + (f" of {measured.kind}" if measured else "")
    return {role: name for role, name in named.items() if role != "prepare"}


def test_each_model_is_compared_once_with_each_earlier_one_that_is_asked_for() -> None:
    graph = graph_of(COMPARED)
    of_m1, of_m2 = "Evaluate1 of SupervisedFineTune", "Evaluate2 of PreferenceOptimize"
    baseline = "Evaluate1 of TrainBaseline"
    assert roles(find(graph, StageKind.COMPARE, 1)) == {"answers": of_m1, "baseline": baseline}
    # M1 is the previous model and the first: one comparison that counts as both (test_compare).
    second = {"answers": of_m2, "previous": of_m1, "initial": of_m1, "baseline": baseline}
    assert roles(find(graph, StageKind.COMPARE, 2)) == second
    third = {
        "answers": "Evaluate3 of PreferenceOptimize",
        "previous": of_m2,
        "initial": of_m1,
        "baseline": baseline,
    }
    assert roles(find(graph, StageKind.COMPARE, 3)) == third


def test_the_baseline_is_measured_while_its_server_is_up_and_only_to_be_compared_with() -> None:
    first = [
        "TrainBaseline1",
        "BuildEvaluations1",
        "Evaluate1",
        "SupervisedFineTune1",
        "Evaluate1",
        "Compare1",
    ]
    assert names(graph_of(COMPARED))[1:7] == first
    alone = graph_of({"evaluation": {"headToHead": {"against": ["Previous", "M1"]}}})
    assert names(alone)[1:5] == ["TrainBaseline1", "BuildEvaluations1", "SupervisedFineTune1", "Evaluate1"]
    assert "Compare1" not in names(alone), "M1 has nobody to be compared with"
    own_rows = graph_of(COMPARED | OWN_ROWS, data={"heldOut": "h", "instructions": "i", "model": "m"})
    assert "baseline" not in roles(find(own_rows, StageKind.COMPARE, 2)), "the run makes none"


def test_after_a_roll_back_a_model_is_compared_with_the_one_it_was_made_from() -> None:
    graph = graph_of(COMPARED)
    second = next(one for one in graph.iterations if one.number == 2)
    rolled_back = graph_of(COMPARED, gates={second.trained.key: "RolledBack"})
    third = find(rolled_back, StageKind.COMPARE, 3)
    assert roles(third)["previous"] == roles(third)["initial"] == "Evaluate1 of SupervisedFineTune"


def test_a_model_made_from_m1_is_compared_with_m1_only_where_that_is_asked_for() -> None:
    graph = graph_of({"evaluation": {"headToHead": {"against": ["Previous"]}}})
    assert "initial" not in find(graph, StageKind.COMPARE, 2).parents
    graph = graph_of({"evaluation": {"headToHead": {"against": ["M1"]}}})
    assert "previous" not in find(graph, StageKind.COMPARE, 2).parents


@pytest.mark.parametrize(
    ("judge", "pools"),
    [
        pytest.param({}, {"policy": "policy"}, id="the newest model"),
        pytest.param({"modelUri": "s3://models/referee"}, {"referee": "referee"}, id="a fixed model"),
        pytest.param(
            {"endpoint": {"url": "https://a.example.com/v1", "model": "large"}}, {}, id="an endpoint"
        ),
        pytest.param(
            {"modelUri": "s3://models/judge"}, {"referee": "judge"}, id="the dedicated judge: its pool"
        ),
    ],
)
def test_comparisons_are_judged_by_whom_the_spec_names(judge: dict[str, Any], pools: dict[str, str]) -> None:
    graph = graph_of({"evaluation": {"headToHead": {"judge": judge}}} | JUDGE)
    compare = find(graph, StageKind.COMPARE, 2)
    assert {role: holder.pool for role, holder in compare.holders.items()} == pools
    evaluate = find(graph, StageKind.EVALUATE, 2)
    assert set(evaluate.holders) == {"judge", "policy"}, "the model answers, the dedicated judge scores"


def test_models_are_compared_where_there_are_prompts_to_compare_them_on() -> None:
    """Held-out rows are named and none is left of them; there are evaluation prompts, which are answered all the same."""
    prompts = [{"name": "chat", "uri": "s3://data/chat.jsonl"}]
    spec = {"evaluation": {"headToHead": {}, "prompts": prompts}, "dpo": {"earlyStopping": {}}}
    data = {"instructions": "i", "ranked": "r", "model": "m", "evaluationPrompts": "e"}
    without = names(graph_of(spec, data=data))
    assert "Evaluate2" in without
    assert without.count("Evaluate1") == 1, "the baseline is measured to be compared with"
    assert not {"Compare1", "Compare2", "Answer2", "Select2"} & set(without)
    assert {"Compare1", "Compare2", "Answer2", "Select2"} <= set(names(graph_of(spec)))
    on_own = merged(spec, {"evaluation": {"headToHead": {"set": "chat"}}})
    assert {"Compare1", "Compare2", "Answer2", "Select2"} <= set(names(graph_of(on_own, data=data)))


def test_prompts_of_ones_own_are_answered_without_ranked_rows() -> None:
    spec = {"evaluation": {"prompts": [{"name": "chat", "uri": "s3://data/chat.jsonl"}]}}
    graph = graph_of(spec | NO_RANKS, data={"instructions": "i", "model": "m", "evaluations": "e"})
    assert set(find(graph, StageKind.EVALUATE, 2).holders) == {"policy"}
