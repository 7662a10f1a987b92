"""The table of manifests that the API server must accept or refuse: this folder's YAML files as `Case`s.

Must not: talk to an API server; `test_crd.py` does.
"""

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Raw = dict[str, Any]

SMALLEST: Raw = {
    "apiVersion": "selfrewarding.dev/v1alpha1",
    "kind": "SelfRewardingRun",
    "metadata": {"name": "smallest"},
    "spec": {
        "model": {"uri": "s3://models/llama-3.2-3b"},
        "artifacts": {"uri": "s3://runs/smallest"},
        "seedData": {"instructions": {"uri": "s3://data/trees.jsonl.gz", "format": "OpenAssistant"}},
    },
}
"""What each case is merged over."""
_REPEATED = re.compile(r"\{(\d+) x (.)\}")


@dataclass(frozen=True)
class Case:
    """A manifest, and what the API server says to it."""

    case: str
    """One sentence: the test's id."""
    change: Raw = field(default_factory=dict)
    """JSON merge patch over SMALLEST (RFC 7386)."""
    before: Raw | None = None
    """An edit: the same for the run as it was."""
    refused: str | None = None
    """Part of the message; None: accepted."""
    edits: bool = False
    """Whether the run exists already."""

    @property
    def manifest(self) -> Raw:
        """The run as the user sends it."""
        return merged(self.original, self.change)

    @property
    def original(self) -> Raw:
        """The run as it was before an edit."""
        return merged(SMALLEST, self.before or {})


def cases(name: str = "*") -> list[Case]:
    """All cases of this folder, or of one of its files. Raises TypeError for a key that a case does not have."""
    return [case for file in sorted(Path(__file__).parent.glob(f"{name}.yaml")) for case in _read(file)]


def _read(file: Path) -> Iterator[Case]:
    text = _REPEATED.sub(lambda found: found[2] * int(found[1]), file.read_text(encoding="utf-8"))
    for entry in yaml.safe_load(text):
        yield Case(**entry, edits=file.stem == "edits")


def merged(below: Raw, patch: Raw) -> Raw:
    """RFC 7386 (JSON Merge Patch): null takes a field away, lists are replaced."""
    result = copy.deepcopy(below)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            old = result.get(name)
            result[name] = merged(old if isinstance(old, dict) else {}, value)
        else:
            result[name] = value
    return result
