"""The object itself: `SelfRewardingRun`, its spec and its status."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from selfrewarding.api import measured
from selfrewarding.api.algorithm import (
    DpoSpec,
    EvaluationsSpec,
    JudgeSpec,
    PreferencesSpec,
    PromptGenerationSpec,
    ResponsesSpec,
    SftSpec,
)
from selfrewarding.api.base import ApiModel, Rule
from selfrewarding.api.conditions import Condition
from selfrewarding.api.data import ArtifactsSpec, ModelSpec, SeedDataSpec
from selfrewarding.api.evaluation import AlarmsSpec, EvaluationSpec, GateSpec
from selfrewarding.api.execution import (
    LimitsSpec,
    RetentionSpec,
    SamplerSpec,
    SchedulingSpec,
    ServingSpec,
    TrainingSpec,
)
from selfrewarding.api.tracking import TrackingSpec

_EARLY_STOPPING_COMPARES = (
    "dpo.earlyStopping compares the candidates as evaluation.headToHead says: set evaluation.headToHead, or remove "
    "dpo.earlyStopping"
)
_EARLY_STOPPING_IS_DPO = (
    "dpo.earlyStopping chooses among DPO's models, and preferences.rule PositiveOnly does no DPO: remove one of the "
    "two"
)


class SelfRewardingRunSpec(ApiModel):
    """What to train, from what, and how."""

    suspend: bool = False
    """True: free all GPUs and wait; nothing is lost. Set it back to go on."""
    preset: Literal["paper-2401.10020", "small"] | None = None
    """A named set of defaults; what the spec says itself goes before it. `paper-2401.10020`: every number that the paper
    states. `small`: one GPU, a model of a few billion parameters."""
    iterations: int = Field(default=3, ge=1, le=20)
    """Models to make: 1 is supervised fine-tuning only (M1), 3 is the paper (M3)."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Every random choice comes from this number: same seed and data, same requests."""
    model: ModelSpec
    """The model M0 to start from."""
    artifacts: ArtifactsSpec
    """Where results go."""
    seed_data: SeedDataSpec
    """The seed set."""
    sft: SftSpec = SftSpec()
    """Supervised fine-tuning."""
    evaluations: EvaluationsSpec = EvaluationsSpec()
    """Making of EFT examples."""
    prompt_generation: PromptGenerationSpec = PromptGenerationSpec()
    """New prompts."""
    responses: ResponsesSpec = ResponsesSpec()
    """Candidate answers."""
    judge: JudgeSpec = JudgeSpec()
    """The judge."""
    preferences: PreferencesSpec = PreferencesSpec()
    """Preference pairs."""
    dpo: DpoSpec = DpoSpec()
    """Direct preference optimisation."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """Measuring each model."""
    alarms: AlarmsSpec = AlarmsSpec()
    """Signs of a collapse, looked at as soon as they are measured."""
    gate: GateSpec = GateSpec()
    """What must hold before a model is built upon."""
    tracking: TrackingSpec = TrackingSpec()
    """Where the numbers go besides the report."""
    serving: ServingSpec = ServingSpec()
    """vLLM pools."""
    training: TrainingSpec = TrainingSpec()
    """DeepSpeed jobs."""
    sampler: SamplerSpec = SamplerSpec()
    """Data jobs."""
    scheduling: SchedulingSpec = SchedulingSpec()
    """Queue, priority, nodes."""
    limits: LimitsSpec = LimitsSpec()
    """Deadlines, retries, budgets."""
    retention: RetentionSpec = RetentionSpec()
    """What is kept."""

    cel_rules = (
        Rule(
            "has(self.preset) == has(oldSelf.preset) && (!has(self.preset) || self.preset == oldSelf.preset)",
            "preset cannot be changed: set the fields themselves, or make a new run",
        ),
        Rule(
            "!has(self.serving) || !has(self.serving.judge) || (has(self.judge) && has(self.judge.modelUri))",
            "serving.judge is a pool for a dedicated judge: set judge.modelUri too",
        ),
        Rule(
            "!has(self.serving) || !has(self.serving.promptWriter) || (has(self.promptGeneration) && "
            "has(self.promptGeneration.writer) && has(self.promptGeneration.writer.modelUri))",
            "serving.promptWriter is a pool for a fixed prompt writer: set promptGeneration.writer.modelUri too",
        ),
        Rule(
            "!has(self.serving) || !has(self.serving.referee) || (has(self.evaluation) && "
            "has(self.evaluation.headToHead) && has(self.evaluation.headToHead.judge) && "
            "has(self.evaluation.headToHead.judge.modelUri))",
            "serving.referee is a pool for a fixed judge of comparisons: set evaluation.headToHead.judge.modelUri too",
        ),
        *measured.RULES,
        Rule(
            "!has(self.dpo) || !has(self.dpo.earlyStopping) || (has(self.evaluation) && "
            "has(self.evaluation.headToHead))",
            _EARLY_STOPPING_COMPARES,
        ),
        Rule(
            "!has(self.dpo) || !has(self.dpo.earlyStopping) || !has(self.preferences) || "
            "!has(self.preferences.rule) || self.preferences.rule != 'PositiveOnly'",
            _EARLY_STOPPING_IS_DPO,
        ),
    )

    @model_validator(mode="after")
    def _batches_divide(self) -> "SelfRewardingRunSpec":
        ranks = self.training.nodes * self.training.gpus_per_node
        step = ranks * self.training.micro_batch_size
        for name, batch in (("sft", self.sft.batch_size), ("dpo", self.dpo.batch_size)):
            if batch % step:
                raise ValueError(
                    f"{name}.batchSize ({batch}) is no multiple of ranks x micro batch = {self.training.nodes} nodes x "
                    f"{self.training.gpus_per_node} GPUs x {self.training.micro_batch_size} = {step}: change "
                    f"{name}.batchSize or training.microBatchSize"
                )
        if self.serving.judge is not None and self.judge.model_uri is None:
            raise ValueError("serving.judge is a pool for a dedicated judge: set judge.modelUri too")
        if self.serving.prompt_writer is not None and self.prompt_generation.writer.model_uri is None:
            raise ValueError(
                "serving.promptWriter is a pool for a fixed prompt writer: set promptGeneration.writer.modelUri too"
            )
        compared = self.evaluation.head_to_head
        if self.serving.referee is not None and (compared is None or compared.judge.model_uri is None):
            raise ValueError(
                "serving.referee is a pool for a fixed judge of comparisons: set evaluation.headToHead.judge.modelUri too"
            )
        return self

    @model_validator(mode="after")
    def _candidates_are_compared(self) -> "SelfRewardingRunSpec":
        if self.dpo.early_stopping is None:
            return self
        compared = self.evaluation.head_to_head
        if compared is None:
            raise ValueError(_EARLY_STOPPING_COMPARES)
        if self.preferences.rule == "PositiveOnly":
            raise ValueError(_EARLY_STOPPING_IS_DPO)
        return self

    @model_validator(mode="after")
    def _what_is_asked_for_is_measured(self) -> "SelfRewardingRunSpec":
        why = measured.why_refused(self)
        if why is not None:
            raise ValueError(why)
        return self


class Metrics(ApiModel):
    """The numbers that gates and columns need; the whole set lies with the artifacts."""

    pairwise_accuracy: float | None = None
    """Share of the held-out pairs that the judge orders as people did."""
    five_best: float | None = None
    """How often an answer that got the highest score is also people's best."""
    exact_match: float | None = None
    """Share of the held-out prompts whose whole order is as people's."""
    spearman: float | None = None
    """Spearman correlation with the human ranks, mean over prompts."""
    kendall_tau: float | None = None
    """Kendall's tau-b with the human ranks, mean over prompts."""
    valid_rate: float | None = None
    """Share of the judgements that are valid."""
    pair_yield: float | None = None
    """Preference pairs per prompt."""
    tie_rate: float | None = None
    """Share of the prompts whose answers all have the same score."""
    truncated_rate: float | None = None
    """Share of the answers that were cut by length."""
    loss: float | None = None
    """Training loss, mean of the last tenth of the steps."""
    reward_margin: float | None = None
    """DPO's reward margin, mean of the last tenth of the steps."""
    win_rate: float | None = None
    """Share of the comparisons with the previous model that this one wins, a tie counting one half."""
    win_rate_initial: float | None = None
    """The same against M1; for a model that was made from M1 it is `winRate`."""
    win_rate_baseline: float | None = None
    """The same against the baseline."""
    win_rate_length_controlled: float | None = None
    """The win rate against the previous model as it would be at equal lengths."""
    position_bias: float | None = None
    """Share of the comparisons in which the judge prefers the same place in both orders."""
    score_piling: float | None = None
    """Share of the answers that have the most common score."""
    score_gap: float | None = None
    """Mean difference of the scores of chosen and rejected."""
    score_length_correlation: float | None = None
    """Correlation of an answer's score with its length in characters."""
    length_ratio: float | None = None
    """Mean length of the chosen answers by that of the rejected ones."""
    mean_length: float | None = None
    """Mean length of the answers in characters."""
    prompt_diversity: float | None = None
    """Distinct pairs of neighbouring words among all of the new prompts."""
    prompt_similarity: float | None = None
    """Mean ROUGE-L of a new prompt to the seed nearest to it."""
    refusal_rate: float | None = None
    """Share of the answers that refuse."""
    repetition_rate: float | None = None
    """Share of the answers that repeat themselves."""
    selected: float | None = None
    """Number of the candidate that was chosen (`dpo.earlyStopping`), from 1."""


