"""What is computed: the settings of the algorithm. Each is part of the key of the stages that read it.

Numbers that the paper (arXiv 2401.10020) states are in the preset `paper-2401.10020`; where it is silent, the defaults
here are ours and are recorded with the results.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from selfrewarding.api.base import ApiModel, Rule
from selfrewarding.api.data import HttpUri, Language, ModelUri, SecretName

Probability = Annotated[float, Field(gt=0, le=1)]
Temperature = Annotated[float, Field(ge=0, le=2)]


class LoraSpec(ApiModel):
    """Low-rank adapters instead of full fine-tuning; merged into the weights before hand-over."""

    rank: int = Field(default=16, ge=1, le=1024)
    """Rank of the update matrices."""
    alpha: int = Field(default=32, ge=1)
    """Scale of the update: alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout in the adapters."""
    target_modules: list[str] | Literal["AllLinear"] = "AllLinear"
    """Names of the modules that get adapters."""


class OptimisationSpec(ApiModel):
    """What SFT and DPO have in common."""

    epochs: float = Field(default=1, gt=0, le=100)
    """Passes over the data (the paper does not state it)."""
    learning_rate: float = Field(default=5.5e-6, gt=0, lt=1)
    """Peak learning rate."""
    min_learning_rate: float = Field(default=1.1e-6, ge=0, lt=1)
    """Learning rate at the last step; the cosine decays to it, not to zero."""
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps over which the learning rate rises (the paper does not state it)."""
    batch_size: int = Field(default=16, ge=1)
    """Examples (SFT) or pairs (DPO) per optimiser step over all ranks: ranks x micro batch x accumulation."""
    max_length: int = Field(default=2048, ge=64)
    """Longest example in tokens, prompt and answer; a longer row is left out and counted, never cut."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout while training. Llama-like models only have it in attention; the deviation is recorded."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's weight decay (the paper does not state it)."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    optimizer: Literal["AdamW", "AdamW8bit"] = "AdamW"
    """AdamW8bit keeps its state in 8 bits (needs bitsandbytes and a GPU)."""
    precision: Literal["Auto", "BFloat16", "Float32"] = "Auto"
    """Number format of the computation; master weights are float32. Auto: BFloat16 on GPUs, Float32 on CPUs."""
    lora: LoraSpec | None = None
    """Train adapters instead of all weights."""

    # Where a value is absent, the preset or the default stands for it, which the API server does not know.
    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.minLearningRate) || !has(self.learningRate) || self.minLearningRate <= self.learningRate",
            "minLearningRate is above learningRate: the cosine decays from learningRate to minLearningRate",
        ),
    )

    @model_validator(mode="after")
    def _floor_below_peak(self) -> "OptimisationSpec":
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"minLearningRate ({self.min_learning_rate}) is above learningRate ({self.learning_rate}): "
                "the cosine decays from learningRate to minLearningRate"
            )
        return self


class SftSpec(OptimisationSpec):
    """Supervised fine-tuning on IFT and EFT: M0 to M1, and M0 to the baseline (paper section 2.2)."""

    epochs: float = Field(default=2, gt=0, le=100)
    """Passes over the data (the paper does not state it)."""
    neftune_noise_alpha: float | None = Field(default=None, gt=0)
    """Noise on the embeddings while training (NEFTune); absent: none, as in the paper."""


class EndpointSpec(ApiModel):
    """An OpenAI-compatible server that is not ours."""

    url: HttpUri
    """Base address that ends before `/chat/completions`, e.g. `https://host/v1`."""
    model: str = Field(min_length=1, max_length=256)
    """Model name to ask for."""
    api_key_secret_name: SecretName | None = None
    """Secret in the run's namespace whose key `apiKey` is sent as bearer token."""
    max_concurrency: int = Field(default=16, ge=1, le=4096)
    """Requests in flight at once."""


