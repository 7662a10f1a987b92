"""Serving pools: Deployment, Service, NetworkPolicy, and the arguments of vLLM."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from manifest_scenarios import CPU, JUDGE, LLAMA2_70B, PAPER, SMOLLM2, Plan, merged, plan

from selfrewarding.api import labels
from selfrewarding.contract import environment
from selfrewarding.contract.config import ServeConfig
from selfrewarding.contract.stages import StageKind
from selfrewarding.manifests import InvalidOption, stage_config
from selfrewarding.manifests.server_arguments import SHUTDOWN_SECONDS

STREAMER = {"serving": {"load": "Streamer"}}


def server(made: Plan, pool: str = "policy") -> dict[str, Any]:
    return made.pool(pool)["Deployment"]["spec"]["template"]["spec"]["containers"][0]


def fetch(made: Plan, pool: str = "policy") -> dict[str, Any]:
    return made.pool(pool)["Deployment"]["spec"]["template"]["spec"]["initContainers"][0]


def options(made: Plan, pool: str = "policy") -> dict[str, str | bool]:
    """Arguments as option -> value; True for a switch."""
    found: dict[str, str | bool] = {}
    args = server(made, pool)["args"]
    for index, word in enumerate(args):
        if word.startswith("--"):
            following = args[index + 1] if index + 1 < len(args) else "--"
            found[word] = True if following.startswith("--") else following
    return found


def env(one: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in one["env"]}


def test_survival_rule_07_the_served_name_and_the_selectors_contain_the_model_key() -> None:
    made = plan()
    key = made.holders["policy"].model.key[:16]
    objects = made.pool()
    name = options(made)["--served-model-name"]
    assert name == f"m1-{key}-policy"
    assert stage_config(made.context, made.stages[StageKind.ROLLOUT]).servers["policy"].name == name
    deployment = objects["Deployment"]["spec"]
    for selector in (
        objects["Service"]["spec"]["selector"],
        deployment["selector"]["matchLabels"],
        objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert key in selector[labels.HOLDER]
        assert selector.items() <= deployment["template"]["metadata"]["labels"].items()


def test_survival_rule_07_servers_are_recreated_and_never_two_at_once() -> None:
    spec = plan().pool()["Deployment"]["spec"]
    assert spec["strategy"] == {"type": "Recreate"}
    assert spec["template"]["spec"]["restartPolicy"] == "Always"


def test_attempts_of_a_pool_do_not_take_each_others_pods() -> None:
    first, second = (plan().pool(attempt=attempt)["Deployment"]["spec"] for attempt in (1, 2))
    assert not first["selector"]["matchLabels"].items() <= second["template"]["metadata"]["labels"].items()
    service = plan().pool(attempt=2)["Service"]["spec"]["selector"]
    assert service.items() <= first["template"]["metadata"]["labels"].items()


def test_the_service_is_headless_and_names_only_servers_that_are_ready() -> None:
    service = plan().pool()["Service"]["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is False
    port = server(plan())["ports"][0]
    assert service["ports"][0]["targetPort"] == port["name"]
    assert service["ports"][0]["port"] == port["containerPort"] == int(env(server(plan()))[environment.PORT])


def test_only_pods_of_the_run_may_ask_a_server() -> None:
    made = plan()
    policy = made.pool()["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    (rule,) = policy["ingress"]
    (visitors,) = rule["from"]
    asking = made.workload(StageKind.ROLLOUT)["spec"]["template"]["metadata"]["labels"]
    assert visitors["podSelector"]["matchLabels"].items() <= asking.items()
    assert visitors["podSelector"]["matchLabels"] == {labels.RUN: "demo"}
    assert [port["port"] for port in rule["ports"]] == [8000]


def test_the_server_starts_from_its_module_with_paths_from_the_environment() -> None:
    one = server(plan())
    assert one["command"] == ["python3", "-m", "vllm.entrypoints.openai.api_server"]
    found = options(plan())
    assert found["--model"] == f"$({environment.MODEL_DIR})"
    assert found["--host"] == f"$({environment.HOST})"
    assert found["--port"] == f"$({environment.PORT})"
    values = env(one)
    assert values["HF_HUB_OFFLINE"] == values["VLLM_NO_USAGE_STATS"] == values["DO_NOT_TRACK"] == "1"
    assert values[environment.MODEL_DIR] == env(fetch(plan()))[environment.MODEL_DIR]


def test_the_clients_numbers_are_the_servers() -> None:
    for block in (CPU, PAPER, {}):
        made = plan(block)
        told = stage_config(made.context, made.stages[StageKind.ROLLOUT]).servers["policy"]
        assert options(made)["--max-model-len"] == str(told.max_model_len)
        assert options(made)["--max-num-seqs"] == str(told.max_num_seqs)
        assert made.pool()["Deployment"]["spec"]["replicas"] == told.replicas


def test_on_cpu_the_server_computes_eagerly_in_float32_with_a_cache_of_said_size() -> None:
    found = options(plan(CPU))
    assert found["--enforce-eager"] is True
    assert found["--dtype"] == "float32"
    assert found["--kv-cache-memory-bytes"] == str(2**30)
    assert found["--no-enable-chunked-prefill"] is True, (
        "vLLM dies on CPU when it cuts a seeded request's prompt"
    )
    assert int(found["--max-num-batched-tokens"]) >= int(found["--max-model-len"])
    assert "--gpu-memory-utilization" not in found
    values = env(server(plan(CPU)))
    assert values["OMP_NUM_THREADS"] == "2"
    assert values["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert values["TORCHDYNAMO_DISABLE"] == "1", "no compiler is needed in the image"
    assert not any("gpu" in name for name in server(plan(CPU))["resources"]["limits"])


@pytest.mark.parametrize(("quantity", "number"), [("512Mi", 2**29), ("1.5Gi", 3 * 2**29), (None, 2**30)])
def test_the_cache_on_cpu_may_be_no_whole_number_of_gigabytes(quantity: str | None, number: int) -> None:
    block = {"serving": {"device": "Cpu", **({"kvCache": quantity} if quantity else {})}}
    assert options(plan(block))["--kv-cache-memory-bytes"] == str(number)
    assert "OMP_NUM_THREADS" not in env(server(plan(block)))


def test_on_gpus_the_server_has_its_gpus_and_bfloat16() -> None:
    found = options(plan(PAPER))
    assert found["--tensor-parallel-size"] == "8"
    assert found["--dtype"] == "bfloat16"
    assert found["--gpu-memory-utilization"] == "0.9"
    assert "--enforce-eager" not in found
    assert server(plan(PAPER))["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in env(server(plan(PAPER)))


@pytest.mark.parametrize(
    ("said", "expected"), [("BFloat16", "bfloat16"), ("Float16", "float16"), ("Float32", "float32")]
)
def test_the_number_format_is_the_users_where_said(said: str, expected: str) -> None:
    assert options(plan({"model": {"servingDtype": said}}))["--dtype"] == expected


def test_nothing_is_taken_from_the_models_generation_config() -> None:
    assert options(plan())["--generation-config"] == "vllm"


@pytest.mark.parametrize(("minimum", "maximum", "expected"), [(0, 5, "20"), (1, 50, "50"), (0, 100, "101")])
def test_there_are_log_probabilities_for_every_allowed_score(
    minimum: int, maximum: int, expected: str
) -> None:
    found = options(plan({"judge": {"scores": {"minimum": minimum, "maximum": maximum}}}))
    assert found["--max-logprobs"] == expected
    assert found["--logprobs-mode"] == "raw_logprobs"


def test_a_server_stops_within_its_grace_period() -> None:
    spec = plan().pool()["Deployment"]["spec"]["template"]["spec"]
    assert SHUTDOWN_SECONDS < spec["terminationGracePeriodSeconds"] <= 30
    assert options(plan())["--shutdown-timeout"] == str(SHUTDOWN_SECONDS)


def budget(made: Plan) -> float:
    probe = server(made)["startupProbe"]
    return float(probe["periodSeconds"] * probe["failureThreshold"])


def test_the_time_to_start_grows_with_the_model_and_the_engine_knows_it() -> None:
    small, large = plan(counts=SMOLLM2), plan(PAPER, counts=LLAMA2_70B)
    assert 600 <= budget(small) < 700
    assert budget(large) > LLAMA2_70B["modelBytes"] / 50e6
    for made in (small, large):
        assert float(env(server(made))["VLLM_ENGINE_READY_TIMEOUT_S"]) <= budget(made)
        assert made.pool()["Deployment"]["spec"]["progressDeadlineSeconds"] > budget(made)
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server(small)[kind]["httpGet"] == {"path": "/health", "port": "http"}


def test_copy_brings_the_model_by_an_init_container_and_the_server_only_reads_it() -> None:
    made = plan(CPU, counts=LLAMA2_70B)
    assert fetch(made)["command"] == ["python", "-m", "srr_sampler", "fetch-model"]
    assert env(fetch(made))[environment.MODEL_LOAD] == "Copy"
    assert {"name": "model", "mountPath": "/model", "readOnly": True} in server(made)["volumeMounts"]
    assert {"name": "model", "mountPath": "/model"} in fetch(made)["volumeMounts"]
    assert environment.S3_ENDPOINT not in env(server(made))
    assert environment.S3_ENDPOINT in env(fetch(made))
    for one in (fetch(made), server(made)):
        asked = one["resources"]["requests"]["ephemeral-storage"]
        assert int(asked.removesuffix("Gi")) * 2**30 > 4 * LLAMA2_70B["parameters"], "float32 weights"


def test_streamer_lets_the_server_read_the_weights_from_the_store() -> None:
    made = plan(merged(CPU, STREAMER))
    found = options(made)
    assert "--model" not in found
    assert found["--config"] == f"$({environment.SERVER_CONFIG})"
    assert found["--tokenizer"] == f"$({environment.MODEL_DIR})"
    assert found["--load-format"] == "runai_streamer"
    assert json.loads(str(found["--model-loader-extra-config"])) == {"concurrency": 32}
    values = env(server(made))
    assert values["AWS_ENDPOINT_URL"] == "https://s3.example"
    assert values["RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING"] == "0"
    assert values["AWS_ACCESS_KEY_ID"] == {"secretKeyRef": {"name": "s3", "key": "AWS_ACCESS_KEY_ID"}}
    assert env(fetch(made))[environment.MODEL_LOAD] == "Streamer"
    assert env(fetch(made))[environment.SERVER_CONFIG] == values[environment.SERVER_CONFIG]
    assert '"distributed": true' in str(options(plan(PAPER))["--model-loader-extra-config"])


@pytest.mark.parametrize("block", [CPU, PAPER, JUDGE, merged(CPU, STREAMER)])
def test_the_servers_key_comes_by_a_file_and_stands_in_no_manifest(block: dict[str, Any]) -> None:
    """The init container derives it; what asks the server derives it too (`contract.server_key`)."""
    made = plan(block)
    for pool in made.holders:
        assert options(made, pool)["--config"] == f"$({environment.SERVER_CONFIG})"
        assert env(server(made, pool))[environment.SERVER_CONFIG].startswith("/model/")
        assert env(fetch(made, pool))[environment.SERVER_CONFIG].endswith(".yaml"), (
            "vLLM takes no other ending"
        )
    text = json.dumps(made.everything())
    assert not re.search(r"api-key|API_KEY|Bearer", text)
    told = ServeConfig.model_validate_json(made.pool()["ConfigMap"]["data"]["config.json"])
    asks = stage_config(made.context, made.stages[StageKind.ROLLOUT])
    assert (told.served_name, told.run.uid) == (asks.servers["policy"].name, asks.run.uid)


def test_streamer_without_s3_is_an_error_that_says_what_to_do() -> None:
    made = plan(merged(STREAMER, {"artifacts": {"uri": "file:///runs"}}))
    with pytest.raises(InvalidOption, match=r"serving\.load Streamer .*'file:///runs': use Copy"):
        made.pool()


def test_extra_arguments_stand_behind_ours_and_an_empty_value_makes_a_switch() -> None:
    args = server(plan(JUDGE), "judge")["args"]
    assert args[-3:] == ["--enable-expert-parallel", "--quantization", "fp8"]
    changed = plan({"serving": {"extraArgs": {"dtype": "float16"}}})
    assert server(changed)["args"][-2:] == ["--dtype", "float16"]


@pytest.mark.parametrize(
    "name", ["model", "served-model-name", "served_model_name", "port", "api-key", "config"]
)
def test_extra_arguments_that_clients_rely_on_are_refused(name: str) -> None:
    with pytest.raises(
        InvalidOption, match=rf"serving\.extraArgs\.{name}: this option is set by the operator"
    ):
        plan({"serving": {"extraArgs": {name: "x"}}}).pool()


def test_extra_arguments_with_dashes_are_refused() -> None:
    with pytest.raises(InvalidOption, match=r"serving\.judge\.extraArgs has '--seed'.*without dashes"):
        plan(merged(JUDGE, {"serving": {"judge": {"extraArgs": {"--seed": "1"}}}})).pool("judge")


def test_a_fixed_model_keeps_its_tokenizer_and_has_no_measured_size() -> None:
    made = plan(JUDGE)
    config = ServeConfig.model_validate_json(made.pool("judge")["ConfigMap"]["data"]["config.json"])
    assert config.model.uri == "hf://org/judge@main"
    assert config.prepare is None
    assert "HF_HUB_OFFLINE" not in env(fetch(made, "judge"))
    assert env(fetch(made, "policy"))["HF_HUB_OFFLINE"] == "1"
    volumes = made.pool("judge")["Deployment"]["spec"]["template"]["spec"]["volumes"]
    assert {"name": "model", "emptyDir": {}} in volumes


def vllm_options() -> set[str]:
    """The options that the installed vLLM knows, from its sources: importing it takes a minute."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    engine = (root / "engine" / "arg_utils.py").read_text(encoding="utf-8")
    frontend = (root / "entrypoints" / "launchers" / "cli_args.py").read_text(encoding="utf-8")
    found = set(re.findall(r'"(--[a-z0-9-]+)"', engine + frontend))
    fields = re.findall(r"^    ([a-z_]+): ", frontend, re.MULTILINE)
    return found | {"--" + name.replace("_", "-") for name in fields}


@pytest.mark.parametrize(
    "block", [{}, CPU, PAPER, merged(CPU, STREAMER)], ids=["plain", "cpu", "paper", "streamer on cpu"]
)
def test_the_installed_vllm_knows_every_option(block: dict[str, Any]) -> None:
    assert {option.replace("--no-", "--") for option in options(plan(block))} - vllm_options() == set()
