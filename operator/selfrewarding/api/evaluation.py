"""How models are measured, and what follows from the numbers: evaluation, alarms, gate.

Thresholds are no part of any stage's key: changing one decides anew on the numbers that are there and computes nothing
again. What is measured (prompts, judge, samples) is.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from selfrewarding.api.algorithm import EndpointSpec, Probability, Temperature
from selfrewarding.api.base import ApiModel, Rule
from selfrewarding.api.data import Language, ModelUri, Uri

SetName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$")]

HELD_OUT_SET = "held-out"
"""Name of the set of prompts that is always there: those of the held-out ranked rows."""
_STRUCTURED_ENDPOINT = (
    "headToHead.format Structured needs a judge that the run serves, an endpoint gives nothing but text: "
    "set format to Free, or judge.modelUri instead of judge.endpoint"
)
_SHARE_THRESHOLD = "the threshold is a share or a correlation, between 0 and 1: write 0.9 for 90 %"


class PromptSetSpec(ApiModel):
    """Prompts that every model of the run answers, to be compared head to head or handed to a benchmark."""

    name: SetName
    """Name of the set in reports and exports."""
    uri: Uri
    """The file; `.gz` is unpacked."""
    format: Literal["Prompts", "AlpacaEval", "MtBench"] = "Prompts"
    """Prompts: JSON lines {"prompt"} (and "id", "category"). AlpacaEval: its JSON list of {"instruction", "dataset"}.
    MtBench: its question.jsonl of {"question_id", "category", "turns"}; every turn is answered, with FastChat's
    temperature for its category (0 to 0.7) instead of `answers.temperature`."""
    max_rows: Annotated[int, Field(ge=1)] | None = None
    """Take at most this many, chosen by a hash of their content."""

    @property
    def turns(self) -> int:
        """Turns of its prompts: MT-Bench's have two, the second about the answer to the first."""
        return 2 if self.format == "MtBench" else 1


class AnswersSpec(ApiModel):
    """How each model answers the prompts of `evaluation.prompts` and of the comparisons: one answer each."""

    temperature: Temperature = 0.7
    """Sampling temperature."""
    top_p: Probability = 0.9
    """Nucleus sampling."""
    max_tokens: int = Field(default=1024, ge=1)
    """Longest answer; an answer cut by it is marked."""


class ComparisonJudgeSpec(ApiModel):
    """Who compares two answers. At most one; absent: the newest model itself, so that numbers of different rounds
    have different judges and are not drawn as one line."""

    model_uri: ModelUri | None = None
    """A fixed judge model, served in a pool of its own while answers are compared."""
    endpoint: EndpointSpec | None = None
    """A fixed judge behind an OpenAI-compatible endpoint."""
    language: Language = "English"
    """Language of the comparison prompt (Any is English)."""
    token_budget: int | None = Field(default=None, ge=1)
    """Most tokens, prompt and completion, that one round of comparisons may use; where it ends, the comparisons so far
    count and the rest are reported as unjudged."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.modelUri) && has(self.endpoint))", "give judge.modelUri or judge.endpoint, not both"
        ),
    )

    @model_validator(mode="after")
    def _at_most_one(self) -> "ComparisonJudgeSpec":
        if self.model_uri and self.endpoint:
            raise ValueError("give judge.modelUri or judge.endpoint, not both")
        return self


Opponent = Literal["Previous", "M1", "Baseline"]
"""Whose answers a model's are compared with: those of the model it was trained from, of M1, of the SFT baseline."""


