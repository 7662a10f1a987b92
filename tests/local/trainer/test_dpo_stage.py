"""DPO stages as one rank on the CPU, with real TRL and DeepSpeed on a tiny model."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.tiny_model import byte_tokenizer
from tests.support.training_stage import (
    Inputs,
    cpu,
    forget_accelerate,
    instruction_rows,
    log_of,
    pair_rows,
    run_here,
)
from transformers import AutoModelForCausalLM

from selfrewarding.api.algorithm import LoraSpec, SftSpec
from selfrewarding.contract.config import ModelRef
from selfrewarding.contract.program import BadConfiguration, StageFailure
from selfrewarding.contract.result import MAX_SUMMARY_BYTES, summary_message, summary_of
from selfrewarding.contract.stages import StageKind
from selfrewarding.data.chat import ChatEncoder
from selfrewarding.store import open_store
from srr_trainer import dpo, reference
from srr_trainer.reference import ReferenceStore
from srr_trainer.rows import TokenisedPair, tokenise_pairs

ENCODER = ChatEncoder(byte_tokenizer())
LOG_2 = math.log(2)


def reference_files(inputs: Inputs) -> list[str]:
    """Without the marks of the runs that use them."""
    found = open_store(inputs.uri).list("stages/ReferenceLogProbs")
    return [entry.key for entry in found if entry.key.endswith("/logprobs.jsonl")]


def pairs() -> list[TokenisedPair]:
    return tokenise_pairs(pair_rows(), ENCODER, max_length=256)[0]


def by_hand(folder: Path, prompt: list[int], answer: list[int]) -> float:
    """Sum of an answer's log probabilities, written out."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        rows = model(torch.tensor([prompt + answer])).logits[0, :-1].log_softmax(-1)
    return sum(rows[len(prompt) - 1 + place, token].item() for place, token in enumerate(answer))


