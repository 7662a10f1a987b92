"""Dropout while training, and the model's own settings afterwards (number rule 10).

The paper trains with dropout 0.1. Llama-like models have no dropout but in attention, so that is where it goes, and the
deviation is recorded. The saved configuration is as it was: dropout is how a model was trained, not part of the model.
"""

from typing import Any

FIELDS = (
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_dropout",
    "attn_pdrop",
    "dropout",
    "embd_pdrop",
    "emb_pdrop",
    "embedding_dropout",
    "embed_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "resid_pdrop",
    "residual_dropout",
    "activation_dropout",
)
"""transformers' names of dropout probabilities in model configurations (classifier heads are not trained here)."""


def dropout_fields(config: Any) -> dict[str, float]:
    """The dropout settings that this model has, with their values."""
    found = {name: getattr(config, name, None) for name in FIELDS}
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def set_dropout(config: Any, values: dict[str, float]) -> None:
    """Set fields of a model's configuration, before the model is built or before it is saved."""
    for name, value in values.items():
        setattr(config, name, value)


def deviation(config: Any, dropout: float) -> str | None:
    """How training differs from dropout everywhere, as the paper has it; None if it does not."""
    if dropout == 0:
        return None
    names = sorted(dropout_fields(config))
    if not names:
        return f"dropout {dropout} was asked for, but {config.model_type} models have none: trained without"
    if all("attention" in name or "attn" in name for name in names):
        return f"dropout {dropout} only in attention ({', '.join(names)}): {config.model_type} models have no other"
    return None
