"""Models by URI: from a Hugging Face hub, or from a store.

Purpose: put a model's folder onto the local disk, whatever kind of address it has.
Must not: write to a hub; import huggingface_hub unless an `hf://` address is fetched.
Neighbours: Prepare and the stage programs call `fetch_model` for `spec.model.uri`; `locate` opens the other kinds.

Settings for hubs are huggingface_hub's own: HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from selfrewarding.store.digests import digest_file
from selfrewarding.store.errors import Corrupt, Denied, Misconfigured, NotFound, Unavailable, from_os_error
from selfrewarding.store.keys import check_key
from selfrewarding.store.locate import open_store

_HUB_URI = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")

# Second copies of the weights in other formats, wanted by nobody where safetensors are there.
_OTHER_WEIGHTS = [
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.h5",
    "*.msgpack",
    "*.ot",
    "*.onnx",
    "*.gguf",
    "*.tflite",
]
_OTHER_FOLDERS = ["onnx/*", "openvino/*", "original/*", "coreml/*"]


def fetch_model(uri: str, dest: Path, env: Mapping[str, str] = os.environ, *, writable: bool = False) -> str:
    """Put the model at `uri` (`hf://org/name[@revision]`, `s3://…`, `file:///…`) into the folder `dest`.

    Returns the address that names exactly what was fetched: for a hub the one with the commit. What is already there
    is not fetched again from a hub. `writable` as in `ArtifactStore.download_tree`. Raises StoreError.
    """
    if not uri.startswith("hf://"):
        open_store(uri, env).download_tree("", dest, writable=writable)
        return uri
    match = _HUB_URI.fullmatch(uri)
    if match is None:
        raise Misconfigured(
            f"{uri!r} is not the address of a model on a hub: expected hf://org/name or hf://org/name@revision."
        )
    return _from_hub(match["repo"], match["revision"], dest, env.get("HF_TOKEN") or None)


def _from_hub(repo: str, revision: str | None, dest: Path, token: str | None) -> str:
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:
        raise Misconfigured(
            f"cannot fetch hf://{repo}: the package huggingface_hub is not installed."
        ) from error
    what = f"cannot fetch hf://{repo}" + (f"@{revision}" if revision else "")
    with _translated(what, dest):
        info = HfApi(token=token).model_info(repo, revision=revision, timeout=60, files_metadata=True)
        files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        safe = any(name.endswith(".safetensors") for name in files)
        unwanted = [*_OTHER_WEIGHTS, *_OTHER_FOLDERS] if safe else _OTHER_FOLDERS
        snapshot_download(repo, revision=info.sha, local_dir=dest, token=token, ignore_patterns=unwanted)
    # If the hub goes away in the middle, snapshot_download is content with what lies there already.
    for name, file in files.items():
        if not any(fnmatchcase(name, pattern) for pattern in unwanted):
            _check(what, dest / check_key(name), file.size, file.lfs)
    # The hub's bookkeeping, of use only to a download that stopped half-way; it is no part of the model.
    shutil.rmtree(dest / ".cache" / "huggingface", ignore_errors=True)
    with contextlib.suppress(OSError):
        (dest / ".cache").rmdir()
    return f"hf://{repo}@{info.sha}"


def _check(what: str, path: Path, size: int | None, lfs: Any) -> None:
    """Large files have a SHA-256 at the hub; of small ones the size is checked."""
    if not path.is_file():
        raise Unavailable(f"{what}: {path.name} did not arrive.")
    if (size is not None and path.stat().st_size != size) or (lfs and digest_file(path).sha256 != lfs.sha256):
        raise Corrupt(f"{what}: {path.name} is damaged. Delete {path} and fetch it again.")


@contextlib.contextmanager
def _translated(what: str, dest: Path) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise Denied(
            f"{what}: the model is gated. Accept its terms on the hub, and set HF_TOKEN to that account's token."
        ) from None
    except errors.RevisionNotFoundError:
        raise NotFound(f"{what}: the model has no such revision.") from None
    except errors.RepositoryNotFoundError:
        raise NotFound(
            f"{what}: no such model, or a private one: then HF_TOKEN must be set to a token that may read it."
        ) from None
    except errors.HFValidationError as error:
        raise Misconfigured(f"{what}: {error}") from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, errors.HfHubHTTPError) as error:
        raise _hub_failure(what, error) from None
    except OSError as error:
        raise from_os_error(error, "write", dest) from error
    except Exception as error:
        # Which HTTP library is below differs between versions of huggingface_hub.
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests")):
            raise
        raise _hub_failure(what, error) from None


def _hub_failure(what: str, error: Exception) -> Denied | Unavailable:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in {401, 403}:
        return Denied(
            f"{what}: the hub answered HTTP {status}. Set HF_TOKEN to a token that may read the model."
        )
    said = f"the hub answered HTTP {status}" if status else f"no answer ({type(error).__name__})"
    return Unavailable(
        f"{what}: {said}. Check that this machine or pod may reach the hub (HF_ENDPOINT, NetworkPolicy, proxy), or "
        "copy the model into the artifact store and use its s3:// or file:// address."
    )
