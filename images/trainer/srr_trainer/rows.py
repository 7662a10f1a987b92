"""Rows of parents as token ids: what may be trained on, and what was left out and why.

Purpose: tokenise with the one injection-safe encoder (number rule 3) and leave out, counted, what is longer than
`maxLength`; nothing is ever cut (number rule 7).
Must not: import torch or transformers. Neighbours: `training` makes data sets of these, `order` sorts them.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selfrewarding.contract.keys import canonical_json
from selfrewarding.contract.program import BadData
from selfrewarding.data.chat import ChatEncoder

_SHOWN_KEYS = 20


@dataclass(frozen=True)
class TokenisedExample:
    """An SFT row."""

    key: str
    input_ids: list[int]
    """Prompt, then target; shape [length]."""
    prompt_length: int

    @property
    def length(self) -> int:
        """Tokens that the model computes for this row."""
        return len(self.input_ids)

    @property
    def tokens(self) -> int:
        """Tokens trained on, prompt included."""
        return len(self.input_ids)

    def columns(self) -> dict[str, Any]:
        """TRL's row: -100 where the loss does not count, which is the prompt."""
        target = self.input_ids[self.prompt_length :]
        return {"input_ids": self.input_ids, "labels": [-100] * self.prompt_length + target}


@dataclass(frozen=True)
class TokenisedPair:
    """A preference row: two answers to one prompt, each with its end-of-turn token."""

    key: str
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def length(self) -> int:
        """Tokens of the longer of the two sequences: both are padded to it."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))

    @property
    def tokens(self) -> int:
        """Tokens trained on: the prompt counts in both sequences."""
        return 2 * len(self.prompt_ids) + len(self.chosen_ids) + len(self.rejected_ids)

    def columns(self) -> dict[str, Any]:
        """TRL's row."""
        return {
            "prompt_ids": self.prompt_ids,
            "chosen_ids": self.chosen_ids,
            "rejected_ids": self.rejected_ids,
        }


@dataclass
class Exclusions:
    """Rows that are not trained on, by reason."""

    counts: Counter[str] = field(default_factory=Counter)
    keys: dict[str, list[str]] = field(default_factory=dict)
    """The first keys of each reason."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    def add(self, reason: str, key: str) -> None:
        """Count one."""
        self.counts[reason] += 1
        shown = self.keys.setdefault(reason, [])
        if len(shown) < _SHOWN_KEYS:
            shown.append(key)

    def report(self) -> dict[str, object]:
        """What the result keeps."""
        return {reason: {"rows": self.counts[reason], "keys": self.keys[reason]} for reason in self.counts}


def tokenise_examples(
    rows: Iterable[Mapping[str, Any]], encoder: ChatEncoder, *, max_length: int, field_name: str
) -> tuple[list[TokenisedExample], Exclusions]:
    """Rows {"key", "messages"} as examples. Raises BadData for a row that is none, and if none is left.

    `field_name` is the setting that `max_length` comes from, for messages.
    """
    examples, exclusions = [], Exclusions()
    for row in rows:
        key, messages = _key(row), _messages(row, "messages")
        try:
            example = encoder.example(messages)
        except ValueError as error:
            raise BadData(
                f"row {key}: {error}; correct the seed data, or run the stage that wrote it again"
            ) from error
        if len(example.input_ids) > max_length:
            exclusions.add("tooLong", key)
            continue
        examples.append(TokenisedExample(key, example.input_ids, example.prompt_length))
    _require_some(examples, exclusions, field_name, max_length)
    return examples, exclusions


def tokenise_pairs(
    rows: Iterable[Mapping[str, Any]], encoder: ChatEncoder, *, max_length: int
) -> tuple[list[TokenisedPair], Exclusions]:
    """Rows {"key", "prompt", "chosen", "rejected"} as pairs. Raises BadData for a wrong row, and if none is left."""
    pairs, exclusions, seen = [], Exclusions(), set()
    for row in rows:
        key = _key(row)
        if key in seen:
            raise BadData(f"two pairs have the key {key}: run the stage that wrote them again")
        seen.add(key)
        chosen, rejected = _answer(row, "chosen"), _answer(row, "rejected")
        try:
            prompt = encoder.prompt(_messages(row, "prompt"))
        except ValueError as error:
            raise BadData(f"pair {key}: {error}; run the stage that wrote it again") from error
        pair = TokenisedPair(key, prompt, encoder.completion(chosen), encoder.completion(rejected))
        if pair.length > max_length:
            exclusions.add("tooLong", key)
        elif pair.chosen_ids == pair.rejected_ids:
            exclusions.add("identical", key)
        else:
            pairs.append(pair)
    _require_some(pairs, exclusions, "dpo.maxLength", max_length)
    return pairs, exclusions


def tokens_digest(rows: Sequence[TokenisedExample | TokenisedPair]) -> str:
    """SHA-256 over keys and token ids: equal for equal rows, template and tokenizer, whatever they are made of."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json([row.key, row.columns()]) + b"\n")
    return digest.hexdigest()


def _key(row: Mapping[str, Any]) -> str:
    key = row.get("key")
    if not isinstance(key, str) or not key:
        raise BadData(f"a row has no key, but {sorted(row)[:8]}: run the stage that wrote it again")
    return key


def _messages(row: Mapping[str, Any], name: str) -> list[dict[str, str]]:
    messages = row.get(name)
    if (
        not isinstance(messages, list)
        or not messages
        or not all(
            isinstance(message, dict)
            and isinstance(message.get("role"), str)
            and isinstance(message.get("content"), str)
            for message in messages
        )
    ):
        raise BadData(
            f"row {row.get('key')}: `{name}` is no list of messages with role and content; "
            "run the stage that wrote it again"
        )
    return messages


def _answer(row: Mapping[str, Any], name: str) -> str:
    messages = _messages(row, name)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise BadData(
            f"pair {row.get('key')}: `{name}` must be one message of the assistant; run the stage that wrote it again"
        )
    return messages[0]["content"]


def _require_some(
    rows: Sequence[TokenisedExample | TokenisedPair], exclusions: Exclusions, field_name: str, max_length: int
) -> None:
    if rows:
        return
    if not exclusions.total:
        raise BadData("there are no rows to train on: the stage that wrote them found none")
    raise BadData(
        f"none of the {exclusions.total} rows can be trained on ({dict(exclusions.counts)}): raise {field_name} "
        f"({max_length} tokens) if they are too long for it"
    )