class HeadToHeadSpec(ApiModel):
    """Each model against earlier ones on the same prompts (paper section 3.2.1): both orders, disagreement is a tie."""

    against: list[Opponent] = Field(default=["Previous", "M1", "Baseline"], min_length=1, max_length=3)
    """Opponents: M_(t-1), M1, and the baseline that is trained on instructions only (where the run makes one)."""
    set: SetName = HELD_OUT_SET
    """Name of one of `evaluation.prompts`; `held-out` are the prompts of the held-out ranked rows."""
    prompts: int = Field(default=256, ge=2)
    """Compare on at most this many prompts, chosen by a hash of their content (the paper: 256)."""
    judge: ComparisonJudgeSpec = ComparisonJudgeSpec()
    """Who compares."""
    format: Literal["Free", "Structured"] = "Free"
    """Free: the judge writes, and its last preference line is read; one without a valid line is asked for again. Structured:
    it justifies freely, then A, B or Tie is chosen, so that every verdict is well-formed: for models too small to keep to
    a form. Structured needs a served judge: an endpoint takes text and gives text."""
    max_tokens: int = Field(default=512, ge=8)
    """Longest judgement; Structured: longest justification."""
    temperature: Temperature = 0.0
    """Sampling temperature of the judge."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.format) || self.format == 'Free' || !has(self.judge) || !has(self.judge.endpoint)",
            _STRUCTURED_ENDPOINT,
        ),
    )

    @model_validator(mode="after")
    def _structured_is_served(self) -> "HeadToHeadSpec":
        if self.format == "Structured" and self.judge.endpoint is not None:
            raise ValueError(_STRUCTURED_ENDPOINT)
        return self


class EvaluationSpec(ApiModel):
    """How each model is measured on the held-out ranked prompts before the next iteration builds on it."""

    samples: int | None = Field(default=None, ge=1, le=64)
    """Judgements per held-out answer; absent: as `judge.samples`."""
    bootstrap: int = Field(default=1000, ge=100, le=100000)
    """Resamples of the confidence intervals."""
    prompts: list[PromptSetSpec] | None = Field(default=None, min_length=1, max_length=8)
    """Sets of prompts that every model answers. New prompts are kept away from them, so a set that is given later has the
    rounds computed again from their prompts on."""
    answers: AnswersSpec | None = None
    """How they are answered."""
    head_to_head: HeadToHeadSpec | None = None
    """Compare each model with earlier ones; absent: not done."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.headToHead) || !has(self.headToHead.set) || self.headToHead.set == 'held-out' || "
            "(has(self.prompts) && self.prompts.exists(one, one.name == self.headToHead.set))",
            "evaluation.headToHead.set names no set of evaluation.prompts",
        ),
        Rule(
            "!has(self.prompts) || self.prompts.all(one, one.name != 'held-out' && "
            "self.prompts.exists_one(other, other.name == one.name))",
            "evaluation.prompts needs different names, and held-out is taken",
        ),
    )

    @model_validator(mode="after")
    def _sets(self) -> "EvaluationSpec":
        names = [one.name for one in self.prompts or []]
        if len(set(names)) < len(names) or HELD_OUT_SET in names:
            raise ValueError("evaluation.prompts needs different names, and held-out is taken")
        if self.head_to_head is not None and self.head_to_head.set not in (HELD_OUT_SET, *names):
            raise ValueError(
                f"evaluation.headToHead.set is {self.head_to_head.set!r}, which is no set of evaluation.prompts "
                f"({', '.join(names) or 'there are none'}): name one of them, or {HELD_OUT_SET}"
            )
        return self


class Alarm(ApiModel):
    """One alarm: the number beyond which it sounds, and what happens then."""

    threshold: float | None = None
    """The number beyond which it sounds; absent: the alarm's own (see the field's text)."""
    action: Literal["Warn", "Stop", "Off"] | None = None
    """Warn: an event and a line in the report. Stop: the run ends before its next stage. Absent: the alarm's own."""


class ShareAlarm(Alarm):
    """An alarm over a share or a correlation, whose threshold lies between 0 and 1."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule("!has(self.threshold) || (self.threshold >= 0.0 && self.threshold <= 1.0)", _SHARE_THRESHOLD),
    )

    @model_validator(mode="after")
    def _can_be_reached(self) -> "ShareAlarm":
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"{_SHARE_THRESHOLD}, and not {self.threshold:g}")
        return self


class AlarmsSpec(ApiModel):
    """Signs that a judge rewards itself for nothing. Each is looked at as soon as its number is known: those of a round's
    prompts, answers, scores and pairs before they are trained on, judgeCorrelation and positionBias once the new model is
    measured, before the next round. All numbers stand in the report, with the rows that show them best."""

    score_piling: ShareAlarm = ShareAlarm()
    """Share of the answers that have the most common score, above 0.9: Stop (the paper without EFT: scores collapse at 4,
    and 541 pairs are left of 3,964)."""
    valid_rate: ShareAlarm = ShareAlarm()
    """Share of the judgements that are valid, below 0.5: Warn."""
    pair_yield: Alarm = Alarm()
    """Preference pairs per prompt, below 0.14: Warn (the paper without EFT: 541 pairs where 3,964 were possible)."""
    tie_rate: ShareAlarm = ShareAlarm()
    """Share of the prompts whose answers all have the same score, above 0.8: Warn."""
    length_growth: Alarm = Alarm()
    """Mean length of the answers by that of the round before, above 2: Warn (the paper: 1,092, 1,552, 2,552)."""
    score_length_correlation: ShareAlarm = ShareAlarm()
    """Correlation of an answer's score with its length, above 0.8: Stop."""
    length_difference: Alarm = Alarm()
    """Mean length of the chosen answers by that of the rejected ones, above 2: Warn."""
    score_gap: Alarm = Alarm()
    """Mean difference of the scores of chosen and rejected, below 0.25: Warn."""
    prompt_diversity: ShareAlarm = ShareAlarm()
    """Distinct pairs of neighbouring words among all of the new prompts, below 0.2: Warn."""
    prompt_similarity: ShareAlarm = ShareAlarm()
    """Mean ROUGE-L of a new prompt to the seed nearest to it, above 0.6: Warn."""
    refusals: ShareAlarm = ShareAlarm()
    """Share of the answers that refuse, above 0.3: Warn."""
    repetition: ShareAlarm = ShareAlarm()
    """Share of the answers that repeat themselves, above 0.3: Warn."""
    truncated: ShareAlarm = ShareAlarm()
    """Share of the answers that were cut by length, above 0.3: Warn."""
    judge_correlation: ShareAlarm = ShareAlarm()
    """Fall of the judge's Spearman correlation with people since the round before, above 0.05: Warn (arXiv 2407.19594:
    .382 at its second round, .326 at its fourth)."""
    position_bias: ShareAlarm = ShareAlarm()
    """Share of the comparisons in which the judge prefers the same place in both orders, above 0.6: Stop where the model
    itself compares; Warn where a fixed judge does (evaluation.headToHead.judge)."""


