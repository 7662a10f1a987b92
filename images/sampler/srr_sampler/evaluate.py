"""Evaluate: how well the current model judges, measured on held-out human ranks; and what it answers.

Purpose: the model judges the held-out answers (never trained on, filtered or thinned: number rule 1), and its order is
compared with people's. Where the spec has evaluation prompts or comparisons, it answers their prompts too.
Must not: decide what follows from the numbers (the planner's gate does).
Neighbours: reads Prepare's held-out prompts; `selfrewarding.data.metrics` defines the metrics, `answers` writes answers.
"""

import json
from fractions import Fraction
from typing import Any

from selfrewarding.contract.artifacts import ANSWERS, EVIDENCE, HELD_OUT, JUDGEMENTS, METRICS
from selfrewarding.contract.config import EvaluateParameters, StageConfig
from selfrewarding.contract.program import BadConfiguration, Surroundings
from selfrewarding.contract.result import StageResult
from selfrewarding.data.bootstrap import ratio_interval
from selfrewarding.data.evidence import evidence_bytes, lowest
from selfrewarding.data.metrics import ScoredPrompt, judge_metrics, rank_correlations
from srr_sampler.answers import Answers, answer_prompts, is_asked_for, turns_of, write_answers
from srr_sampler.asking import Meter, Stage, run_asking
from srr_sampler.ranked_judging import RankedJudgements, judge_ranked
from srr_sampler.sampling import seeds_of

SUMMARY_METRICS = {
    "pairwise_accuracy": ("pairwiseAccuracy", 100.0),
    "five_best": ("fiveBest", 100.0),
    "exact_match": ("exactMatch", 100.0),
    "spearman": ("spearman", 1.0),
    "kendall_tau": ("kendallTau", 1.0),
}
"""Name in the metrics file → name in the summary, and what divides the one (percent) into the other (a share)."""
VALID_RATE = (
    "percent of all judgements that end in an allowed score; an invalid one counts here though it is asked for again, and in "
    "no other number; interval over prompts"
)


def main(config: StageConfig, here: Surroundings) -> StageResult | None:
    """Judge the held-out answers and measure the agreement with people."""
    return run_asking(config, here, _work)


async def _work(stage: Stage) -> StageResult:
    parameters = stage.config.parameters
    if not isinstance(parameters, EvaluateParameters):
        raise BadConfiguration(f"an Evaluate got the parameters of {parameters.kind}")
    spec, evaluation = parameters.judge, parameters.evaluation
    asked_for = answer_prompts(stage, evaluation) if is_asked_for(evaluation) else None
    meter = Meter(total=turns_of(asked_for or ()))
    judged = await judge_ranked(stage, HELD_OUT, spec, evaluation.samples or spec.samples, meter)
    prompts = [
        ScoredPrompt(
            prompt.key,
            tuple((answer.score(spec.min_valid), answer.rank) for answer in prompt.answers),
            prompt.category,
        )
        for prompt in judged.prompts
    ]
    seed = seeds_of(stage.config).of("bootstrap")
    measured = judge_metrics(
        prompts,
        maximum=Fraction(spec.scores.maximum),
        resamples=evaluation.bootstrap,
        seed=seed,
    )
    metrics = _summary(measured)
    if judged.counted.judgements:
        metrics["validRate"] = judged.counted.valid_rate
        measured["valid_rate"] = 100 * judged.counted.valid_rate
        measured["conventions"] = measured["conventions"] | {"valid_rate": VALID_RATE}
        measured["intervals"]["valid_rate"] = _valid_interval(judged, evaluation.bootstrap, seed)
    answers = None if asked_for is None else await write_answers(stage, evaluation, asked_for, meter)
    counts = measured["counts"]
    return stage.commit(
        files={
            METRICS: (json.dumps(measured, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(),
            JUDGEMENTS: judged.file(),
            EVIDENCE: evidence_bytes(
                {"spearman": lowest(rank_correlations(prompts)), "validRate": _least_valid(judged)}
            ),
            **({ANSWERS: answers.file()} if answers is not None else {}),
        },
        counts={
            "prompts": counts["prompts"],
            "unjudged": counts["responses_unjudged"],
            "pairs": counts["pairs_concordant"] + counts["pairs_discordant"] + counts["pairs_tied"],
            **_with_answers(judged.counted.counts(), answers),
        },
        metrics=metrics,
        report={
            **judged.report,
            "intervals": measured["intervals"],
            "undefined": measured["undefined"],
            **({"answers": answers.report} if answers is not None else {}),
        },
    )


def _least_valid(judged: RankedJudgements) -> list[dict[str, Any]]:
    """The prompts whose judgements are valid least often."""
    return lowest((key, sum(valid) / len(valid)) for key, valid in _validity(judged) if not all(valid))


def _valid_interval(judged: RankedJudgements, resamples: int, seed: int) -> list[float] | None:
    valid = [one for _, one in _validity(judged)]
    return ratio_interval(
        [sum(one) for one in valid], [len(one) for one in valid], resamples=resamples, seed=seed
    )


def _validity(judged: RankedJudgements) -> list[tuple[str, list[bool]]]:
    """Prompt by prompt, whether each judgement of its answers is valid."""
    return [
        (prompt.key, [score is not None for answer in prompt.answers for score in answer.scores])
        for prompt in judged.prompts
    ]


def _with_answers(counts: dict[str, int], answers: Answers | None) -> dict[str, int]:
    """The counts of the judging, with those of the answers; tokens are those of both."""
    if answers is None:
        return counts
    prompt, output = answers.tokens()
    return {
        **counts,
        **answers.counts(),
        "promptTokens": counts["promptTokens"] + prompt,
        "outputTokens": counts["outputTokens"] + output,
    }


def _summary(measured: dict[str, Any]) -> dict[str, float]:
    """The metrics that are defined, as shares; why others are not stands in the report. With the accuracy comes its
    interval: a judge that is not good enough is told with it (`judge.calibration`)."""
    found = {
        name: measured[source] / scale
        for source, (name, scale) in SUMMARY_METRICS.items()
        if measured[source] is not None
    }
    interval = measured["intervals"]["pairwise_accuracy"]
    if interval is not None:
        found |= {"pairwiseAccuracyLow": interval[0] / 100, "pairwiseAccuracyHigh": interval[1] / 100}
    return found
