"""Jobs and Indexed Jobs of the data stages, and the addresses that they ask."""

from typing import Any

import pytest
from manifest_scenarios import JUDGE, MEASURED, WRITER, Plan, merged, plan

from selfrewarding.contract import environment
from selfrewarding.contract.stages import TRAINING, StageKind
from selfrewarding.manifests.batch import TRACKER_VARIABLES
from selfrewarding.manifests.config import stage_config

DATA = [kind for kind in StageKind if kind not in TRAINING and kind is not StageKind.GATE]


def env(made: Plan, kind: StageKind) -> dict[str, Any]:
    only = made.workload(kind)["spec"]["template"]["spec"]["containers"][0]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in only["env"]}


def address(made: Plan, pool: str) -> str:
    service = made.pool(pool)["Service"]
    return f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"


@pytest.mark.parametrize("kind", DATA)
def test_data_stages_are_jobs_that_leave_retries_to_the_planner(kind: StageKind) -> None:
    made = plan({"limits": {"stageDeadlineSeconds": 7200}}).workload(kind)
    assert made["kind"] == "Job"
    assert made["spec"]["backoffLimit"] == 0
    assert made["spec"]["podReplacementPolicy"] == "Failed"
    assert made["spec"]["activeDeadlineSeconds"] > 7200
    assert "ttlSecondsAfterFinished" not in made["spec"]
    pod = made["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["containers"][0]["command"] == ["python", "-m", "srr_sampler"]
    assert "nvidia.com/gpu" not in pod["containers"][0]["resources"]["limits"]


def test_a_rollout_of_several_shards_is_an_indexed_job() -> None:
    made = plan({"sampler": {"parallelism": 4}})
    spec = made.workload(StageKind.ROLLOUT)["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    spec = made.workload(StageKind.GENERATE_PROMPTS)["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("NonIndexed", 1, 1)


def test_stages_ask_the_service_of_their_pool() -> None:
    made = plan()
    for kind in (StageKind.GENERATE_PROMPTS, StageKind.ROLLOUT):
        assert env(made, kind)[environment.SERVER_URL["policy"]] == address(made, "policy")
    assert not set(environment.SERVER_URL.values()) & set(env(made, StageKind.BUILD_PREFERENCES))


def test_survival_rule_07_another_model_has_another_address() -> None:
    made = plan()
    asked = {
        env(made, kind)[environment.SERVER_URL["policy"]] for kind in (StageKind.ROLLOUT, StageKind.EVALUATE)
    }
    assert len(asked) == 2


def test_a_dedicated_judge_and_a_fixed_writer_have_pools_of_their_own() -> None:
    writer = {"promptGeneration": {"writer": {"modelUri": "s3://models/writer"}}}
    made = plan(merged(JUDGE, writer))
    found = env(made, StageKind.ROLLOUT)
    assert found[environment.SERVER_URL["policy"]] == address(made, "policy")
    assert found[environment.SERVER_URL["judge"]] == address(made, "judge")
    assert env(made, StageKind.GENERATE_PROMPTS)[environment.SERVER_URL["writer"]] == address(made, "writer")
    assert len({address(made, pool) for pool in ("policy", "judge", "writer")}) == 3


def test_an_external_writer_is_asked_at_its_address_with_the_key_of_its_secret() -> None:
    made = plan(WRITER)
    found = env(made, StageKind.GENERATE_PROMPTS)
    assert found[environment.SERVER_URL["writer"]] == "https://writer.example/v1"
    assert found[environment.WRITER_API_KEY] == {"secretKeyRef": {"name": "writer-key", "key": "apiKey"}}
    for kind in (StageKind.ROLLOUT, StageKind.PREPARE):
        assert environment.WRITER_API_KEY not in env(made, kind)


def test_a_writer_without_a_key_gets_none() -> None:
    block = {"promptGeneration": {"writer": {"endpoint": {"url": "http://writer", "model": "m"}}}}
    assert environment.WRITER_API_KEY not in env(plan(block), StageKind.GENERATE_PROMPTS)


@pytest.mark.parametrize(
    "block",
    [
        {"model": {"uri": "hf://org/m0"}},
        {"judge": {"modelUri": "hf://org/judge"}},
        {"promptGeneration": {"writer": {"modelUri": "hf://org/writer"}}},
        {"dpo": {"reference": "hf://org/reference"}},
        {"evaluation": {"headToHead": {"judge": {"modelUri": "hf://org/referee"}}}},
    ],
)
def test_prepare_may_ask_the_hub_for_a_model_that_lies_there(block: dict[str, Any]) -> None:
    assert "HF_HUB_OFFLINE" not in env(plan(block), StageKind.PREPARE)
    assert env(plan(block), StageKind.BUILD_PREFERENCES)["HF_HUB_OFFLINE"] == "1"
    assert env(plan(), StageKind.PREPARE)["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("block", "asking", "others"),
    [
        ({"judge": {"modelUri": "hf://org/judge"}}, StageKind.ROLLOUT, StageKind.GENERATE_PROMPTS),
        (
            {"promptGeneration": {"writer": {"modelUri": "hf://org/writer"}}},
            StageKind.GENERATE_PROMPTS,
            StageKind.ROLLOUT,
        ),
        (
            {"evaluation": {"headToHead": {"judge": {"modelUri": "hf://org/referee"}}}},
            StageKind.COMPARE,
            StageKind.EVALUATE,
        ),
    ],
)
def test_who_asks_a_fixed_model_on_the_hub_may_fetch_its_tokenizer_there(
    block: dict[str, Any], asking: StageKind, others: StageKind
) -> None:
    made = plan(block)
    assert "HF_HUB_OFFLINE" not in env(made, asking)
    assert env(made, others)["HF_HUB_OFFLINE"] == "1"


def test_prepare_has_no_limit_of_disk_while_nobody_knows_the_model() -> None:
    def scratch(kind: StageKind) -> dict[str, Any]:
        volumes = plan().workload(kind)["spec"]["template"]["spec"]["volumes"]
        return next(volume["emptyDir"] for volume in volumes if volume["name"] == "scratch")

    assert scratch(StageKind.PREPARE) == {}
    assert "sizeLimit" in scratch(StageKind.ROLLOUT)


@pytest.mark.parametrize("kind", [StageKind.COMPARE, StageKind.SELECT])
def test_a_comparison_asks_its_endpoint_with_the_key_of_the_users_secret(kind: StageKind) -> None:
    found = env(plan(MEASURED), kind)
    assert found[environment.SERVER_URL["referee"]] == "https://judge.example/v1"
    assert found[environment.REFEREE_API_KEY] == {"secretKeyRef": {"name": "judge-key", "key": "apiKey"}}
    assert environment.WRITER_API_KEY not in found


def test_only_a_report_gets_the_trackers_secrets_and_it_starts_without_them() -> None:
    made = plan(MEASURED)
    found = env(made, StageKind.REPORT)
    optional = {"name": "wandb", "key": "WANDB_API_KEY", "optional": True}
    assert found["WANDB_API_KEY"] == {"secretKeyRef": optional}
    assert {name for name in found if name.startswith("MLFLOW")} == set(TRACKER_VARIABLES["mlflow"])
    others = [kind for kind in DATA if kind is not StageKind.REPORT]
    assert not any(
        name in env(made, kind)
        for kind in others
        for name in found
        if "API_KEY" in name and name != environment.REFEREE_API_KEY
    )


def test_the_report_is_told_the_story_without_pod_templates() -> None:
    made = plan(merged(MEASURED, {"training": {"podTemplate": {"spec": {"hostNetwork": True}}}}))
    story = stage_config(made.context, made.stages[StageKind.REPORT]).story
    assert story is not None
    assert story.spec.training.pod_template is None
    assert set(story.gpus) == {"Rollout-2", "Evaluate-2"}, "what the stages' servers held"
    assert all(
        stage_config(made.context, made.stages[kind]).story is None
        for kind in DATA
        if kind is not StageKind.REPORT
    )


def test_the_report_is_told_no_option_that_asks_for_a_secret() -> None:
    options = {"hf-token": "hf_secret", "max-num-batched-tokens": "8192"}
    block = {
        "serving": {"extraArgs": options, "judge": {"extraArgs": options}},
        "judge": {"modelUri": "s3://models/judge"},
    }
    made = plan(merged(MEASURED, block))
    (config_map, *_) = made.objects(StageKind.REPORT)
    assert "hf_secret" not in config_map["data"]["config.json"]
    story = stage_config(made.context, made.stages[StageKind.REPORT]).story
    assert story is not None
    assert story.spec.serving.judge is not None
    for pool in (story.spec.serving, story.spec.serving.judge):
        assert pool.extra_args == {"hf-token": "…", "max-num-batched-tokens": "8192"}
