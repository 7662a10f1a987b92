"""Open Assistant message trees, as that project exports them: one tree a line.

A tree is a first prompt with replies, which people ranked (0 is best). Only the first turn is used (arXiv 2401.10020
section 3.1.1: "only the first conversational turns"). What cannot be used is counted, not an error: in the real export
most trees have no ranks. A row that is not a tree is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from selfrewarding.api.data import Language
from selfrewarding.data.errors import DataError
from selfrewarding.data.jsonl import Row
from selfrewarding.data.rows import Fields, Identifiers, Message, content_key, parse_row
from selfrewarding.data.seed_rows import Instruction, RankedPrompt, RankedResponse

EXPORTED = "ready_for_export"
_CODES = {"English": "en", "Korean": "ko"}


@dataclass(frozen=True, slots=True)
class Tree:
    """A first prompt with its ranked replies, best first."""

    id: str
    prompt: tuple[Message, ...]
    replies: tuple[RankedResponse, ...]

    @property
    def has_best(self) -> bool:
        """Whether there is an answer of rank 0."""
        return bool(self.replies) and self.replies[0].rank == 0

    @property
    def has_order(self) -> bool:
        """Whether two answers have different ranks."""
        return len({reply.rank for reply in self.replies}) > 1

    def instruction(self) -> Instruction:
        """The prompt with its best answer."""
        return Instruction(self.id, self.prompt, self.replies[0].text)

    def ranked(self) -> RankedPrompt:
        """The prompt with all its ranked answers."""
        return RankedPrompt(self.id, self.prompt, self.replies)


@dataclass(frozen=True, slots=True)
class Trees:
    """The usable trees of a file, and how many were left out and why."""

    rows: tuple[Tree, ...]
    read: int
    skipped: Counter[str] = field(default_factory=Counter)


class _MessageFields(Fields):
    text: str
    role: str
    lang: str | None = None
    deleted: bool | None = None
    review_result: bool | None = None
    rank: int | None = None


class _PromptFields(_MessageFields):
    replies: list[_MessageFields]


class _TreeFields(Fields):
    message_tree_id: str
    tree_state: str | None = None
    prompt: _PromptFields


def read_trees(rows: Iterable[Row], *, language: Language = "Any", source: str) -> Trees:
    """All trees whose first prompt can be used, with the replies that were ranked.

    Raises:
        DataError: a row is not a tree, a tree stands twice, or the file has no rows.
    """
    ids = Identifiers()
    contents: dict[str, int] = {}
    kept: list[Tree] = []
    skipped: Counter[str] = Counter()
    read = 0
    for row in rows:
        read += 1
        fields = parse_row(row, _TreeFields)
        name = ids.claim(row, fields.message_tree_id)
        reason = _unusable(fields, language)
        if reason is not None:
            skipped[reason] += 1
            continue
        tree = Tree(name, (Message("user", fields.prompt.text),), _ranked_replies(row, fields, language))
        key = content_key([fields.prompt.text, [[reply.text, reply.rank] for reply in tree.replies]])
        if (first := contents.setdefault(key, row.line)) != row.line:
            raise row.error(
                found=f"the same tree as on line {first}",
                expected="each tree once",
                remedy="Delete one of the two.",
            )
        if not tree.replies:
            skipped["no_ranked_reply"] += 1
            continue
        kept.append(tree)
    if not read:
        raise DataError(
            file=source,
            found="no rows",
            expected="message trees, one a line",
            remedy="Check that the file is the export of trees (not of single messages).",
        )
    return Trees(tuple(kept), read, skipped)


def _unusable(fields: _TreeFields, language: Language) -> str | None:
    if fields.tree_state not in {None, EXPORTED}:
        return "tree_not_ready"
    if fields.prompt.role != "prompter" or fields.prompt.deleted or fields.prompt.review_result is False:
        return "prompt_deleted_or_rejected"
    if not _in_language(fields.prompt, language):
        return "other_language"
    return None if fields.prompt.text.strip() else "empty_prompt"


def _ranked_replies(row: Row, fields: _TreeFields, language: Language) -> tuple[RankedResponse, ...]:
    best: dict[str, RankedResponse] = {}
    for index, reply in enumerate(fields.prompt.replies):
        if reply.rank is None or reply.deleted or reply.review_result is False or reply.role != "assistant":
            continue
        if not reply.text.strip() or not _in_language(reply, language):
            continue
        if reply.rank < 0:
            raise row.error(
                field=f"prompt.replies[{index}].rank",
                found=str(reply.rank),
                expected="0 (best) or more",
                remedy="Correct the rank.",
            )
        ranked = RankedResponse(reply.text, reply.rank)
        known = best.get(reply.text.strip())
        # The same text under two ranks says nothing about the order; its better rank is kept.
        if known is None or ranked.rank < known.rank:
            best[reply.text.strip()] = ranked
    return tuple(sorted(best.values(), key=lambda reply: reply.rank))


def _in_language(message: _MessageFields, language: Language) -> bool:
    if language == "Any" or message.lang is None:
        return True
    return message.lang.casefold().partition("-")[0] == _CODES[language]
