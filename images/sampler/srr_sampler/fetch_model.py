"""The init container of a serving pod: put the model where vLLM reads it.

    python -m srr_sampler fetch-model

Reads a ServeConfig. With `serving.load: Copy` the whole folder comes; with Streamer all but the weights. A model of the
run gets Prepare's tokenizer, with the run's chat template; a fixed one keeps its own. Beside the model stands vLLM's
configuration file: with the key that the server asks for, and with Streamer where to stream the weights from.

Must not: change a file in place (they may be hard links into the artifact folder); import transformers or torch; print
the key or write it anywhere else.
Neighbours: `manifests.inference` renders the container; `store` fetches and checks.
"""

import json
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from selfrewarding.contract import environment
from selfrewarding.contract.artifacts import TOKENIZER, stage_prefix
from selfrewarding.contract.config import ServeConfig
from selfrewarding.contract.program import BadConfiguration, read_serve_config, report_progress
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.server_key import server_key
from selfrewarding.store import ArtifactStore, fetch_model, open_store
from selfrewarding.store.folder import FolderStore
from selfrewarding.store.models import MadeModel, require_model
from selfrewarding.store.results import download_folder, require_result
from srr_sampler.model_checks import TOKENIZER_FILES, complete

_WEIGHTS = (".safetensors", ".safetensors.index.json")
_POLL_SECONDS = 5.0
_READABLE_BY_THE_SERVER = 0o640
"""The server runs as the same user; where a pod template gives it another one, both are in the volume's group."""


def main(env: Mapping[str, str] = os.environ) -> None:
    """Fetch the model. May be run again over what a killed attempt left.

    Raises BadConfiguration, BadData, ParentMissing, StoreError.
    """
    config = read_serve_config()
    folder = _folder(env)
    streamed = env.get(environment.MODEL_LOAD, "Copy") == "Streamer"
    store = open_store(config.store)
    with _progress(folder) as total:
        if config.model.stage is not None:
            made = require_model(store, config.model.stage, config.model)
            address = _made_model(store, made, folder, total, streamed=streamed)
        else:
            address = _fixed_model(config, folder, total, streamed=streamed)
    if config.prepare is not None:
        _replace_tokenizer(store, require_result(store, config.prepare), folder)
    _write_server_config(env, config, address if streamed else None)
    if not streamed:
        complete(FolderStore(folder.resolve()), field=f"the model {config.model.name}")


def _folder(env: Mapping[str, str]) -> Path:
    named = env.get(environment.MODEL_DIR)
    if not named:
        raise BadConfiguration(
            f"{environment.MODEL_DIR} is not set: it names the folder that the model is copied to"
        )
    folder = Path(named)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadConfiguration(f"{environment.MODEL_DIR}={named} cannot be made: {error.strerror}") from None
    return folder


def _made_model(
    store: ArtifactStore, made: MadeModel, folder: Path, total: "_Total", *, streamed: bool
) -> str:
    """A model of the run. Returns the address of its folder. Raises ParentMissing."""
    result = made.result
    files = {name: result.files[name] for name in made.files}
    config_path = files[f"{made.folder}/config.json"].path
    if streamed:
        files = {name: ref for name, ref in files.items() if not name.endswith(_WEIGHTS)}
    total.bytes = sum(ref.size for ref in files.values())
    _remove_others(folder, {name.removeprefix(f"{made.folder}/") for name in files})
    download_folder(store, result.model_copy(update={"files": files}), made.folder, folder)
    return _address(
        store.sub(f"{stage_prefix(result.kind, result.key)}/{config_path.removesuffix('/config.json')}")
    )


