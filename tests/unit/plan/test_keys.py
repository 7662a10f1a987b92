"""Which stages an edit computes again: every field of the spec, one by one, against a table.

A field that the table does not know fails, so a new field needs a decision.
"""

import typing
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from tests.support.builders import make_spec, merged, prepared

from selfrewarding.api.run import SelfRewardingRunSpec
from selfrewarding.contract.keys import digest
from selfrewarding.plan.graph import build_graph
from selfrewarding.plan.stage import Graph

ORDER = [
    "Prepare0", "TrainBaseline1", "BuildEvaluations1", "SupervisedFineTune1", "Evaluate1",
    "GeneratePrompts2", "Rollout2", "BuildPreferences2", "PreferenceOptimize2", "Evaluate2",
]  # fmt: skip
ALL = frozenset(ORDER)
PREPARE = frozenset({"Prepare0"})
NOTHING: frozenset[str] = frozenset()
EVALUATES = frozenset({"Evaluate0", "Evaluate1", "Evaluate2"})
COMPARES = frozenset({"Compare1", "Compare2"})


def since(name: str) -> frozenset[str]:
    """A stage and those behind it."""
    return frozenset(ORDER[ORDER.index(name) :])


# The longest prefix of a field's path decides. Prepare checks the settings that can be wrong together, so it runs again
# after most edits; it costs no GPU.
TABLE: dict[str, frozenset[str]] = {
    "suspend": NOTHING,
    "iterations": NOTHING,
    "seed": ALL,
    "model.uri": PREPARE,  # its weights are in keys by their digest
    "model.chatTemplate": ALL,
    "model.servingDtype": PREPARE,
    "artifacts": NOTHING,
    "seedData": PREPARE,  # the rows are in keys by their digests
    "sft": ALL,
    "evaluations": since("BuildEvaluations1"),
    "promptGeneration": PREPARE | since("GeneratePrompts2"),
    "promptGeneration.writer.endpoint.apiKeySecretName": NOTHING,
    "promptGeneration.writer.endpoint.maxConcurrency": NOTHING,
    "responses": PREPARE | since("Rollout2"),
    "judge": PREPARE | since("BuildEvaluations1"),
    "judge.calibration": NOTHING,  # what the judge must reach changes nothing that it says
    "preferences": since("BuildPreferences2"),
    "dpo": PREPARE | since("PreferenceOptimize2"),
    "dpo.earlyStopping": PREPARE | {"PreferenceOptimize2", "Answer2", "Select2", "Evaluate2", "Compare2"},
    "evaluation": frozenset({"Evaluate1", "Evaluate2"}),
    "evaluation.prompts": PREPARE | since("Evaluate1"),  # new prompts keep away from them
    "evaluation.answers": EVALUATES | COMPARES,
    "evaluation.headToHead": COMPARES,
    "evaluation.headToHead.against": frozenset({"Compare2"}),  # the first has the baseline alone in any case
    "evaluation.headToHead.judge.modelUri": PREPARE | COMPARES,  # Prepare looks at the model
    "evaluation.headToHead.set": EVALUATES | COMPARES,  # the held-out prompts are answered no more
    "evaluation.headToHead.prompts": EVALUATES | COMPARES,
    "evaluation.headToHead.judge.endpoint.apiKeySecretName": NOTHING,
    "evaluation.headToHead.judge.endpoint.maxConcurrency": NOTHING,
    "alarms": NOTHING,  # the numbers are there: they are compared anew
    "gate": NOTHING,
    "tracking": NOTHING,
    "serving": NOTHING,
    "serving.maxModelLen": PREPARE,  # Prepare checks that everything fits
    "training": NOTHING,
    "sampler": NOTHING,
    "scheduling": NOTHING,
    "limits": NOTHING,
    "retention": NOTHING,
}
PROMPT_SET = {"name": "chat", "uri": "s3://data/chat.jsonl"}
# What a field's block needs around it, and values where the type alone does not tell another one.
AROUND: dict[str, dict[str, Any]] = {
    "promptGeneration.writer.endpoint": {
        "promptGeneration": {"writer": {"endpoint": {"url": "https://a.example.com/v1", "model": "large"}}}
    },
    "promptGeneration.writer.modelUri": {"promptGeneration": {"writer": {"modelUri": "s3://models/writer"}}},
    "serving.promptWriter": {
        "promptGeneration": {"writer": {"modelUri": "s3://models/writer"}},
        "serving": {"promptWriter": {}},
    },
    "serving.referee": {
        "evaluation": {"headToHead": {"judge": {"modelUri": "s3://models/referee"}}},
        "serving": {"referee": {}},
    },
    "evaluation.answers": {"evaluation": {"answers": {}, "headToHead": {}}},
    "evaluation.headToHead": {"evaluation": {"headToHead": {}, "prompts": [PROMPT_SET]}},
    "evaluation.headToHead.judge.endpoint": {
        "evaluation": {
            "headToHead": {"judge": {"endpoint": {"url": "https://a.example.com/v1", "model": "large"}}}
        }
    },
    "judge.calibration": {"judge": {"calibration": {}}},
    "tracking.mlflow": {"tracking": {"mlflow": {"uri": "https://mlflow.example.com"}}},
    "tracking.wandb": {"tracking": {"wandb": {"project": "loops", "secretName": "wandb"}}},
    "serving.judge": {"judge": {"modelUri": "s3://models/judge"}, "serving": {"judge": {}}},
    "judge.modelUri": {"judge": {"modelUri": "s3://models/judge"}},
    "judge.scoring": {"judge": {"format": "Structured"}},
    "seedData.evaluations": {"seedData": {"evaluations": {"uri": "s3://data/eft", "format": "Evaluations"}}},
    "seedData.heldOut.source": {
        "seedData": {"heldOut": {"source": {"uri": "s3://data/h", "format": "Ranked"}}}
    },
    "sft.lora": {"sft": {"lora": {}}},
    "dpo.lora": {"dpo": {"lora": {}}},
    "artifacts.caBundle": {"artifacts": {"caBundle": {"configMapName": "ca"}}},
    "artifacts.credentials.serviceAccountName": {},
    "dpo.lossWeights": {"dpo": {"lossWeights": [1.0]}},
    "dpo.earlyStopping": {"dpo": {"earlyStopping": {}}, "evaluation": {"headToHead": {}}},
    "training.deepspeed.offloadParameters": {"training": {"deepspeed": {"zeroStage": 3}}},
    "training.gpusPerNode": {"training": {"gpusPerNode": 1}},
}
VALUES: dict[str, Any] = {
    "model.chatTemplate": "{{ messages }}", "artifacts.endpoint": "https://s3.example.com", "artifacts.region": "eu-1",
    "artifacts.credentials.secretName": "s3", "artifacts.credentials.serviceAccountName": "s3",
    "judge.template": "{instruction} {response}", "dpo.reference": "Initial", "dpo.loss": ["ipo"],
    "dpo.lossWeights": [0.5], "dpo.lengthDesensitization": 0.5, "sft.neftuneNoiseAlpha": 5.0,
    "sft.lora.targetModules": ["q_proj"], "dpo.lora.targetModules": ["q_proj"], "sft.lora.dropout": 0.05,
    "dpo.lora.dropout": 0.05, "sft.warmupRatio": 0.1, "dpo.warmupRatio": 0.1, "sft.weightDecay": 0.1,
    "dpo.weightDecay": 0.1, "dpo.labelSmoothing": 0.1, "preferences.minMargin": 0.5, "preferences.positiveScore": 4.5,
    "preferences.lengthControl": 0.2, "promptGeneration.filters.keywords": ["picture"],
    "promptGeneration.minCount": 10, "promptGeneration.maxRequests": 900, "evaluation.samples": 5,
    "promptGeneration.writer.endpoint.apiKeySecretName": "key", "scheduling.queueName": "queue",
    "scheduling.priorityClassName": "high", "scheduling.nodeSelector": {"gpu": "h100"},
    "promptGeneration.filters.minWords": 3, "promptGeneration.filters.maxWords": 100,
    "scheduling.tolerations": [{"key": "gpu"}], "limits.maxTokens": 10**9, "limits.maxGpuHours": 10.0,
    "serving.maxModelLen": 4096, "gate.rules": [{"metric": "loss", "maximum": 9.0}], "iterations": 3,
    "judge.scoring": "Expected", "judge.minValid": 2, "judge.scores.minimum": 1, "sft.batchSize": 32,
    "dpo.batchSize": 32, "training.gpusPerNode": 2, "training.nodes": 2, "training.microBatchSize": 2,
    "training.deepspeed.zeroStage": 3, "evaluation.prompts": [PROMPT_SET], "evaluation.headToHead.set": "chat",
    "evaluation.headToHead.against": ["Previous"], "evaluation.headToHead.temperature": 0.5,
    "evaluation.headToHead.judge.modelUri": "s3://models/referee", "evaluation.answers.temperature": 0.5,
    "evaluation.answers.topP": 0.5, "evaluation.headToHead.judge.tokenBudget": 10**6,
    "evaluation.headToHead.judge.endpoint.apiKeySecretName": "key", "tracking.mlflow.experiment": "loops",
    "tracking.mlflow.secretName": "mlflow", "tracking.wandb.entity": "team",
    "tracking.wandb.baseUrl": "https://wandb.example.com",
}  # fmt: skip
WHERE_ABSENT: dict[str, Any] = {
    "maxRows": 5, "maxModelLen": 4096, "maxNumSeqs": 8, "kvCache": "8Gi", "image": "registry/image", "cpu": "8",
    "memory": "8Gi", "podTemplate": {"spec": {}}, "threshold": 0.5, "action": "Off",
}  # fmt: skip
"""Values by the last part of a path, for fields that have none."""
FIXED = {"preset", "training.backend"}
"""The preset cannot be changed, and there is one back end."""


