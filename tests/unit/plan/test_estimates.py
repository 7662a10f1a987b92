"""Tokens and memory before a run has started."""

from typing import Any

import pytest
from tests.support.builders import make_spec

from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.estimates import (
    StageEstimate,
    estimate_run,
    generated_tokens,
    misfits,
    readable,
    serving_memory,
    trained_tokens,
    training_memory,
)
from selfrewarding.plan.graph import outline

LLAMA_70B, LLAMA_8B, SMOLLM = 70_553_706_496, 8_030_261_248, 134_515_008
H100 = 80 * 10**9
COUNTS = {"instructions": 80, "ranked": 20, "heldOut": 8, "heldOutAnswers": 30}


def stage(kind: StageKind, **spec: Any) -> Any:
    return next(one for one in outline(make_spec(spec), contract=1).stages if one.kind is kind)


def estimates(parameters: int, **spec: Any) -> tuple[list[StageEstimate], Any]:
    effective = make_spec(spec)
    return estimate_run(
        outline(effective, contract=1), effective, COUNTS | {"parameters": parameters}
    ), effective


def test_number_rule_16_full_fine_tuning_of_70b_takes_sixteen_bytes_a_parameter() -> None:
    spec = make_spec(
        {"training": {"gpusPerNode": 1, "gradientCheckpointing": True}, "sft": {"maxLength": 64}}
    )
    alone = training_memory(LLAMA_70B, spec.training, spec.sft)
    assert readable(16 * LLAMA_70B) == "1.13 TB"
    assert alone.per_gpu == pytest.approx(16 * LLAMA_70B, rel=0.02)


@pytest.mark.parametrize(
    ("training", "sft", "bytes_a_parameter"),
    [
        pytest.param({"deepspeed": {"zeroStage": 0}}, {}, 16, id="nothing is sharded"),
        pytest.param({"deepspeed": {"zeroStage": 1}}, {}, 2 + 2 + 12 / 8, id="ZeRO-1 shards the optimizer"),
        pytest.param({"deepspeed": {"zeroStage": 2}}, {}, 2 + 14 / 8, id="ZeRO-2 also the gradients"),
        pytest.param({"deepspeed": {"zeroStage": 3}}, {}, 16 / 8, id="ZeRO-3 all"),
        pytest.param({"deepspeed": {"zeroStage": 2}}, {"optimizer": "AdamW8bit"}, 2 + 8 / 8, id="8-bit moments"),
        pytest.param({"deepspeed": {"zeroStage": 2, "offloadOptimizer": True}}, {}, 2 + 2 / 8, id="moments in the host"),
        pytest.param(
            {"deepspeed": {"zeroStage": 3, "offloadOptimizer": True, "offloadParameters": True}}, {}, 2 / 8,
            id="only gradients stay",
        ),
        pytest.param({"deepspeed": {"zeroStage": 2}}, {"precision": "Float32"}, 4 + 12 / 8, id="float32 is its own master"),
    ],
)  # fmt: skip
def test_memory_is_shared_as_zero_says(
    training: dict[str, Any], sft: dict[str, Any], bytes_a_parameter: float
) -> None:
    spec = make_spec(
        {"training": {"gpusPerNode": 8} | training, "sft": {"maxLength": 64, "batchSize": 16} | sft}
    )
    memory = training_memory(LLAMA_70B, spec.training, spec.sft)
    assert memory.gpus == 8
    activations = 10 * 2**30
    assert bytes_a_parameter * LLAMA_70B <= memory.per_gpu <= bytes_a_parameter * LLAMA_70B + activations


def test_number_rule_16_what_cannot_fit_is_refused_with_its_remedies() -> None:
    found, spec = estimates(LLAMA_70B, training={"nodes": 1, "gpusPerNode": 8})
    sentences = misfits(found, spec, gpu_memory=H100)
    sft = next(sentence for sentence in sentences if sentence.startswith("SupervisedFineTune"))
    for remedy in ("zeroStage to 3", "offloadOptimizer", "training.nodes", "sft.lora"):
        assert remedy in sft
    assert any("serving.tensorParallelSize" in sentence for sentence in sentences)


def test_what_fits_is_not_refused() -> None:
    wide = {"nodes": 4, "gpusPerNode": 8, "deepspeed": {"zeroStage": 3}}
    batches = {"sft": {"batchSize": 32}, "dpo": {"batchSize": 32}}
    found, spec = estimates(LLAMA_70B, training=wide, serving={"tensorParallelSize": 8}, **batches)
    assert misfits(found, spec, gpu_memory=H100, host_memory=2 * 10**12) == []


def test_offload_is_paid_in_host_memory() -> None:
    offload = {"nodes": 1, "gpusPerNode": 8, "deepspeed": {"zeroStage": 3, "offloadOptimizer": True}}
    found, spec = estimates(LLAMA_70B, training=offload, serving={"tensorParallelSize": 8})
    sentences = misfits(found, spec, gpu_memory=H100, host_memory=512 * 10**9)
    assert any("host memory" in sentence for sentence in sentences)


def test_adapters_make_an_8b_model_fit_one_gpu() -> None:
    spec = make_spec({"training": {"microBatchSize": 1}, "sft": {"lora": {"rank": 16}}})
    full = training_memory(LLAMA_8B, spec.training, spec.dpo)
    small = training_memory(LLAMA_8B, spec.training, spec.sft)
    assert small.per_gpu < H100 < full.per_gpu


