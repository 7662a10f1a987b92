"""The configuration that a stage program gets: one JSON document, read from the file that SRR_STAGE_CONFIG names.

`parameters` is what is computed and part of the stage's key; `execution` is how, and is not.
"""

from typing import Annotated, Literal

from pydantic import Field

from selfrewarding.api.algorithm import (
    DpoSpec,
    EvaluationsSpec,
    JudgeSpec,
    PreferencesSpec,
    PromptGenerationSpec,
    ResponsesSpec,
    SftSpec,
)
from selfrewarding.api.base import ApiModel
from selfrewarding.api.data import ModelSpec, SeedDataSpec
from selfrewarding.api.evaluation import EvaluationSpec, HeadToHeadSpec, PromptSetSpec
from selfrewarding.api.execution import SamplerSpec, TrainingSpec
from selfrewarding.api.run import AlarmStatus, ModelStatus, SelfRewardingRunSpec
from selfrewarding.api.tracking import TrackingSpec
from selfrewarding.contract.stages import StageKind


class PrepareParameters(ApiModel):
    """Prepare reads the model and the seed data, and checks all that can fail before a GPU is spent."""

    kind: Literal["Prepare"] = "Prepare"
    model: ModelSpec
    seed_data: SeedDataSpec
    sft: SftSpec
    prompt_generation: PromptGenerationSpec
    responses: ResponsesSpec
    judge: JudgeSpec
    dpo: DpoSpec
    prompt_sets: list[PromptSetSpec] | None = None
    """`evaluation.prompts`."""
    answer_tokens: int | None = None
    """`evaluation.answers.maxTokens`, where a set has several turns: later ones stand behind the answers before them."""
    referee_uri: str | None = None
    """`evaluation.headToHead.judge.modelUri`."""
    max_model_len: int | None = None
    planned_len: int | None = None
    """Longest sequence that the servers of the model in training will take, where evaluation prompts must fit in."""
    run_uid: str
    """Prepare looks at the data again for every run, since a file may have changed under the same address."""


class SftParameters(ApiModel):
    """TrainBaseline (parents: prepare) and SupervisedFineTune (parents: prepare, evaluations unless absent)."""

    kind: Literal["TrainBaseline", "SupervisedFineTune"]
    sft: SftSpec
    chat_template: str | None = None


class BuildEvaluationsParameters(ApiModel):
    """BuildEvaluations: the baseline judges human-ranked answers (parents: prepare, model)."""

    kind: Literal["BuildEvaluations"] = "BuildEvaluations"
    evaluations: EvaluationsSpec
    judge: JudgeSpec


class GeneratePromptsParameters(ApiModel):
    """GeneratePrompts (parents: prepare, model; earlier rounds' prompts are not read). New prompts stay away from the seed's,
    the held-out ones and `evaluation.prompts`."""

    kind: Literal["GeneratePrompts"] = "GeneratePrompts"
    prompt_generation: PromptGenerationSpec


class RolloutParameters(ApiModel):
    """Rollout (parents: prepare, model, prompts)."""

    kind: Literal["Rollout"] = "Rollout"
    responses: ResponsesSpec
    judge: JudgeSpec


class BuildPreferencesParameters(ApiModel):
    """BuildPreferences (parents: rollout)."""

    kind: Literal["BuildPreferences"] = "BuildPreferences"
    preferences: PreferencesSpec
    scoring: Literal["Sampled", "Expected"]
    maximum_score: int
    min_valid: int


class PreferenceOptimizeParameters(ApiModel):
    """PreferenceOptimize (parents: prepare, model = M_(t-1), preferences; initial = M1 if it is the reference)."""

    kind: Literal["PreferenceOptimize"] = "PreferenceOptimize"
    dpo: DpoSpec
    positive_only: bool = False
    """SFT on the positive examples with `sft` instead of DPO."""
    sft: SftSpec | None = None
    chat_template: str | None = None


class AnswerParameters(ApiModel):
    """Answer (parents: prepare, model = the PreferenceOptimize whose candidate it is): one answer of a candidate to each
    prompt that candidates are compared on."""

    kind: Literal["Answer"] = "Answer"
    folder: str
    """The candidate: its folder among the training's files."""
    evaluation: EvaluationSpec
    """Of it: how is answered, the set and the number of prompts."""


class SelectParameters(ApiModel):
    """Select (parents: prepare, trained = the PreferenceOptimize; candidate-1, candidate-2, … = the Answers, in the order
    of training; judged as in Compare, by `policy` the last candidate)."""

    kind: Literal["Select"] = "Select"
    head_to_head: HeadToHeadSpec
    bootstrap: int
    folders: list[str]
    """The candidates, in the order of training: their folders among the training's files."""


class EvaluateParameters(ApiModel):
    """Evaluate (parents: prepare, model): the judge's metrics, and one answer to each evaluation prompt."""

    kind: Literal["Evaluate"] = "Evaluate"
    judge: JudgeSpec
    evaluation: EvaluationSpec
    """Without what only Compare reads: of `headToHead` the set and the number of prompts."""