def block_of(annotation: Any) -> type[BaseModel] | None:
    """The block that a field's type holds, if any."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := block_of(part))), None)


def leaves(block: type[BaseModel], above: str = "") -> Iterator[str]:
    """Paths of all fields that hold a value."""
    for name, field in block.model_fields.items():
        path = f"{above}{field.alias or name}"
        inner = block_of(field.annotation)
        is_list = list in map(typing.get_origin, (field.annotation, *typing.get_args(field.annotation)))
        if inner is None or is_list:
            yield path
        if inner is not None and not is_list:
            yield from leaves(inner, f"{path}.")


PATHS = sorted(set(leaves(SelfRewardingRunSpec)) - FIXED)


def longest_prefix(table: dict[str, Any], path: str) -> str | None:
    """The longest key of a table that the path starts with, by whole names."""
    found = [name for name in table if path == name or path.startswith(f"{name}.")]
    return max(found, key=len, default=None)


def graph(spec: SelfRewardingRunSpec) -> Graph:
    """The graph of a spec whose data is the same, whatever its address."""
    names = ("instructions", "ranked", "heldOut", "evaluations", "model")
    summary = prepared(data={name: digest(name)[:12] for name in names})
    return build_graph(spec, run_uid="run-uid", contract=1, prepare=summary)


def keys(found: Graph) -> dict[str, str]:
    """Keys by stage and iteration; the baseline's Evaluate counts as that of iteration 0."""
    named = {}
    for stage in found.stages:
        measured = stage.parents.get("model")
        of_baseline = measured is not None and measured.kind == "TrainBaseline" and stage.kind == "Evaluate"
        named[f"{stage.kind}{0 if of_baseline else stage.iteration}"] = stage.key
    return named


