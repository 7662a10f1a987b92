"""What Prepare takes for a model, and what it says about everything else."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.prepare_bench import Bench
from tests.support.tiny_model import PARAMETERS, make_model

from selfrewarding.contract.program import BadConfiguration, BadData, StageFailure
from selfrewarding.store.folder import FolderStore
from srr_sampler import model_checks
from srr_sampler.model_checks import inspect_model


def rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / old).rename(folder / new)


def write(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def configure(**values: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def only_gguf(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "model-q4.gguf")


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 5)


def lose_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def lose_the_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (
            rename("model.safetensors", "pytorch_model.bin"),
            BadConfiguration,
            "found pytorch_model.bin. Save it with",
        ),
        (only_gguf, BadConfiguration, "GGUF is a format for inference"),
        (rename("config.json", "adapter_config.json"), BadConfiguration, "merge it into its base model"),
        (cut_weights, BadData, "its header asks for"),
        (
            write("model.safetensors", "version https://git-lfs.github.com/spec/v1 oid sha256:1234"),
            BadData,
            "do not begin as a safetensors file",
        ),
        (lose_a_shard, BadData, "lacks 1 of the 2 weights files"),
        (write("config.json", '{"architectures": ['), BadConfiguration, "config.json is not JSON"),
        (
            configure(architectures=["BertForMaskedLM"]),
            BadConfiguration,
            "is a BertForMaskedLM, which writes no text",
        ),
        (configure(quantization_config={"quant_method": "awq"}), BadConfiguration, "quantised by awq"),
        (lose_the_tokenizer, BadConfiguration, "holds no tokenizer"),
        (write("tokenizer.json", '{"model": 7}'), BadConfiguration, "cannot be loaded"),
        (configure(vocab_size=100), BadConfiguration, "belongs to another model"),
    ],
)
def test_what_is_no_model_is_refused_with_what_was_found(
    tmp_path: Path, change: Callable[[Path], object], kind: type[StageFailure], said: str
) -> None:
    folder = make_model(tmp_path / "model")
    change(folder)
    with pytest.raises(kind) as caught:
        Bench(tmp_path / "bench", folder).run()
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("place", "kind", "said"),
    [
        pytest.param("nothing", BadData, "there are no files at .* Put the model there", id="may still come"),
        pytest.param("", BadConfiguration, "model below it does: add it to the address", id="one too high"),
    ],
)
def test_a_wrong_address_is_told_with_what_is_there(
    tmp_path: Path, place: str, kind: type[StageFailure], said: str
) -> None:
    make_model(tmp_path / "model")
    with pytest.raises(kind, match=said):
        Bench(tmp_path / "bench", tmp_path / place).run()


def test_a_model_in_shards_counts_all_of_them(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    other = make_model(tmp_path / "other")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (other / "model.safetensors").rename(folder / "model-00002-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert Bench(tmp_path / "bench", folder).run().counts["parameters"] == 2 * PARAMETERS


def test_a_copy_of_a_model_has_its_digest_and_another_model_has_not(tmp_path: Path) -> None:
    results = {}
    for name, seed in (("first", 0), ("copy", 0), ("other", 1)):
        folder = make_model(tmp_path / name / "model", seed=seed)
        (folder / "README.md").write_text(name)  # what people write beside a model does not change it
        results[name] = Bench(tmp_path / name / "bench", folder).run().data["model"]
    assert results["first"] == results["copy"] != results["other"]


def test_a_large_models_digest_by_samples_sees_its_ends_and_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_checks, "FULL_DIGEST_BYTES", 0)

    def digest(folder: Path) -> str:
        return inspect_model(FolderStore(folder), field="spec.model.uri").digest

    folder, copy = make_model(tmp_path / "model"), make_model(tmp_path / "copy")
    assert digest(folder) == digest(copy)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert digest(copy) != digest(folder)


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}},
            16384,
        ),
        ({"max_position_embeddings": 8192, "rope_scaling": {"type": "linear", "factor": 2}}, 16384),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 16384),
    ],
)
def test_positions_are_those_that_the_server_will_take(
    tmp_path: Path, config: dict[str, object], positions: int
) -> None:
    folder = make_model(tmp_path / "model", **config)
    assert Bench(tmp_path / "bench", folder).run().counts["maxPositions"] == positions
