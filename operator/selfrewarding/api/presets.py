"""Presets: named, versioned sets of defaults that lie below what the spec says itself.

A version never changes once released: a run pins the version that it started with (`status.pinned.preset`).
The paper's numbers: arXiv 2401.10020v3, sections 2 and 3. Its seed document (an earlier version) counts 1,775 training
and 531 evaluation EFT examples; v3 says 1,630 and 541; which prompts are chosen depends on the data, not on a setting,
so the share held out is 541 / 2,171.
"""

from collections.abc import Mapping
from typing import Any

from selfrewarding.api.run import SelfRewardingRunSpec

_PAPER: dict[str, Any] = {
    "iterations": 3,
    "seedData": {"heldOut": {"share": 0.25}},
    "sft": {"learningRate": 5.5e-6, "minLearningRate": 1.1e-6, "batchSize": 16, "dropout": 0.1},
    "promptGeneration": {
        "seedShots": 6,
        "generatedShots": 2,
        "temperature": 0.6,
        "topP": 0.9,
        "filters": {"maxRougeL": 0.7, "minWords": 4, "maxWords": 150},
    },
    "responses": {"samples": 4, "temperature": 0.7, "topP": 0.9},
    "judge": {
        "format": "Free",
        "scoring": "Sampled",
        "samples": 3,
        "temperature": 0.7,
        "topP": 0.9,
        "scores": {"minimum": 0, "maximum": 5, "decimals": False},
    },
    "preferences": {"rule": "BestWorst", "truncated": "Exclude"},
    "dpo": {
        "learningRate": 1e-6,
        "minLearningRate": 1e-7,
        "batchSize": 16,
        "beta": 0.1,
        "dropout": 0.1,
        "loss": ["sigmoid"],
        "reference": "Previous",
    },
}

_SMALL: dict[str, Any] = {
    "iterations": 3,
    "sft": {
        "learningRate": 1e-5,
        "minLearningRate": 2e-6,
        "batchSize": 16,
        "dropout": 0.0,
        "maxLength": 2048,
    },
    "promptGeneration": {"count": 1000, "maxTokens": 256},
    "responses": {"samples": 4, "maxTokens": 512},
    "judge": {"format": "Structured", "scoring": "Expected", "samples": 1, "maxTokens": 192},
    "dpo": {
        "learningRate": 1e-6,
        "minLearningRate": 1e-7,
        "batchSize": 16,
        "dropout": 0.0,
        "maxLength": 2048,
    },
    "serving": {"replicas": 1, "tensorParallelSize": 1},
    "training": {"nodes": 1, "gpusPerNode": 1, "microBatchSize": 2},
}

PRESETS: Mapping[str, Mapping[int, dict[str, Any]]] = {
    "paper-2401.10020": {1: _PAPER},
    "small": {1: _SMALL},
}


def latest(preset: str) -> str:
    """The preset with its newest version, e.g. `small/1`: what a new run pins."""
    return f"{preset}/{max(PRESETS[preset])}"


def effective(spec: Mapping[str, Any], pinned: str | None = None) -> SelfRewardingRunSpec:
    """The spec with its preset's defaults filled in.

    `spec` is the block as the user wrote it (camelCase); `pinned` is `status.pinned.preset` of a run under way.
    Raises pydantic.ValidationError, and KeyError if the pinned version is unknown to this release.
    """
    name = spec.get("preset")
    if not isinstance(name, str) or name not in PRESETS:
        return SelfRewardingRunSpec.model_validate(spec, strict=True, by_alias=True, by_name=False)
    _, _, version = (pinned or latest(name)).partition("/")
    return SelfRewardingRunSpec.model_validate(
        _merged(PRESETS[name][int(version)], spec), strict=True, by_alias=True, by_name=False
    )


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, block by block; lists and scalars are replaced whole."""
    result = dict(below)
    for name, value in above.items():
        old = result.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[name] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return result