class StageSummary(ApiModel):
    """What a finished stage says of itself, from its termination message (at most 768 bytes)."""

    stage: str
    """Kind of the stage, e.g. Rollout."""
    iteration: int
    """Iteration that it belongs to."""
    digest: str
    """Digest of its result document; stages that read it pin this."""
    counts: dict[str, int] = {}
    """Rows, tokens, steps by name."""
    metrics: dict[str, float] = {}
    """Metrics by name."""
    data: dict[str, str] = {}
    """Digests of the seed sets and of M0 (Prepare only)."""
    seconds: float | None = None
    """Time from the attempt's start to its result."""
    handover_seconds: float | None = None
    """How long the GPUs were on their way to this stage: from the end of the last stage that used them until its own
    servers answered or its own pods ran. Absent where it took over servers that were there."""


class StageAttempts(ApiModel):
    """What the operator remembers of a stage that is not done."""

    attempt: int
    """Number of the attempt, from 1; part of the children's names."""
    failures: int = 0
    """Failures that count against `limits.retries`."""
    infrastructure: int = 0
    """Failures of nodes and pods since the last new row or step; five are Stalled."""
    started: str | None = None
    """When the stage was first started (RFC 3339); suspension is taken off."""
    last_failure: str | None = None
    """Why the last attempt failed, or what it waits for before it is tried again."""
    failure: str | None = None
    """Class of the last failure: BadConfiguration, BadData, OutOfMemory (these three end the run until its spec changes),
    ParentMissing, StoreUnavailable, ServerKeyRefused, NotStarted, Retry, Unknown or Infrastructure."""
    not_before: str | None = None
    """The next attempt waits until then (RFC 3339)."""
    progress: int = 0
    """Rows or steps that were done when the last attempt ended."""
    handover_seconds: float | None = None
    """How long the GPUs were on their way to this stage."""


