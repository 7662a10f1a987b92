"""The tokenizer that a run uses: loaded once, given the run's chat template, checked, and written for all stages.

Purpose: find out before a GPU is spent whether template, end of turn and scores can be tokenised as the run needs.
Must not: import torch (AutoTokenizer does, where torch is installed, and takes seconds: it is the way out for folders
without a tokenizer.json only). Neighbours: `prepare` calls this; `data.chat` encodes with the result.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfrewarding.api.algorithm import JudgeSpec
from selfrewarding.contract.program import BadConfiguration
from selfrewarding.data.chat import DEFAULT_TEMPLATE, ChatEncoder, ChatTemplateError
from selfrewarding.store.protocol import ArtifactStore
from srr_sampler.model_checks import TOKENIZER_FILES

_ALSO_READ = ("config.json",)
"""AutoTokenizer finds the tokenizer's class by it."""


@dataclass(frozen=True)
class RunTokenizer:
    """The tokenizer with the run's template, and what is to be told about it."""

    tokenizer: Any
    encoder: ChatEncoder
    template_from: str
    """"spec", "model" or "default"."""
    takes_system: bool
    """Whether the template takes a system message."""
    adds_beginning: bool
    """Whether the tokenizer itself puts its beginning-of-sequence token before a text."""


def fetch_tokenizer(store: ArtifactStore, folder: Path) -> Path:
    """Copy the tokenizer's files of a model into a new folder; a few MB. Raises StoreError."""
    folder.mkdir(parents=True)
    present = {entry.key for entry in store.list() if "/" not in entry.key}
    for name in (*TOKENIZER_FILES, *_ALSO_READ):
        if name in present:
            (folder / name).write_bytes(store.read(name))
    return folder


def load_tokenizer(folder: Path, *, field: str, uri: str) -> Any:
    """The tokenizer in a local folder, by transformers. Raises BadConfiguration."""
    import transformers

    transformers.logging.set_verbosity_error()
    names = sorted(path.name for path in folder.iterdir())
    if not any(name in TOKENIZER_FILES for name in names):
        raise BadConfiguration(
            f"{field}: {uri} holds no tokenizer; expected tokenizer.json and tokenizer_config.json beside the weights. "
            "Copy them there from the model's origin."
        )
    # tokenizer.json is the whole tokenizer; the class that AutoTokenizer would choose may rebuild it otherwise.
    loader = transformers.PreTrainedTokenizerFast if "tokenizer.json" in names else transformers.AutoTokenizer
    try:
        return loader.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # noqa: BLE001 - transformers and tokenizers raise whatever they like for broken files
        raise BadConfiguration(
            f"{field}: the tokenizer in {uri} cannot be loaded ({type(error).__name__}: {str(error)[:300]}). "
            "Copy the tokenizer's files from the model's origin again."
        ) from None


def run_tokenizer(tokenizer: Any, chat_template: str | None) -> RunTokenizer:
    """Give the tokenizer the run's chat template and try it (number rule 11). Raises BadConfiguration."""
    beginning = _adds_beginning(tokenizer)
    template, source = chat_template, "spec"
    if template is None:
        template, source = _own_template(tokenizer), "model"
    if template is None:
        # A model that learnt with a beginning-of-sequence token gets it from the plain template too.
        template = ("{{ bos_token }}" if beginning else "") + DEFAULT_TEMPLATE
        source = "default"
    tokenizer.chat_template = template
    where = {
        "spec": "spec.model.chatTemplate",
        "model": "the model's chat template",
        "default": "the plain chat template",
    }[source]
    try:
        encoder = ChatEncoder(tokenizer)
    except ChatTemplateError as error:
        remedy = (
            "Give the model a tokenizer with an end-of-sequence token (eos_token in tokenizer_config.json)."
            if source == "default"
            else "Correct it, or set spec.model.chatTemplate."
        )
        raise BadConfiguration(f"{where} cannot be used: {error}. {remedy}") from None
    return RunTokenizer(
        tokenizer=tokenizer,
        encoder=encoder,
        template_from=source,
        takes_system=_takes_system(encoder),
        adds_beginning=beginning,
    )


def check_scores(tokenizer: Any, judge: JudgeSpec) -> None:
    """Expected scores are read off one token, so each score must be a token of its own (number rule 4).

    Raises BadConfiguration.
    """
    if judge.scoring != "Expected":
        return
    from srr_sampler.judging import (
        score_tokens,  # with the HTTP client behind it, which others need not wait for
    )

    lowest, highest = judge.scores.minimum, judge.scores.maximum
    if score_tokens(tokenizer, range(lowest, highest + 1)) is None:
        raise BadConfiguration(
            f"judge.scoring Expected reads the probabilities of the scores {lowest} to {highest} off one token, but "
            "with the judge's tokenizer not every one of them is a token of its own. Set judge.scores.maximum to a "
            "score of one digit, or judge.scoring to Sampled."
        )


def check_vocabulary(tokenizer: Any, encoder: ChatEncoder, vocabulary: int | None, uri: str) -> None:
    """Every token that is used must have a row in the embedding. Raises BadConfiguration."""
    if vocabulary is None:
        return
    used = {*encoder.stop_token_ids, *tokenizer.get_vocab().values()}
    beyond = sorted(token_id for token_id in used if token_id >= vocabulary)
    # Some tokenizers name a few tokens that the model never learnt; one that ends answers must not be among them.
    if beyond and (len(beyond) > len(used) // 100 or not set(encoder.stop_token_ids).isdisjoint(beyond)):
        raise BadConfiguration(
            f"spec.model.uri: the tokenizer in {uri} has token ids up to {beyond[-1]}, but the model knows "
            f"{vocabulary} ({len(beyond)} ids are beyond it): it belongs to another model. Copy tokenizer and "
            "weights from one origin."
        )


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer with its chat template as every stage and server reads it."""
    tokenizer.save_pretrained(str(folder))


def _own_template(tokenizer: Any) -> str | None:
    own = tokenizer.chat_template
    if isinstance(own, dict):
        if "default" not in own:
            raise BadConfiguration(
                f"the model has the chat templates {', '.join(sorted(own))} and none named default: put the one to use "
                "into spec.model.chatTemplate."
            )
        own = own["default"]
    return own if own is None else str(own)


def _adds_beginning(tokenizer: Any) -> bool:
    ids = list(tokenizer("a")["input_ids"])
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def _takes_system(encoder: ChatEncoder) -> bool:
    try:
        encoder.prompt([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])
    except ChatTemplateError:
        return False
    return True
