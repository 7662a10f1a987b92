"""Settings as stages and their keys see them: what a stage does not read must not compute it again when it changes.

Pure: a block in, a block out. Neighbours: `graph`, `measuring` and `stage_maker` put these into parameters and keys;
`tests/unit/plan/test_keys.py` says for every field of the spec which stages it computes again.
"""

from selfrewarding.api.algorithm import EndpointSpec, JudgeSpec
from selfrewarding.api.evaluation import HELD_OUT_SET, EvaluationSpec, HeadToHeadSpec, PromptSetSpec
from selfrewarding.contract.config import (
    AnswerParameters,
    CompareParameters,
    EvaluateParameters,
    GeneratePromptsParameters,
    Parameters,
    PrepareParameters,
    SelectParameters,
)


def as_in_keys(parameters: Parameters) -> Parameters:
    """Parameters as keys see them: how an external endpoint is reached does not change what it says."""
    match parameters:
        case (
            PrepareParameters(prompt_generation=prompts)
            | GeneratePromptsParameters(prompt_generation=prompts)
        ):
            if prompts.writer.endpoint is None:
                return parameters
            writer = prompts.writer.model_copy(update={"endpoint": _as_addressed(prompts.writer.endpoint)})
            return parameters.model_copy(
                update={"prompt_generation": prompts.model_copy(update={"writer": writer})}
            )
        case CompareParameters(head_to_head=compared) | SelectParameters(head_to_head=compared) if (
            compared.judge.endpoint is not None
        ):
            judge = compared.judge.model_copy(update={"endpoint": _as_addressed(compared.judge.endpoint)})
            return parameters.model_copy(
                update={"head_to_head": compared.model_copy(update={"judge": judge})}
            )
        case EvaluateParameters(evaluation=evaluation) | AnswerParameters(evaluation=evaluation) if (
            evaluation.prompts
        ):
            sets = [_as_named(one) for one in evaluation.prompts]
            return parameters.model_copy(
                update={"evaluation": evaluation.model_copy(update={"prompts": sets})}
            )
        case _:
            return parameters


def _as_addressed(endpoint: EndpointSpec) -> EndpointSpec:
    return endpoint.model_copy(update={"api_key_secret_name": None, "max_concurrency": 0})


def _as_named(prompts: PromptSetSpec) -> PromptSetSpec:
    """A set whose rows are in keys by their digest: wherever they come from."""
    return PromptSetSpec(name=prompts.name, uri="s3://prepared")


def as_asked(judge: JudgeSpec) -> JudgeSpec:
    """The judge as stages ask it: what it must reach decides nothing about its judgements."""
    return judge.model_copy(update={"calibration": None})


def as_compared(compared: HeadToHeadSpec) -> HeadToHeadSpec:
    """How answers are compared; with whose is said by Compare's parents."""
    return compared.model_copy(update={"against": HeadToHeadSpec().against})


def as_answered(evaluation: EvaluationSpec) -> EvaluationSpec:
    """What Evaluate reads: how many held-out prompts it answers. Who compares the answers, against whom, and on which of
    `evaluation.prompts`, all of which it answers, is Compare's."""
    compared = evaluation.head_to_head
    asked = None
    if compared is not None and compared.set == HELD_OUT_SET:
        asked = HeadToHeadSpec(prompts=compared.prompts)
    return evaluation.model_copy(update={"head_to_head": asked})


def as_chosen_by(evaluation: EvaluationSpec) -> EvaluationSpec:
    """What Answer reads: the set that is compared on, how much of it, and how it is answered."""
    compared = evaluation.head_to_head or HeadToHeadSpec()
    sets = [one for one in evaluation.prompts or [] if one.name == compared.set]
    return EvaluationSpec(
        prompts=sets or None,
        answers=evaluation.answers,
        head_to_head=HeadToHeadSpec(set=compared.set, prompts=compared.prompts),
    )
