"""The answers of one model of a run to one set of prompts.

Neighbours: Evaluate wrote them (`contract.artifacts.ANSWERS`); `alpaca_eval` and `mt_bench` translate them.
"""

import re
from dataclasses import dataclass
from typing import Any

from selfrewarding.contract.artifacts import ANSWERS
from selfrewarding.contract.program import ParentMissing
from selfrewarding.contract.stages import StageKind
from selfrewarding.store.models import makes_model
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.store.results import read_jsonl
from selfrewarding.store.run_results import BASELINE, RunResults, Stored, model_name

CUT = "length"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class NothingToExport(Exception):
    """The run has no such model or set; the text says what it has and what to do."""


@dataclass(frozen=True, slots=True)
class ModelAnswers:
    """Answers as they stand in the artifact, with who gave them and how.

    Attributes:
        model: M2, Baseline, …
        generator: name for leaderboards and file names: run and model.
        set: name of the set of prompts.
        rows: {"key", "set", "id", "category"?, "turns", "answers"}.
        sampling: model, temperature, topP, maxTokens.
        finished: when Evaluate was done (RFC 3339), if it says.
    """

    model: str
    generator: str
    set: str
    rows: list[dict[str, Any]]
    sampling: dict[str, Any]
    finished: str | None

    @property
    def cut(self) -> int:
        """Answers that were cut by length."""
        return sum(answer["finishReason"] == CUT for row in self.rows for answer in row["answers"])

    @property
    def empty(self) -> int:
        """Answers without text."""
        return sum(not answer["text"].strip() for row in self.rows for answer in row["answers"])


def generator_name(results: RunResults, model: str) -> str:
    """`<run>-<model>`, of characters that file names and tables take."""
    return _UNSAFE.sub("-", f"{results.run.name}-{model}")


def trained_models(results: RunResults) -> dict[str, Stored]:
    """The models that the run has made, by name, in order."""
    made = [one for one in results.stages if makes_model(one.result) and results.counts(one.result)]
    return {model_name(one.result): one for one in made}


def model_answers(
    store: ArtifactStore, results: RunResults, *, model: str | None = None, prompts: str | None = None
) -> ModelAnswers:
    """The answers of a model (absent: the newest that has any) to a set (absent: the one that there is).

    Raises NothingToExport, ParentMissing if they are gone, StoreError.
    """
    measured = _measured(results)
    name = model if model is not None else next(reversed(measured), BASELINE)
    if name not in measured:
        known = ", ".join(measured) or "none"
        raise NothingToExport(
            f"the run {results.run.namespace}/{results.run.name} has no answers of {name} (it has those of: {known}): models "
            "answer prompts where the spec names some in evaluation.prompts or has evaluation.headToHead"
        )
    result = measured[name].result
    try:
        rows = list(read_jsonl(store, result, ANSWERS))
    except ParentMissing as error:
        raise NothingToExport(f"{error}: the answers of {name} were taken away from the store") from error
    sets = list(dict.fromkeys(str(row["set"]) for row in rows))
    if prompts is None and len(sets) != 1:
        raise NothingToExport(
            f"{name} answered several sets ({', '.join(sets)}): say which one with --set NAME"
        )
    chosen = prompts if prompts is not None else sets[0]
    if chosen not in sets:
        raise NothingToExport(f"{name} answered no set {chosen!r} (it answered: {', '.join(sets) or 'none'})")
    report = result.report.get("answers")
    sampling = report.get("sampling") if isinstance(report, dict) else None
    return ModelAnswers(
        model=name,
        generator=generator_name(results, name),
        set=chosen,
        rows=[row for row in rows if row["set"] == chosen],
        sampling=dict(sampling) if isinstance(sampling, dict) else {},
        finished=result.finished,
    )


def _measured(results: RunResults) -> dict[str, Stored]:
    """Evaluates with answers by the model that they measured, in the order of the models."""
    evaluates = [one for one in results.of(StageKind.EVALUATE) if ANSWERS in one.result.files]
    return {
        name: one
        for name, trained in trained_models(results).items()
        for one in evaluates
        if one.result.parents.get("model") == trained.digest
    }
