"""The seed sets of a run, from the files that `seedData` names to rows that no two sets share.

Purpose: read each source through its store, take at most `maxRows`, split ranked prompts by prompt before any judging
(number rule 1), and say by file and line which rows two sets share.
Must not: tokenise; drop a row without counting it. Neighbours: `data.seed_formats` and `data.seed_split` decide row by
row; `prepare` writes the result.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from selfrewarding.api.algorithm import JudgeSpec
from selfrewarding.api.data import DataSource, SeedDataSpec
from selfrewarding.contract.keys import canonical_json
from selfrewarding.data.contained_prompts import PromptFinder
from selfrewarding.data.errors import DataError, shown
from selfrewarding.data.jsonl import Row, read_stream
from selfrewarding.data.judge_prompt import JudgePrompt, conversation_text
from selfrewarding.data.openassistant import Tree, read_trees
from selfrewarding.data.rank_conflicts import rank_conflicts
from selfrewarding.data.rows import prompt_identity
from selfrewarding.data.seed_formats import read_evaluations, read_instructions, read_ranked
from selfrewarding.data.seed_rows import Evaluation, Instruction, RankedPrompt
from selfrewarding.data.seed_split import Overlap, divide_trees, separate, split_ranked, take_at_most
from selfrewarding.store.errors import NotFound
from selfrewarding.store.locate import open_store
from srr_sampler.model_checks import DATA_DIGEST_DIGITS
from srr_sampler.problems import Problems

_MOST_LISTED = 50
"""Rows that a report lists of each kind; their number is told in full."""


@dataclass
class SourceRows:
    """A file of seed rows, read from its store; remembers on which line each row stood."""

    source: DataSource
    spec_field: str
    lines: dict[str, int] = field(default_factory=dict)
    """Line by the id that the row has, or would get."""

    def rows(self) -> Iterator[Row]:
        """The rows. Raises DataError for a missing file or a defective line, StoreError."""
        folder, _, name = self.source.uri.rpartition("/")
        try:
            stream = open_store(folder).read_stream(name)
        except NotFound as error:
            raise DataError(
                file=self.source.uri,
                found=f"no such file ({str(error).rstrip('.')})",
                expected="a file of JSON lines",
                remedy=f"Correct {self.spec_field}.uri, or put the file there.",
            ) from None
        with stream:
            for row in read_stream(stream, self.source.uri):
                value = row.value.get("message_tree_id") or row.value.get("id")
                self.lines[f"line-{row.line}" if value is None else str(value)] = row.line
                yield row

    def place(self, identifier: str) -> str:
        """`uri:line` of a row."""
        return f"{self.source.uri}:{self.lines.get(identifier, '?')}"


@dataclass(frozen=True)
class SeedSets:
    """What a run starts from; no prompt is in two sets of which one measures or trains the judge."""

    instructions: tuple[Instruction, ...]
    ranked: tuple[RankedPrompt, ...]
    held_out: tuple[RankedPrompt, ...]
    evaluations: tuple[Evaluation, ...]
    report: dict[str, Any]
    """Rows read, kept and left out by reason and source; overlaps; near duplicates."""
    places: dict[str, SourceRows]
    """Source by set: instructions, ranked, heldOut, evaluations."""


class _Reader:
    """Reads the sources of one spec; each that cannot be read becomes a problem."""

    def __init__(self, spec: SeedDataSpec, judge: JudgeSpec, prompt: JudgePrompt, seed: int) -> None:
        self._spec, self._judge, self._prompt, self._seed = spec, judge, prompt, seed
        self.report: dict[str, Any] = {}
        self.places: dict[str, SourceRows] = {}

    def open(self, name: str, source: DataSource, where: str) -> SourceRows:
        self.places[name] = SourceRows(source, where)
        return self.places[name]

    def instructions(self) -> list[Instruction]:
        opened = self.open("instructions", self._spec.instructions, "seedData.instructions")
        source = opened.source
        found = read_instructions(opened.rows(), source.format, language=source.language, source=source.uri)
        self.report["instructions"] = found.as_json()
        return take_at_most(found.rows, source.max_rows, key=lambda row: row.key, seed=self._seed)

    def divided(self) -> tuple[list[Instruction], list[RankedPrompt]]:
        """Instructions and ranked prompts from the same trees, other prompts."""
        opened = self.open("instructions", self._spec.instructions, "seedData.instructions")
        self.places["ranked"] = self.places["heldOut"] = opened
        source = opened.source
        trees = read_trees(opened.rows(), language=source.language, source=source.uri)
        self.report["trees"] = {
            "read": trees.read,
            "kept": len(trees.rows),
            "skipped": dict(sorted(trees.skipped.items())),
        }
        chosen: list[Tree] = take_at_most(
            trees.rows, source.max_rows, key=lambda tree: prompt_identity(tree.prompt), seed=self._seed
        )
        return divide_trees(chosen, ranked_share=self._spec.ranked_share, seed=self._seed)

    def ranked(self, name: str, source: DataSource, where: str) -> list[RankedPrompt]:
        opened = self.open(name, source, where)
        found = read_ranked(opened.rows(), source.format, language=source.language, source=source.uri)
        self.report[name] = found.as_json()
        return take_at_most(found.rows, source.max_rows, key=lambda row: row.key, seed=self._seed)

    def evaluations(self, source: DataSource) -> list[Evaluation]:
        opened = self.open("evaluations", source, "seedData.evaluations")
        if source.format != "Evaluations":
            raise DataError(
                file=source.uri,
                field="format",
                found=source.format,
                expected="Evaluations",
                remedy="Set seedData.evaluations.format to Evaluations: rows with prompt, response and judgement.",
            )
        scores = self._judge.scores
        found = read_evaluations(
            opened.rows(),
            self._prompt,
            minimum=scores.minimum,
            maximum=scores.maximum,
            decimals=scores.decimals,
            language=source.language,
            source=source.uri,
        )
        self.report["evaluations"] = found.as_json()
        return take_at_most(found.rows, source.max_rows, key=lambda row: row.key, seed=self._seed)


def read_seed_sets(
    spec: SeedDataSpec, judge: JudgeSpec, prompt: JudgePrompt, *, seed: int, problems: Problems
) -> SeedSets | None:
    """Read and split all sources. Each defective one is added to `problems`; then there are no sets (None).

    Raises StoreError if a store does not answer.
    """
    reader = _Reader(spec, judge, prompt, seed)
    instructions: list[Instruction] | None = None
    ranked: list[RankedPrompt] | None = None
    own_held_out: list[RankedPrompt] | None = None
    evaluations: list[Evaluation] | None = None
    from_trees = spec.ranked is None and spec.instructions.format == "OpenAssistant"
    with problems.collecting():
        if from_trees:
            instructions, ranked = reader.divided()
        else:
            instructions = reader.instructions()
    with problems.collecting():
        if spec.ranked is not None:
            ranked = reader.ranked("ranked", spec.ranked, "seedData.ranked")
        elif not from_trees:
            ranked = []
    with problems.collecting():
        source = spec.held_out.source
        own_held_out = reader.ranked("heldOut", source, "seedData.heldOut.source") if source else []
    with problems.collecting():
        evaluations = reader.evaluations(spec.evaluations) if spec.evaluations else []
    if instructions is None or ranked is None or own_held_out is None or evaluations is None:
        return None
    with problems.collecting():
        _refuse_rank_conflicts(reader.places, ranked, own_held_out)
    held_out = own_held_out
    if spec.held_out.source is None:
        reader.places.setdefault("heldOut", reader.places.get("ranked", reader.places["instructions"]))
        ranked, held_out = split_ranked(ranked, held_out=spec.held_out.share, seed=seed)
    else:
        with problems.collecting():
            _refuse_shared(reader.places, held_out, instructions, ranked, evaluations)
    return _separated(reader, instructions, ranked, held_out, evaluations)


def set_digest(keys: Sequence[str]) -> str:
    """Digest of a set by its rows' keys (each a SHA-256 of the row's content), whatever their order; 12 hex digits.

    Ids are not in it: they say where a row came from, not what it says.
    """
    return hashlib.sha256(canonical_json(sorted(keys))).hexdigest()[:DATA_DIGEST_DIGITS]


def _refuse_shared(
    places: dict[str, SourceRows],
    held_out: Sequence[RankedPrompt],
    instructions: Sequence[Instruction],
    ranked: Sequence[RankedPrompt],
    evaluations: Sequence[Evaluation],
) -> None:
    """A held-out file of one's own may hold no prompt that is trained on: the judge's accuracy would be flattered."""
    owners = {row.prompt_identity: places["heldOut"].place(row.id) for row in held_out}
    measuring = PromptFinder(conversation_text(row.prompt) for row in held_out)
    trained = [("instructions", row.id, row.prompt) for row in instructions]
    trained += [("ranked", row.id, row.prompt) for row in ranked]
    trained += [("evaluations", row.id, row.prompt) for row in evaluations if row.prompt]
    shared = [
        (owners[identity], places[name].place(identifier), prompt)
        for name, identifier, prompt in trained
        if (identity := prompt_identity(prompt)) in owners
    ]
    shared += [
        (
            places["heldOut"].place(held_out[number].id),
            places["evaluations"].place(row.id),
            held_out[number].prompt,
        )
        for row in evaluations
        if row.prompt is None and (number := measuring.find(row.judge_turn)) is not None
    ]
    if not shared:
        return
    held_out_place, other, prompt = shared[0]
    file, _, line = held_out_place.rpartition(":")
    more = f" ({len(shared)} such rows in all)" if len(shared) > 1 else ""
    raise DataError(
        file=file,
        line=int(line) if line.isdigit() else None,
        field="prompt",
        found=f"the prompt {shown(conversation_text(prompt))}, which is also trained on in {other}{more}",
        expected="held-out prompts that no other seed set holds",
        remedy="Delete one of the two rows: what is trained on cannot measure the judge.",
    )


def _refuse_rank_conflicts(
    places: dict[str, SourceRows], ranked: Sequence[RankedPrompt], held_out: Sequence[RankedPrompt]
) -> None:
    """Two rows of a file that order the same answers in opposite ways: one is wrong, and nobody but people can say which."""
    for name, rows in (("ranked", ranked), ("heldOut", held_out)):
        conflicts = rank_conflicts(rows)
        if not conflicts:
            continue
        first = conflicts[0]
        file, _, line = places[name].place(first.second).rpartition(":")
        more = f" ({len(conflicts)} such rows in all)" if len(conflicts) > 1 else ""
        raise DataError(
            file=file,
            line=int(line) if line.isdigit() else None,
            field="responses",
            found=f"the answer {shown(first.worse)} ranked above {shown(first.better)}, which "
            f"{places[name].place(first.first)} ranks the other way round for the same prompt{more}",
            expected="rows with one prompt that do not contradict each other",
            remedy="Correct the ranks or delete one of the two rows.",
        )


def _separated(
    reader: _Reader,
    instructions: Sequence[Instruction],
    ranked: Sequence[RankedPrompt],
    held_out: Sequence[RankedPrompt],
    evaluations: Sequence[Evaluation],
) -> SeedSets:
    split = separate(instructions, ranked, held_out)
    measured = {row.prompt_identity for row in split.held_out}
    measuring = PromptFinder(conversation_text(row.prompt) for row in split.held_out)
    clean = [
        row
        for row in evaluations
        if (
            prompt_identity(row.prompt) not in measured
            if row.prompt is not None
            else measuring.find(row.judge_turn) is None
        )
    ]
    report = reader.report | {
        "sharedPrompts": {
            "dropped": len(split.dropped),
            "rows": [_overlap(reader.places, overlap) for overlap in split.dropped[:_MOST_LISTED]],
        },
        "nearDuplicates": {
            "found": len(split.near_duplicates),
            "rows": [_overlap(reader.places, overlap) for overlap in split.near_duplicates[:_MOST_LISTED]],
        },
        "evaluationsOnHeldOutPrompts": len(evaluations) - len(clean),
    }
    return SeedSets(
        instructions=tuple(sorted(split.instructions, key=lambda row: row.key)),
        ranked=tuple(sorted(split.ranked, key=lambda row: row.key)),
        held_out=tuple(sorted(split.held_out, key=lambda row: row.key)),
        evaluations=tuple(sorted(clean, key=lambda row: row.key)),
        report=report,
        places=reader.places,
    )


def _overlap(places: dict[str, SourceRows], overlap: Overlap) -> dict[str, Any]:
    (first, first_id), (second, second_id) = overlap.first, overlap.second
    return {
        "first": {"set": first, "id": first_id, "place": places[first].place(first_id)},
        "second": {"set": second, "id": second_id, "place": places[second].place(second_id)},
        "rougeL": None if overlap.rouge_l is None else round(overlap.rouge_l, 3),
    }
