"""The tokenizer of each served model, as an injection-safe encoder.

Purpose: fetch the tokenizer that belongs to a role and load it. The policy's lies with Prepare's result (with the run's
chat template); a fixed judge or writer keeps the one of its own model.
Must not: fetch weights; tokenise (that is `selfrewarding.data.chat`).
Neighbours: the asking stages; `judging` needs the tokenizer itself for its score tokens.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfrewarding.contract.artifacts import TOKENIZER
from selfrewarding.contract.config import StageConfig
from selfrewarding.contract.program import BadConfiguration, Retry
from selfrewarding.data.chat import ChatEncoder, ChatTemplateError
from selfrewarding.store.locate import open_store
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.store.results import download_folder, require_result
from srr_sampler.model_checks import TOKENIZER_FILES
from srr_sampler.tokenizer_checks import fetch_tokenizer, load_tokenizer

_HUB = re.compile(r"hf://(?P<repo>[^@]+)(?:@(?P<revision>.+))?")


@dataclass(frozen=True, slots=True)
class Encoder:
    """A loaded tokenizer and its chat encoder."""

    tokenizer: Any
    chat: ChatEncoder

    def plain(self, text: str) -> list[int]:
        """Token ids of a text that a model is to continue, begun as the model's own training texts were."""
        starts = list(self.tokenizer("", add_special_tokens=True)["input_ids"])
        if starts and starts[-1] == self.tokenizer.eos_token_id != self.tokenizer.bos_token_id:
            starts.pop()
        return [*starts, *self.chat.text(text)]


def policy_encoder(config: StageConfig, store: ArtifactStore, scratch: Path) -> Encoder:
    """The encoder of the model in training, from Prepare's result. Raises ParentMissing, BadConfiguration."""
    folder = scratch / "tokenizers" / "policy"
    download_folder(store, require_result(store, config.parents["prepare"]), TOKENIZER, folder)
    return load_encoder(folder, field="model", uri=config.store)


def fixed_encoder(uri: str, *, field: str, scratch: Path) -> Encoder:
    """The encoder of a fixed model; `field` is where the spec names it. Raises BadConfiguration, Retry, StoreError."""
    folder = scratch / "tokenizers" / field
    # A restarted container finds what the one before it left.
    shutil.rmtree(folder, ignore_errors=True)
    hub = _HUB.fullmatch(uri)
    if hub is None:
        fetch_tokenizer(open_store(uri), folder)
    else:
        _from_hub(hub["repo"], hub["revision"], folder)
    return load_encoder(folder, field=field, uri=uri)


def load_encoder(folder: Path, *, field: str, uri: str) -> Encoder:
    """Load a tokenizer; `field` and `uri` are what a message calls it. Raises BadConfiguration."""
    tokenizer = load_tokenizer(folder, field=field, uri=uri)
    try:
        return Encoder(tokenizer, ChatEncoder(tokenizer))
    except ChatTemplateError as error:
        raise BadConfiguration(f"{field}: the tokenizer of {uri}: {error}") from error


def _from_hub(repo: str, revision: str | None, folder: Path) -> None:
    import huggingface_hub

    try:
        huggingface_hub.snapshot_download(
            repo, revision=revision, local_dir=folder, allow_patterns=[*TOKENIZER_FILES, "config.json"]
        )
    except Exception as error:
        raise Retry(
            f"the tokenizer of hf://{repo} cannot be fetched: {type(error).__name__}: {error}"
        ) from error
