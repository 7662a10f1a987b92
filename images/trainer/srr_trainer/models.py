"""Models on the local disk: fetch, load for training, and say which one it is.

Purpose: weights are float32 whatever they are stored as (number rule 9), dropout is as the spec says (rule 10).
Must not: write models (that is `saving`). Neighbours: `program` fetches, `training` loads.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfrewarding.contract.config import ModelRef
from selfrewarding.contract.keys import digest
from selfrewarding.contract.program import BadConfiguration
from selfrewarding.store import ArtifactStore, digest_file, fetch_model
from selfrewarding.store.models import require_model
from selfrewarding.store.results import download_folder
from srr_trainer.dropout import deviation, dropout_fields, set_dropout


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for a trainer."""

    model: Any
    """transformers.PreTrainedModel, float32."""
    own_dropout: dict[str, float]
    """The dropout settings that it came with, to be put back when it is saved."""
    deviation: str | None
    """How its dropout differs from the paper's."""


def fetch(store: ArtifactStore, ref: ModelRef, destination: Path) -> None:
    """Put a model's folder onto the local disk. Raises ParentMissing, StoreError, BadConfiguration."""
    if ref.stage is not None:
        made = require_model(store, ref.stage, ref)
        download_folder(store, made.result, made.folder, destination)
    elif ref.uri is not None:
        fetch_model(ref.uri, destination)
    else:
        raise BadConfiguration(f"model {ref.name} has neither a URI nor a stage: plan the run again")


def weights_digest(folder: Path) -> str:
    """Digest of a model's weights and configuration, 64 hex digits; equal for equal files, wherever they came from."""
    names = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"])
    return digest({path.name: digest_file(path).sha256 for path in names})


def same_model(left: ModelRef, right: ModelRef) -> bool:
    """Whether two references mean one model (names do not matter)."""
    return (left.uri, left.stage, left.folder) == (right.uri, right.stage, right.folder)


def load(folder: Path, *, dropout: float) -> LoadedModel:
    """Load a model in float32 with this dropout. Under ZeRO-3 (arguments made before) each rank keeps its share.

    Raises BadConfiguration if the folder holds no causal language model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        own = dropout_fields(config)
        set_dropout(config, dict.fromkeys(own, dropout))
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float32, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise BadConfiguration(
            f"the model cannot be loaded as a causal language model: {error}; check model.uri"
        ) from error
    return LoadedModel(model=model, own_dropout=own, deviation=deviation(config, dropout))


def parameter_count(model: Any) -> int:
    """Parameters of the whole model, also where ZeRO-3 left only a share of each on this rank."""
    return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in model.parameters())
