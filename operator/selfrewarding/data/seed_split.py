"""Which seed rows train, which train the judge, and which are held out; and what they have in common.

Ranked prompts are split *by prompt and before any judging* (number rule 1). All choices follow from a hash of content
and seed, so they do not depend on the order of a file, and a row added later moves few others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from selfrewarding.data.judge_prompt import conversation_text
from selfrewarding.data.openassistant import Tree
from selfrewarding.data.rows import Message, content_key, prompt_identity
from selfrewarding.data.seed_rows import Instruction, RankedPrompt

NEAR_DUPLICATE = 0.7
"""ROUGE-L F1 above which two prompts are reported as near-duplicates (Self-Instruct's threshold)."""

SetName = Literal["instructions", "ranked", "heldOut"]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Overlap:
    """A prompt that two sets share, or nearly so.

    Attributes:
        first: set and id of one row.
        second: set and id of the other.
        rouge_l: F1 of the two prompts; None if they are the same but for case and spacing.
    """

    first: tuple[SetName, str]
    second: tuple[SetName, str]
    rouge_l: float | None

    def as_json(self) -> dict[str, Any]:
        """The overlap as it stands in a report."""
        return {"first": list(self.first), "second": list(self.second), "rouge_l": self.rouge_l}


@dataclass(frozen=True, slots=True)
class SeedSplit:
    """The sets that a run starts from; no prompt is in two of them.

    Attributes:
        instructions: IFT rows.
        ranked: prompts that EFT rows are made from.
        held_out: prompts that only measure.
        dropped: rows left out because a more protected set has their prompt (held-out before ranked before
            instructions).
        near_duplicates: pairs of different prompts that are much alike; reported, not dropped.
    """

    instructions: tuple[Instruction, ...]
    ranked: tuple[RankedPrompt, ...]
    held_out: tuple[RankedPrompt, ...]
    dropped: tuple[Overlap, ...]
    near_duplicates: tuple[Overlap, ...]


def take_at_most(
    rows: Sequence[Item], limit: int | None, *, key: Callable[[Item], str], seed: int
) -> list[Item]:
    """At most `limit` rows, chosen by a hash of their key, in the order that they had."""
    if limit is None or len(rows) <= limit:
        return list(rows)
    staying = set(sorted(range(len(rows)), key=lambda index: content_key([seed, key(rows[index])]))[:limit])
    return [row for index, row in enumerate(rows) if index in staying]


def divide_trees(
    trees: Sequence[Tree], *, ranked_share: float, seed: int
) -> tuple[list[Instruction], list[RankedPrompt]]:
    """Instructions and ranked prompts from one file of trees, no prompt in both.

    `ranked_share` of the prompts that have ranked answers become ranked prompts; those that are not chosen, and those
    with one answer only, become instructions.
    """
    eligible = [tree for tree in trees if tree.has_order]
    chosen = _choose_groups(eligible, _part(ranked_share, len(eligible)), seed, _tree_identity)
    identities = {_tree_identity(tree) for tree in chosen}
    instructions = [
        tree.instruction() for tree in trees if tree.has_best and _tree_identity(tree) not in identities
    ]
    return instructions, [tree.ranked() for tree in chosen]


def split_ranked(
    prompts: Sequence[RankedPrompt], *, held_out: float | int, seed: int
) -> tuple[list[RankedPrompt], list[RankedPrompt]]:
    """(EFT, held-out) prompts. Rows with the same prompt go to the same side.

    Args:
        prompts: ranked prompts, not judged yet.
        held_out: a share below 1 (float) or a number of prompts (int). A share holds out at least one prompt and leaves
            at least one, where there are two.
        seed: the run's seed.
    """
    wanted = held_out if isinstance(held_out, int) else _part(held_out, len(prompts))
    chosen = _choose_groups(prompts, wanted, seed, lambda prompt: prompt.prompt_identity)
    identities = {prompt.prompt_identity for prompt in chosen}
    return [prompt for prompt in prompts if prompt.prompt_identity not in identities], chosen


def separate(
    instructions: Sequence[Instruction],
    ranked: Sequence[RankedPrompt],
    held_out: Sequence[RankedPrompt],
    *,
    threshold: float = NEAR_DUPLICATE,
) -> SeedSplit:
    """Take prompts that stand in two sets out of the less protected one, and report near-duplicates.

    A held-out prompt that is also trained on would flatter the judge; a ranked prompt that is also an instruction would
    have the judge grade answers that it learnt by heart (the paper's sets do not overlap).
    """
    owners: dict[str, tuple[SetName, str]] = {}
    dropped: list[Overlap] = []
    for prompt in held_out:
        owners.setdefault(prompt.prompt_identity, ("heldOut", prompt.id))
    kept_ranked = _unowned(ranked, "ranked", owners, dropped)
    for prompt in kept_ranked:
        owners.setdefault(prompt.prompt_identity, ("ranked", prompt.id))
    kept_instructions = _unowned(instructions, "instructions", owners, dropped)
    near = near_duplicates(
        [
            *(("heldOut", prompt.id, prompt.prompt) for prompt in held_out),
            *(("ranked", prompt.id, prompt.prompt) for prompt in kept_ranked),
            *(("instructions", row.id, row.prompt) for row in kept_instructions),
        ],
        threshold=threshold,
    )
    return SeedSplit(
        tuple(kept_instructions), tuple(kept_ranked), tuple(held_out), tuple(dropped), tuple(near)
    )


Source = TypeVar("Source", Instruction, RankedPrompt)


def _unowned(
    rows: Sequence[Source],
    name: SetName,
    owners: dict[str, tuple[SetName, str]],
    dropped: list[Overlap],
) -> list[Source]:
    kept = []
    for row in rows:
        owner = owners.get(row.prompt_identity)
        if owner is None:
            kept.append(row)
        else:
            dropped.append(Overlap((name, row.id), owner, None))
    return kept


def near_duplicates(
    prompts: Iterable[tuple[SetName, str, tuple[Message, ...]]], *, threshold: float = NEAR_DUPLICATE
) -> list[Overlap]:
    """For each prompt the most similar one of an earlier set, where its ROUGE-L F1 is above the threshold."""
    from selfrewarding.data.rouge import RougeIndex

    index = RougeIndex("Any")
    places: list[tuple[SetName, str]] = []
    found: list[Overlap] = []
    pending: list[tuple[SetName, str, str | list[int]]] = []

    def compare() -> None:
        nearest = index.nearest([encoded for _, _, encoded in pending])
        for (name, identifier, _), best in zip(pending, nearest, strict=True):
            if best.index is not None and best.f1 > threshold:
                found.append(Overlap((name, identifier), places[best.index], best.f1))
        for name, identifier, encoded in pending:
            index.add(encoded)
            places.append((name, identifier))
        pending.clear()

    current: SetName | None = None
    for name, identifier, prompt in prompts:
        if name != current:
            compare()
            current = name
        pending.append((name, identifier, index.encode(conversation_text(prompt))))
    compare()
    return found


def _part(share: float, count: int) -> int:
    """A share of so many, at least one and not all, where there are two."""
    return min(max(round(share * count), 1), count - 1) if count > 1 else 0


def _choose_groups(
    items: Sequence[Item], wanted: int, seed: int, identity: Callable[[Item], str]
) -> list[Item]:
    """The first `wanted` items by the hash of their identity, whole groups only, in the order that they had."""
    order = sorted(range(len(items)), key=lambda index: (content_key([seed, identity(items[index])]), index))
    groups: dict[str, list[int]] = {}
    for index in order:
        groups.setdefault(identity(items[index]), []).append(index)
    chosen: set[int] = set()
    for members in groups.values():
        if len(chosen) + len(members) > wanted:
            continue
        chosen.update(members)
    return [item for index, item in enumerate(items) if index in chosen]


def _tree_identity(tree: Tree) -> str:
    return prompt_identity(tree.prompt)
