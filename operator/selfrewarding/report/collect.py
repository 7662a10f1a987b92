"""From a run's finished stages to its story.

Purpose: read what the stages left in the store; a result that is gone or damaged takes its own part from the page, which
then says so, and nothing else.
Must not: compute a metric anew; write anything; fail for a result. A store that does not answer is no missing result: its
StoreError passes through, and the report is tried again.
Neighbours: `sample` reads pairs, `measured` reads metrics, `timeline` puts stages in order; `page` shows the story.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfrewarding.api import labels
from selfrewarding.api.evaluation import HeadToHeadSpec
from selfrewarding.api.run import AlarmStatus
from selfrewarding.contract.artifacts import (
    COMPARISONS,
    EVIDENCE,
    JUDGEMENTS,
    METRICS,
    PAIRS,
    PAIRS_INDEX,
    PROMPTS,
    PROMPTS_INDEX,
)
from selfrewarding.contract.config import RunRef, StageRef, Story
from selfrewarding.contract.keys import short
from selfrewarding.contract.program import ParentMissing
from selfrewarding.contract.redaction import without_user_info
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.data.intervals import mapping
from selfrewarding.report.measured import comparisons, judge_quality, position_bias
from selfrewarding.report.sample import SAMPLE, Unreadable, rows_by_key, sampled_pairs
from selfrewarding.report.story import (
    AlarmStory,
    Evidence,
    IterationStory,
    JudgeQuality,
    Pairs,
    RunStory,
    ScoreCounts,
)
from selfrewarding.report.timeline import stage_name, timeline
from selfrewarding.store.errors import Corrupt, NotFound
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.store.results import read_file, require_result

BASELINE_EVALUATE = f"{StageKind.EVALUATE}-0"
"""Role of the baseline's Evaluate among a Report's parents."""
EVIDENCE_METRIC = {
    "lengthGrowth": "meanLength",
    "lengthDifference": "lengthRatio",
    "refusals": "refusalRate",
    "repetition": "repetitionRate",
    "truncated": "truncatedRate",
    "judgeCorrelation": "spearman",
}
"""Alarm → the metric that its evidence stands under, where the two have different names."""
_OUTCOMES = (
    "promptsWithPairs", "promptsWithPositives", "ties", "belowMargin", "identical", "tooFewResponses",
    "truncatedOnly", "tooFewValid", "noPositive",
)  # fmt: skip
_PROMPTED = (
    (StageKind.GENERATE_PROMPTS, PROMPTS, PROMPTS_INDEX),
    (StageKind.BUILD_PREFERENCES, PAIRS, PAIRS_INDEX),
    (StageKind.COMPARE, COMPARISONS, ""),
    (StageKind.EVALUATE, JUDGEMENTS, ""),
)
"""Files whose rows have the prompts that evidence names."""


@dataclass(frozen=True)
class Loaded:
    """Results of finished stages by role (`<kind>-<iteration>`, each stage once), and what could not be read."""

    results: Mapping[str, StageResult]
    problems: tuple[str, ...] = ()


def load(store: ArtifactStore, stages: Mapping[str, StageRef]) -> Loaded:
    """The results of these stages; one that is gone or damaged becomes a problem."""
    found: dict[str, StageResult] = {}
    problems: list[str] = []
    keys: set[str] = set()
    for role, ref in stages.items():
        if ref.key in keys:
            continue  # Prepare has two roles
        keys.add(ref.key)
        try:
            found[role] = require_result(store, ref)
        except (ParentMissing, NotFound, Corrupt) as error:
            problems.append(f"{stage_name(ref.kind, ref.iteration)} ({short(ref.key)}): {error}")
    return Loaded(found, tuple(problems))


def collect(
    store: ArtifactStore, run: RunRef, loaded: Loaded, story: Story, *, sample: int = SAMPLE
) -> RunStory:
    """The story of a run; `sample` pairs of each iteration are taken along."""
    results, problems = loaded.results, list(loaded.problems)
    reader = _Reader(store, problems)
    numbers = sorted({result.iteration for result in results.values() if result.iteration})
    compared = story.spec.evaluation.head_to_head
    return RunStory(
        namespace=run.namespace,
        name=run.name,
        iterations_wanted=story.spec.iterations,
        iterations=tuple(_iteration(reader, number, results, sample) for number in numbers),
        baseline=reader.quality(results.get(BASELINE_EVALUATE)),
        compared=compared is not None,
        fixed_judge=_fixed_judge(compared),
        dedicated_judge=story.spec.judge.model_uri is not None,
        models=tuple(story.models),
        alarms=tuple(_alarm(reader, alarm, results) for alarm in story.alarms),
        alarms_off=_alarms_off(story),
        timeline=timeline(results, gpus=story.gpus, handover_seconds=story.handover_seconds),
        data=next((result.data for result in results.values() if result.kind is StageKind.PREPARE), {}),
        near_duplicates=_near_duplicates(results),
        manifest=manifest(run, story),
        ending=_ending(story),
        problems=tuple(problems),
    )


def manifest(run: RunRef, story: Story) -> str:
    """The run as a file that `srr local -f` and `kubectl apply -f` take: presets filled in, nothing left to guess."""
    import yaml

    document = {
        "apiVersion": labels.API_VERSION,
        "kind": labels.KIND,
        "metadata": {"name": run.name, "namespace": run.namespace},
        "spec": story.spec.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return without_user_info(str(text))


class _Reader:
    """Reads files of results; what cannot be read becomes a problem on the page."""

    def __init__(self, store: ArtifactStore, problems: list[str]) -> None:
        self.store = store
        self._problems = problems

    def document(self, result: StageResult, name: str) -> Mapping[str, Any]:
        """A JSON object among a result's files; {} if it has none, or none that can be read."""
        if name not in result.files:
            return {}
        try:
            found = json.loads(read_file(self.store, result, name))
        except (ParentMissing, NotFound, Corrupt, ValueError) as error:
            self._problems.append(f"{name} of {stage_name(result.kind, result.iteration)}: {error}")
            return {}
        return found if isinstance(found, dict) else {}

    def quality(self, result: StageResult | None) -> JudgeQuality | None:
        """What an Evaluate found."""
        return None if result is None else judge_quality(result, self.document(result, METRICS))

    def excerpts(self, results: Sequence[StageResult], keys: Sequence[str]) -> dict[str, str]:
        """The last turns of these rows' prompts, by key; without what cannot be found."""
        found: dict[str, str] = {}
        for kind, name, index in _PROMPTED:
            for result in results:
                missing = [key for key in keys if key not in found]
                if missing and result.kind is kind and name in result.files:
                    with contextlib.suppress(Unreadable):
                        rows = rows_by_key(self.store, result, name, index, missing)
                        found |= {key: _last_turn(row) for key, row in rows.items()}
        return found

    def pairs(self, preferences: StageResult, rollout: StageResult | None, count: int) -> Pairs:
        """An iteration's pairs."""
        found = sampled_pairs(self.store, preferences, rollout, count=count)
        if found.missing is not None:
            self._problems.append(f"Pairs of M{preferences.iteration}: {found.missing}")
        return found