MetricName = Literal[
    "pairwiseAccuracy", "fiveBest", "exactMatch", "spearman", "kendallTau",
    "validRate", "pairYield", "tieRate", "truncatedRate", "loss", "rewardMargin",
    "winRate", "winRateInitial", "winRateBaseline", "winRateLengthControlled", "positionBias",
    "scorePiling", "scoreGap", "scoreLengthCorrelation", "lengthRatio", "meanLength",
    "promptDiversity", "promptSimilarity", "refusalRate", "repetitionRate",
]  # fmt: skip
"""Metrics by the names that results, rules and tracking use; `api.run.Metrics` says what each is."""


AT_MOST_ONE = (
    "pairwiseAccuracy", "fiveBest", "exactMatch", "spearman", "kendallTau", "validRate", "tieRate", "truncatedRate",
    "winRate", "winRateInitial", "winRateBaseline", "winRateLengthControlled", "positionBias", "scorePiling",
    "scoreLengthCorrelation", "promptDiversity", "promptSimilarity", "refusalRate", "repetitionRate",
)  # fmt: skip
"""Metrics that are shares or correlations."""
_BOUNDS = ("minimum", "maximum", "maxDrop", "maxRise")
_NO_BOUND = "a rule of gate.rules without a bound is never broken: give minimum, maximum, maxDrop or maxRise"
_CROSSED = (
    "a rule of gate.rules has its minimum above its maximum, and every value breaks it: exchange the two"
)
_PERCENT = "a rule of gate.rules is over a share or a correlation, which is 1 at most: write 0.9 for 90 %"


class GateRule(ApiModel):
    """A rule over one metric of the new model or of the round that made it; at least one bound."""

    metric: MetricName
    """Name of the metric, as in `status.models.metrics`, where each is described. Shares lie between 0 and 1 (0.9 is 90 %),
    correlations between -1 and 1; lengths are in characters, score gaps in points of the judge's scale."""
    minimum: float | None = None
    """The rule is broken below this."""
    maximum: float | None = None
    """The rule is broken above this."""
    max_drop: float | None = Field(default=None, ge=0)
    """The rule is broken if the metric is lower than that of the model before by more than this."""
    max_rise: float | None = Field(default=None, ge=0)
    """The rule is broken if the metric is higher than that of the model before by more than this."""
    action: Literal["Hold", "Stop", "RollBack"] = "Hold"
    """Hold waits for a person; Stop ends the run with the models so far; RollBack goes on from the previous model."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(" || ".join(f"has(self.{bound})" for bound in _BOUNDS), _NO_BOUND),
        Rule("!has(self.minimum) || !has(self.maximum) || self.minimum <= self.maximum", _CROSSED),
        Rule(
            f"!(self.metric in {list(AT_MOST_ONE)}) || ("
            + " && ".join(f"(!has(self.{bound}) || self.{bound} <= 1.0)" for bound in _BOUNDS)
            + ")",
            _PERCENT,
        ),
    )

    @model_validator(mode="after")
    def _can_be_kept_and_broken(self) -> "GateRule":
        bounds = [
            one for one in (self.minimum, self.maximum, self.max_drop, self.max_rise) if one is not None
        ]
        if not bounds:
            raise ValueError(_NO_BOUND)
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(_CROSSED)
        if self.metric in AT_MOST_ONE and max(bounds) > 1:
            raise ValueError(f"{_PERCENT}, and not {max(bounds):g} ({self.metric})")
        return self


class GateSpec(ApiModel):
    """What must hold before a model is built upon. No rules: every model is promoted."""

    rules: list[GateRule] = Field(default=[], max_length=16)
    """Checked in order; the first broken one decides."""
    approval: Literal["Automatic", "Manual"] = "Automatic"
    """Manual: every iteration waits for a person."""
    max_roll_backs: int = Field(default=1, ge=0, le=10)
    """After so many roll-backs the run stops."""
