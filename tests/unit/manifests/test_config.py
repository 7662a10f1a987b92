"""The documents inside the ConfigMaps: what programs read is what was planned."""

import dataclasses
import json

import pytest
from manifest_scenarios import CPU, JUDGE, PAPER, TEMPLATES, WRITER, key, plan

from selfrewarding.contract.config import ServeConfig, StageConfig
from selfrewarding.contract.stages import TRAINING, StageKind
from selfrewarding.manifests import MissingResult, serve_config, stage_config
from selfrewarding.plan.aside import report_stage
from selfrewarding.plan.stage import Graph


@pytest.mark.parametrize("block", [CPU, PAPER, JUDGE, WRITER, TEMPLATES])
def test_programs_read_back_what_was_written(block: dict[str, object]) -> None:
    made = plan(block)
    for kind, stage in made.stages.items():
        config_map = made.objects(kind)[0]
        read = StageConfig.model_validate_json(config_map["data"]["config.json"])
        assert read == stage_config(made.context, stage)
        assert read.parameters == stage.parameters
        assert len(config_map["data"]["config.json"]) < 2**20, "Kubernetes' limit of a ConfigMap"
    for name, holder in made.holders.items():
        text = made.pool(name)["ConfigMap"]["data"]["config.json"]
        assert ServeConfig.model_validate_json(text) == serve_config(made.context, holder)


def test_parents_and_models_are_pinned_by_the_digests_of_their_results() -> None:
    made = plan()
    config = stage_config(made.context, made.stages[StageKind.PREFERENCE_OPTIMIZE])
    sft, preferences = (
        made.stages[kind] for kind in (StageKind.SUPERVISED_FINE_TUNE, StageKind.BUILD_PREFERENCES)
    )
    assert set(config.parents) == {"prepare", "model", "preferences"}
    assert config.parents["preferences"].key == preferences.key
    assert config.parents["preferences"].digest == made.context.results[preferences.short].digest
    assert set(config.models) == {"base", "reference"}
    base = config.models["base"]
    assert base.stage is not None
    assert (base.name, base.uri, base.stage.key) == ("M1", None, sft.key)
    assert base.stage.digest == made.context.results[sft.short].digest


@pytest.mark.parametrize("why", [None, "The judge is no better than a coin."])
def test_a_report_is_told_what_the_judge_has_not_reached(why: str | None) -> None:
    made = plan()
    prepare = made.stages[StageKind.PREPARE]
    report = report_stage(
        Graph(prepare=prepare),
        [prepare],
        run_uid="u",
        decided="",
        uncalibrated=why,
        spec=made.context.spec,
        contract=1,
    )
    story = stage_config(made.context, report).story
    assert story is not None
    assert story.uncalibrated == why


def test_a_fixed_model_is_named_by_its_address() -> None:
    base = stage_config(plan().context, plan().stages[StageKind.SUPERVISED_FINE_TUNE]).models["base"]
    assert (base.name, base.uri, base.stage) == ("M0", "s3://models/m0", None)


def test_a_pool_gets_the_tokenizer_of_the_run() -> None:
    made = plan()
    prepare = made.stages[StageKind.PREPARE]
    found = serve_config(made.context, made.holders["policy"]).prepare
    assert found is not None
    assert (found.key, found.digest) == (prepare.key, made.context.results[prepare.short].digest)


def test_an_initial_model_from_a_hub_is_served_from_prepares_copy() -> None:
    made = plan()
    prepare = made.stages[StageKind.PREPARE]
    old = made.holders["policy"]
    holder = dataclasses.replace(
        old, model=dataclasses.replace(old.model, name="M0", key=key("m0"), stage=prepare)
    )
    config = serve_config(made.context, holder)
    assert config.model.stage is not None
    assert config.model.stage.key == prepare.key
    assert config.prepare == config.model.stage


def test_a_parent_without_a_result_is_an_error_that_names_both() -> None:
    made = plan()
    sft = made.stages[StageKind.SUPERVISED_FINE_TUNE]
    results = {name: one for name, one in made.context.results.items() if name != sft.short}
    context = dataclasses.replace(made.context, results=results)
    with pytest.raises(
        MissingResult, match=f"Rollout 2 reads SupervisedFineTune 1, whose key {sft.short} is not"
    ):
        stage_config(context, made.stages[StageKind.ROLLOUT])
    with pytest.raises(MissingResult, match=rf"the pool {sft.short}-policy reads SupervisedFineTune 1"):
        serve_config(context, made.holders["policy"])


def test_how_a_stage_runs_is_told_without_pod_templates_and_images() -> None:
    made = plan({**TEMPLATES, "retention": {"checkpoints": "Keep"}, "limits": {"stageDeadlineSeconds": 7200}})
    for kind, stage in made.stages.items():
        how = stage_config(made.context, stage).execution
        assert (how.training is None) == (kind not in TRAINING)
        assert (how.sampler is None) == (kind in TRAINING)
        assert how.keep_checkpoints is True
        assert how.deadline_seconds == 7200
        assert "podTemplate" not in made.objects(kind)[0]["data"]["config.json"]


def test_a_rollout_knows_its_shards_and_servers() -> None:
    made = plan({**JUDGE, "sampler": {"parallelism": 4}})
    config = stage_config(made.context, made.stages[StageKind.ROLLOUT])
    assert config.execution.shards == 4
    assert set(config.servers) == {"policy", "judge"}
    assert config.servers["policy"].replicas == 2
    assert config.servers["judge"].name == f"judge-{made.holders['judge'].name}"


def test_the_text_is_readable_and_the_same_again() -> None:
    texts = {plan().objects(StageKind.ROLLOUT)[0]["data"]["config.json"] for _ in range(2)}
    (text,) = texts
    assert text.count("\n") > 20
    assert list(json.loads(text)) == sorted(json.loads(text))
