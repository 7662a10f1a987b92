"""A model's folder in a store, looked at without reading its weights.

Purpose: refuse what is no trainable Hugging Face folder, and find out size, parameters, positions and a digest.
Must not: import transformers or torch; read more of a weights file than its header (but see `model_digest`).
Neighbours: `safetensors_header` reads the headers, `prepare` calls this for M0, `fetch_model` for what it fetched.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

from selfrewarding.contract.keys import canonical_json
from selfrewarding.contract.program import BadConfiguration, BadData
from selfrewarding.store.folder import FolderStore
from selfrewarding.store.protocol import ArtifactStore
from srr_sampler.safetensors_header import Header, HeaderError, read_header

DATA_DIGEST_DIGITS = 12
FULL_DIGEST_BYTES = 2 * 1024**3
"""A folder's weights up to this size are hashed whole (some seconds); larger ones by samples."""
_SAMPLES, _SAMPLE_BYTES = 64, 1024**2

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""Files that transformers or vLLM may read a tokenizer from."""
_CONFIG_FILES = ("config.json", "generation_config.json")
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "n_ctx",
    "seq_length",
)
_STRETCHED = {"linear", "dynamic", "yarn"}
_GENERATORS = ("CausalLM", "LMHead", "ForConditionalGeneration")


@dataclass(frozen=True)
class ModelFacts:
    """What Prepare finds out about a model."""

    uri: str
    digest: str
    """First 12 hex digits; see `model_digest`."""
    weights_bytes: int
    parameters: int
    """Numbers in all tensors; tied weights are saved, and counted, once."""
    dtypes: dict[str, int]
    """Parameters by safetensors' name of their format."""
    max_positions: int | None
    """Longest sequence in tokens, where the configuration says it."""
    vocabulary: int | None
    """Rows of the embedding, where the configuration says it."""
    architecture: str
    config: dict[str, Any]
    end_tokens: tuple[int, ...]
    """Tokens that the model's own generation configuration stops at."""


def inspect_model(store: ArtifactStore, *, field: str, trainable: bool = True) -> ModelFacts:
    """Check the model's folder that `store` is rooted at; `field` is the spec's field that names it.

    Raises BadConfiguration if this is no model that can be used, BadData if its files are damaged, StoreError.
    """
    files = {entry.key: entry.size for entry in store.list() if "/" not in entry.key}
    config = _config(store, files, field)
    architecture = _architecture(store.uri, config, field)
    if trainable and isinstance(config.get("quantization_config"), Mapping):
        method = config["quantization_config"].get("quant_method", "an unnamed method")
        raise BadConfiguration(
            f"{field}: {store.uri} holds weights quantised by {method}, which cannot be trained. "
            "Take the model in bfloat16, float16 or float32."
        )
    weights = _weights(store, files, field)
    headers = _headers(store, {name: files[name] for name in weights})
    dtypes: dict[str, int] = {}
    for header in headers.values():
        for dtype, count in header.parameters.items():
            dtypes[dtype] = dtypes.get(dtype, 0) + count
    return ModelFacts(
        uri=store.uri,
        digest=model_digest(store, _relevant(files, weights), headers),
        weights_bytes=sum(files[name] for name in weights),
        parameters=sum(dtypes.values()),
        dtypes=dict(sorted(dtypes.items())),
        max_positions=_max_positions(config),
        vocabulary=_number(_text_config(config).get("vocab_size")),
        architecture=architecture,
        config=config,
        end_tokens=_end_tokens(store, files, config),
    )


