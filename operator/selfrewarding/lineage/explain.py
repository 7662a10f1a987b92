"""The story of one row: a preference pair, from the seed prompts of its prompt to the stage that trains on it; or another.

Purpose: every text, seed, setting and digest that led to a pair, in one value; it reads the pair's own rows and no others
(`store.row_index`), so a run with 100,000 pairs answers as quickly as one with ten.
Must not: print; decide anything anew: which answer was chosen, and by what means, is read from the pair.
Neighbours: `measured` knows the rows that measured models; `cli.explain` shows both; `store.run_results` finds the stages.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from selfrewarding.contract.artifacts import (
    EVIDENCE,
    INSTRUCTIONS,
    PAIRS,
    PAIRS_INDEX,
    POSITIVES,
    PROMPTS,
    PROMPTS_INDEX,
    ROLLOUT,
    ROLLOUT_INDEX,
)
from selfrewarding.contract.stages import StageKind
from selfrewarding.lineage.facts import (
    ModelFacts,
    StageFacts,
    model_of,
    prepare_of,
    section,
    stage_facts,
)
from selfrewarding.lineage.measured import MeasuredStory, measured_rows
from selfrewarding.lineage.rows import matching
from selfrewarding.store.errors import NotFound
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.store.row_index import find_rows
from selfrewarding.store.run_results import RunResults, Stored

Row = dict[str, Any]
Found = TypeVar("Found")
_ROLLOUT, _PROMPTS = (ROLLOUT, ROLLOUT_INDEX), (PROMPTS, PROMPTS_INDEX)
"""Files and their indices."""


class UnknownPair(Exception):
    """No row, or more than one, has this key; the text says what there is and what to do."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """An example in the few-shot prompt that gave a prompt."""

    key: str
    origin: str
    """`seed`: a row of the instructions; `generated`: an earlier new prompt; `gone`: it is not in the store any more."""
    id: str | None
    text: str | None


@dataclass(frozen=True, kw_only=True)
class PairStory:
    """All that led to a pair. Rows are as the stages wrote them (see `contract.artifacts`)."""

    key: str
    iteration: int
    kind: str
    """`pair`; `positive` for an example of the rule PositiveOnly; `prompt` for one that gave no pair, or several."""
    row: Row | None
    """The pair: chosen, rejected, scores, provenance; None for a prompt."""
    pairs: tuple[str, ...]
    """For a prompt: keys of its pairs."""
    prompt: Row | None
    """The prompt's row of GeneratePrompts: request, seed, keys of the examples."""
    shots: list[Shot]
    answers: list[Row]
    """All answers to the prompt with their seeds and judgements, texts included."""
    sampling: dict[str, Row] = field(default_factory=dict)
    """Who wrote the prompt, answered and judged, with which settings."""
    models: dict[str, ModelFacts] = field(default_factory=dict)
    """Models by what they did: writes, answers; trained is the one that learned from the pair."""
    stages: list[StageFacts] = field(default_factory=list)
    data: dict[str, str] = field(default_factory=dict)
    """Digests of the seed sets and of M0."""
    m0: Row = field(default_factory=dict)
    """M0: address and where it came from."""
    fixed: dict[str, Row] = field(default_factory=dict)
    """Models that the run does not train, by role (judge, writer, referee): uri, and digest where it lies in a store."""
    missing: list[str] = field(default_factory=list)
    """What is not in the store any more, in words."""

    def as_json(self) -> Row:
        """The story as one JSON document."""
        return asdict(self)


def explain_row(store: ArtifactStore, results: RunResults, wanted: str) -> PairStory | MeasuredStory:
    """The story of the pair, the prompt or the row that measured models whose key is or begins with `wanted`: whatever
    alarms and the report name. Raises UnknownPair, StoreError."""
    if not wanted:
        raise UnknownPair("no key was given: give a pair's key or the beginning of it")
    hit = _find_pair(store, results, wanted) or _find_prompt(store, results, wanted)
    if hit is not None:
        return _pair_story(store, results, hit)
    measured = {one.key: one for one in measured_rows(store, results, wanted)}
    found = _one(results, wanted, measured, "held-out rows or comparisons")
    if found is None:
        raise UnknownPair(_unknown(results, wanted))
    return found


