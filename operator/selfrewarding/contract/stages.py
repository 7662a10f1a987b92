"""The stages of a run (see ARCHITECTURE.md, "The loop"), by the names that users see."""

from collections.abc import Iterable
from enum import StrEnum


class StageKind(StrEnum):
    """Kinds of stages, in the order in which an iteration runs them."""

    PREPARE = "Prepare"
    RESOLVE = "Resolve"
    TRAIN_BASELINE = "TrainBaseline"
    BUILD_EVALUATIONS = "BuildEvaluations"
    SUPERVISED_FINE_TUNE = "SupervisedFineTune"
    GENERATE_PROMPTS = "GeneratePrompts"
    ROLLOUT = "Rollout"
    BUILD_PREFERENCES = "BuildPreferences"
    PREFERENCE_OPTIMIZE = "PreferenceOptimize"
    ANSWER = "Answer"
    SELECT = "Select"
    EVALUATE = "Evaluate"
    COMPARE = "Compare"
    GATE = "Gate"
    REPORT = "Report"


TRAINING = frozenset(
    {StageKind.TRAIN_BASELINE, StageKind.SUPERVISED_FINE_TUNE, StageKind.PREFERENCE_OPTIMIZE}
)
"""Stages that run as a PyTorchJob and make a model."""

MAKES_MODEL = TRAINING | {StageKind.SELECT}
"""Stages whose result is a model: trained there, or chosen there among those that one training saved."""

SERVED = frozenset(
    {
        StageKind.BUILD_EVALUATIONS,
        StageKind.GENERATE_PROMPTS,
        StageKind.ROLLOUT,
        StageKind.ANSWER,
        StageKind.SELECT,
        StageKind.EVALUATE,
        StageKind.COMPARE,
    }
)
"""Stages that ask a vLLM server."""

SLUGS = {
    StageKind.PREPARE: "prepare",
    StageKind.RESOLVE: "resolve",
    StageKind.TRAIN_BASELINE: "baseline",
    StageKind.BUILD_EVALUATIONS: "evaluations",
    StageKind.SUPERVISED_FINE_TUNE: "sft",
    StageKind.GENERATE_PROMPTS: "prompts",
    StageKind.ROLLOUT: "rollout",
    StageKind.BUILD_PREFERENCES: "preferences",
    StageKind.PREFERENCE_OPTIMIZE: "dpo",
    StageKind.ANSWER: "answer",
    StageKind.SELECT: "select",
    StageKind.EVALUATE: "evaluate",
    StageKind.COMPARE: "compare",
    StageKind.REPORT: "report",
}
"""Kinds of stages in the names of objects, and where a short name is enough for people; Gate runs nowhere."""


def report_role(kind: StageKind, iteration: int, *, of_baseline: bool, taken: Iterable[str]) -> str:
    """The role of a stage among a Report's parents, beside those that are `taken`: `<kind>-<iteration>`. Of an iteration
    with two Evaluates the baseline's is `Evaluate-0`; Answers are `Answer-2.1`, `Answer-2.2`, in the order of candidates."""
    role = f"{kind}-{0 if of_baseline else iteration}"
    if kind is not StageKind.ANSWER:
        return role
    return f"{role}.{1 + sum(other.startswith(f'{role}.') for other in taken)}"