def model_digest(store: ArtifactStore, files: Mapping[str, int], headers: Mapping[str, Header]) -> str:
    """Twelve hex digits that change when the model does: SHA-256 over the sorted names, sizes and marks of its files.

    A bucket's mark of a file is its ETag (nothing is read); if the same file is uploaded again in other parts it may
    change, and then stages are computed again. A folder has no such mark, so its files are hashed: all of them if the
    weights have at most `FULL_DIGEST_BYTES`, else of each weights file its header and 64 blocks of 1 MiB evenly spread
    over it. So a copy of a folder has the digest of the original.
    """
    in_folder = isinstance(store, FolderStore)
    whole = sum(files[name] for name in headers) <= FULL_DIGEST_BYTES
    rows = []
    for name, size in sorted(files.items()):
        if not in_folder:
            found = store.stat(name)
            mark = found.etag if found else ""
        elif name in headers and not whole:
            mark = f"{headers[name].sha256}:{_sampled(store, name, size)}"
        else:
            mark = _hashed(store, name)
        rows.append([name, size, mark])
    return hashlib.sha256(canonical_json(rows)).hexdigest()[:DATA_DIGEST_DIGITS]


def complete(store: ArtifactStore, *, field: str) -> None:
    """Check that a folder has a configuration and whole weights files. Raises as `inspect_model`."""
    files = {entry.key: entry.size for entry in store.list() if "/" not in entry.key}
    _config(store, files, field)
    _headers(store, {name: files[name] for name in _weights(store, files, field)})


def _hashed(store: ArtifactStore, name: str) -> str:
    sha256 = hashlib.sha256()
    with store.read_stream(name) as stream:
        while block := stream.read(_SAMPLE_BYTES):
            sha256.update(block)
    return sha256.hexdigest()


def _sampled(store: ArtifactStore, name: str, size: int) -> str:
    sha256 = hashlib.sha256()
    with store.read_stream(name) as stream:
        for number in range(_SAMPLES):
            stream.seek(max(size - _SAMPLE_BYTES, 0) * number // (_SAMPLES - 1))
            sha256.update(stream.read(_SAMPLE_BYTES))
    return sha256.hexdigest()


def _config(store: ArtifactStore, files: Mapping[str, int], field: str) -> dict[str, Any]:
    if "config.json" not in files:
        kind, text = _no_folder(store, files, field)
        raise kind(text)
    try:
        config = json.loads(store.read("config.json"))
    except ValueError as error:
        raise BadConfiguration(
            f"{field}: {store.uri}/config.json is not JSON ({error}). Copy the model again."
        ) from None
    if not isinstance(config, dict):
        raise BadConfiguration(
            f"{field}: {store.uri}/config.json is not a JSON object. Copy the model again."
        )
    return config


def _no_folder(
    store: ArtifactStore, files: Mapping[str, int], field: str
) -> tuple[type[BadConfiguration | BadData], str]:
    """What is wrong with an address. Where there is nothing at all the model may still be on its way there."""
    expected = "expected a Hugging Face folder with config.json, safetensors and a tokenizer"
    if not files:
        below = sorted(
            {entry.key.split("/")[0] for entry in store.list() if entry.key.endswith("/config.json")}
        )
        if below:
            found = f"holds no model, but {_listed(below)} below it does: add it to the address."
            return BadConfiguration, f"{field}: {store.uri} {found}"
        remedy = "Put the model there, or correct the address (bucket and prefix)."
        return BadData, f"{field}: there are no files at {store.uri}; {expected}. {remedy}"
    remedy = "Check the address."
    if "adapter_config.json" in files:
        remedy = "This is a LoRA adapter: merge it into its base model and save that."
    elif any(name.endswith(".gguf") for name in files):
        remedy = "GGUF is a format for inference: take the model's safetensors."
    listed = _listed(sorted(files))
    return BadConfiguration, f"{field}: {store.uri} has no config.json, found {listed}; {expected}. {remedy}"


def _architecture(uri: str, config: Mapping[str, Any], field: str) -> str:
    found = config.get("architectures")
    names = [str(name) for name in found] if isinstance(found, list) else []
    if names and not any(part in name for name in names for part in _GENERATORS):
        raise BadConfiguration(
            f"{field}: {uri} is a {_listed(names)}, which writes no text; expected a causal language model "
            "(…ForCausalLM). Choose another model."
        )
    return names[0] if names else str(config.get("model_type", "unknown"))


def _weights(store: ArtifactStore, files: Mapping[str, int], field: str) -> list[str]:
    """Names of the weights files: as transformers looks for them, the single file before the index."""
    if _SINGLE in files:
        return [_SINGLE]
    if _INDEX in files:
        return _indexed(store, files, field)
    others = sorted(
        name for name in files if name.endswith((".bin", ".pt", ".pth", ".gguf", ".h5", ".safetensors"))
    )
    remedy = (
        "Save it with `AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)`, which writes safetensors."
        if others
        else "Copy the weights there too."
    )
    raise BadConfiguration(
        f"{field}: {store.uri} has a config.json but neither {_SINGLE} nor {_INDEX}; found "
        f"{_listed(others) if others else 'no weights'}. {remedy}"
    )


def _indexed(store: ArtifactStore, files: Mapping[str, int], field: str) -> list[str]:
    try:
        names = sorted({str(name) for name in json.loads(store.read(_INDEX))["weight_map"].values()})
    except (ValueError, TypeError, KeyError, AttributeError):
        raise BadData(
            f"{field}: {store.uri}/{_INDEX} is no index of weights (no `weight_map`). Copy the model again."
        ) from None
    missing = [name for name in names if name not in files]
    if missing or not names:
        raise BadData(
            f"{field}: {store.uri} lacks {len(missing)} of the {len(names)} weights files that {_INDEX} names "
            f"({_listed(missing)}). Copy the model again."
        )
    return names


def _headers(store: ArtifactStore, files: Mapping[str, int]) -> dict[str, Header]:
    def header_of(name: str) -> Header:
        stream: BinaryIO
        with store.read_stream(name) as stream:
            try:
                return read_header(stream, files[name])
            except HeaderError as error:
                raise BadData(f"{store.uri}/{name} is damaged: {error}. Copy the model again.") from None

    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="headers") as pool:
        return dict(zip(files, pool.map(header_of, files), strict=True))


