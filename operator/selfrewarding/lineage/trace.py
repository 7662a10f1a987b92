"""All that came from one seed row, and what removing the row would compute again.

Purpose: from a row of the seed data to the prompts whose few-shot examples it was, their answers and pairs, the stages that
trained on it or measured with it; in one pass over each artifact.
Must not: print; plan: what follows from a changed set is read from what stages have read.
Neighbours: `cli.trace` shows it; `explain` tells the way back from a pair.
"""

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from selfrewarding.api.evaluation import HELD_OUT_SET
from selfrewarding.contract.artifacts import (
    EVALUATION_PROMPTS,
    EVALUATIONS,
    HELD_OUT,
    INSTRUCTIONS,
    PAIRS,
    POSITIVES,
    PROMPTS,
    RANKED,
    ROLLOUT,
)
from selfrewarding.contract.stages import TRAINING, StageKind
from selfrewarding.lineage.facts import StageFacts, prepare_of, stage_facts
from selfrewarding.lineage.rows import every, holding, matching
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.store.run_results import RunResults, Stored, model_name

Row = dict[str, Any]

SETS = {
    "instructions": INSTRUCTIONS,
    "ranked": RANKED,
    "heldOut": HELD_OUT,
    "evaluations": EVALUATIONS,
    "evaluationPrompts": EVALUATION_PROMPTS,
}
"""Seed sets by the names that Prepare's digests have, and their files."""

READERS: dict[str, frozenset[StageKind]] = {
    "instructions": frozenset(
        {StageKind.TRAIN_BASELINE, StageKind.SUPERVISED_FINE_TUNE, StageKind.GENERATE_PROMPTS}
    ),
    "ranked": frozenset({StageKind.BUILD_EVALUATIONS, StageKind.GENERATE_PROMPTS}),
    "heldOut": frozenset({StageKind.GENERATE_PROMPTS, StageKind.ANSWER, StageKind.EVALUATE}),
    "evaluations": frozenset({StageKind.SUPERVISED_FINE_TUNE}),
    "evaluationPrompts": frozenset({StageKind.GENERATE_PROMPTS, StageKind.ANSWER, StageKind.EVALUATE}),
}
"""Kinds of stages whose keys cover a set (`plan.graph`): another digest of the set is another stage. GeneratePrompts reads
all prompts, so that no new one comes close to them."""


class UnknownRow(Exception):
    """No seed row, or more than one, is meant; the text says what there is and what to do."""


@dataclass(frozen=True, kw_only=True)
class Offspring:
    """What one iteration made of a seed row that was an example in its few-shot prompts."""

    iteration: int
    prompts: list[Row]
    """New prompts that were written with the row before the writer's eyes: key, text, keys of their pairs."""
    indirect: int
    """Further prompts, whose examples were such prompts, or prompts that came from those."""
    answers: int
    """To the prompts listed."""
    judgements: int
    pairs: int
    """From the prompts listed."""
    trained: str | None
    """The model that learned from these pairs."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """All that came from a seed row."""

    key: str
    set: str
    """Which seed set has it, as Prepare's digests name it."""
    id: str | None
    row: Row
    examples: list[Row]
    """EFT examples that the judge made of it (ranked rows): key, score."""
    read_by: list[StageFacts]
    """Stages that read it as it is: to train on, to judge, to measure with, to keep new prompts away from."""
    trained: list[str]
    """Models that were trained on it or on what came from it, in the order of the run."""
    offspring: list[Offspring] = field(default_factory=list)
    recomputed: list[StageFacts] = field(default_factory=list)
    """Stages that removing the row would compute again: those that read its set and all that read their results."""

    def as_json(self) -> Row:
        """The trace as one JSON document."""
        return asdict(self)


def trace_row(
    store: ArtifactStore, results: RunResults, reference: str, *, among: Collection[str] = ()
) -> Trace:
    """Trace the seed row whose key is or begins with `reference`, or whose id it is, in one of the sets `among` (in any,
    where none is given: ids are unique in one file alone). Raises UnknownRow, StoreError."""
    prepare, name, row = _find(store, results, reference, among)
    key = str(row["key"])
    examples = _examples(store, results, key) if name == "ranked" else []
    offspring = _offspring(store, results, key) if name == "instructions" else []
    read_by = [
        one for one in results.stages if results.counts(one.result) and _reads(results, one, name, prepare)
    ]
    return Trace(
        key=key,
        set=name,
        id=row.get("id"),
        row=row,
        examples=examples,
        read_by=[stage_facts(one) for one in read_by],
        trained=_trained(results, read_by, offspring, examples),
        offspring=offspring,
        recomputed=[stage_facts(one) for one in following(results, prepare, name)],
    )


def following(results: RunResults, prepare: Stored, name: str) -> list[Stored]:
    """The current stages that depend on a seed set: its readers, and whatever reads results of these."""
    found: dict[str, Stored] = {}
    for one in results.stages:  # parents stand before their children
        if not results.counts(one.result):
            continue
        from_found = any(digest in found for role, digest in one.result.parents.items() if role != "prepare")
        if _reads(results, one, name, prepare) or from_found:
            found[one.digest] = one
    return list(found.values())


