"""A small model's folder: one file of several parts, an empty one, names that need quoting."""

from pathlib import Path

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": bytes(range(256)) * 80_000,
    "name with spaces + plus & 한국어.txt": "안녕".encode(),
    "tokenizer/empty": b"",
    "tokenizer/tokenizer.json": b"{}",
}


def make_tree(folder: Path) -> Path:
    """Write the files below `folder`, which it returns."""
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
