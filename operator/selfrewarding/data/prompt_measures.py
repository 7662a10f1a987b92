"""How new prompts differ from each other and from the seeds: what a narrowing prompt writer shows.

Distinct-n (arXiv 1510.03055): distinct n-grams by all n-grams over all prompts together; n-grams do not cross prompts. It
falls with the amount of text by itself, so compare rounds of about equal size. Similarity: mean over new prompts of the
highest ROUGE-L F1 to a seed. Tokens are those of the prompt filter (`rouge.tokenizer_for`): Korean words are seen.

Neighbours: `rouge` compares; GeneratePrompts puts the numbers into its result; `text_measures` looks at answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from selfrewarding.api.data import Language
from selfrewarding.data.rouge import RougeIndex, tokenizer_for


@dataclass(frozen=True, slots=True)
class PromptMeasures:
    """Of all prompts, and of each in their order. None: not defined."""

    diversity: float | None
    """Distinct n-grams by all n-grams; None if no prompt has so many tokens."""
    similarity: float | None
    """Mean of the highest ROUGE-L F1 to a seed; None without prompts or seeds."""
    commonness: tuple[float, ...]
    """Share of a prompt's n-grams that other prompts have too."""
    similarities: tuple[float, ...]
    """Highest ROUGE-L F1 to a seed."""


def measure_prompts(
    prompts: Sequence[str], seeds: Sequence[str], language: Language, *, n: int = 2
) -> PromptMeasures:
    """Measure new prompts.

    Args:
        prompts: the new prompts.
        seeds: the seed prompts.
        language: chooses the tokens.
        n: length of the n-grams.
    """
    grams = [_grams(text, language, n) for text in prompts]
    of_all = Counter(gram for one in grams for gram in set(one))
    total = sum(len(one) for one in grams)
    similarities = _similarities(prompts, seeds, language)
    return PromptMeasures(
        diversity=len(of_all) / total if total else None,
        similarity=sum(similarities) / len(similarities) if similarities and seeds else None,
        commonness=tuple(sum(of_all[gram] > 1 for gram in one) / len(one) if one else 0.0 for one in grams),
        similarities=tuple(similarities),
    )


def distinct_n(texts: Sequence[str], language: Language, *, n: int = 2) -> float | None:
    """Distinct n-grams by all n-grams over all texts; None if there is none."""
    return measure_prompts(texts, (), language, n=n).diversity


def _grams(text: str, language: Language, n: int) -> list[tuple[str, ...]]:
    tokens = tokenizer_for(language)(text)
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]


_BLOCK = 256
"""Prompts that are compared with all seeds at a time: bounds the memory to a few MB for thousands of seeds."""


def _similarities(prompts: Sequence[str], seeds: Sequence[str], language: Language) -> list[float]:
    index = RougeIndex(language)
    for seed in seeds:
        index.add(index.encode(seed))
    return [
        nearest.f1
        for start in range(0, len(prompts), _BLOCK)
        for nearest in index.nearest([index.encode(text) for text in prompts[start : start + _BLOCK]])
    ]