class PromptWriterSpec(ApiModel):
    """Who writes new prompts. At most one; absent: the current model M_(t-1)."""

    model_uri: ModelUri | None = None
    """A fixed model, served in a pool of its own while prompts are written (the paper: Llama 2-Chat 70B)."""
    endpoint: EndpointSpec | None = None
    """A fixed model behind an OpenAI-compatible endpoint."""

    cel_rules = (
        Rule(
            "!(has(self.modelUri) && has(self.endpoint))", "give writer.modelUri or writer.endpoint, not both"
        ),
    )

    @model_validator(mode="after")
    def _at_most_one(self) -> "PromptWriterSpec":
        if self.model_uri and self.endpoint:
            raise ValueError("give writer.modelUri or writer.endpoint, not both")
        return self


class PromptFiltersSpec(ApiModel):
    """Which new prompts are kept (the filters of Self-Instruct)."""

    max_rouge_l: float = Field(default=0.7, gt=0, le=1)
    """A prompt is dropped if its ROUGE-L F1 to a seed or an accepted prompt is above this."""
    min_words: int | None = Field(default=None, ge=1)
    """Fewest words; absent: the language's own limit (English: Self-Instruct's 4; Korean: 2, its words hold more)."""
    max_words: int | None = Field(default=None, ge=1)
    """Most words; absent: the language's own limit (150)."""
    keywords: list[str] | None = None
    """Prompts that contain one of these words are dropped; absent: Self-Instruct's list in the language."""
    language: Language = "English"
    """Rules for words, keywords and first characters."""


class PromptGenerationSpec(ApiModel):
    """New prompts, a few-shot continuation of old ones (paper section 2.3, Self-Instruct)."""

    count: int = Field(default=4000, ge=1)
    """New prompts that each round needs."""
    min_count: int | None = Field(default=None, ge=1)
    """With fewer than this after `maxRequests`, the stage fails; absent: half of `count`."""
    max_requests: int | None = Field(default=None, ge=1)
    """Most completions asked for; absent: 4 x count."""
    seed_shots: int = Field(default=6, ge=1)
    """Examples from the seed instructions in each few-shot prompt."""
    generated_shots: int = Field(default=2, ge=0)
    """Examples from the prompts that were already made."""
    temperature: Temperature = 0.6
    """Sampling temperature."""
    top_p: Probability = 0.9
    """Nucleus sampling."""
    max_tokens: int = Field(default=512, ge=16)
    """Longest completion."""
    writer: PromptWriterSpec = PromptWriterSpec()
    """Who writes them."""
    filters: PromptFiltersSpec = PromptFiltersSpec()
    """Which are kept."""


class ResponsesSpec(ApiModel):
    """Candidate answers, written by the current model (paper section 2.3)."""

    samples: int = Field(default=4, ge=2, le=64)
    """Answers per prompt (N)."""
    temperature: Temperature = 0.7
    """Sampling temperature."""
    top_p: Probability = 0.9
    """Nucleus sampling."""
    max_tokens: int = Field(default=1024, ge=1)
    """Longest answer; an answer cut by it is marked."""


class ScoresSpec(ApiModel):
    """Which scores a judgement may end in."""

    minimum: int = Field(default=0, ge=0)
    """Lowest score."""
    maximum: int = Field(default=5, ge=1)
    """Highest score."""
    decimals: bool = False
    """Whether 3.5 is a score."""

    cel_rules = (
        Rule(
            "!has(self.minimum) || !has(self.maximum) || self.maximum > self.minimum",
            "judge.scores.maximum must be above judge.scores.minimum",
        ),
    )

    @model_validator(mode="after")
    def _order(self) -> "ScoresSpec":
        if self.maximum <= self.minimum:
            raise ValueError(f"scores.maximum ({self.maximum}) must be above scores.minimum ({self.minimum})")
        return self