def _reads(results: RunResults, one: Stored, name: str, prepare: Stored) -> bool:
    """Whether a stage reads a set that this Prepare has, whichever Prepare wrote it for the stage. Own EFT rows stand in for
    those that a judge makes."""
    result = one.result
    if result.kind is StageKind.ANSWER and (name == "heldOut") != (result.report.get("set") == HELD_OUT_SET):
        return False  # candidates are compared on one set
    if result.kind not in READERS[name]:
        return False
    read = prepare_of(results, one)
    return read is not None and read.result.data.get(name) == prepare.result.data.get(name)


def _find(
    store: ArtifactStore, results: RunResults, reference: str, among: Collection[str]
) -> tuple[Stored, str, Row]:
    if not reference:
        raise UnknownRow(
            "no seed row was given: give a row's key or the beginning of it, its id, or FILE:LINE"
        )
    prepares = results.of(StageKind.PREPARE)
    if not prepares:
        raise UnknownRow(
            f"the run {results.run.namespace}/{results.run.name} has no finished Prepare: there are no rows to trace yet"
        )
    prepare = prepares[-1]
    found: dict[str, tuple[str, Row]] = {}
    for name, file in SETS.items():
        if among and name not in among:
            continue
        for row in holding(store, prepare, file, reference):
            key = str(row["key"])
            if key == reference or str(row.get("id")) == reference:
                found[key] = name, row
            elif key.startswith(reference):
                found.setdefault(key, (name, row))
    exact = {key: one for key, one in found.items() if reference in (key, str(one[1].get("id")))}
    chosen = exact if len(exact) == 1 else found
    if len(chosen) == 1:
        ((name, row),) = chosen.values()
        return prepare, name, row
    if chosen:
        listed = ", ".join(f"{key[:16]} ({name})" for key, (name, _) in sorted(chosen.items())[:5])
        raise UnknownRow(
            f"{reference}: {len(chosen)} seed rows are meant: {listed}: give the key of one of them"
        )
    counts = ", ".join(
        f"{prepare.result.counts.get(name, 0):,} {name}" for name in SETS if name in prepare.result.counts
    )
    raise UnknownRow(
        f"{reference}: no seed row of {results.run.namespace}/{results.run.name} has this key or id ({counts}). Give the "
        "field `key` (or its beginning) or `id` of a row as Prepare wrote it, or FILE:LINE of a seed file in JSON lines; "
        "rows that Prepare left out have no offspring"
    )


def _examples(store: ArtifactStore, results: RunResults, key: str) -> list[Row]:
    return [
        {"key": row["key"], "score": row.get("score")}
        for one in results.of(StageKind.BUILD_EVALUATIONS)
        for row in holding(store, one, EVALUATIONS, key)
        if row.get("provenance", {}).get("prompt") == key
    ]


def _offspring(store: ArtifactStore, results: RunResults, key: str) -> list[Offspring]:
    found = []
    for prompts in results.of(StageKind.GENERATE_PROMPTS):
        direct: dict[str, Row] = {}
        related: set[str] = set()
        # In the order in which they were accepted: an example was accepted before the prompts that show it.
        for row in every(store, prompts, PROMPTS):
            if key in row.get("shots", ()):
                text = row["prompt"][0]["content"]
                direct[row["key"]] = {"key": row["key"], "text": text, "pairs": []}
                related.add(row["key"])
            elif related.intersection(row.get("shots", ())):
                related.add(row["key"])
        if direct:
            found.append(_rolled_out(store, results, prompts, direct, len(related) - len(direct)))
    return found


def _rolled_out(
    store: ArtifactStore, results: RunResults, prompts: Stored, direct: dict[str, Row], indirect: int
) -> Offspring:
    answers = judgements = pairs = 0
    trained = None
    for rollout in _current(results, prompts, StageKind.ROLLOUT):
        for row in matching(store, rollout, ROLLOUT, direct):
            answers += len(row["responses"])
            judgements += sum(len(answer["judgements"]) for answer in row["responses"])
        for preferences in _current(results, rollout, StageKind.BUILD_PREFERENCES):
            for name in (PAIRS, POSITIVES):
                for row in matching(store, preferences, name, direct, field="id"):
                    direct[row["id"]]["pairs"].append(row["key"])
                    pairs += 1
            for optimize in _current(results, preferences, StageKind.PREFERENCE_OPTIMIZE):
                trained = model_name(optimize.result) if pairs else None
    return Offspring(
        iteration=prompts.result.iteration,
        prompts=list(direct.values()),
        indirect=indirect,
        answers=answers,
        judgements=judgements,
        pairs=pairs,
        trained=trained,
    )


def _current(results: RunResults, parent: Stored, kind: StageKind) -> Iterator[Stored]:
    return (one for one in results.children(parent, kind) if results.counts(one.result))


def _trained(
    results: RunResults, read_by: list[Stored], offspring: list[Offspring], examples: list[Row]
) -> list[str]:
    names = [model_name(one.result) for one in read_by if one.result.kind in TRAINING]
    if examples:
        names += [model_name(one.result) for one in results.of(StageKind.SUPERVISED_FINE_TUNE)]
    names += [one.trained for one in offspring if one.trained is not None]
    return list(dict.fromkeys(names))
