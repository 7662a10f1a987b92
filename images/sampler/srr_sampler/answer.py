"""Answer: a candidate of a training answers the prompts that it is compared with the other candidates on.

Must not: judge; answer more than will be compared.
Neighbours: `answers` does the work, as for Evaluate; `select` reads what is written here.
"""

from selfrewarding.api.evaluation import HeadToHeadSpec
from selfrewarding.contract.artifacts import ANSWERS
from selfrewarding.contract.config import AnswerParameters, StageConfig
from selfrewarding.contract.program import BadConfiguration, BadData, Surroundings
from selfrewarding.contract.result import StageResult
from srr_sampler.answers import answer_prompts, write_answers
from srr_sampler.asking import Stage, run_asking


def main(config: StageConfig, here: Surroundings) -> StageResult | None:
    """Answer the prompts that candidates are compared on."""
    return run_asking(config, here, _work)


async def _work(stage: Stage) -> StageResult:
    parameters = stage.config.parameters
    if not isinstance(parameters, AnswerParameters):
        raise BadConfiguration(f"an Answer got the parameters of {parameters.kind}")
    compared = parameters.evaluation.head_to_head or HeadToHeadSpec()
    found = [one for one in answer_prompts(stage, parameters.evaluation) if one.set == compared.set]
    if not found:
        raise BadData(
            f"the set {compared.set} has no prompts that the candidates of dpo.earlyStopping could be compared on: name "
            "another one in evaluation.headToHead.set, or remove dpo.earlyStopping"
        )
    # In the order of keys, as Select takes them.
    answers = await write_answers(stage, parameters.evaluation, found[: compared.prompts])
    prompt, output = answers.tokens()
    return stage.commit(
        files={ANSWERS: answers.file()},
        counts={
            "prompts": len(answers.rows),
            **answers.counts(),
            "promptTokens": prompt,
            "outputTokens": output,
        },
        metrics={},
        report={"candidate": parameters.folder, "set": compared.set, "answers": answers.report},
    )