def _iteration(
    reader: _Reader, number: int, results: Mapping[str, StageResult], sample: int
) -> IterationStory:
    stages = {
        result.kind: result
        for role, result in results.items()
        if result.iteration == number and role != BASELINE_EVALUATE
    }
    preferences, rollout = stages.get(StageKind.BUILD_PREFERENCES), stages.get(StageKind.ROLLOUT)
    compare = stages.get(StageKind.COMPARE)
    counts: dict[str, int] = {}
    metrics: dict[str, float] = {}
    for kind in (StageKind.BUILD_EVALUATIONS, StageKind.GENERATE_PROMPTS, StageKind.ROLLOUT):
        if kind in stages:
            counts |= stages[kind].counts
    for kind in StageKind:
        if kind in stages:
            metrics |= stages[kind].metrics
    if preferences is not None:
        counts |= {
            name: preferences.counts[name] for name in ("pairs", "positives") if name in preferences.counts
        }
    return IterationStory(
        number=number,
        model=f"M{number}",
        judge=reader.quality(stages.get(StageKind.EVALUATE)),
        comparisons=() if compare is None else comparisons(compare, reader.document(compare, METRICS)),
        position_bias=None if compare is None else position_bias(compare),
        scores=_scores(stages),
        pairs=None if preferences is None else reader.pairs(preferences, rollout, sample),
        outcomes={}
        if preferences is None
        else {name: preferences.counts[name] for name in _OUTCOMES if preferences.counts.get(name)},
        counts=counts,
        metrics=metrics,
        chosen=str(stages[StageKind.SELECT].report.get("chosen") or "") or None
        if StageKind.SELECT in stages
        else None,
    )