class ModelStatus(ApiModel):
    """A model that the run made."""

    name: str
    """Baseline, M1, M2, …"""
    iteration: int
    """Iteration that made it."""
    uri: str
    """Folder of the stage that made it: its result.json names the model's files (`srr models` prints their folder)."""
    digest: str
    """Digest of its weights."""
    metrics: Metrics = Metrics()
    """Its measurements."""
    gate: Literal["Promoted", "Held", "Stopped", "RolledBack"] | None = None
    """What the gate decided."""
    gate_message: str | None = None
    """Why the gate decided so."""


class AlarmStatus(ApiModel):
    """An alarm that sounded."""

    name: str
    """Name of the alarm, as in `spec.alarms`."""
    iteration: int
    """Iteration whose rows it is about."""
    stage: str | None = None
    """The stage that measured it, whose evidence.json names the rows that show it best; or the model that keeps the number."""
    action: Literal["Warn", "Stop"]
    """What followed."""
    value: float
    """What was measured."""
    threshold: float
    """What it was compared with."""
    message: str
    """What it means and what to try."""


class Progress(ApiModel):
    """How far the current stage is."""

    done: int
    """Rows, steps or pairs done."""
    total: int
    """Out of."""
    rate: float | None = None
    """Per second."""
    eta_seconds: float | None = None
    """Time left."""
    updated: str | None = None
    """When these numbers were written (RFC 3339); at most every 30 s."""


