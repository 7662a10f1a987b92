"""The model card: README.md in the model's folder, with all that is needed to make the model again.

Must not: hold addresses with credentials or local paths. Source of the format: Hugging Face model cards.
"""

import json
from typing import Any

from selfrewarding.contract.artifacts import card_key
from selfrewarding.contract.config import StageConfig
from selfrewarding.contract.keys import short
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.store.run_results import model_name

_MADE_BY = {
    StageKind.TRAIN_BASELINE: "the baseline: supervised fine-tuning on instructions (IFT) only",
    StageKind.SUPERVISED_FINE_TUNE: "supervised fine-tuning on instructions and evaluations (IFT and EFT)",
    StageKind.PREFERENCE_OPTIMIZE: "preference optimisation (DPO) on answers that the model before judged itself",
}


def model_card(config: StageConfig, result: StageResult) -> str:
    """The text of the card."""
    base = config.models["base"]
    how = _MADE_BY[config.kind]
    if getattr(config.parameters, "positive_only", False):
        how = "supervised fine-tuning on answers that the model before judged best"
    newer = f"`{card_key(config.run.namespace, config.run.name, model_name(result))}` in the same store"
    header = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["self-rewarding", "trl", "dpo" if config.kind is StageKind.PREFERENCE_OPTIMIZE else "sft"],
    }
    lines = [
        "---",
        *(f"{name}: {json.dumps(value)}" for name, value in header.items()),
        "---",
        "",
        f"# Iteration {config.iteration} of {config.run.namespace}/{config.run.name}",
        "",
        f"Made by {how} (Self-Rewarding Language Models, arXiv 2401.10020), starting from {base.name}.",
        "Weights are float32: the form that the next iteration trains on.",
        "",
        f"- stage: {config.kind}, key `{config.key}` (short: `{short(config.key)}`), contract {config.contract}",
        f"- run: `{config.run.uid}`, seed {config.seed}",
        *(f"- read: {role}, result digest `{digest}`" for role, digest in sorted(result.parents.items())),
        "",
        f"Written when training ended. What was measured since then, and what the gate decided, is in the run's card: {newer}.",
        "",
        "## Results",
        "",
        "| name | value |",
        "|---|---|",
        *(f"| {name} | {value:,} |" for name, value in sorted(result.counts.items())),
        *(f"| {name} | {value:.6g} |" for name, value in sorted(result.metrics.items())),
        "",
        "## Data digests, settings, versions, deviations",
        "",
        "```json",
        json.dumps(
            {"parameters": _dumped(config.parameters), **result.report}, indent=1, sort_keys=True, default=str
        ),
        "```",
        "",
    ]
    return "\n".join(lines)


def candidate_card(config: StageConfig, step: int, steps: int, *, pod: str) -> str:
    """The card of a model that was saved on the way."""
    result = StageResult(
        contract=config.contract,
        kind=config.kind,
        iteration=config.iteration,
        key=config.key,
        parents={role: ref.digest for role, ref in config.parents.items()},
        counts={"step": step, "steps": steps},
        seconds=0.0,
        pod=pod,
    )
    return model_card(config, result)


def _dumped(parameters: Any) -> Any:
    return parameters.model_dump(mode="json", by_alias=True, exclude_none=True)
