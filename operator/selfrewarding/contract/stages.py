"""The stages of a run (see ARCHITECTURE.md, "The loop"), by the names that users see."""

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
    EVALUATE = "Evaluate"
    COMPARE = "Compare"
    GATE = "Gate"
    REPORT = "Report"


TRAINING = frozenset(
    {StageKind.TRAIN_BASELINE, StageKind.SUPERVISED_FINE_TUNE, StageKind.PREFERENCE_OPTIMIZE}
)
"""Stages that run as a PyTorchJob and make a model."""

SERVED = frozenset(
    {
        StageKind.BUILD_EVALUATIONS,
        StageKind.GENERATE_PROMPTS,
        StageKind.ROLLOUT,
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
    StageKind.EVALUATE: "evaluate",
    StageKind.COMPARE: "compare",
    StageKind.REPORT: "report",
}
"""Kinds of stages in the names of objects, and where a short name is enough for people; Gate runs nowhere."""