class Pinned(ApiModel):
    """Versions that were fixed when the run started, so that a release changes nothing under way."""

    preset: str | None = None
    """Preset and its version, e.g. paper-2401.10020/1."""
    contract: int
    """Version of the contract with the stage programs."""


class SelfRewardingRunStatus(ApiModel):
    """What was seen; never read back as wish. A few kB: the history lies with the artifacts."""

    observed_generation: int | None = None
    """The `metadata.generation` that this status was computed from."""
    conditions: Annotated[
        list[Condition],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
    ] = []
    """Ready, Reconciling, Stalled, Succeeded, Failed, Suspended."""
    iteration: int | None = None
    """Iteration under way."""
    stage: str | None = None
    """Stage under way."""
    progress: Progress | None = None
    """How far the stage is."""
    waiting_for: str | None = None
    """What the run waits for, in plain words."""
    gpus: int | None = None
    """GPUs that its pods hold now."""
    gpu_seconds: float | None = None
    """GPU-seconds used until `gpusSince`."""
    gpus_since: str | None = None
    """Since when `gpus` are counted but not yet in `gpuSeconds` (RFC 3339)."""
    handover_seconds: float | None = None
    """Time of the last hand-over of GPUs from one stage to the next."""
    handover_since: str | None = None
    """When the hand-over under way began (RFC 3339)."""
    models: list[ModelStatus] = []
    """Models so far."""
    alarms: list[AlarmStatus] = Field(default=[], max_length=300)
    """Alarms that sounded, each at most once in an iteration; of several with one name the newest says what to try."""
    results: dict[str, StageSummary] = {}
    """Summaries of the finished stages by stage key (first 16 hex digits); current keys only."""
    attempts: dict[str, StageAttempts] = {}
    """Attempts of the unfinished stages by stage key (first 16 hex digits), and of the serving pools under way by
    `<model key, first 16 hex digits>-<pool>`."""
    resolved: list[str] = []
    """Stage keys (first 16 hex digits) that Resolve has looked for in the store and not found."""
    pinned: Pinned | None = None
    """Versions fixed at the start."""
    suspended_at: str | None = None
    """When the current suspension began (RFC 3339)."""


class ObjectMeta(ApiModel):
    """The parts of `metav1.ObjectMeta` that we read; others are kept aside."""

    model_config = ApiModel.model_config | {"extra": "allow"}

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
    namespace: str | None = None
    uid: str | None = None
    generation: int | None = None
    resource_version: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class SelfRewardingRun(ApiModel):
    """Self-Rewarding Language Models (arXiv 2401.10020) as one object: a model is taught to follow instructions and to
    judge answers, then, round after round, writes prompts, answers them, judges its answers and trains on the best
    against the worst."""

    api_version: Literal["selfrewarding.dev/v1alpha1"]
    kind: Literal["SelfRewardingRun"]
    metadata: ObjectMeta
    spec: SelfRewardingRunSpec
    status: SelfRewardingRunStatus = SelfRewardingRunStatus()


RawObject = dict[str, Any]
"""A Kubernetes object as JSON gives it."""
