"""The BuildPreferences stage: judged answers of Rollout → preference pairs, or positive examples.

Purpose: choose by the spec's rule (arXiv 2401.10020 section 2.3), count what became of every prompt, and measure what
would spoil training unseen: few pairs, ties, longer answers getting higher scores.
Must not: import numpy or transformers (it starts in well under a second); judge or generate.
Neighbours: `data.pairs` decides prompt by prompt; Rollout wrote the rows; PreferenceOptimize reads the result.
"""

import shutil
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.artifacts import (
    EVIDENCE,
    PAIRS,
    PAIRS_INDEX,
    POSITIVES,
    ROLLOUT,
    attempt_prefix,
    stage_prefix,
)
from selfrewarding.contract.config import BuildPreferencesParameters, StageConfig
from selfrewarding.contract.program import BadConfiguration, BadData, Surroundings, report_progress
from selfrewarding.contract.result import StageResult, result_bytes, result_digest
from selfrewarding.data.evidence import evidence_bytes
from selfrewarding.data.jsonl import encode_row, write_lines, write_rows
from selfrewarding.data.judged_measures import measure_answers, measure_pairs, texts_of
from selfrewarding.data.judged_prompts import JudgedPrompt, JudgedResponse
from selfrewarding.data.pairs import PairSettings, PairSummary, Positive, build_pairs
from selfrewarding.data.rows import Message
from selfrewarding.data.scores import as_number, exact, mean
from selfrewarding.store import open_store
from selfrewarding.store.references import refer
from selfrewarding.store.results import commit_result, find_result, read_jsonl, require_result, upload_files
from selfrewarding.store.row_index import IndexWriter

EXPECTED_MARGIN = Fraction(1, 4)
"""Smallest difference of expected scores: these are real numbers, so equality says nothing (number rule 5)."""

_OUTCOMES = {
    "pairs": "promptsWithPairs",
    "positives": "promptsWithPositives",
    "ties": "ties",
    "below_margin": "belowMargin",
    "identical": "identical",
    "too_few_responses": "tooFewResponses",
    "truncated_only": "truncatedOnly",
    "too_few_valid": "tooFewValid",
    "no_positive": "noPositive",
}
"""Outcome of a prompt → its name among the counts; together they are all prompts."""

_REMEDIES = {
    "ties": "ask for more judgements (judge.samples), use judge.scoring Expected, or more answers (responses.samples)",
    "below_margin": "lower preferences.minMargin",
    "identical": "raise responses.temperature, so that answers differ",
    "too_few_responses": "raise responses.samples",
    "truncated_only": "raise responses.maxTokens, or set preferences.truncated to RejectedOnly",
    "too_few_valid": "use judge.format Structured, or raise judge.maxTokens or judge.retries",
    "no_positive": "lower preferences.positiveScore",
}


def main(config: StageConfig, here: Surroundings) -> StageResult:
    """Run the stage; returns the result that is in the store.

    Raises BadData with the counts if there are fewer than `preferences.minPairs`, ParentMissing, StoreError.
    """
    parameters = config.parameters
    if not isinstance(parameters, BuildPreferencesParameters):
        raise BadConfiguration(f"the stage {config.kind} came with parameters of {parameters.kind}")
    settings = pair_settings(parameters, seed=config.seed)
    store = open_store(config.store)
    refer(store, config.run, stage_prefix(config.kind, config.key))
    done = find_result(store, config.kind, config.key)
    if done is not None:
        return done
    rollout = require_result(store, config.parents["rollout"])
    prompts = [judged_prompt(row) for row in read_jsonl(store, rollout, ROLLOUT)]
    outcomes = [build_pairs(prompt, settings) for prompt in prompts]
    summary = PairSummary()
    for prompt, outcome in zip(prompts, outcomes, strict=True):
        summary.add(prompt, outcome, settings)
    preferences = [pair for outcome in outcomes for pair in outcome.preferences]
    positives = [positive for outcome in outcomes for positive in outcome.positives]
    _require_enough(summary, parameters)

    output = here.scratch / "preferences"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    if settings.rule == "PositiveOnly":
        write_rows(output / POSITIVES, (positive_row(positive) for positive in positives))
    else:
        index, rows = IndexWriter(), (pair.as_row() for pair in preferences)
        write_lines(output / PAIRS, (index.add(row["key"], encode_row(row)) for row in rows))
        (output / PAIRS_INDEX).write_bytes(index.content())
    measures = measure_answers(prompts, min_valid=settings.min_valid, scoring=parameters.scoring)
    measure_pairs(prompts, outcomes, pairs=settings.rule != "PositiveOnly", into=measures)
    (output / EVIDENCE).write_bytes(evidence_bytes(measures.evidence))
    result = StageResult(
        contract=CONTRACT_VERSION,
        kind=config.kind,
        iteration=config.iteration,
        key=config.key,
        parents={"rollout": result_digest(result_bytes(rollout))},
        files=upload_files(
            store,
            output,
            attempt_prefix(config.kind, config.key, here.pod_uid),
            stage_prefix(config.kind, config.key),
        ),
        counts={
            "prompts": summary.prompts,
            "positives" if settings.rule == "PositiveOnly" else "pairs": summary.rows,
            **{_OUTCOMES[name]: count for name, count in sorted(summary.outcomes.items()) if count},
        },
        metrics=measures.metrics,
        report={
            "summary": summary.as_json(),
            "scoreHistogram": score_histogram(prompts, settings),
            "scoreDifferences": _spread(
                [float(pair.chosen_score - pair.rejected_score) for pair in preferences]
            ),
            "chosenLength": _spread([float(len(texts_of(pair)[0])) for pair in preferences]),
            "rejectedLength": _spread([float(len(texts_of(pair)[1])) for pair in preferences]),
            "settings": _settings_as_used(settings, parameters),
        },
        seconds=time.monotonic() - here.started,
        pod=here.pod_uid,
    )
    shutil.rmtree(output, ignore_errors=True)
    report_progress(done=summary.prompts, total=summary.prompts, unit="prompts")
    return commit_result(store, result)