def _near_duplicates(results: Mapping[str, StageResult]) -> dict[str, int]:
    """Prepare's findings, where it had sets to compare."""
    report = next((result.report for result in results.values() if result.kind is StageKind.PREPARE), {})
    places = {
        "seed prompts like one of another seed set": "seedData",
        "evaluation prompts like one that is trained on": "evaluationPrompts",
    }
    found = {what: mapping(mapping(report.get(part)).get("nearDuplicates")) for what, part in places.items()}
    return {what: one["found"] for what, one in found.items() if isinstance(one.get("found"), int)}


def _scores(stages: Mapping[StageKind, StageResult]) -> ScoreCounts | None:
    """How scores are spread: means of the answers where pairs are made of them, else single judgements."""
    for kind, name, of in (
        (StageKind.BUILD_PREFERENCES, "scoreHistogram", "new answers, mean of their judgements"),
        (StageKind.ROLLOUT, "scores", "judgements of new answers"),
        (StageKind.BUILD_EVALUATIONS, "scores", "judgements of answers that people ranked"),
        (StageKind.EVALUATE, "scores", "judgements of held-out answers"),
    ):
        raw = stages[kind].report.get(name) if kind in stages else None
        if isinstance(raw, Mapping) and raw:
            return ScoreCounts(
                of=of, counts={float(score): int(count) for score, count in sorted(raw.items(), key=_score)}
            )
    return None


def _last_turn(row: Mapping[str, Any]) -> str:
    """The end of a row's `prompt`: chat messages, or texts turn by turn."""
    turns = row.get("prompt")
    last = turns[-1] if isinstance(turns, list) and turns else ""
    return str(last.get("content", "")) if isinstance(last, Mapping) else str(last)


def _score(item: tuple[str, Any]) -> float:
    return float(item[0])


def _ending(story: Story) -> str | None:
    """What stopped the run before its last iteration, if something did: an alarm, a gate, or its judge."""
    stopped = [
        f"Alarm {one.name} at M{one.iteration}: {one.message}" for one in story.alarms if one.action == "Stop"
    ]
    gates = [
        one.gate_message or f"The gate stopped at {one.name}."
        for one in story.models
        if one.gate == "Stopped"
    ]
    judge = [] if story.uncalibrated is None else [story.uncalibrated]
    return next(iter(stopped + gates + judge), None)


def _fixed_judge(compared: HeadToHeadSpec | None) -> str | None:
    if compared is None:
        return None
    if compared.judge.endpoint is not None:
        return compared.judge.endpoint.model
    return compared.judge.model_uri


def _alarms_off(story: Story) -> tuple[str, ...]:
    alarms = story.spec.alarms.model_dump(by_alias=True)
    return tuple(name for name, alarm in alarms.items() if alarm["action"] == "Off")


def _alarm(reader: _Reader, alarm: AlarmStatus, results: Mapping[str, StageResult]) -> AlarmStory:
    metric = EVIDENCE_METRIC.get(alarm.name, alarm.name)
    # A judge's number is measured twice in a round: the rows are those of the stage that sounded.
    measured = sorted(
        (
            one
            for role, one in results.items()
            if one.iteration == alarm.iteration and role != BASELINE_EVALUATE
        ),
        key=lambda one: one.kind != alarm.stage,
    )
    rows: Sequence[Any] = next(
        (
            found[metric]
            for one in measured
            if isinstance((found := reader.document(one, EVIDENCE)).get(metric), list)
        ),
        (),
    )
    keys = [str(row["key"]) for row in rows if isinstance(row, Mapping) and "key" in row]
    excerpts = reader.excerpts(measured, keys)
    return AlarmStory(
        name=alarm.name,
        iteration=alarm.iteration,
        action=alarm.action,
        value=alarm.value,
        threshold=alarm.threshold,
        message=alarm.message,
        evidence=tuple(
            Evidence(key=str(row["key"]), value=row.get("value"), excerpt=excerpts.get(str(row["key"]), ""))
            for row in rows
            if isinstance(row, Mapping) and "key" in row
        ),
    )