def folder_of(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


@pytest.fixture
def own(tmp_path: Path) -> Inputs:
    """Inputs in a store that no other test has put reference log probabilities into."""
    inputs = Inputs(tmp_path / "own")
    inputs.add_model("m0", seed=0)
    inputs.add_parent("prepare", StageKind.PREPARE, {"instructions.jsonl": instruction_rows(2)})
    inputs.add_parent("preferences", StageKind.BUILD_PREFERENCES, {"pairs.jsonl": pair_rows()})
    return inputs


def test_a_stage_learns_its_preferences(inputs: Inputs, tmp_path: Path) -> None:
    config = inputs.dpo_config(key="whole", epochs=3)
    result = run_here(config, tmp_path)
    log = log_of(config, result)
    assert result.counts == {
        "rows": 8,
        "pairs": 8,
        "excluded": 0,
        "steps": 6,
        "tokens": result.counts["tokens"],
    }
    assert result.counts["tokens"] == 3 * sum(pair.tokens for pair in pairs())
    assert log[0]["loss"] == pytest.approx(LOG_2, abs=1e-5)
    assert log[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert log[-1]["loss"] < log[0]["loss"]
    assert result.metrics["rewardMargin"] == log[-1]["rewards/margins"] > 0
    assert log[-1]["rewards/accuracies"] > 0.5
    assert result.report["stepZeroLoss"] == pytest.approx(LOG_2, abs=1e-5)
    assert len(summary_message(result.key, summary_of(result))) <= MAX_SUMMARY_BYTES


def test_rule_08_reference_log_probabilities_are_those_of_the_reference(own: Inputs, tmp_path: Path) -> None:
    """By hand, without dropout, though the policy trains with it."""
    run_here(own.dpo_config(dropout=0.5), tmp_path / "scratch")
    (file,) = reference_files(own)
    header, *rows = [json.loads(line) for line in open_store(own.uri).read(file).splitlines()]
    assert header["rows"] == len(rows) == 8
    for row, pair in zip(rows, pairs(), strict=True):
        assert row["key"] == pair.key
        assert row["chosen"] == pytest.approx(
            by_hand(folder_of(own.model_uri), pair.prompt_ids, pair.chosen_ids), rel=1e-5
        )
        assert row["rejected"] == pytest.approx(
            by_hand(folder_of(own.model_uri), pair.prompt_ids, pair.rejected_ids), rel=1e-5
        )


def test_rule_08_they_equal_trls_own(own: Inputs, tmp_path: Path) -> None:
    """TRL tokenises the same conversations by itself and precomputes; the texts hold nothing that an attacker wrote."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    run_here(own.dpo_config(), tmp_path / "scratch")
    (file,) = reference_files(own)
    rows = [json.loads(line) for line in open_store(own.uri).read(file).splitlines()][1:]
    forget_accelerate()
    arguments = DPOConfig(
        output_dir=str(tmp_path / "trl"),
        use_cpu=True,
        bf16=False,
        report_to="none",
        max_length=256,
        precompute_ref_log_probs=True,
        per_device_train_batch_size=3,
        gradient_checkpointing=False,
    )
    columns = ("prompt", "chosen", "rejected")
    trainer = DPOTrainer(
        model=str(folder_of(own.model_uri)),
        args=arguments,
        train_dataset=Dataset.from_list([{name: row[name] for name in columns} for row in pair_rows()]),
        processing_class=byte_tokenizer(),
    )
    theirs = trainer.train_dataset
    # ChatML's template ends a turn in a line break that the server never writes: TRL scores one token more.
    ours = [
        TokenisedPair(str(number), row["prompt_ids"], [*row["chosen_ids"]], [*row["rejected_ids"]])
        for number, row in enumerate(theirs)
    ]
    tail = ours[0].chosen_ids[len(pairs()[0].chosen_ids) :]
    assert byte_tokenizer().decode(tail) == "\n"
    for row, their_row, pair in zip(rows, theirs, ours, strict=True):
        extra = by_hand(folder_of(own.model_uri), pair.prompt_ids + pair.chosen_ids[:-1], tail)
        assert row["chosen"] + extra == pytest.approx(their_row["ref_chosen_logps"], abs=1e-3)


def test_rule_08_a_restarted_stage_takes_them_from_the_store(own: Inputs, tmp_path: Path) -> None:
    first = run_here(own.dpo_config(key="first"), tmp_path / "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dpo, "compute", _must_not_compute)
        second = run_here(own.dpo_config(key="second", beta=0.2), tmp_path / "2")
    assert first.report["referenceLogProbs"] == second.report["referenceLogProbs"]
    assert len(reference_files(own)) == 1


def test_rule_08_damaged_ones_are_made_again(own: Inputs, tmp_path: Path) -> None:
    run_here(own.dpo_config(key="first"), tmp_path / "1")
    (file,) = reference_files(own)
    store = open_store(own.uri)
    whole = store.read(file)
    store.write(file, whole[:-20])
    run_here(own.dpo_config(key="second", epochs=2), tmp_path / "2")
    assert store.read(file) == whole


def test_rule_08_the_digest_covers_all_that_changes_them(own: Inputs) -> None:
    store = open_store(own.uri)
    settings: dict[str, Any] = {"model_digest": "m", "max_length": 256, "ld_alpha": None, "bfloat16": False}
    digests = {
        ReferenceStore(store, rows, **(settings | change)).digest
        for rows, change in (
            (pairs(), {}),
            (pairs()[:-1], {}),
            (pairs(), {"model_digest": "n"}),
            (pairs(), {"max_length": 255}),
            (pairs(), {"ld_alpha": 0.5}),
            (pairs(), {"bfloat16": True}),
        )
    }
    assert len(digests) == 6


def test_the_step_zero_check_catches_a_wrong_reference(own: Inputs, tmp_path: Path) -> None:
    def shifted(*arguments: Any, **others: Any) -> reference.LogProbabilities:
        found = reference.compute(*arguments, **others)
        return {key: (chosen + 5, rejected) for key, (chosen, rejected) in found.items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dpo, "compute", shifted)
        with pytest.raises(StageFailure, match=r"log 2 = 0\.6931 was expected"):
            run_here(own.dpo_config(), tmp_path / "scratch")


def test_the_first_loss_is_log_2_before_dropout_and_the_policy_trains_with_it(
    inputs: Inputs, tmp_path: Path
) -> None:
    config = inputs.dpo_config(key="dropout", dropout=0.5)
    result = run_here(config, tmp_path)
    assert result.report["stepZeroLoss"] == pytest.approx(LOG_2, abs=1e-5)
    assert log_of(config, result)[0]["rewards/margins"] != 0, "TRL switches dropout off unless told otherwise"


def test_another_reference_is_scored_by_itself(own: Inputs, tmp_path: Path) -> None:
    other = own.add_model("other", seed=5)
    config = own.dpo_config(key="initial", reference=ModelRef(name="M1", uri=other))
    result = run_here(config, tmp_path / "scratch")
    (file,) = reference_files(own)
    row = json.loads(open_store(own.uri).read(file).splitlines()[1])
    pair = pairs()[0]
    assert row["chosen"] == pytest.approx(
        by_hand(folder_of(other), pair.prompt_ids, pair.chosen_ids), rel=1e-5
    )
    assert result.report["stepZeroLoss"] is None
    assert log_of(config, result)[0]["rewards/chosen"] != 0


@pytest.mark.parametrize(
    "change",
    [
        {"loss": ["sigmoid", "sft"], "loss_weights": [1, 0.2]},
        {"length_desensitization": 0.3},
        {"loss": ["robust"], "label_smoothing": 0.1},
    ],
    ids=["rpo", "ld-dpo", "robust"],
)
def test_variants_of_the_loss_train(inputs: Inputs, tmp_path: Path, change: dict[str, Any]) -> None:
    config = inputs.dpo_config(key=f"variant-{change}", epochs=2, **change)
    result = run_here(config, tmp_path)
    assert result.report["stepZeroLoss"] == pytest.approx(LOG_2, abs=1e-5)
    losses = [row["loss"] for row in log_of(config, result)]
    assert losses[-1] < losses[0]


def test_adapters_are_trained_against_the_bare_model(inputs: Inputs, tmp_path: Path) -> None:
    config = inputs.dpo_config(key="lora", lora=LoraSpec(rank=4, alpha=8), learning_rate=1e-2, epochs=3)
    result = run_here(config, tmp_path)
    log = log_of(config, result)
    assert log[0]["loss"] == pytest.approx(LOG_2, abs=1e-5)
    assert log[-1]["loss"] < log[0]["loss"]
    assert result.report["parameters"] > 90_944, "the base and its adapters"  # type: ignore[operator]


def test_positive_examples_only_is_sft_on_them(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    inputs.add_model("m0", seed=0)
    inputs.add_parent("prepare", StageKind.PREPARE, {"instructions.jsonl": instruction_rows(2)})
    inputs.add_parent("preferences", StageKind.BUILD_PREFERENCES, {"positives.jsonl": instruction_rows(6)})
    sft = SftSpec(batch_size=2, max_length=256, dropout=0, learning_rate=1e-3, epochs=1)
    config = inputs.dpo_config(key="positive", positive_only=True, sft=sft)
    result = run_here(config, tmp_path / "scratch")
    assert result.counts["rows"] == 6
    assert "pairs" not in result.counts
    assert "rewardMargin" not in result.metrics
    with pytest.raises(BadConfiguration, match="needs the settings of `sft`"):
        run_here(inputs.dpo_config(key="without", positive_only=True), tmp_path / "scratch")


def test_two_micro_batches_or_one_give_the_same_losses(own: Inputs, tmp_path: Path) -> None:
    """Accumulation is equivalent to a larger micro batch (as TRL's own invariant tests ask)."""
    small = own.dpo_config(key="micro", epochs=2, training=cpu(micro_batch_size=1))
    large = own.dpo_config(key="micro", epochs=2, training=cpu(micro_batch_size=4)).model_copy(
        update={"iteration": 2}
    )
    first = [row["loss"] for row in log_of(small, run_here(small, tmp_path / "1"))]
    open_store(own.uri).delete_prefix(f"stages/{large.kind}/{large.key}")
    second = [row["loss"] for row in log_of(large, run_here(large, tmp_path / "2"))]
    assert first == pytest.approx(second, abs=2e-5)


def _must_not_compute(*_: Any, **__: Any) -> None:
    raise AssertionError("the reference log probabilities are in the store already")