def _relevant(files: Mapping[str, int], weights: Iterable[str]) -> dict[str, int]:
    """The files that decide what the model computes; a changed README must not compute a run again."""
    named = {*weights, *TOKENIZER_FILES, *_CONFIG_FILES}
    code = {name for name in files if re.fullmatch(r"\w+\.py", name)}
    return {name: size for name, size in files.items() if name in named | code}


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part about text, for models that have several."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config


def _max_positions(config: Mapping[str, Any]) -> int | None:
    """Positions as vLLM derives them: the configuration's number, stretched where its RoPE scaling says so."""
    text = _text_config(config)
    found = next((number for name in _POSITIONS if (number := _number(text.get(name)))), None)
    rope = text.get("rope_scaling") or text.get("rope_parameters")
    if found is None or not isinstance(rope, Mapping):
        return found
    kind, factor = rope.get("rope_type", rope.get("type")), rope.get("factor")
    if kind not in _STRETCHED or isinstance(factor, bool) or not isinstance(factor, int | float):
        return found
    base = _number(rope.get("original_max_position_embeddings")) if kind == "yarn" else None
    return int((base or found) * factor)


def _end_tokens(store: ArtifactStore, files: Mapping[str, int], config: Mapping[str, Any]) -> tuple[int, ...]:
    found: Any = _text_config(config).get("eos_token_id")
    if "generation_config.json" in files:
        try:
            generation = json.loads(store.read("generation_config.json"))
        except ValueError:
            generation = None
        if isinstance(generation, Mapping) and generation.get("eos_token_id") is not None:
            found = generation["eos_token_id"]
    listed = found if isinstance(found, list) else [found]
    return tuple(number for number in listed if isinstance(number, int) and not isinstance(number, bool))


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
