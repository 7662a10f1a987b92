"""What a run's record says about its settings: values that the paper leaves open, and where we leave the paper.

Must not: check anything. Neighbours: `prepare` puts this into its result, from where the report page takes it.
Source: arXiv 2401.10020v3 sections 2 and 3; it states neither epochs, warm-up, weight decay, clipping nor lengths.
"""

from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any

from selfrewarding import __version__
from selfrewarding.contract.config import PrepareParameters
from srr_sampler.model_checks import ModelFacts

_OPTIMISATION = ("epochs", "warmupRatio", "weightDecay", "maxGradientNorm", "maxLength")
_PACKAGES = ("transformers", "tokenizers", "pydantic", "boto3", "huggingface-hub")


def unstated(parameters: PrepareParameters) -> dict[str, Any]:
    """Settings that the paper does not state, by their path in the spec, with the value that this run uses."""
    found: dict[str, Any] = {}
    for name, spec in (("sft", parameters.sft), ("dpo", parameters.dpo)):
        values = spec.model_dump(mode="json", by_alias=True)
        found |= {f"{name}.{field}": values[field] for field in _OPTIMISATION}
    return found | {
        "promptGeneration.maxTokens": parameters.prompt_generation.max_tokens,
        "responses.maxTokens": parameters.responses.max_tokens,
        "judge.maxTokens": parameters.judge.max_tokens,
        "judge.minValid": parameters.judge.min_valid,
        "seedData.rankedShare": parameters.seed_data.ranked_share,
    }


def deviations(parameters: PrepareParameters, model: ModelFacts) -> list[str]:
    """Where this run differs from the paper for a reason that lies in the model or in the settings."""
    found = []
    config = model.config
    only_attention = (
        "attention_dropout" in config and not {"resid_pdrop", "hidden_dropout", "dropout"} & config.keys()
    )
    if only_attention and (parameters.sft.dropout or parameters.dpo.dropout):
        found.append(
            f"dropout: {model.architecture} has it in attention only; the paper does not say where its dropout is"
        )
    if parameters.judge.format == "Structured":
        found.append(
            "judge: the score is chosen among the allowed ones after a free justification; the paper's is free"
        )
    if parameters.judge.scoring == "Expected":
        found.append(
            "judge: scores are expected values over the score's token; the paper averages sampled scores"
        )
    if parameters.sft.lora or parameters.dpo.lora:
        found.append("training: low-rank adapters; the paper trains all weights")
    found.append("judge and few-shot prompts: own wording of the paper's structure")
    return found


def versions() -> dict[str, str]:
    """Versions of what made this result."""
    found = {"selfrewarding": __version__, "python": python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