class CalibrationSpec(ApiModel):
    """What the first judge must reach on the held-out human-ranked rows before the first rollout spends anything."""

    min_pairwise_accuracy: float | None = Field(default=0.5, ge=0, le=1)
    """Share of the pairs that it must order as people did; ties count one half, so 0.5 is a coin (the paper's baseline:
    0.651; the prompt form that failed: 0.266)."""
    min_valid_rate: float | None = Field(default=0.5, ge=0, le=1)
    """Share of its judgements that must be valid."""
    min_pairs: int = Field(default=20, ge=1)
    """With fewer judged pairs nothing can be said, and the run stops as well."""


class JudgeSpec(ApiModel):
    """How answers are scored: LLM-as-a-judge, additive 0-5, justification before the score (paper section 2.1)."""

    format: Literal["Free", "Structured"] = "Free"
    """Free: the judge writes its text, and the last line `Score: <n>` is read. Structured: a free justification, then
    one token chosen among the allowed scores; always well-formed."""
    scoring: Literal["Sampled", "Expected"] = "Sampled"
    """Sampled: the score that was written. Expected: the mean of the allowed scores by their probabilities at that
    token (needs Structured)."""
    samples: int = Field(default=3, ge=1, le=64)
    """Judgements per answer; their mean is the answer's score."""
    temperature: Temperature = 0.7
    """Sampling temperature."""
    top_p: Probability = 0.9
    """Nucleus sampling."""
    max_tokens: int = Field(default=512, ge=8)
    """Longest judgement (Structured: longest justification)."""
    scores: ScoresSpec = ScoresSpec()
    """Allowed scores."""
    template: str | None = Field(default=None, max_length=16384)
    """Own text of the judge prompt, with `{instruction}` and `{response}` once each, in this order; the fixed part
    should come first, so that the server's prefix cache serves it."""
    language: Language = "English"
    """Language of the built-in judge prompt (Any is English)."""
    retries: int = Field(default=2, ge=0, le=20)
    """How often an invalid judgement is asked for again."""
    min_valid: int = Field(default=1, ge=1)
    """Valid judgements that an answer needs to count."""
    min_valid_rate: float = Field(default=0.2, ge=0, le=1)
    """The rollout fails if a smaller share of the judgements is valid."""
    model_uri: ModelUri | None = None
    """A dedicated judge, served in a pool of its own; absent: the model judges itself."""
    calibration: CalibrationSpec | None = None
    """Stop the run before its first rollout if the judge is no better than this; absent: not checked."""

    cel_rules = (
        Rule(
            "!has(self.scoring) || self.scoring != 'Expected' || !has(self.format) || self.format == 'Structured'",
            "judge.scoring Expected needs judge.format Structured",
        ),
        Rule(
            "!has(self.minValid) || !has(self.samples) || self.minValid <= self.samples",
            "judge.minValid is above judge.samples: no answer could ever count",
        ),
        Rule(
            "!has(self.format) || self.format != 'Structured' || !has(self.scores) || !has(self.scores.decimals) || "
            "!self.scores.decimals",
            "judge.format Structured chooses among whole scores: set judge.scores.decimals to false",
        ),
    )

    @model_validator(mode="after")
    def _expected_is_structured(self) -> "JudgeSpec":
        if self.scoring == "Expected" and self.format != "Structured":
            raise ValueError("judge.scoring Expected needs judge.format Structured")
        if self.min_valid > self.samples:
            raise ValueError(f"judge.minValid ({self.min_valid}) is above judge.samples ({self.samples})")
        if self.format == "Structured" and self.scores.decimals:
            raise ValueError(
                "judge.format Structured chooses among whole scores: set judge.scores.decimals to false"
            )
        return self


