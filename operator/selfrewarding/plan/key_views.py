"""Settings as stages and their keys see them: what a stage does not read must not compute it again when it changes.

Pure: a block in, a block out. Neighbour: `graph` puts these into parameters and keys; `tests/unit/plan/test_keys.py` says for
every field of the spec which stages it computes again.
"""

from selfrewarding.api.algorithm import EndpointSpec, JudgeSpec
from selfrewarding.api.evaluation import EvaluationSpec, HeadToHeadSpec
from selfrewarding.contract.config import (
    CompareParameters,
    GeneratePromptsParameters,
    Parameters,
    PrepareParameters,
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
        case CompareParameters(head_to_head=compared) if compared.judge.endpoint is not None:
            judge = compared.judge.model_copy(update={"endpoint": _as_addressed(compared.judge.endpoint)})
            return parameters.model_copy(
                update={"head_to_head": compared.model_copy(update={"judge": judge})}
            )
        case _:
            return parameters


def _as_addressed(endpoint: EndpointSpec) -> EndpointSpec:
    return endpoint.model_copy(update={"api_key_secret_name": None, "max_concurrency": 0})


def as_asked(judge: JudgeSpec) -> JudgeSpec:
    """The judge as stages ask it: what it must reach decides nothing about its judgements."""
    return judge.model_copy(update={"calibration": None})


def as_compared(compared: HeadToHeadSpec) -> HeadToHeadSpec:
    """How answers are compared; with whose is said by Compare's parents."""
    return compared.model_copy(update={"against": HeadToHeadSpec().against})


def as_answered(evaluation: EvaluationSpec) -> EvaluationSpec:
    """What Evaluate reads: who compares the answers, and against whom, is Compare's."""
    compared = evaluation.head_to_head
    if compared is None:
        return evaluation
    asked = HeadToHeadSpec(set=compared.set, prompts=compared.prompts)
    return evaluation.model_copy(update={"head_to_head": asked})