def _fixed_model(config: ServeConfig, folder: Path, total: "_Total", *, streamed: bool) -> str:
    """A model by its address. Returns the address of its folder. Raises BadConfiguration, StoreError."""
    uri = config.model.uri
    if uri is None:
        raise BadConfiguration(f"the model {config.model.name} has neither a stage nor an address")
    if uri.startswith("hf://"):
        if streamed:
            raise BadConfiguration(
                f"{uri}: serving.load Streamer reads from S3, not from a hub: set it to Copy, or copy the model to S3"
            )
        fetch_model(uri, folder)
        return uri
    source = open_store(uri)
    files = {entry.key: entry.size for entry in source.list() if "/" not in entry.key}
    wanted = {name: size for name, size in files.items() if not (streamed and name.endswith(_WEIGHTS))}
    total.bytes = sum(wanted.values())
    _remove_others(folder, set(wanted))
    if streamed:
        for name in wanted:
            (folder / name).unlink(missing_ok=True)
            (folder / name).write_bytes(source.read(name))
    else:
        fetch_model(uri, folder)
    return _address(source)


def _address(store: ArtifactStore) -> str:
    """Where vLLM streams from: a bucket by its address, a folder by its path."""
    return str(store.root) if isinstance(store, FolderStore) else store.uri


def _remove_others(folder: Path, expected: set[str]) -> None:
    """Take away weights and tokenizer files of another model, which vLLM would load besides or instead."""
    for path in folder.iterdir():
        misleading = path.name.endswith(_WEIGHTS) or path.name in TOKENIZER_FILES
        if misleading and path.name not in expected:
            path.unlink()


def _replace_tokenizer(store: ArtifactStore, prepared: StageResult, folder: Path) -> None:
    """Prepare's tokenizer instead of the model's own: the same file names, and none of the old ones besides."""
    for name in TOKENIZER_FILES:
        if f"{TOKENIZER}/{name}" not in prepared.files:
            (folder / name).unlink(missing_ok=True)
    download_folder(store, prepared, TOKENIZER, folder)


def _write_server_config(env: Mapping[str, str], config: ServeConfig, address: str | None) -> None:
    """Write vLLM's configuration file. Raises BadConfiguration."""
    named = env.get(environment.SERVER_CONFIG)
    if not named:
        raise BadConfiguration(f"{environment.SERVER_CONFIG} is not set: vLLM reads the file that it names")
    options: dict[str, str] = {}
    if address is not None:
        options["model"] = address
    key = server_key(env, run_uid=config.run.uid, served_name=config.served_name)
    if key is not None:
        options["api-key"] = key
    # A JSON string is a YAML string, whatever its characters, and never a number. vLLM takes no empty document.
    lines = [f"{name}: {json.dumps(value)}\n" for name, value in options.items()] or ["{}\n"]
    target = Path(named)
    unfinished = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished.unlink(missing_ok=True)
        # A new file from the start, with its mode: what stood under the name may be a hard link into the store.
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _READABLE_BY_THE_SERVER)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(lines)
        unfinished.replace(target)
    except OSError as error:
        raise BadConfiguration(
            f"{environment.SERVER_CONFIG}={named} cannot be written: {error.strerror}"
        ) from None


class _Total:
    """Bytes to come, once they are known."""

    def __init__(self) -> None:
        self.bytes = 0


@contextmanager
def _progress(folder: Path) -> Iterator[_Total]:
    """Report what has arrived every few seconds; the transfers themselves say nothing."""
    total, ended, started = _Total(), threading.Event(), time.monotonic()

    def report(done: int) -> None:
        rate = done / max(time.monotonic() - started, 1e-3)
        report_progress(done=done, total=total.bytes, rate=rate, unit="bytes")

    def watch() -> None:
        while not ended.wait(_POLL_SECONDS):
            report(min(sum(map(_arrived, folder.rglob("*"))), total.bytes))

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield total
    finally:
        ended.set()
        watcher.join()
    report(total.bytes)


def _arrived(path: Path) -> int:
    """Bytes of a file that are there: its later ranges may arrive before earlier ones, so its size says too much."""
    try:
        found = path.lstat()
    except OSError:
        return 0  # renamed into its place in this moment
    return min(found.st_size, found.st_blocks * 512) if stat.S_ISREG(found.st_mode) else 0