class CompareParameters(ApiModel):
    """Compare (parents: prepare, answers = this model's Evaluate; previous, initial, baseline = the opponents' Evaluates,
    the same one twice where M1 is the previous model; judged by the server `referee`, the endpoint, or by `policy`)."""

    kind: Literal["Compare"] = "Compare"
    head_to_head: HeadToHeadSpec
    bootstrap: int


class ReportParameters(ApiModel):
    """Report: the page of the run so far (parents: all finished stages, by `stages.report_role`). Its key names the run,
    since the page does."""

    kind: Literal["Report"] = "Report"
    run_uid: str
    decided: str = ""
    """Digest of what gates and alarms said, which a page tells too, and of the trackers that get its numbers."""
    uncalibrated: str | None = None
    """What of `judge.calibration` the judge has not reached, which ended the run."""


class ResolveParameters(ApiModel):
    """Resolve: which of these keys have results in the store."""

    kind: Literal["Resolve"] = "Resolve"
    stages: list[tuple[StageKind, str]] = Field(max_length=64)
    """Kind and key (64 hex digits) of each."""


Parameters = Annotated[
    PrepareParameters
    | SftParameters
    | BuildEvaluationsParameters
    | GeneratePromptsParameters
    | RolloutParameters
    | BuildPreferencesParameters
    | PreferenceOptimizeParameters
    | AnswerParameters
    | SelectParameters
    | EvaluateParameters
    | CompareParameters
    | ReportParameters
    | ResolveParameters,
    Field(discriminator="kind"),
]


class RunRef(ApiModel):
    """The run that a stage belongs to."""

    namespace: str
    name: str
    uid: str


class StageRef(ApiModel):
    """A finished stage that this one reads; its result must have this digest."""

    kind: StageKind
    iteration: int
    key: str
    """64 hex digits."""
    digest: str
    """First 16 hex digits of the SHA-256 of its result.json."""


class ModelRef(ApiModel):
    """A model: M0 or a fixed one by its URI, or the result of a stage that makes one. Exactly one of `uri` and `stage`;
    `store.models` finds its files."""

    name: str
    """M0, Baseline, M1, … or Judge, PromptWriter; M2.1 is the first candidate for M2."""
    uri: str | None = None
    stage: StageRef | None = None
    folder: str | None = None
    """A candidate of a training: its folder among the stage's files. Absent: the stage's model."""


class ServedModel(ApiModel):
    """A server that the stage asks; its addresses stand in the environment (see `environment.SERVER_URL`)."""

    name: str
    """Served model name; it contains the model key, so a stale address cannot answer for another model."""
    max_model_len: int
    """Longest sequence that the server takes, in tokens."""
    max_num_seqs: int
    """Sequences that one replica decodes at once."""
    replicas: int


class Execution(ApiModel):
    """How the stage is run; not part of its key."""

    training: TrainingSpec | None = None
    sampler: SamplerSpec | None = None
    shards: int = 1
    """Pods of an Indexed Job; each takes the rows whose key hashes to its index."""
    deadline_seconds: int
    """Clients retry until this much time of the stage has passed."""
    keep_checkpoints: bool = False


class Story(ApiModel):
    """What only the planner knows of a run, for its report; no part of a key."""

    spec: SelfRewardingRunSpec
    """The effective spec: the exact manifest, presets filled in."""
    models: list[ModelStatus] = []
    """Models with what their gates decided."""
    alarms: list[AlarmStatus] = []
    """Alarms that sounded."""
    uncalibrated: str | None = None
    """What of `judge.calibration` the judge has not reached, which ended the run."""
    gpus: dict[str, int] = {}
    """GPUs that each stage held, its servers' included, by its role among `parents`."""
    handover_seconds: dict[str, float] = {}
    """Time that GPUs were on their way to a stage, by its role."""
    tracking: TrackingSpec = TrackingSpec()
    """Where the numbers go besides."""


class StageConfig(ApiModel):
    """All that a stage program needs to know."""

    contract: int
    """Contract version; a program refuses one that it does not know."""
    run: RunRef
    kind: StageKind
    iteration: int
    key: str
    """64 hex digits."""
    store: str
    """`artifacts.uri`."""
    seed: int
    """The run's seed; see `seeds.derive_seed`."""
    parents: dict[str, StageRef] = {}
    """Stages that this one reads, by role: prepare, evaluations, prompts, rollout, preferences."""
    models: dict[str, ModelRef] = {}
    """Models by role: base (training starts from it), reference (DPO)."""
    servers: dict[Literal["policy", "judge", "writer", "referee"], ServedModel] = {}
    """Servers by role; `policy` answers, and judges and writes where no other is named."""
    parameters: Parameters
    execution: Execution
    story: Story | None = None
    """Report only."""


class ServeConfig(ApiModel):
    """What a serving pod's init container needs: the model to copy, and the name that its server answers to."""

    contract: int
    run: RunRef
    store: str
    served_name: str
    """Served model name; the server's key is derived from it."""
    prepare: StageRef | None = None
    """Its tokenizer, with the chat template of the run, replaces the model's own. Absent for fixed models: they keep theirs."""
    model: ModelRef


class RetireConfig(ApiModel):
    """What the Job that clears a deleted run's artifacts away needs; it comes as an environment variable."""

    contract: int
    run: RunRef
    store: str
