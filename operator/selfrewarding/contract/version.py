"""Which code made a result: the release, and a digest of the source that stage programs compute with.

Purpose: a result says exactly what made it, also in a checkout between two releases.
Must not: ask git or the network; look at the operator's own packages, which change no row.
Neighbours: `store.results` stamps it on every result; `lineage` shows it.
"""

import functools
import hashlib
from importlib.util import find_spec
from pathlib import Path

import selfrewarding
from selfrewarding.contract.keys import SHORT
from selfrewarding.contract.stages import TRAINING, StageKind

_SHARED = ("api", "contract", "data", "store")
"""Packages of `selfrewarding` that stage programs compute with."""


def code_version(kind: StageKind) -> str:
    """`<release>+<16 hex digits>`: the digits are of the sources of the program of this stage and of what it uses."""
    return _version("srr_trainer" if kind in TRAINING else "srr_sampler")


@functools.cache
def _version(program: str) -> str:
    digest = hashlib.sha256()
    shared = Path(selfrewarding.__file__).parent
    spec = find_spec(program)
    folders = [shared / name for name in _SHARED]
    if spec is not None and spec.origin is not None:
        folders.append(Path(spec.origin).parent)
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{folder.name}/{path.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"{selfrewarding.__version__}+{digest.hexdigest()[:SHORT]}"