def _pair_story(store: ArtifactStore, results: RunResults, hit: "_Hit") -> PairStory:
    missing: list[str] = []
    stages = [one for one in (hit.preferences, hit.rollout, hit.prompts) if one is not None]
    rollout = hit.rollout or _read_by(results, hit.preferences, "rollout", stages, missing)
    prompts = hit.prompts or _read_by(results, rollout, "prompts", stages, missing)
    prepare = _read_by(results, rollout or prompts, "prepare", stages, missing)
    answered = _row(store, rollout, _ROLLOUT, hit.prompt, missing)
    prompt = _row(store, prompts, _PROMPTS, hit.prompt, missing)
    models = {
        "writes": _model(results, prompts, stages),
        "answers": _model(results, rollout, stages),
        "trained": _trained(results, hit, stages),
    }
    return PairStory(
        key=hit.key,
        iteration=stages[0].result.iteration,
        kind=hit.kind,
        row=hit.row,
        pairs=hit.pairs,
        prompt=prompt,
        shots=_shots(store, prompts, prepare, prompt, missing),
        answers=list(answered["responses"]) if answered else [],
        sampling=_sampling(prompts, rollout),
        models={name: model for name, model in models.items() if model is not None},
        stages=[stage_facts(one) for one in _in_order(results, stages)],
        data=dict(prepare.result.data) if prepare else {},
        m0=section(prepare.result, "model") if prepare else {},
        fixed=section(prepare.result, "fixedModels") if prepare else {},
        missing=missing,
    )


@dataclass(frozen=True, slots=True)
class _Hit:
    """What a key means: a pair, or a prompt that gave none or several."""

    key: str
    kind: str
    prompt: str
    row: Row | None = None
    preferences: Stored | None = None
    rollout: Stored | None = None
    prompts: Stored | None = None
    pairs: tuple[str, ...] = ()


def _find_pair(store: ArtifactStore, results: RunResults, wanted: str) -> _Hit | None:
    found: dict[str, _Hit] = {}
    for one in _superseded_first(results, StageKind.BUILD_PREFERENCES):
        for name, index, kind in ((PAIRS, PAIRS_INDEX, "pair"), (POSITIVES, "", "positive")):
            for hit in find_rows(store, one.result, name, index, wanted):
                key = str(hit.row["key"])
                found[key] = _Hit(key, kind, str(hit.row["id"]), hit.row, one)
    return _one(results, wanted, found, "pairs")


def _find_prompt(store: ArtifactStore, results: RunResults, wanted: str) -> _Hit | None:
    """The prompt of this key, as alarms name rows; its pair's story where it gave just one."""
    found: dict[str, _Hit] = {}
    for one in _superseded_first(results, StageKind.GENERATE_PROMPTS):
        for hit in find_rows(store, one.result, *_PROMPTS, wanted):
            key = str(hit.row["key"])
            found[key] = _Hit(key, "prompt", key, prompts=one)
    for one in _superseded_first(results, StageKind.ROLLOUT):
        for hit in find_rows(store, one.result, *_ROLLOUT, wanted):
            key = str(hit.row["key"])
            found[key] = _Hit(key, "prompt", key, rollout=one)
    hit_or_none = _one(results, wanted, found, "prompts")
    if hit_or_none is None or hit_or_none.rollout is None:
        return hit_or_none
    return _with_pairs(store, results, hit_or_none, hit_or_none.rollout)


def _with_pairs(store: ArtifactStore, results: RunResults, hit: _Hit, rollout: Stored) -> _Hit:
    made = list(results.children(rollout, StageKind.BUILD_PREFERENCES))
    if not made:
        return hit
    preferences = max(made, key=lambda one: results.counts(one.result))
    rows = [
        (row, kind)
        for name, kind in ((PAIRS, "pair"), (POSITIVES, "positive"))
        for row in matching(store, preferences, name, {hit.prompt}, field="id")
    ]
    if len(rows) == 1:
        ((row, kind),) = rows
        return _Hit(str(row["key"]), kind, hit.prompt, row, preferences)
    keys = tuple(str(row["key"]) for row, _ in rows)
    return _Hit(hit.key, "prompt", hit.prompt, None, preferences, rollout, None, keys)


def _superseded_first(results: RunResults, kind: StageKind) -> list[Stored]:
    """Stages that count now come last, and win where an older plan of the run made the same row."""
    return sorted(
        (one for one in results.stages if one.result.kind is kind), key=lambda one: results.counts(one.result)
    )