def changed(before: SelfRewardingRunSpec, after: SelfRewardingRunSpec) -> set[str]:
    """Stages of both specs whose keys differ."""
    old, new = keys(graph(before)), keys(graph(after))
    return {name for name in old.keys() & new.keys() if old[name] != new[name]}


def another(path: str, spec: SelfRewardingRunSpec) -> Any:
    """A value of the field that differs from the one in the spec."""
    if path in VALUES:
        return VALUES[path]
    block: Any = spec
    *parents, last = path.split(".")
    for name in parents:
        block = getattr(block, _attribute(type(block), name))
    attribute = _attribute(type(block), last)
    value = getattr(block, attribute)
    return _other_value(value, type(block).model_fields[attribute].annotation, last)


def _attribute(block: type[BaseModel], alias: str) -> str:
    return next(name for name, field in block.model_fields.items() if (field.alias or name) == alias)


def _other_value(value: Any, annotation: Any, name: str) -> Any:
    choices = _choices(annotation)
    if choices:
        return next(choice for choice in choices if choice != value)
    match value:
        case None:
            return WHERE_ABSENT[name]
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value * 0.9
        case str():
            return f"{value}-2"
        case _:
            return {"option": "value"}


def _choices(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    return next((found for part in typing.get_args(annotation) if (found := _choices(part))), ())


@pytest.mark.parametrize("path", PATHS)
def test_a_changed_field_changes_exactly_the_keys_of_the_stages_that_depend_on_it(path: str) -> None:
    row = longest_prefix(TABLE, path)
    assert row is not None, f"{path} is new: say in TABLE which stages it computes again"
    around = merged(
        {"iterations": 2, "sft": {"batchSize": 16}}, AROUND.get(longest_prefix(AROUND, path) or "", {})
    )
    before = make_spec(around)
    change: Any = another(path, before)
    for name in reversed(path.split(".")):
        change = {name: change}
    after = make_spec(merged(around, change))
    assert before != after, f"{path} was not changed"

    there = keys(graph(before)).keys()
    assert changed(before, after) == TABLE[row] & there


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("instructions", ALL - PREPARE),
        ("ranked", since("BuildEvaluations1")),
        ("heldOut", since("Evaluate1")),  # new prompts keep away from them
        ("model", ALL - PREPARE),
        ("evaluations", NOTHING),
    ],
)
def test_changed_data_changes_the_keys_of_the_stages_that_read_it(name: str, expected: set[str]) -> None:
    spec = make_spec({"iterations": 2})
    data = dict(prepared().data)
    before = build_graph(spec, run_uid="u", contract=1, prepare=prepared())
    after = build_graph(spec, run_uid="u", contract=1, prepare=prepared(data=data | {name: "000000000000"}))
    old, new = keys(before), keys(after)
    assert {stage for stage in old if old[stage] != new[stage]} == expected


