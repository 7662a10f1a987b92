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
from selfrewarding.contract.program import BadConfiguration
from selfrewarding.data.chat import ChatEncoder, ChatTemplateError
from selfrewarding.store.locate import open_store
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.store.results import download_folder, require_result
from srr_sampler.tokenizer_checks import fetch_tokenizer

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
    return load_encoder(folder)


def fixed_encoder(uri: str, role: str, scratch: Path) -> Encoder:
    """The encoder of a fixed model (`judge.modelUri`, `promptGeneration.writer.modelUri`). Raises BadConfiguration."""
    hub = _HUB.fullmatch(uri)
    if hub is not None:
        return load_encoder(hub["repo"], revision=hub["revision"])
    folder = scratch / "tokenizers" / role
    # A restarted container finds what the one before it left.
    shutil.rmtree(folder, ignore_errors=True)
    return load_encoder(fetch_tokenizer(open_store(uri), folder), shown=uri)


def load_encoder(place: str | Path, *, revision: str | None = None, shown: str | None = None) -> Encoder:
    """Load a tokenizer from a folder or a hub; `shown` is what a message calls the place. Raises BadConfiguration."""
    from transformers import AutoTokenizer

    called = shown or str(place)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(place), revision=revision or "main")
    except (OSError, ValueError, KeyError) as error:
        raise BadConfiguration(f"the tokenizer of {called} cannot be loaded: {error}") from error
    try:
        return Encoder(tokenizer, ChatEncoder(tokenizer))
    except ChatTemplateError as error:
        raise BadConfiguration(f"the tokenizer of {called}: {error}") from error