def test_on_cpu_everything_is_in_the_host() -> None:
    found, spec = estimates(SMOLLM, training={"device": "Cpu"}, serving={"device": "Cpu"})
    sft = next(one for one in found if one.kind is StageKind.SUPERVISED_FINE_TUNE)
    assert sft.training is not None
    assert (sft.training.gpus, sft.training.per_gpu) == (0, 0)
    assert 16 * SMOLLM < sft.training.host < 16 * 2**30
    assert misfits(found, spec, gpu_memory=1) == []


def test_a_server_needs_its_weights_and_one_sequence_per_tensor_parallel_group() -> None:
    holder = stage(StageKind.ROLLOUT, serving={"tensorParallelSize": 8, "gpuMemoryUtilization": 0.9}).holders[
        "policy"
    ]
    memory = serving_memory(LLAMA_70B, holder, dtype="Auto")
    assert memory.gpus == 8
    assert 2 * LLAMA_70B / 8 / 0.9 < memory.per_gpu < 1.25 * 2 * LLAMA_70B / 8 / 0.9


@pytest.mark.parametrize(
    ("kind", "spec", "expected"),
    [
        (StageKind.PREPARE, {}, 0),
        (StageKind.GENERATE_PROMPTS, {"promptGeneration": {"maxRequests": 70, "maxTokens": 100}}, 7_000),
        (StageKind.GENERATE_PROMPTS, {"promptGeneration": {"count": 10, "maxTokens": 100}}, 4_000),
        (
            StageKind.ROLLOUT,
            {
                "promptGeneration": {"count": 10}, "responses": {"samples": 4, "maxTokens": 200},
                "judge": {"samples": 3, "maxTokens": 100},
            },
            10 * 4 * (200 + 3 * 100),
        ),
        (StageKind.BUILD_EVALUATIONS, {"judge": {"maxTokens": 100}}, 20 * 4 * 3 * 100),
        (StageKind.EVALUATE, {"judge": {"maxTokens": 100}, "evaluation": {"samples": 2}}, 30 * 2 * 100),
        (StageKind.PREFERENCE_OPTIMIZE, {}, 0),
    ],
)  # fmt: skip
def test_generated_tokens_are_an_upper_bound(kind: StageKind, spec: dict[str, Any], expected: int) -> None:
    assert generated_tokens(stage(kind, **spec), COUNTS) == expected


def test_trained_tokens_count_rows_epochs_and_both_sides_of_a_pair() -> None:
    sft = stage(StageKind.SUPERVISED_FINE_TUNE, sft={"epochs": 2, "maxLength": 1024})
    dpo = stage(
        StageKind.PREFERENCE_OPTIMIZE, dpo={"epochs": 1, "maxLength": 512}, promptGeneration={"count": 10}
    )
    assert trained_tokens(sft, COUNTS) == (80 + 20) * 2 * 1024
    assert trained_tokens(dpo, COUNTS) == 10 * 512 * 2


@pytest.mark.parametrize(("size", "text"), [(999, "999 B"), (134_515_008, "135 MB"), (80 * 10**9, "80 GB")])
def test_sizes_are_readable(size: int, text: str) -> None:
    assert readable(size) == text


def test_answers_to_evaluation_prompts_and_comparisons_are_counted() -> None:
    sets = [{"name": "chat", "uri": "s3://data/chat.jsonl"}]
    answers, judged = {"maxTokens": 100}, 30 * 3 * 512
    on_ranks = {"answers": answers, "headToHead": {"prompts": 6, "maxTokens": 50}}
    evaluate = stage(StageKind.EVALUATE, evaluation=on_ranks)
    assert generated_tokens(evaluate, COUNTS) == judged + 6 * 100
    assert generated_tokens(stage(StageKind.COMPARE, evaluation=on_ranks), COUNTS) == 2 * 6 * 50, (
        "the baseline alone"
    )
    more = on_ranks | {"headToHead": {"prompts": 256, "maxTokens": 50}}
    assert generated_tokens(stage(StageKind.COMPARE, evaluation=more), COUNTS) == 2 * 8 * 50, "8 are held out"
    endpoint = {"judge": {"endpoint": {"url": "https://llm.example.com/v1", "model": "large"}}}
    foreign = on_ranks | {"headToHead": endpoint}
    assert generated_tokens(stage(StageKind.COMPARE, evaluation=foreign), COUNTS) == 0, (
        "nothing of it is ours"
    )
    own = stage(
        StageKind.EVALUATE, evaluation={"answers": answers, "prompts": sets, "headToHead": {"set": "chat"}}
    )
    assert generated_tokens(own, COUNTS | {"evaluationTurns": 40}) == judged + 40 * 100


def test_one_opponent_with_two_roles_is_counted_once() -> None:
    spec = make_spec({"iterations": 3, "evaluation": {"headToHead": {"prompts": 6, "maxTokens": 50}}})
    stages = [one for one in outline(spec, contract=1).stages if one.kind is StageKind.COMPARE]
    both_orders = 2 * 6 * 50
    # M1: the baseline. M2: M1, which is the previous model too, and the baseline. M3: M2, M1 and the baseline.
    assert [generated_tokens(one, COUNTS) for one in stages] == [
        both_orders,
        2 * both_orders,
        3 * both_orders,
    ]