class EvaluationsSpec(ApiModel):
    """How EFT examples are made from ranked answers (paper section 2.1.1)."""

    samples: int = Field(default=3, ge=1, le=64)
    """Judgements per ranked answer by the baseline (the paper does not state it)."""
    agreement: Literal["NoneDiscordant", "AllConcordant"] = "NoneDiscordant"
    """When a prompt is kept. NoneDiscordant: no pair of its answers is ordered against people, and at least one as they
    did. AllConcordant: every pair that people ranked is ordered as they did."""
    target: Literal["NearestMean", "All"] = "NearestMean"
    """Which judgements become examples. NearestMean: the one nearest the answer's mean score, the first of several."""
    most_common_share: float = Field(default=0.4, gt=0, le=1)
    """The most common score is thinned out to at most this share of the EFT examples (the paper does not state it)."""
    min_examples: int = Field(default=1, ge=0)
    """With fewer EFT examples, the stage fails."""


class PreferencesSpec(ApiModel):
    """Which answers become preference pairs (paper section 2.3)."""

    rule: Literal["BestWorst", "AllAboveMargin", "BestRandom", "PositiveOnly"] = "BestWorst"
    """BestWorst: highest against lowest mean. AllAboveMargin: all pairs. BestRandom: highest against any lower one.
    PositiveOnly: no pairs; SFT on answers with `positiveScore` (paper appendix A.4)."""
    min_margin: float | None = Field(default=None, ge=0)
    """Smallest difference of means; absent: any difference with Sampled scores, 0.25 with Expected ones."""
    positive_score: float | None = None
    """PositiveOnly: the mean that an answer needs; absent: the highest score."""
    truncated: Literal["Exclude", "RejectedOnly", "Allow"] = "Exclude"
    """Whether answers that were cut by length may be in a pair."""
    min_pairs: int = Field(default=1, ge=1)
    """With fewer pairs, the stage fails."""
    length_control: float | None = Field(default=None, ge=0, le=1)
    """Rho of length control (arXiv 2407.19594): the shortest of the near-best against the longest of the near-worst."""


class EarlyStoppingSpec(ApiModel):
    """Which of several models of one DPO training goes on, by pairwise comparison (paper section 3.1.3): each is compared
    with the one before, in both orders, and the first that does not win more than half ends it: the one before is
    chosen. Prompts, answers and judge are those of `evaluation.headToHead`."""

    candidates: int = Field(default=4, ge=2, le=8)
    """Models saved, whole, at equal parts of the steps; the last one is that of the whole training."""


class DpoSpec(OptimisationSpec):
    """Direct preference optimisation: M_(t-1) to M_t (paper section 2.4)."""

    learning_rate: float = Field(default=1e-6, gt=0, lt=1)
    """Peak learning rate."""
    min_learning_rate: float = Field(default=1e-7, ge=0, lt=1)
    """Learning rate at the last step."""
    beta: float = Field(default=0.1, gt=0)
    """How strongly the policy is held to the reference."""
    loss: list[
        Literal[
            "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
            "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
        ]
    ] = Field(default=["sigmoid"], min_length=1, max_length=4)  # fmt: skip
    """TRL's loss types, summed with `lossWeights`; ["sigmoid", "sft"] is RPO."""
    loss_weights: list[float] | None = Field(default=None, min_length=1, max_length=4)
    """One weight per loss; absent: 1 each."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the labels taken as wrong (cDPO, robust DPO)."""
    length_desensitization: float | None = Field(default=None, ge=0, le=1)
    """LD-DPO's alpha: weight of the part of an answer beyond the shorter one's length; absent: 1."""
    reference: Literal["Previous", "Initial"] | ModelUri = "Previous"
    """Model that DPO is held to: M_(t-1) (the paper), M1, or a fixed one by its URI."""
    early_stopping: EarlyStoppingSpec | None = None
    """Choose among models saved on the way (needs `evaluation.headToHead`); absent: the last one is taken."""

    cel_rules = (
        *OptimisationSpec.cel_rules,
        Rule(
            "!has(self.lossWeights) || !has(self.loss) || size(self.lossWeights) == size(self.loss)",
            "dpo.lossWeights needs one weight for each of dpo.loss",
        ),
    )

    @model_validator(mode="after")
    def _one_weight_each(self) -> "DpoSpec":
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss):
            raise ValueError("dpo.lossWeights needs one weight for each of dpo.loss")
        return self
