"""Evaluate: how well the current model judges, measured on held-out human ranks.

Purpose: the model judges the held-out answers (never trained on, filtered or thinned: number rule 1), and its order is
compared with people's.
Must not: decide what follows from the numbers (the planner's gate does).
Neighbours: reads Prepare's held-out prompts; `selfrewarding.data.metrics` defines the metrics.
"""

import json
from fractions import Fraction
from typing import Any

from selfrewarding.contract.artifacts import HELD_OUT, JUDGEMENTS, METRICS
from selfrewarding.contract.config import EvaluateParameters, StageConfig
from selfrewarding.contract.program import BadConfiguration, Surroundings
from selfrewarding.contract.result import StageResult
from selfrewarding.data.metrics import ScoredPrompt, judge_metrics
from srr_sampler.asking import Stage, run_asking
from srr_sampler.ranked_judging import judge_ranked
from srr_sampler.sampling import seeds_of

SUMMARY_METRICS = {
    "pairwise_accuracy": ("pairwiseAccuracy", 100.0),
    "five_best": ("fiveBest", 100.0),
    "exact_match": ("exactMatch", 100.0),
    "spearman": ("spearman", 1.0),
    "kendall_tau": ("kendallTau", 1.0),
}
"""Name in the metrics file → name in the summary, and what divides the one (percent) into the other (a share)."""


def main(config: StageConfig, here: Surroundings) -> StageResult | None:
    """Judge the held-out answers and measure the agreement with people."""
    return run_asking(config, here, _work)


async def _work(stage: Stage) -> StageResult:
    parameters = stage.config.parameters
    if not isinstance(parameters, EvaluateParameters):
        raise BadConfiguration(f"an Evaluate got the parameters of {parameters.kind}")
    spec = parameters.judge
    judged = await judge_ranked(stage, HELD_OUT, spec, parameters.evaluation.samples or spec.samples)
    prompts = [
        ScoredPrompt(
            prompt.key, tuple((answer.score(spec.min_valid), answer.rank) for answer in prompt.answers)
        )
        for prompt in judged.prompts
    ]
    measured = judge_metrics(
        prompts,
        maximum=Fraction(spec.scores.maximum),
        resamples=parameters.evaluation.bootstrap,
        seed=seeds_of(stage.config).of("bootstrap"),
    )
    metrics = _summary(measured)
    if judged.counted.judgements:
        metrics["validRate"] = judged.counted.valid_rate
    counts = measured["counts"]
    return stage.commit(
        files={
            METRICS: (json.dumps(measured, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(),
            JUDGEMENTS: judged.file(),
        },
        counts={
            "prompts": counts["prompts"],
            "unjudged": counts["responses_unjudged"],
            "pairs": counts["pairs_concordant"] + counts["pairs_discordant"] + counts["pairs_tied"],
            **judged.counted.counts(),
        },
        metrics=metrics,
        report={**judged.report, "intervals": measured["intervals"], "undefined": measured["undefined"]},
    )


def _summary(measured: dict[str, Any]) -> dict[str, float]:
    """The metrics that are defined, as shares; why others are not stands in the report."""
    return {
        name: measured[source] / scale
        for source, (name, scale) in SUMMARY_METRICS.items()
        if measured[source] is not None
    }
