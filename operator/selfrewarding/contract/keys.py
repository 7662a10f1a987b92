"""Stage keys: what a stage's result depends on, as one digest.

A key covers the stage's kind, its iteration, the contract version, the run's seed, the parameters that it reads, the digests
of the seed data and of M0 that it reads, its parents' keys and the number of roll-backs before it. How a stage is run (replicas,
images, resources) is not in it. Two runs with equal keys share the result.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from selfrewarding.contract.stages import StageKind

SHORT = 16
"""Hex digits of a key in labels, names, status and messages."""


def canonical_json(value: Any) -> bytes:
    """The one JSON text of a value: sorted names, no spaces, UTF-8. Models are dumped by alias without absent fields."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", by_alias=True, exclude_none=True)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value, 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def stage_key(
    *,
    kind: StageKind,
    iteration: int,
    contract: int,
    seed: int,
    parameters: BaseModel,
    data: Mapping[str, str],
    parents: Mapping[str, str],
    roll_backs: int,
) -> str:
    """The key of a stage, 64 hex digits.

    `seed` is the run's: every random choice of the stage comes from it, so runs with other seeds share nothing. `data` maps
    the seed sets that the stage reads ("instructions", "ranked", "heldOut", "evaluations", "evaluationPrompts",
    "model") to their digests; `parents` maps the roles of the stages that it reads to their keys.
    """
    return digest(
        {
            "kind": kind,
            "iteration": iteration,
            "contract": contract,
            "seed": seed,
            "parameters": parameters.model_dump(mode="json", by_alias=True, exclude_none=True),
            "data": dict(data),
            "parents": dict(parents),
            "rollBacks": roll_backs,
        }
    )


def short(key: str) -> str:
    """The key as it stands in labels, names and status."""
    return key[:SHORT]


def artifact_label(store: str, key: str) -> str:
    """Value of the label ARTIFACT: equal for two runs exactly if they compute the same result in the same store."""
    return short(digest({"artifacts": store, "key": key}))
