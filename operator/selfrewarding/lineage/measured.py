"""The story of a row that measured models: a held-out answer's judgements, and comparisons of two models' answers.

Purpose: what alarms and the report name besides pairs and prompts (`judgeCorrelation`, Evaluate's `validRate`,
`positionBias`): every round that judged or compared the row, with texts, verdicts and who gave them.
Must not: print; score anew.
Neighbours: `explain` asks this where no pair and no prompt has the key; `cli.measured_story` shows it.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from selfrewarding.contract.artifacts import COMPARISONS, JUDGEMENTS
from selfrewarding.contract.stages import StageKind
from selfrewarding.lineage.facts import ModelFacts, StageFacts, model_of, section, stage_facts
from selfrewarding.lineage.rows import holding
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.store.run_results import RunResults, Stored

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class MeasuredRound:
    """What one Evaluate or Compare found of the row."""

    stage: StageFacts
    model: ModelFacts | None
    """The model that was measured; None where its result is gone."""
    judge: Row
    """Who judged, with which settings."""
    row: Row
    """Of `judgements.jsonl` or `comparisons.jsonl`, as the stage wrote it."""
    against: ModelFacts | None = None
    """Comparisons: whose answer the other one is."""


@dataclass(frozen=True, kw_only=True)
class MeasuredStory:
    """All rounds that measured with one row, in the order of the run."""

    key: str
    kind: str = "measured"
    judged: list[MeasuredRound]
    """The held-out row's judgements, Evaluate by Evaluate."""
    compared: list[MeasuredRound]
    """The prompt's comparisons, opponent by opponent."""

    def as_json(self) -> Row:
        """The story as one JSON document."""
        return asdict(self)


def measured_rows(store: ArtifactStore, results: RunResults, wanted: str) -> list[MeasuredStory]:
    """The stories of the rows whose key is or begins with `wanted`, a comparison's with or without its opponent
    (`previous/3f9c…`), by their keys. Raises StoreError."""
    judged = [
        (one, row)
        for one in results.of(StageKind.EVALUATE)
        for row in holding(store, one, JUDGEMENTS, wanted)
        if str(row["key"]).startswith(wanted)
    ]
    opponent, separator, prompt = wanted.rpartition("/")
    compared = [
        (one, row)
        for one in results.of(StageKind.COMPARE)
        for row in holding(store, one, COMPARISONS, wanted)
        if _prompt_key(row).startswith(prompt) and (not separator or row["opponent"] == opponent)
    ]
    keys = sorted({str(row["key"]) for _, row in judged} | {_prompt_key(row) for _, row in compared})
    return [
        MeasuredStory(
            key=f"{opponent}{separator}{key}",
            judged=_rounds(results, ((one, row) for one, row in judged if row["key"] == key)),
            compared=_rounds(results, ((one, row) for one, row in compared if _prompt_key(row) == key)),
        )
        for key in keys
    ]


def _prompt_key(comparison: Row) -> str:
    return str(comparison["key"]).removeprefix(f"{comparison['opponent']}/")


def _rounds(results: RunResults, found: Iterable[tuple[Stored, Row]]) -> list[MeasuredRound]:
    return [
        MeasuredRound(
            stage=stage_facts(one),
            model=_model(
                results, one if one.result.kind is StageKind.EVALUATE else _read(results, one, "answers")
            ),
            judge=section(one.result, "judge"),
            row=row,
            against=_model(results, _read(results, one, str(row["opponent"]))) if "opponent" in row else None,
        )
        for one, row in found
    ]


def _read(results: RunResults, one: Stored, role: str) -> Stored | None:
    return results.parent(one.result, role)


def _model(results: RunResults, evaluate: Stored | None) -> ModelFacts | None:
    """The model that an Evaluate measured."""
    trained = _read(results, evaluate, "model") if evaluate else None
    return model_of(results, trained) if trained else None
