"""The few rows of a large artifact that somebody asks for, without parsing the others.

Neighbours: `store.row_index` finds one row by its key; here a file is read once for many, or for rows by another field.
"""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from selfrewarding.contract.artifacts import stage_prefix
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.store.run_results import Stored

_FIRST = re.compile(rb'\{"(key|id)": "([^"\\]*)"')


def matching(
    store: ArtifactStore, one: Stored, name: str, wanted: Collection[str], *, field: str = "key"
) -> Iterator[dict[str, Any]]:
    """The rows of a result's file whose `field` (key or id) is wanted, in the file's order; none if it has no such file.

    Stages write that field first, which is what saves the parsing; a row with another one first is parsed. Raises NotFound.
    """
    for first, line in _lines(store, one, name):
        if first is not None and first[0] == field and first[1] not in wanted:
            continue
        row = json.loads(line)
        if str(row.get(field)) in wanted:
            yield row


def every(store: ArtifactStore, one: Stored, name: str) -> Iterator[dict[str, Any]]:
    """All rows of a result's file, one at a time. Raises NotFound."""
    for _, line in _lines(store, one, name):
        yield json.loads(line)


def holding(store: ArtifactStore, one: Stored, name: str, text: str) -> Iterator[dict[str, Any]]:
    """The rows of a result's file that hold a text anywhere in their line. Raises NotFound."""
    wanted = json.dumps(text, ensure_ascii=False)[1:-1].encode()
    for _, line in _lines(store, one, name):
        if wanted in line:
            yield json.loads(line)


def _lines(store: ArtifactStore, one: Stored, name: str) -> Iterator[tuple[tuple[str, str] | None, bytes]]:
    if name not in one.result.files:
        return
    where = f"{stage_prefix(one.result.kind, one.result.key)}/{one.result.files[name].path}"
    with store.read_stream(where) as stream:
        for line in stream:
            if line.strip():
                found = _FIRST.match(line)
                yield (found and (found[1].decode(), found[2].decode())) or None, line
