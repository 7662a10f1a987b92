"""The prompts that completions give, read in the order of their requests.

Purpose: which examples a request shows, and which new prompts are kept; the same completions give the same prompts,
whenever and in whatever order they came.
Must not: ask for anything, or know the filters and the wording (`selfrewarding.data` does).
Neighbours: `generate_prompts` asks, and feeds the completions in.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from selfrewarding.api.algorithm import PromptGenerationSpec
from selfrewarding.data.few_shot import Style, choose_shots, parse_continuation
from selfrewarding.data.prompt_filter import PromptFilter, Verdict
from selfrewarding.data.rows import content_key

NEW_ITEMS = 8
"""New prompts that one completion may hold (Self-Instruct stops its list of eight examples at the sixteenth item)."""
KEY_DIGITS = 24
_PRIOR_YIELD = 2.0
"""Prompts per request that are expected before anything is known."""


def window_of(spec: PromptGenerationSpec) -> int:
    """Requests under way at once: from the spec alone, never from how the stage is run, so that it is reproducible."""
    return min(512, max(8, spec.count // 8))


@dataclass(frozen=True, slots=True)
class Shot:
    """A prompt that a request shows as an example."""

    key: str
    text: str
    request: int = -1
    """The request that it came from; -1 for a seed."""


@dataclass(slots=True)
class Harvest:
    """What the completions, read in order, have given so far. Pure: the same completions give the same prompts.

    Args:
        spec: how many prompts are wanted, and the filters.
        seeds: seed prompts that examples are drawn from.
        others: further texts that new prompts must differ from (ranked, held-out and evaluation prompts).
        style: of the few-shot prompts.
    """

    spec: PromptGenerationSpec
    seeds: list[Shot]
    others: list[str]
    style: Style
    read: int = 0
    """Requests that were read."""
    accepted: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    """Completions that were cut by length: only their last prompt is lost (number rule 12)."""
    _generated: list[Shot] = field(default_factory=list)
    _filter: PromptFilter | None = None

    @property
    def enough(self) -> bool:
        """Whether there are as many prompts as wanted."""
        return len(self.accepted) >= self.spec.count

    def shots(self, request: int, seed: int) -> list[Shot]:
        """The examples of a request. All requests up to `request - window` must have been read."""
        before = request - window_of(self.spec)
        generated = [shot for shot in self._generated if shot.request <= before]
        by_text = {shot.text: shot for shot in reversed([*self.seeds, *generated])}
        chosen = choose_shots(
            [shot.text for shot in self.seeds],
            [shot.text for shot in generated],
            seeds=self.spec.seed_shots,
            generated=self.spec.generated_shots,
            seed=seed,
        )
        return [by_text[text] for text in chosen]

    def add(self, completion: dict[str, Any]) -> None:
        """Read the next request's completion."""
        request = self.read
        self.read += 1
        self.cut += completion["finishReason"] == "length"
        self.tokens.update(completion["tokens"])
        texts = parse_continuation(
            completion["text"],
            first_number=completion["firstNumber"],
            style=self.style,
            finish_reason=completion["finishReason"],
            max_items=NEW_ITEMS,
        )
        # One at a time and only until there are enough: the filter learns every prompt that it accepts.
        for item, text in enumerate(texts):
            if self.enough:
                return
            verdict = self._judge(f"r{request:05d}-{item}", text)
            if verdict.accepted:
                self._accept(completion, request, str(verdict.id), text)
            else:
                self.reasons[str(verdict.reason)] += 1
                self.dropped.append(
                    {
                        "id": verdict.id,
                        "request": request,
                        "text": text,
                        "reason": verdict.reason,
                        "maxRougeL": verdict.max_rouge_l,
                        "nearest": verdict.nearest,
                    }
                )

    def _judge(self, identifier: str, text: str) -> Verdict:
        if self._filter is None:
            filters = self.spec.filters
            self._filter = PromptFilter(
                [*(shot.text for shot in self.seeds), *self.others],
                filters.language,
                threshold=filters.max_rouge_l,
                min_words=filters.min_words,
                max_words=filters.max_words,
                keywords=filters.keywords,
            )
        return self._filter.offer(identifier, text)

    def _accept(self, completion: dict[str, Any], request: int, identifier: str, text: str) -> None:
        prompt = [{"role": "user", "content": text}]
        key = content_key(prompt)[:KEY_DIGITS]
        self._generated.append(Shot(key, text, request))
        self.accepted.append(
            {
                "key": key,
                "id": identifier,
                "prompt": prompt,
                "shots": completion["shots"],
                "request": request,
                "seed": completion["seed"],
            }
        )

    def useful_requests(self) -> int:
        """How many more requests are worth having under way, by what the ones so far have given."""
        per_request = (len(self.accepted) + _PRIOR_YIELD) / (self.read + 1)
        return math.ceil(1.2 * (self.spec.count - len(self.accepted)) / per_request) + 1


def too_few(harvest: Harvest, least: int) -> str:
    """The message of a stage that ran out of requests."""
    reasons = ", ".join(
        f"{count} {reason.replace('_', ' ')}" for reason, count in harvest.reasons.most_common()
    )
    return (
        f"{len(harvest.accepted)} new prompts after {harvest.read} requests, promptGeneration.minCount asks for "
        f"{least} (wanted {harvest.spec.count}); dropped: {reasons or 'none, the model wrote no list'}; raise "
        "promptGeneration.maxRequests or .temperature, loosen promptGeneration.filters, give more seed prompts, or "
        "use a fixed writer (promptGeneration.writer)"
    )