def _one(results: RunResults, wanted: str, found: dict[str, Found], what: str) -> Found | None:
    if wanted in found:
        return found[wanted]
    if len(found) > 1:
        raise UnknownPair(
            f"{wanted}: {len(found)} {what} of {results.run.namespace}/{results.run.name} or more begin so, for example "
            f"{', '.join(sorted(found)[:3])}: give more of its digits"
        )
    return next(iter(found.values()), None)


def _unknown(results: RunResults, wanted: str) -> str:
    made = _superseded_first(results, StageKind.BUILD_PREFERENCES)
    pairs = sum(one.result.counts.get("pairs", one.result.counts.get("positives", 0)) for one in made)
    return (
        f"{wanted}: no pair of {results.run.namespace}/{results.run.name} has this key; it has {pairs:,} pairs in "
        f"{len(made)} iterations, and no prompt, held-out row or comparison has it either. Keys stand in the field `key` of "
        f"{PAIRS} and {PROMPTS}, in the report, and in {EVIDENCE} of the stage that an alarm names; {len(wanted)} characters "
        "were looked for"
    )


def _trained(results: RunResults, hit: _Hit, stages: list[Stored]) -> ModelFacts | None:
    """The model that learned from the pair; nobody learned from a prompt without one."""
    if hit.preferences is None or (hit.row is None and not hit.pairs):
        return None
    trained = next(results.children(hit.preferences, StageKind.PREFERENCE_OPTIMIZE), None)
    if trained is None:
        return None
    stages.append(trained)
    chosen = next(results.children(trained, StageKind.SELECT), None)
    if chosen is not None:
        stages.append(chosen)
    return model_of(results, chosen or trained)


def _read_by(
    results: RunResults, child: Stored | None, role: str, stages: list[Stored], missing: list[str]
) -> Stored | None:
    if child is None:
        return None
    parent = prepare_of(results, child) if role == "prepare" else results.parent(child.result, role)
    if parent is None:
        missing.append(f"the {role} result that {child.result.kind} {child.result.iteration} read is gone")
        return None
    stages.append(parent)
    return parent


def _row(
    store: ArtifactStore, one: Stored | None, file: tuple[str, str], key: str, missing: list[str]
) -> Row | None:
    if one is None:
        return None
    try:
        found = find_rows(store, one.result, *file, key, limit=1)
    except NotFound:
        found = []
    if not found:
        missing.append(f"the row {key} of {one.result.kind} {one.result.iteration} is gone")
        return None
    return found[0].row


def _model(results: RunResults, child: Stored | None, stages: list[Stored]) -> ModelFacts | None:
    """The model that a stage asked; None where it asked a fixed one, or where its result is gone."""
    parent = results.parent(child.result, "model") if child else None
    if parent is None:
        return None
    stages.append(parent)
    return model_of(results, parent)


def _shots(
    store: ArtifactStore,
    prompts: Stored | None,
    prepare: Stored | None,
    prompt: Row | None,
    missing: list[str],
) -> list[Shot]:
    keys = [str(key) for key in prompt.get("shots", [])] if prompt else []
    if not keys:
        return []
    seeds: dict[str, Row] = {}
    if prepare is not None:
        try:
            seeds = {row["key"]: row for row in matching(store, prepare, INSTRUCTIONS, set(keys))}
        except NotFound:
            missing.append(f"{INSTRUCTIONS} of Prepare is gone")
    shots = []
    for key in keys:
        seed = seeds.get(key)
        earlier = _row(store, prompts, _PROMPTS, key, []) if seed is None else None
        row = seed or earlier or {}
        messages = row.get("messages") or row.get("prompt")
        shots.append(
            Shot(
                key=key,
                origin="seed" if seed else "generated" if earlier else "gone",
                id=row.get("id"),
                text=_first_user_turn(messages) if messages else None,
            )
        )
    return shots


def _first_user_turn(messages: list[dict[str, str]]) -> str:
    return next((message["content"] for message in messages if message["role"] == "user"), "")


def _sampling(prompts: Stored | None, rollout: Stored | None) -> dict[str, Row]:
    parts: Mapping[str, Row] = {
        "writes": section(prompts.result, "writer") if prompts else {},
        "answers": section(rollout.result, "responses") if rollout else {},
        "judges": section(rollout.result, "judge") if rollout else {},
    }
    return {name: part for name, part in parts.items() if part}


def _in_order(results: RunResults, stages: list[Stored]) -> list[Stored]:
    wanted = {one.digest for one in stages}
    return [one for one in results.stages if one.digest in wanted]
