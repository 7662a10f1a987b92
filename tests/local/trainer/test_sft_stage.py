"""SFT stages as one rank on the CPU, with real TRL and DeepSpeed on a tiny model."""

import dataclasses
import json
import math
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.tiny_model import byte_tokenizer
from tests.support.training_stage import (
    Inputs,
    cpu,
    die_after_checkpoint,
    forget_accelerate,
    instruction_rows,
    log_of,
    run_here,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfrewarding.api.algorithm import LoraSpec
from selfrewarding.contract.artifacts import attempt_prefix, stage_prefix
from selfrewarding.contract.config import StageConfig, StageRef
from selfrewarding.contract.program import BadConfiguration, BadData, ParentMissing, Retry, StageFailure
from selfrewarding.contract.result import MAX_SUMMARY_BYTES, StageResult, summary_message, summary_of
from selfrewarding.contract.stages import StageKind
from selfrewarding.data.chat import ChatEncoder
from selfrewarding.store import open_store
from selfrewarding.store.results import download_folder
from srr_trainer import callbacks, saving

EVERY_STEP = cpu(checkpoint={"intervalSeconds": 1})


def losses(config: StageConfig, result: StageResult) -> list[float]:
    return [row["loss"] for row in log_of(config, result)]


def model_of(config: StageConfig, result: StageResult, folder: Path) -> Path:
    download_folder(open_store(config.store), result, "model", folder)
    return folder


@pytest.fixture
def always_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoint after every step, whatever the clock says."""
    monkeypatch.setattr(callbacks.CheckpointTimer, "due", property(lambda _: True))


def test_a_stage_leaves_a_model_that_loads_its_log_and_its_summary(inputs: Inputs, tmp_path: Path) -> None:
    config = inputs.sft_config(key="whole", epochs=2)
    result = run_here(config, tmp_path)

    assert result.counts == {"rows": 8, "excluded": 0, "steps": 4, "tokens": result.counts["tokens"]}
    lengths = [
        len(ChatEncoder(byte_tokenizer()).example(row["messages"]).input_ids) for row in instruction_rows()
    ]
    assert result.counts["tokens"] == 2 * sum(lengths), "padding is not trained on"
    log = log_of(config, result)
    assert [row["step"] for row in log] == [1, 2, 3, 4]
    assert [row["epoch"] for row in log] == [0.5, 1.0, 1.5, 2.0]
    assert log[-1]["tokens"] == result.counts["tokens"]
    assert log[-1]["loss"] < log[0]["loss"]
    assert result.metrics["loss"] == log[-1]["loss"]
    assert 0 < result.metrics["weightsChanged"] <= 1
    assert len(summary_message(result.key, summary_of(result))) <= MAX_SUMMARY_BYTES

    folder = model_of(config, result, tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.dtype == torch.float32, "the master weights are what the next iteration trains on"
    assert "lm_head.weight" not in load_file(folder / "model.safetensors"), "tied weights are saved once"
    assert AutoTokenizer.from_pretrained(folder).chat_template == byte_tokenizer().chat_template
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert config.key in card
    assert str(tmp_path) not in card
    assert all(digest in card for digest in result.parents.values())
    assert '"instructions": "0a1b2c3d4e5f"' in card, "the data that it was trained on"
    assert not (tmp_path / "training").exists(), "scratch space is given back"


def test_the_saved_files_can_be_read_by_every_user(inputs: Inputs, tmp_path: Path) -> None:
    config = inputs.sft_config(key="modes")
    result = run_here(config, tmp_path)
    store = Path(config.store.removeprefix("file://")) / stage_prefix(config.kind, config.key)
    for name, file in result.files.items():
        assert stat.S_IMODE((store / file.path).stat().st_mode) == 0o644, name


def test_the_first_loss_is_that_of_the_target_tokens_alone(inputs: Inputs, tmp_path: Path) -> None:
    """Against a loss written out by hand: an inverted mask trained a well-known small reproduction on its prompts."""
    config = inputs.sft_config(key="by-hand", batch_size=8)
    first = losses(config, run_here(config, tmp_path))[0]
    model = AutoModelForCausalLM.from_pretrained(
        Path(inputs.model_uri.removeprefix("file://")), dtype=torch.float32
    )
    encoder = ChatEncoder(byte_tokenizer())
    total, counted = 0.0, 0
    for row in instruction_rows():
        example = encoder.example(row["messages"])
        ids = torch.tensor([example.input_ids])
        with torch.no_grad():
            log_probabilities = model(ids).logits[0, :-1].log_softmax(-1)
        for position in range(example.prompt_length, len(example.input_ids)):
            total -= log_probabilities[position - 1, example.input_ids[position]].item()
            counted += 1
    assert first == pytest.approx(total / counted, rel=1e-5)


def test_the_learning_rate_follows_the_papers_cosine_to_its_floor(inputs: Inputs, tmp_path: Path) -> None:
    config = inputs.sft_config(key="cosine", epochs=2.5, learning_rate=5.5e-6, min_learning_rate=1.1e-6)
    rates = [row["learning_rate"] for row in log_of(config, run_here(config, tmp_path))]
    assert rates == pytest.approx(
        [1.1e-6 + 4.4e-6 * 0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(5)], rel=1e-6
    )


def test_rule_10_dropout_is_on_while_training_and_gone_from_the_saved_model(
    inputs: Inputs, tmp_path: Path
) -> None:
    plain = inputs.sft_config(key="no-dropout")
    config = inputs.sft_config(key="dropout", dropout=0.5)
    without, result = run_here(plain, tmp_path), run_here(config, tmp_path)
    assert losses(plain, without)[0] != losses(config, result)[0]
    assert "attention" in str(result.report["deviations"]), "the paper has dropout everywhere; Llama has not"
    assert without.report["deviations"] == []
    folder = model_of(config, result, tmp_path / "model")
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["attention_dropout"] == 0.0


def test_rule_07_rows_that_are_too_long_are_counted(inputs: Inputs, tmp_path: Path) -> None:
    lengths = [
        len(ChatEncoder(byte_tokenizer()).example(row["messages"]).input_ids) for row in instruction_rows()
    ]
    kept = sum(length <= 64 for length in lengths)
    assert 0 < kept < len(lengths)
    result = run_here(inputs.sft_config(key="too-long", max_length=64, batch_size=2), tmp_path)
    assert (result.counts["rows"], result.counts["excluded"]) == (kept, len(lengths) - kept)
    assert result.report["exclusions"]["tooLong"]["rows"] == len(lengths) - kept  # type: ignore[index]


def test_m1_is_trained_on_evaluations_too_and_the_baseline_is_not(inputs: Inputs, tmp_path: Path) -> None:
    rows = [row | {"key": f"e{row['key']}"} for row in instruction_rows(3)]
    with_evaluations = dataclasses.replace(inputs, parents=dict(inputs.parents))
    with_evaluations.add_parent("evaluations", StageKind.BUILD_EVALUATIONS, {"evaluations.jsonl": rows})
    m1 = run_here(with_evaluations.sft_config(key="m1"), tmp_path)
    baseline = run_here(with_evaluations.sft_config(key="baseline", kind="TrainBaseline"), tmp_path)
    assert (m1.counts["rows"], baseline.counts["rows"]) == (11, 8)
    assert set(m1.parents) == {"prepare", "evaluations"}


@pytest.mark.usefixtures("always_save")
def test_rule_15_a_resumed_stage_has_the_losses_of_an_undisturbed_one(inputs: Inputs, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 2.5, "dropout": 0.2, "batch_size": 2}
    whole = inputs.sft_config(key="undisturbed", **settings)
    expected = run_here(whole, tmp_path / "whole")

    # The seeds come from the key, so the disturbed stage has the same one, in a store of its own.
    config = whole.model_copy(update={"store": (tmp_path / "store").as_uri(), "parents": {}})
    other = Inputs(tmp_path)
    other.add_model("m0", seed=0)
    prepare = other.add_parent("prepare", StageKind.PREPARE, {"instructions.jsonl": instruction_rows()})
    config = config.model_copy(update={"parents": {"prepare": prepare}})

    for step in (3, 5):
        die_after_checkpoint(config, tmp_path / f"killed-{step}", step=step, pod=f"pod-{step}")
    result = run_here(config, tmp_path / "last", pod="pod-last")
    assert result.report["resumedFromStep"] == 5
    assert losses(config, result) == losses(whole, expected), "to the last bit, dropout included"
    assert [row["tokens"] for row in log_of(config, result)] == [
        row["tokens"] for row in log_of(whole, expected)
    ]
    digests = [{name: file.sha256 for name, file in found.files.items()} for found in (result, expected)]
    assert digests[0]["model/model.safetensors"] == digests[1]["model/model.safetensors"]
    left = [entry.key for entry in open_store(config.store).list(stage_prefix(config.kind, config.key))]
    assert not [key for key in left if "/checkpoints/" in key]


@pytest.mark.usefixtures("always_save")
def test_checkpoints_stay_if_they_are_to_be_kept(inputs: Inputs, tmp_path: Path) -> None:
    config = inputs.sft_config(key="kept", batch_size=2)
    config = config.model_copy(
        update={"execution": config.execution.model_copy(update={"keep_checkpoints": True})}
    )
    run_here(config, tmp_path)
    folder = f"{attempt_prefix(config.kind, config.key, 'pod-1')}/checkpoints"
    marks = [
        entry.key for entry in open_store(config.store).list(folder) if entry.key.endswith("complete.json")
    ]
    assert marks == [f"{folder}/step-{step}/complete.json" for step in (1, 2, 3)], "the last step needs none"


@pytest.mark.usefixtures("always_save")
def test_rule_15_a_stage_started_with_other_ranks_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    config = inputs.sft_config(key="ranks", batch_size=2)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "save_model", die)
        with pytest.raises(KeyboardInterrupt):
            run_here(config, tmp_path)
    changed = cpu(deepspeed={"zeroStage": 2})
    config = config.model_copy(
        update={"execution": config.execution.model_copy(update={"training": changed})}
    )
    with pytest.raises(BadConfiguration, match=r"zeroStage 0 .* now it is 2: set it back"):
        run_here(config, tmp_path)


def test_sigterm_finishes_the_step_saves_and_asks_for_another_attempt(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = inputs.sft_config(key="sigterm", batch_size=2)
    report = callbacks.report_progress

    def stop_in_the_second_step(**line: Any) -> None:
        if line["done"] == 1:
            signal_self()
        report(**line)

    def signal_self() -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "report_progress", stop_in_the_second_step)
        with pytest.raises(Retry, match="after step 2 of 4"):
            run_here(config, tmp_path)
    assert run_here(config, tmp_path, pod="pod-2").report["resumedFromStep"] == 2


def test_a_stage_that_is_done_is_not_trained_again(inputs: Inputs, tmp_path: Path) -> None:
    config = inputs.sft_config(key="twice")
    assert run_here(config, tmp_path) == run_here(config, tmp_path, pod="pod-2")


def test_rule_09_training_that_changes_nothing_fails(inputs: Inputs, tmp_path: Path) -> None:
    config = inputs.sft_config(key="nothing", learning_rate=1e-60, min_learning_rate=0)
    with pytest.raises(BadConfiguration, match="changed no weight at all: raise learningRate"):
        run_here(config, tmp_path)


def test_training_that_diverges_fails(inputs: Inputs, tmp_path: Path) -> None:
    config = inputs.sft_config(key="diverged", learning_rate=0.999, max_gradient_norm=1e30, weight_decay=1e38)
    with pytest.raises(StageFailure, match="not finite"):
        run_here(config, tmp_path)


def test_rule_16_adapters_are_merged_before_the_model_is_saved(inputs: Inputs, tmp_path: Path) -> None:
    config = inputs.sft_config(key="lora", lora=LoraSpec(rank=4, alpha=8), learning_rate=1e-2, epochs=3)
    result = run_here(config, tmp_path)
    folder = model_of(config, result, tmp_path / "model")
    before = load_file(Path(inputs.model_uri.removeprefix("file://")) / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    assert set(after) == set(before), "no adapter is left beside the weights"
    changed = {name for name in after if not torch.equal(after[name], before[name].float())}
    assert changed
    assert all("proj" in name for name in changed), "only linear layers have adapters"
    assert losses(config, result)[-1] < losses(config, result)[0]


def test_zero_2_and_zero_0_have_the_same_losses(inputs: Inputs, tmp_path: Path) -> None:
    plain = inputs.sft_config(key="zero")
    sharded = plain.model_copy(
        update={
            "key": plain.key,
            "execution": plain.execution.model_copy(update={"training": cpu(deepspeed={"zeroStage": 2})}),
            "store": (tmp_path / "store").as_uri(),
        }
    )
    other = Inputs(tmp_path)
    other.add_model("m0", seed=0)
    prepare: StageRef = other.add_parent(
        "prepare", StageKind.PREPARE, {"instructions.jsonl": instruction_rows()}
    )
    sharded = sharded.model_copy(update={"parents": {"prepare": prepare}})
    first, second = run_here(plain, tmp_path / "0"), run_here(sharded, tmp_path / "2")
    assert losses(plain, first) == pytest.approx(losses(sharded, second), abs=5e-5)


def test_what_a_parent_lost_is_named(inputs: Inputs, tmp_path: Path) -> None:
    config = inputs.sft_config(key="orphan")
    gone = config.parents["prepare"].model_copy(update={"key": "0" * 64})
    with pytest.raises(ParentMissing, match=r"result\.json is missing") as error:
        run_here(config.model_copy(update={"parents": {"prepare": gone}}), tmp_path)
    assert error.value.key == "0" * 64


def test_the_wrong_number_of_processes_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"1 training processes were started, but .* 2 x 1 = 2"):
        run_here(inputs.sft_config(key="processes", training=cpu(nodes=2)), tmp_path)


def test_a_tokenizer_of_another_model_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    from srr_trainer.inputs import check_vocabulary
    from srr_trainer.rows import TokenisedExample

    folder = Path(inputs.model_uri.removeprefix("file://"))
    check_vocabulary(folder, [TokenisedExample("a", [1, 263], 1)])
    with pytest.raises(BadConfiguration, match="token 264, but the model's vocabulary ends at 263"):
        check_vocabulary(folder, [TokenisedExample("a", [1, 264], 1)])


def test_no_rows_is_bad_data(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    inputs.add_model("m0", seed=0)
    inputs.add_parent("prepare", StageKind.PREPARE, {"instructions.jsonl": []})
    with pytest.raises(BadData, match="no rows to train on"):
        run_here(inputs.sft_config(), tmp_path / "scratch")


def test_a_save_without_weights_is_noticed(inputs: Inputs, tmp_path: Path) -> None:
    """What ZeRO-3 does without gathering: a folder with a configuration and nothing else."""
    folder = Path(inputs.model_uri.removeprefix("file://"))
    headers = dict(saving.tensor_headers(folder))
    assert sum(math.prod(header["shape"]) for header in headers.values()) == 90_944
    with pytest.raises(StageFailure, match="not float32"):
        saving.check_saved(folder, 90_944)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(StageFailure, match=r"has 0 parameters, the trained one has 90,944"):
        saving.check_saved(tmp_path, 90_944)


def test_checkpoint_formats_of_before_are_compared_by_value(inputs: Inputs, tmp_path: Path) -> None:
    """A base whose tensors have other names than today's is written again before it is compared."""
    forget_accelerate()
    folder = Path(inputs.model_uri.removeprefix("file://"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    old = tmp_path / "old"
    old.mkdir()
    model.config.save_pretrained(old)
    torch.save(model.state_dict(), old / "pytorch_model.bin")
    with torch.no_grad():
        model.model.norm.weight[:32] += 1
    model.save_pretrained(tmp_path / "new")
    share = saving.share_changed(old, tmp_path / "new", tmp_path / "renamed")
    assert share == pytest.approx(32 / 90_944)
