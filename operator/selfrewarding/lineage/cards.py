"""Model cards of a run: what a model was made of, how it measures, and the exact manifest that makes it again.

Purpose: one Markdown text for each model, with a header as the Hugging Face hub reads it. Unlike the card in the model's own
folder, which is written when training ends, it knows what was measured afterwards, and what the gate decided.
Must not: hold a text that a model wrote, an address with credentials, or a local path beyond those of the manifest.
Neighbours: `srr_trainer.card` writes the folder's own; the Report stage puts these into `runs/…/cards/`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from selfrewarding.api.run import ModelStatus
from selfrewarding.contract.artifacts import METRICS
from selfrewarding.contract.config import RunRef, Story
from selfrewarding.contract.program import ParentMissing
from selfrewarding.contract.redaction import without_user_info
from selfrewarding.contract.result import StageResult, result_bytes, result_digest
from selfrewarding.contract.stages import TRAINING, StageKind
from selfrewarding.data.intervals import Interval, bounds, intervals_of, is_number, mapping
from selfrewarding.lineage.facts import ModelFacts, model_of, prepare_of, section
from selfrewarding.store.errors import StoreError
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.store.results import read_file
from selfrewarding.store.run_results import RunResults, Stored

_MADE_BY = {
    StageKind.TRAIN_BASELINE: "supervised fine-tuning on instructions (IFT) only",
    StageKind.SUPERVISED_FINE_TUNE: "supervised fine-tuning on instructions and evaluations (IFT and EFT)",
    StageKind.PREFERENCE_OPTIMIZE: "training on answers that the model before it judged (DPO, or the best of them alone)",
    StageKind.SELECT: "training on answers that the model before it judged (DPO), and chosen by pairwise comparison among the "
    "models that this training saved on its way",
}


@dataclass(frozen=True, slots=True)
class _Number:
    """A row of the table."""

    name: str
    value: float
    interval: Interval | None
    stage: str


def model_cards(
    store: ArtifactStore, run: RunRef, results: Iterable[StageResult], story: Story, manifest: str
) -> dict[str, str]:
    """The cards of all models that `results` (the run's finished stages) have made, by the models' names.

    `manifest` is the run's file as a person would apply it. A metrics file that cannot be read takes the intervals with it
    and nothing else.
    """
    stored = RunResults(run, tuple(Stored(result, result_digest(result_bytes(result))) for result in results))
    known = {model.name: model for model in story.models}
    cards = {}
    for one in stored.stages:
        facts = model_of(stored, one)
        if facts is not None:
            lineage = _lineage(stored, one)
            lines = [
                *_header(one.result),
                *_identity(run, story, facts, lineage, known.get(facts.name)),
                *_metrics(_numbers(store, stored, one)),
                *_data(_prepare(lineage)),
                *_stages(lineage),
                *("", "## Manifest", "", "```yaml", manifest.rstrip("\n"), "```", ""),
            ]
            cards[facts.name] = without_user_info("\n".join(lines))
    return cards


def _header(trained: StageResult) -> list[str]:
    dpo = trained.kind in {StageKind.PREFERENCE_OPTIMIZE, StageKind.SELECT}
    header = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["self-rewarding", "trl", "dpo" if dpo else "sft"],
    }
    return ["---", *(f"{name}: {json.dumps(value)}" for name, value in header.items()), "---", ""]


def _identity(
    run: RunRef, story: Story, facts: ModelFacts, lineage: Sequence[Stored], status: ModelStatus | None
) -> list[str]:
    prepare, kind = _prepare(lineage), StageKind(facts.stage.kind)
    m0 = section(prepare, "model") if prepare else {}
    files = ", ".join(f"{name} `{sha}`" for name, sha in facts.files.items()) or "no files"
    lines = [
        f"# {facts.name} of {run.namespace}/{run.name}",
        "",
        f"Made by {_MADE_BY[kind]}, iteration {facts.stage.iteration} of Self-Rewarding Language Models (arXiv 2401.10020).",
        "",
        f"- M0: {m0.get('origin') or m0.get('uri') or 'unknown'}",
        *(
            f"- fixed {role}: {one['uri']}{f' (digest `{digest}`)' if (digest := one.get('digest')) else ''}"
            for role, one in (section(prepare, "fixedModels") if prepare else {}).items()
        ),
        f"- run: `{run.uid}`, seed {story.spec.seed}, contract {facts.stage.contract}",
        f"- weights: `{facts.weights}` ({files})",
    ]
    if status is not None and status.gate is not None:
        lines.append(f"- gate: {status.gate}{f' ({status.gate_message})' if status.gate_message else ''}")
    return lines


def _prepare(lineage: Sequence[Stored]) -> StageResult | None:
    return next((one.result for one in lineage if one.result.kind is StageKind.PREPARE), None)


def _metrics(numbers: Iterable[_Number]) -> list[str]:
    rows = [(one.name, f"{one.value:.4g}", _interval(one.interval), one.stage) for one in numbers]
    return ["", "## Metrics", "", *_table(("metric", "value", "95 % interval", "measured by"), rows)]


def _data(prepare: StageResult | None) -> list[str]:
    counts = prepare.counts if prepare else {}
    rows = [
        (name, f"`{value}`", f"{counts[name]:,}" if name in counts else "–")
        for name, value in sorted(prepare.data.items() if prepare else ())
    ]
    return ["", "## Data", "", *_table(("set", "digest", "rows"), rows)]


def _stages(lineage: Sequence[Stored]) -> list[str]:
    lines = ["", "## Made from", ""]
    return lines + _table(
        ("stage", "iteration", "key", "result", "code", "finished"),
        [
            (
                one.result.kind.value,
                str(one.result.iteration),
                f"`{one.result.key}`",
                f"`{one.digest}`",
                one.result.code or "–",
                one.result.finished or "–",
            )
            for one in lineage
        ],
    )


def _lineage(results: RunResults, trained: Stored) -> list[Stored]:
    """The stages that the model depends on, itself included, in the order of the run."""
    stored, prepare = results.stages, prepare_of(results, trained)
    wanted = {one.digest for one in (trained, prepare) if one is not None}
    grown = True
    while grown:
        before = len(wanted)
        for one in stored:
            if one.digest in wanted:
                wanted.update(one.result.parents.values())
        grown = len(wanted) > before
    return [one for one in stored if one.digest in wanted]


def _numbers(store: ArtifactStore, results: RunResults, trained: Stored) -> Iterator[_Number]:
    """Training's own numbers, those of the rows it learned from, and what was measured of the model afterwards."""
    measured = [one for one in results.stages if _measures(one, trained, results)]
    own = [one for one in _lineage(results, trained) if _is_own(one.result, trained.result)]
    for one in (*own, *measured):
        result = one.result
        document = _document(store, result)
        stage = f"{result.kind.value} {result.iteration}"
        intervals = intervals_of(result)
        for name, value in sorted(result.metrics.items()):
            yield _Number(name, value, intervals.get(name), stage)
        for opponent, raw in mapping(document.get("opponents")).items():
            yield from _against(opponent, mapping(raw), stage)


def _against(opponent: str, found: Mapping[str, Any], stage: str) -> Iterator[_Number]:
    intervals = mapping(found.get("intervals"))
    for name in ("win_rate", "length_controlled_win_rate"):
        value = found.get(name)
        if is_number(value):
            label = f"{name.replace('_', ' ')} against {opponent}"
            yield _Number(label, value / 100, bounds(intervals.get(name), 100.0), stage)


def _is_own(result: StageResult, trained: StageResult) -> bool:
    return result.iteration == trained.iteration and (
        result.kind not in TRAINING or result.key == trained.key or trained.kind is StageKind.SELECT
    )


def _measures(one: Stored, trained: Stored, results: RunResults) -> bool:
    """Whether a stage measures this model: its Evaluate, and the Compare of that one's answers."""
    if one.result.kind is StageKind.EVALUATE:
        return one.result.parents.get("model") == trained.digest
    if one.result.kind is StageKind.COMPARE:
        answers = results.parent(one.result, "answers")
        return answers is not None and _measures(answers, trained, results)
    return False


def _document(store: ArtifactStore, result: StageResult) -> Mapping[str, Any]:
    if METRICS in result.files:
        with suppress(ParentMissing, StoreError, ValueError):
            return mapping(json.loads(read_file(store, result, METRICS)))
    return {}


def _interval(found: Interval | None) -> str:
    return "–" if found is None else f"{found[0]:.4g} to {found[1]:.4g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *map(line, rows)]