def test_evaluation_prompts_are_in_the_keys_of_what_answers_them_and_of_what_keeps_away_from_them() -> None:
    spec = make_spec({"iterations": 2, "evaluation": {"prompts": [PROMPT_SET]}})
    old, new = (
        keys(
            build_graph(
                spec,
                run_uid="u",
                contract=1,
                prepare=prepared(data=prepared().data | {"evaluationPrompts": digest}),
            )
        )
        for digest in ("1" * 12, "2" * 12)
    )
    assert {stage for stage in old if old[stage] != new[stage]} == since("Evaluate1")


@pytest.mark.parametrize(
    "change", [{"uri": "s3://elsewhere/chat.json"}, {"format": "AlpacaEval"}, {"maxRows": 900}]
)
def test_evaluation_prompts_are_in_keys_by_their_rows_and_not_by_where_they_come_from(
    change: dict[str, Any],
) -> None:
    sets = {"prompts": [PROMPT_SET], "headToHead": {"set": "chat"}}
    spec = {"iterations": 2, "evaluation": sets, "dpo": {"earlyStopping": {}}}
    moved = merged(spec, {"evaluation": {"prompts": [PROMPT_SET | change]}})
    assert {"Answer2", "Select2", "Compare2"} <= keys(graph(make_spec(spec))).keys()
    assert changed(make_spec(spec), make_spec(moved)) == PREPARE
    renamed = merged(
        spec, {"evaluation": {"prompts": [PROMPT_SET | {"name": "other"}], "headToHead": {"set": "other"}}}
    )
    assert (
        changed(make_spec(spec), make_spec(renamed))
        > PREPARE | EVALUATES & keys(graph(make_spec(spec))).keys()
    )


@pytest.mark.parametrize("change", [{"prompts": 9}, {"set": "other"}])
def test_answers_to_evaluation_prompts_do_not_depend_on_how_many_are_compared(change: dict[str, Any]) -> None:
    """All sets are answered, whichever of them models are compared on."""
    prompts = [PROMPT_SET, PROMPT_SET | {"name": "other"}]
    spec = {"iterations": 2, "evaluation": {"prompts": prompts, "headToHead": {"set": "chat"}}}
    edited = merged(spec, {"evaluation": {"headToHead": change}})
    assert changed(make_spec(spec), make_spec(edited)) == COMPARES


def test_own_evaluation_rows_are_in_the_keys_of_what_is_trained_on_them() -> None:
    spec = make_spec({"iterations": 2, **AROUND["seedData.evaluations"]})
    data = prepared().data | {"evaluations": "111111111111"}
    old = keys(build_graph(spec, run_uid="u", contract=1, prepare=prepared(data=data)))
    other = data | {"evaluations": "222222222222"}
    new = keys(build_graph(spec, run_uid="u", contract=1, prepare=prepared(data=other)))
    assert {stage for stage in old if old[stage] != new[stage]} == since("SupervisedFineTune1")


def test_runs_share_every_stage_but_prepare() -> None:
    spec = make_spec()
    one = keys(build_graph(spec, run_uid="one", contract=1, prepare=prepared()))
    two = keys(build_graph(spec, run_uid="two", contract=1, prepare=prepared()))
    assert {name for name in one if one[name] != two[name]} == {"Prepare0"}


def test_a_sweep_over_beta_trains_m1_once() -> None:
    sweep = [make_spec({"dpo": {"beta": beta}}) for beta in (0.05, 0.1, 0.5)]
    first = {keys(graph(spec))["SupervisedFineTune1"] for spec in sweep}
    second = {keys(graph(spec))["PreferenceOptimize2"] for spec in sweep}
    assert (len(first), len(second)) == (1, 3)


def test_settings_of_dpo_are_in_no_key_where_only_positive_examples_are_trained_on() -> None:
    spec = make_spec({"preferences": {"rule": "PositiveOnly"}})
    other = make_spec({"preferences": {"rule": "PositiveOnly"}, "dpo": {"beta": 0.9}})
    assert changed(spec, other) == {"Prepare0"}
