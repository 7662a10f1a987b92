"""BuildEvaluations: EFT examples out of human-ranked answers (arXiv 2401.10020 section 2.1.1).

Purpose: the baseline judges the ranked answers; where its order agrees with people's, its judgements become examples.
Must not: touch held-out prompts, nor decide what agreement is (`selfrewarding.data.evaluations` does).
Neighbours: reads Prepare's ranked prompts; SupervisedFineTune reads the examples.
"""

from fractions import Fraction

from selfrewarding.contract.artifacts import EVALUATIONS, JUDGEMENTS, RANKED
from selfrewarding.contract.config import BuildEvaluationsParameters, StageConfig
from selfrewarding.contract.program import BadConfiguration, BadData, Surroundings
from selfrewarding.contract.result import StageResult
from selfrewarding.data.evaluations import (
    EvaluationReport,
    EvaluationSettings,
    RankedJudgedPrompt,
    RankedJudgedResponse,
    RankedJudgement,
    build_evaluations,
)
from selfrewarding.data.jsonl import encode_row
from selfrewarding.data.rows import Message
from srr_sampler.asking import Stage, run_asking
from srr_sampler.judging import as_role
from srr_sampler.ranked_judging import RankedJudgements, RankedPrompt, judge_ranked


def main(config: StageConfig, here: Surroundings) -> StageResult | None:
    """Judge the ranked answers and build the examples."""
    return run_asking(config, here, _work)


async def _work(stage: Stage) -> StageResult:
    parameters = stage.config.parameters
    if not isinstance(parameters, BuildEvaluationsParameters):
        raise BadConfiguration(f"a BuildEvaluations got the parameters of {parameters.kind}")
    judged = await judge_ranked(stage, RANKED, parameters.judge, parameters.evaluations.samples)
    settings = EvaluationSettings(
        agreement=parameters.evaluations.agreement,
        target=parameters.evaluations.target,
        most_common_share=Fraction(str(parameters.evaluations.most_common_share)),
        minimum=parameters.judge.scores.minimum,
        maximum=parameters.judge.scores.maximum,
        decimals=parameters.judge.scores.decimals,
        seed=stage.config.seed,
    )
    examples, report = build_evaluations(
        (_prompt(prompt) for prompt in judged.prompts), judged.judge_prompt, settings
    )
    if len(examples) < parameters.evaluations.min_examples:
        raise BadData(_too_few(len(examples), parameters, judged, report))
    fates = report.dispositions
    before = sum(report.histogram_before.values())
    return stage.commit(
        files={
            EVALUATIONS: b"".join(encode_row(example.as_row()) for example in examples),
            JUDGEMENTS: judged.file(),
        },
        counts={
            "prompts": report.prompts,
            "kept": fates["agrees"],
            "discordant": fates["disagrees"],
            "allTied": fates["only_score_ties"] + fates["only_human_ties"],
            "examples": len(examples),
            "thinned": before - len(examples),
            **judged.counted.counts(),
        },
        metrics={"validRate": judged.counted.valid_rate},
        report={**judged.report, "agreement": report.as_json()},
    )


def _prompt(prompt: RankedPrompt) -> RankedJudgedPrompt:
    return RankedJudgedPrompt(
        prompt.key,
        tuple(Message(as_role(message["role"]), message["content"]) for message in prompt.messages),
        tuple(
            RankedJudgedResponse(
                answer.text,
                answer.rank,
                tuple(
                    RankedJudgement(row["text"], score)
                    for row, score in zip(answer.judged.judgements, answer.scores, strict=True)
                ),
            )
            for answer in prompt.answers
        ),
    )


def _too_few(
    found: int, parameters: BuildEvaluationsParameters, judged: RankedJudgements, report: EvaluationReport
) -> str:
    fates = ", ".join(
        f"{count} {name.replace('_', ' ')}" for name, count in report.dispositions.items() if count
    )
    counted = judged.counted
    if parameters.judge.format == "Free" and counted.valid_rate < 0.5:
        remedy = "most judgements are not well-formed: set judge.format to Structured"
    else:
        remedy = (
            "the baseline's order hardly agrees with people's: give more ranked prompts (seedData.ranked), raise "
            "evaluations.samples, train the baseline longer (sft.epochs), bring own examples (seedData.evaluations), "
            "or lower evaluations.minExamples"
        )
    return (
        f"{found} EFT examples, evaluations.minExamples asks for {parameters.evaluations.min_examples}: of "
        f"{report.prompts} ranked prompts {fates or 'none'}; {counted.valid} of {counted.judgements} judgements are "
        f"valid; {remedy}"
    )