def pair_settings(parameters: BuildPreferencesParameters, *, seed: int) -> PairSettings:
    """The spec's rule with the defaults that depend on how scores were made. Raises BadConfiguration."""
    spec = parameters.preferences
    margin = Fraction(0) if parameters.scoring == "Sampled" else EXPECTED_MARGIN
    try:
        return PairSettings(
            rule=spec.rule,
            min_margin=margin if spec.min_margin is None else exact(spec.min_margin),
            min_valid=parameters.min_valid,
            truncated=spec.truncated,
            length_control=None if spec.length_control is None else exact(spec.length_control),
            positive_score=exact(
                parameters.maximum_score if spec.positive_score is None else spec.positive_score
            ),
            seed=seed,
        )
    except ValueError as error:
        raise BadConfiguration(f"spec.preferences: {error}") from None


def judged_prompt(row: Mapping[str, Any]) -> JudgedPrompt:
    """A row of Rollout as `data.pairs` takes it; the row's key is the prompt's id."""
    return JudgedPrompt(
        row["key"],
        tuple(Message(message["role"], message["content"]) for message in row["prompt"]),
        tuple(
            JudgedResponse(
                response["text"],
                response["finishReason"],
                tuple(
                    None if judgement["score"] is None else exact(judgement["score"])
                    for judgement in response["judgements"]
                ),
            )
            for response in row["responses"]
        ),
    )


def positive_row(positive: Positive) -> dict[str, Any]:
    """A positive example as the SFT program reads it: chat messages whose last one is the target."""
    row = positive.as_row()
    prompt, completion = row.pop("prompt"), row.pop("completion")
    return {**row, "messages": [*prompt, *completion]}


def score_histogram(prompts: Iterable[JudgedPrompt], settings: PairSettings) -> dict[str, int]:
    """Answers by their mean score, rounded to a tenth, lowest first."""
    counts = Counter(round(score * 10) for score, _ in _scored(prompts, settings))
    return {str(as_number(Fraction(tenths, 10))): counts[tenths] for tenths in sorted(counts)}


def _scored(prompts: Iterable[JudgedPrompt], settings: PairSettings) -> Iterator[tuple[Fraction, int]]:
    """Mean score and length of every answer that has enough valid judgements."""
    for prompt in prompts:
        for response in prompt.responses:
            score = mean(response.scores)
            if score is not None and response.valid >= settings.min_valid:
                yield score, len(response.text)


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    """Lowest, median, mean and highest; None without values."""
    if not values:
        return None
    return {
        "lowest": min(values),
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "highest": max(values),
    }


def _require_enough(summary: PairSummary, parameters: BuildPreferencesParameters) -> None:
    """Raises BadData with what became of the prompts, and what helps against the most frequent reason."""
    wanted = parameters.preferences.min_pairs
    if summary.rows >= wanted:
        return
    what = "positive examples" if parameters.preferences.rule == "PositiveOnly" else "pairs"
    counted = ", ".join(
        f"{_OUTCOMES[name]} {count}" for name, count in summary.outcomes.most_common() if count
    )
    failed = [name for name, count in summary.outcomes.most_common() if count and name in _REMEDIES]
    remedy = "; ".join(_REMEDIES[name] for name in failed[:2]) or "make more prompts (promptGeneration.count)"
    raise BadData(
        f"{summary.rows} {what} from {summary.prompts} prompts, preferences.minPairs asks for {wanted}. What became of "
        f"the prompts: {counted or 'there were none'}. What may help: {remedy}; or lower preferences.minPairs."
    )


def _settings_as_used(settings: PairSettings, parameters: BuildPreferencesParameters) -> dict[str, Any]:
    return {
        "rule": settings.rule,
        "scoring": parameters.scoring,
        "minMargin": as_number(settings.min_margin),
        "minValid": settings.min_valid,
        "truncated": settings.truncated,
        "lengthControl": None if settings.length_control is None else as_number(settings.length_control),
        "positiveScore": as_number(settings.positive_score) if settings.rule == "PositiveOnly" else None,
    }
