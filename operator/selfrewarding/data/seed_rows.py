"""The three kinds of seed rows after reading, whatever file they came from.

Frozen values with a stable key: the sha256 of their content, so the same row has the same key in every run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Generic, TypeVar

from selfrewarding.data.rows import Message, content_key, messages_json, prompt_identity


@dataclass(frozen=True, slots=True)
class Instruction:
    """IFT: a prompt with a good answer."""

    id: str
    prompt: tuple[Message, ...]
    response: str

    @property
    def key(self) -> str:
        """The row's stable key."""
        return content_key({"messages": self._messages()})

    @property
    def prompt_identity(self) -> str:
        """Shared by rows with the same prompt."""
        return prompt_identity(self.prompt)

    def as_row(self) -> dict[str, Any]:
        """Chat messages; the last one is the target."""
        return {"key": self.key, "id": self.id, "messages": self._messages()}

    def _messages(self) -> list[dict[str, str]]:
        return [*messages_json(self.prompt), {"role": "assistant", "content": self.response}]


@dataclass(frozen=True, slots=True)
class RankedResponse:
    """An answer with its human rank; lower is better."""

    text: str
    rank: int


@dataclass(frozen=True, slots=True)
class RankedPrompt:
    """A prompt with several answers in the order that people gave them."""

    id: str
    prompt: tuple[Message, ...]
    responses: tuple[RankedResponse, ...]
    category: str | None = None
    """Subset that metrics are told for as well, e.g. one of LLMBar's; no part of the content."""

    @property
    def key(self) -> str:
        """The row's stable key."""
        return content_key(self._content())

    @property
    def prompt_identity(self) -> str:
        """Shared by rows with the same prompt."""
        return prompt_identity(self.prompt)

    def as_row(self) -> dict[str, Any]:
        """The row as Prepare writes it."""
        category = {} if self.category is None else {"category": self.category}
        return {"key": self.key, "id": self.id, **category, **self._content()}

    @property
    def measured_key(self) -> str:
        """What a set of held-out rows is told apart by: other categories give other metrics."""
        return self.key if self.category is None else f"{self.key}/{self.category}"

    def _content(self) -> dict[str, Any]:
        return {
            "prompt": messages_json(self.prompt),
            "responses": [{"text": response.text, "rank": response.rank} for response in self.responses],
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """EFT: the judge's turn and the judgement to learn. `prompt` is the judged prompt where the row names it."""

    id: str
    judge_turn: str
    judgement: str
    score: Fraction
    prompt: tuple[Message, ...] | None = None

    @property
    def key(self) -> str:
        """The row's stable key."""
        return content_key({"messages": self._messages()})

    def as_row(self) -> dict[str, Any]:
        """Chat messages; the last one is the target."""
        return {"key": self.key, "id": self.id, "messages": self._messages()}

    def _messages(self) -> list[dict[str, str]]:
        return [
            {"role": "user", "content": self.judge_turn},
            {"role": "assistant", "content": self.judgement},
        ]


SeedRow = TypeVar("SeedRow", Instruction, RankedPrompt, Evaluation)


@dataclass(frozen=True, slots=True)
class SeedSet(Generic[SeedRow]):
    """The rows of one source, and how many rows of the file were left out and why."""

    rows: tuple[SeedRow, ...]
    read: int
    skipped: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """Counts for a report; `kept` and `skipped` add up to `read`."""
        return {"read": self.read, "kept": len(self.rows), "skipped": dict(sorted(self.skipped.items()))}
