"""A run as its report tells it: one frozen value, made by `collect`, shown by `page` and `charts`.

Must not: read anything. Shares are between 0 and 1, times in seconds, lengths in characters.
"""

from dataclasses import dataclass, field
from datetime import datetime

from selfrewarding.api.run import ModelStatus


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number with its 95 % interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Metrics on the prompts of one subset (LLMBar's, MT-Bench's categories, …): the judge's, or a win rate."""

    name: str
    prompts: int | None
    metrics: dict[str, Measure]


@dataclass(frozen=True, kw_only=True)
class JudgeQuality:
    """What an Evaluate found: how far the model's order of held-out answers agrees with people's."""

    metrics: dict[str, Measure]
    """By the names of `api.run.Metrics`."""
    prompts: int | None = None
    """Held-out prompts."""
    undefined: dict[str, str] = field(default_factory=dict)
    """Metrics that could not be computed, each with the reason."""
    subsets: tuple[Subset, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A model against one opponent on the same prompts."""

    opponent: str
    """previous, initial or baseline."""
    against: str
    """Name of the opponent: M1, Baseline, …"""
    win_rate: Measure | None
    length_controlled: Measure | None = None
    position_bias: Measure | None = None
    """Share of its prompts in which the judge preferred the same place in both orders."""
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None
    unjudged: int | None = None
    prompts: int | None = None
    undefined: dict[str, str] = field(default_factory=dict)
    """winRate, winRateLengthControlled, where they could not be computed, each with the reason."""
    subsets: tuple[Subset, ...] = ()
    """The win rate on the prompts of each category."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """The 5, 25, 50, 75 and 95 % points of some texts' lengths, and their mean."""

    points: tuple[float, float, float, float, float]
    mean: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the judge wrote about an answer."""

    text: str
    score: float | None
    reason: str | None = None
    """Why it is invalid."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer with its judgements; `score` is the mean of the valid ones."""

    text: str
    score: float | None
    judgements: tuple[Judgement, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A message of a prompt."""

    role: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A preference pair (or, with PositiveOnly, one positive example without a rejected answer)."""

    key: str
    prompt_key: str
    """Key of the prompt's row in the rollout."""
    prompt: tuple[Turn, ...]
    chosen: Answer
    rejected: Answer | None


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The pairs of an iteration: a sample, and lengths over all of them."""

    total: int
    sample: tuple[Pair, ...]
    """Those whose keys have the smallest hashes: any part of it is a fair sample of all."""
    chosen: Lengths | None = None
    rejected: Lengths | None = None
    missing: str | None = None
    """Why judgements, or the whole, could not be read."""


@dataclass(frozen=True, kw_only=True)
class ScoreCounts:
    """How often each score stands; `of` says what was counted."""

    of: str
    counts: dict[float, int]

    @property
    def total(self) -> int:
        """All that was counted."""
        return sum(self.counts.values())

    def share(self, score: float) -> float:
        """The part that has this score."""
        return self.counts.get(score, 0) / self.total


@dataclass(frozen=True, kw_only=True)
class IterationStory:
    """What one iteration made and what was measured."""

    number: int
    model: str
    judge: JudgeQuality | None = None
    comparisons: tuple[Comparison, ...] = ()
    position_bias: Measure | None = None
    """Over all comparisons of the round."""
    scores: ScoreCounts | None = None
    pairs: Pairs | None = None
    outcomes: dict[str, int] = field(default_factory=dict)
    """What became of the prompts, by the counts' names of BuildPreferences."""
    counts: dict[str, int] = field(default_factory=dict)
    """prompts, answers, judgements, valid, pairs, …"""
    metrics: dict[str, float] = field(default_factory=dict)
    """All metrics of its stages, by name."""
    chosen: str | None = None
    """Which candidate of its DPO is the model, where one was chosen (`dpo.earlyStopping`)."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A row that shows an alarm's number."""

    key: str
    value: float | None
    excerpt: str = ""
    """Beginning of its text, where it could be found."""


@dataclass(frozen=True, kw_only=True)
class AlarmStory:
    """An alarm that sounded, with the rows that show it best."""

    name: str
    iteration: int
    action: str
    value: float
    threshold: float
    message: str
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StageSpan:
    """When a stage ran."""

    kind: str
    iteration: int
    started: datetime
    finished: datetime
    gpus: int
    tokens_in: int
    """Prompt tokens that servers read."""
    tokens_out: int
    """Tokens that were generated."""
    tokens_trained: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.finished - self.started).total_seconds()

    @property
    def gpu_hours(self) -> float:
        """GPUs x time."""
        return self.gpus * self.seconds / 3600


@dataclass(frozen=True, kw_only=True)
class Idle:
    """GPUs on their way between two stages."""

    started: datetime
    finished: datetime
    gpus: int
    before: str
    """The stage that waited, e.g. M2 Rollout."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.finished - self.started).total_seconds()


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The stages in the order of their starts, and the time that GPUs computed nothing between them."""

    spans: tuple[StageSpan, ...] = ()
    idle: tuple[Idle, ...] = ()

    @property
    def gpu_hours(self) -> float:
        """Of all stages, idle time not included."""
        return sum(span.gpu_hours for span in self.spans)

    @property
    def idle_gpu_hours(self) -> float:
        """Of the hand-overs."""
        return sum(idle.gpus * idle.seconds for idle in self.idle) / 3600

    @property
    def stage_seconds(self) -> float:
        """Time in stages, one after the other."""
        return sum(span.seconds for span in self.spans)

    @property
    def tokens_in(self) -> int:
        """Prompt tokens of all stages."""
        return sum(span.tokens_in for span in self.spans)

    @property
    def tokens_out(self) -> int:
        """Generated tokens of all stages."""
        return sum(span.tokens_out for span in self.spans)

    @property
    def tokens_trained(self) -> int:
        """Tokens that training stages read."""
        return sum(span.tokens_trained for span in self.spans)


@dataclass(frozen=True, kw_only=True)
class RunStory:
    """All that the report shows."""

    namespace: str
    name: str
    iterations_wanted: int
    iterations: tuple[IterationStory, ...] = ()
    baseline: JudgeQuality | None = None
    """The baseline as judge, where it was measured."""
    fixed_judge: str | None = None
    """Who compares the answers in every round; None: each round's newest model, so rounds cannot be compared."""
    compared: bool = False
    """Whether the spec asks for comparisons."""
    dedicated_judge: bool = False
    """Whether a model of its own scores answers (`judge.modelUri`): each round's judge is that one, and not the newest model."""
    near_duplicates: dict[str, int] = field(default_factory=dict)
    """What Prepare looked for and how many it found: different prompts of two sets that are much alike."""
    models: tuple[ModelStatus, ...] = ()
    alarms: tuple[AlarmStory, ...] = ()
    alarms_off: tuple[str, ...] = ()
    """Alarms that the spec has turned off: names as in `spec.alarms`."""
    timeline: Timeline = Timeline()
    data: dict[str, str] = field(default_factory=dict)
    """Digests of the seed sets and of M0."""
    manifest: str = ""
    """The effective manifest as YAML."""
    ending: str | None = None
    """What stopped the run before its last iteration."""
    problems: tuple[str, ...] = ()
    """Results that could not be read: what is missing on the page, and why."""

    @property
    def as_of(self) -> datetime | None:
        """When the newest result was written."""
        return max((span.finished for span in self.timeline.spans), default=None)
