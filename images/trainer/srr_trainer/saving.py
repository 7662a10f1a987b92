"""The trained model as a Hugging Face folder, checked before anybody builds on it.

Purpose: gather, merge adapters, put the model's own dropout back, save float32; then prove from the files alone that
all parameters are there, finite, and that training changed some (number rule 9).
Must not: upload (that is `program`).
Source of the traps: under ZeRO-3 a save without gathering writes no weights and no error; weights get mode 0600.
"""

import copy
import json
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfrewarding.contract.program import BadConfiguration, StageFailure
from srr_trainer.dropout import set_dropout
from srr_trainer.models import load, parameter_count

_SHARD = "5GB"
_WEIGHTS = "*.safetensors"


def save_model(
    trainer: Any, folder: Path, *, base: Path, tokenizer: Path, own_dropout: dict[str, float]
) -> None:
    """Write the trained model; all ranks call it, the first one writes. Raises StageFailure if weights are missing.

    The trainer's own model stays as it is: training may go on once `keep_deepspeed` was left.
    """
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.accelerator.is_main_process:
        return
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    if hasattr(model, "peft_config"):
        model = _merged(model, state, base)
        state = model.state_dict()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in state}
    expected = parameter_count(model) + sum(buffer.numel() for buffer in buffers.values())
    # Tied weights have two names in a state; the file has them once.
    names = {name for name, _ in model.named_parameters()} | set(buffers)
    state = {name: tensor for name, tensor in state.items() if name in names}
    settings, generation = model.config, model.generation_config
    model.config = copy.deepcopy(settings)
    try:
        set_dropout(model.config, own_dropout)
        model.config.dtype = "float32"
        _keep_generation_config(model)
        model.save_pretrained(folder, state_dict=state, max_shard_size=_SHARD)
    finally:
        model.config, model.generation_config = settings, generation
    for file in sorted(tokenizer.iterdir()):
        # As Prepare wrote them: every stage reads the same tokenizer and chat template.
        shutil.copyfile(file, folder / file.name)
    make_readable(folder)
    check_saved(folder, expected)


@contextmanager
def keep_deepspeed(arguments: Any) -> Iterator[None]:
    """Around a save on the way: what merging adapters takes from transformers is given back."""
    from transformers.integrations.deepspeed import set_hf_deepspeed_config

    try:
        yield
    finally:
        if arguments.hf_deepspeed_config is not None:
            set_hf_deepspeed_config(arguments.hf_deepspeed_config)


def make_readable(folder: Path) -> None:
    """Let every user read the folder: a server in another pod runs as another one."""
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o644)


def check_saved(folder: Path, parameters: int) -> None:
    """Raise StageFailure unless the folder has `parameters` float32 numbers and a configuration."""
    headers = dict(tensor_headers(folder))
    found = sum(_numbers(header["shape"]) for header in headers.values())
    if found != parameters:
        raise StageFailure(
            f"the saved model has {found:,} parameters, the trained one has {parameters:,}: the weights were not "
            "gathered from all ranks (ZeRO-3); nothing was committed"
        )
    wrong = sorted(name for name, header in headers.items() if header["dtype"] != "F32")
    if wrong:
        raise StageFailure(f"the saved model is not float32: {wrong[:3]}; nothing was committed")
    if not (folder / "config.json").is_file():
        raise StageFailure("the saved model has no config.json; nothing was committed")


def tensor_headers(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and header {"dtype", "shape"} of every tensor, without reading the tensors (format: safetensors)."""
    for path in sorted(folder.glob(_WEIGHTS)):
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        yield from header.items()


def share_changed(base: Path, saved: Path, scratch: Path) -> float:
    """Share of the saved weights that differ from the base's as float32.

    Raises BadConfiguration if none does, or if some are not finite: the learning rate is too low or too high.
    """
    import torch

    files = _tensor_files(base)
    if not set(_tensor_files(saved)) <= set(files):
        # An old checkpoint format or other names of the same tensors: written again as this version names them.
        load(base, dropout=0.0).model.save_pretrained(scratch, max_shard_size=_SHARD)
        files = _tensor_files(scratch)
    changed = total = 0
    for name, tensor in _tensors(_tensor_files(saved)):
        if not bool(torch.isfinite(tensor).all()):
            raise BadConfiguration(
                f"training diverged: {name} is not finite; lower learningRate, or raise warmupRatio"
            )
        before = _tensor(files[name], name).float()
        changed += int((tensor != before).sum())
        total += tensor.numel()
    if changed == 0:
        raise BadConfiguration(
            "training changed no weight at all: raise learningRate, or give the stage more steps (epochs, batchSize)"
        )
    return changed / total


def _tensor_files(folder: Path) -> dict[str, Path]:
    from safetensors import safe_open

    found: dict[str, Path] = {}
    for path in sorted(folder.glob(_WEIGHTS)):
        with safe_open(path, framework="pt") as file:
            found |= dict.fromkeys(file.keys(), path)
    return found


def _tensors(files: dict[str, Path]) -> Iterator[tuple[str, Any]]:
    for name, path in files.items():
        yield name, _tensor(path, name)


def _tensor(path: Path, name: str) -> Any:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def _numbers(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _merged(model: Any, state: dict[str, Any], base: Path) -> Any:
    """The base with the trained adapters merged in (number rule 16), from the files: no rank's share is missing."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    adapters = get_peft_model_state_dict(model, state_dict=state)
    # Else ZeRO-3 would want all ranks for loading.
    unset_hf_deepspeed_config()
    plain = load(base, dropout=0.0).model
    fresh = get_peft_model(plain, model.peft_config["default"])
    result = set_peft_model_state_dict(fresh, adapters)
    if result.unexpected_keys:
        raise StageFailure(
            f"adapters without a place in the model: {result.unexpected_keys[:3]}; nothing was committed"
        )
    return fresh.merge_and_unload()


def _keep_generation_config(model: Any) -> None:
    """transformers refuses to save sampling settings that contradict each other; then only the token ids are kept."""
    from transformers import GenerationConfig

    own = model.generation_config
    try:
        own.validate(strict=True)
    except ValueError:
        model.generation_config = GenerationConfig(
            bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id
        )
