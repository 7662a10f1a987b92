"""What a training stage reads: tokenizer, rows and models, from its parents in the store.

Purpose: fetch once per pod, tokenise on every rank (each row is a few kilobytes), check before a model is loaded.
Neighbours: `program` calls it; `rows` tokenises; `models` fetches.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from selfrewarding.contract.artifacts import EVALUATIONS, INSTRUCTIONS, PAIRS, POSITIVES, TOKENIZER
from selfrewarding.contract.config import PreferenceOptimizeParameters, SftParameters, StageConfig, StageRef
from selfrewarding.contract.program import BadConfiguration
from selfrewarding.data.chat import ChatEncoder
from selfrewarding.store import ArtifactStore
from selfrewarding.store.results import download_folder, read_jsonl, require_result
from srr_trainer import models
from srr_trainer.rows import TokenisedExample, TokenisedPair


class Folders:
    """Local folders of one stage below the pod's scratch space."""

    def __init__(self, scratch: Path) -> None:
        self.root = scratch / "training"
        self.base = self.root / "base"
        self.reference = self.root / "reference"
        self.tokenizer = self.root / "tokenizer"
        self.checkpoints = self.root / "checkpoints"
        self.renamed = self.root / "base-renamed"
        self.candidate = self.root / "candidate"
        """A model on its way to the store, while training goes on."""
        self.result = self.root / "result"
        """What is uploaded."""


def fetch_inputs(store: ArtifactStore, config: StageConfig, folders: Folders) -> None:
    """Fetch tokenizer and models. Raises ParentMissing, StoreError, BadConfiguration."""
    for parent in config.parents.values():
        require_result(store, parent)
    download_folder(store, require_result(store, _parent(config, "prepare")), TOKENIZER, folders.tokenizer)
    models.fetch(store, config.models["base"], folders.base)
    if has_own_reference(config):
        models.fetch(store, config.models["reference"], folders.reference)


def has_own_reference(config: StageConfig) -> bool:
    """Whether DPO's reference is another model than the one that it starts from."""
    reference = config.models.get("reference")
    if reference is None or not trains_on_pairs(config):
        return False
    return not models.same_model(reference, config.models["base"])


def trains_on_pairs(config: StageConfig) -> bool:
    """Whether this is DPO, not SFT."""
    return isinstance(config.parameters, PreferenceOptimizeParameters) and not config.parameters.positive_only


def rows_to_train_on(store: ArtifactStore, config: StageConfig) -> Iterator[Mapping[str, Any]]:
    """The rows of the stage, in the order of their files. Raises ParentMissing."""
    match config.parameters:
        case PreferenceOptimizeParameters(positive_only=positive_only):
            preferences = _parent(config, "preferences")
            return _rows(store, preferences, POSITIVES if positive_only else PAIRS)
        case SftParameters(kind=kind):
            rows = _rows(store, _parent(config, "prepare"), INSTRUCTIONS)
            evaluations = config.parents.get("evaluations")
            if kind == "TrainBaseline" or evaluations is None:
                return rows
            return chain(rows, _rows(store, evaluations, EVALUATIONS))
        case _:
            raise BadConfiguration(
                f"the trainer has no stage {config.kind}: use the image of the operator's release"
            )


def load_tokenizer(folder: Path) -> tuple[Any, ChatEncoder]:
    """The run's tokenizer with its chat template, and the encoder over it. Raises ChatTemplateError."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer, ChatEncoder(tokenizer)


def check_vocabulary(base: Path, rows: list[TokenisedExample] | list[TokenisedPair]) -> None:
    """Raises BadConfiguration if a token is outside the model's vocabulary: the tokenizer is another model's."""
    from transformers import AutoConfig

    size = AutoConfig.from_pretrained(base, local_files_only=True).get_text_config().vocab_size
    highest = max(token for row in rows for ids in row.columns().values() for token in ids)
    if highest >= size:
        raise BadConfiguration(
            f"the tokenizer has a token {highest}, but the model's vocabulary ends at {size - 1}: the tokenizer in "
            "model.uri belongs to another model"
        )


def _parent(config: StageConfig, role: str) -> StageRef:
    try:
        return config.parents[role]
    except KeyError:
        raise BadConfiguration(
            f"the configuration of {config.kind} names no parent `{role}`: plan the run again with this release"
        ) from None


def _rows(store: ArtifactStore, parent: StageRef, name: str) -> Iterator[Mapping[str, Any]]:
    return read_jsonl(store, require_result(store, parent), name)
