"""Alarms: signs, in the numbers of the stages, that a judge rewards itself for nothing (`spec.alarms`, `status.alarms`).

Purpose: the table of alarms with the papers' numbers as defaults, and what of it sounds. Each is looked at as soon as a
stage that measures its number is done; a number that is not there, or not defined, never sounds.
Must not: measure, or start or stop anything: an alarm that stops stands in `View.pending`, `checks` says so, and nothing
of the iteration's later stages starts.
Neighbours: `facts` calls `record_alarms` after `models` has the gates; `report` tells of new ones.

Alarms of the iteration under way are decided anew in every pass, so that an edit of a threshold or an action counts at
once. Those of iterations that have passed their gate are history: they stay as they are, since what was trained on those
rows is trained.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic.alias_generators import to_camel

from selfrewarding.api.evaluation import Alarm, AlarmsSpec
from selfrewarding.api.run import AlarmStatus, Metrics, SelfRewardingRunSpec
from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.stage import Iteration, measures_baseline
from selfrewarding.plan.view import View

Direction = Literal["above", "below"]


@dataclass(frozen=True, kw_only=True)
class AlarmRule:
    """One alarm: the number that it looks at, and what it is when the spec says nothing."""

    name: str
    """Field of AlarmsSpec."""
    metric: str
    """Name of the metric; see `measured_as`."""
    direction: Direction
    threshold: float
    action: Literal["Warn", "Stop"]
    text: str
    """What was measured, with `{value}`."""
    remedy: str
    """What to try."""
    measured_as: Literal["value", "growth", "fall"] = "value"
    """value: as a stage measured it. growth: by that of the round before. fall: what is lost since the model that this one
    was made from."""

    @property
    def field(self) -> str:
        """Name as people write it in `spec.alarms`."""
        return to_camel(self.name)

    def sounds(self, value: float, threshold: float) -> bool:
        """Whether a value is beyond the threshold; the threshold itself is not."""
        return value > threshold if self.direction == "above" else value < threshold


_JUDGE = "judge.format Structured with judge.scoring Expected, more EFT rows, or a dedicated judge (judge.modelUri)"

ALARMS: tuple[AlarmRule, ...] = (
    AlarmRule(
        name="score_piling", metric="scorePiling", direction="above", threshold=0.9, action="Stop",
        text="{value} of the scored answers have the most common score: the judge hardly tells answers apart",
        remedy=_JUDGE,
    ),
    AlarmRule(
        name="valid_rate", metric="validRate", direction="below", threshold=0.5, action="Warn",
        text="{value} of the judgements are valid",
        remedy="judge.format Structured, a higher judge.maxTokens, or more EFT rows",
    ),
    AlarmRule(
        name="pair_yield", metric="pairYield", direction="below", threshold=0.14, action="Warn",
        text="{value} preference pairs for each prompt",
        remedy="more judgements (judge.samples), more answers (responses.samples), or judge.scoring Expected",
    ),
    AlarmRule(
        name="tie_rate", metric="tieRate", direction="above", threshold=0.8, action="Warn",
        text="of {value} of the prompts all answers have the same score",
        remedy="judge.scoring Expected, more judgements (judge.samples), or a higher responses.temperature",
    ),
    AlarmRule(
        name="length_growth", metric="meanLength", direction="above", threshold=2.0, action="Warn",
        measured_as="growth",
        text="answers are {value} times as long as in the round before",
        remedy="preferences.lengthControl, or dpo.lengthDesensitization",
    ),
    AlarmRule(
        name="score_length_correlation", metric="scoreLengthCorrelation", direction="above", threshold=0.8,
        action="Stop",
        text="the correlation of an answer's score with its length is {value}: the judge rewards length",
        remedy="preferences.lengthControl, a judge prompt that asks for brevity (judge.template), or " + _JUDGE,
    ),
    AlarmRule(
        name="length_difference", metric="lengthRatio", direction="above", threshold=2.0, action="Warn",
        text="chosen answers are {value} times as long as rejected ones",
        remedy="preferences.lengthControl, or preferences.truncated RejectedOnly with a higher responses.maxTokens",
    ),
    AlarmRule(
        name="score_gap", metric="scoreGap", direction="below", threshold=0.25, action="Warn",
        text="chosen answers score {value} more than rejected ones",
        remedy="a higher preferences.minMargin, more judgements (judge.samples), or a higher responses.temperature",
    ),
    AlarmRule(
        name="prompt_diversity", metric="promptDiversity", direction="below", threshold=0.2, action="Warn",
        text="{value} of the pairs of neighbouring words in the new prompts are different ones",
        remedy="a higher promptGeneration.temperature, a lower promptGeneration.filters.maxRougeL, or a fixed writer "
        "(promptGeneration.writer)",
    ),
    AlarmRule(
        name="prompt_similarity", metric="promptSimilarity", direction="above", threshold=0.6, action="Warn",
        text="new prompts have a mean ROUGE-L of {value} to the nearest seed",
        remedy="a lower promptGeneration.filters.maxRougeL, a higher promptGeneration.temperature, or more seed rows",
    ),
    AlarmRule(
        name="refusals", metric="refusalRate", direction="above", threshold=0.3, action="Warn",
        text="{value} of the answers refuse",
        remedy="other seed prompts (the new ones are made after them), or seed answers that do not refuse",
    ),
    AlarmRule(
        name="repetition", metric="repetitionRate", direction="above", threshold=0.3, action="Warn",
        text="{value} of the answers repeat themselves",
        remedy="a higher responses.temperature, a lower dpo.learningRate or a higher dpo.beta, or fewer epochs",
    ),
    AlarmRule(
        name="truncated", metric="truncatedRate", direction="above", threshold=0.3, action="Warn",
        text="{value} of the answers were cut by length",
        remedy="a higher responses.maxTokens, or preferences.lengthControl",
    ),
    AlarmRule(
        name="judge_correlation", metric="spearman", direction="above", threshold=0.05, action="Warn",
        measured_as="fall",
        text="the judge's Spearman correlation with people fell by {value}",
        remedy="a gate rule on spearman with action RollBack, fewer iterations, or a dedicated judge (judge.modelUri)",
    ),
    AlarmRule(
        name="position_bias", metric="positionBias", direction="above", threshold=0.6, action="Stop",
        text="in {value} of the comparisons the judge prefers the same place in both orders",
        remedy="another judge of the comparisons (evaluation.headToHead.judge)",
    ),
)  # fmt: skip
"""In the order of AlarmsSpec, whose docstrings say the same numbers and where they are from."""


_SHARES = frozenset(
    {"scorePiling", "validRate", "tieRate", "promptDiversity", "refusalRate", "repetitionRate", "truncatedRate",
     "positionBias"}
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Round:
    """What is measured of one iteration so far."""

    number: int
    stages: tuple[tuple[str, Mapping[str, float]], ...]
    """Names of its finished stages, in their order, and their metrics."""
    before: Metrics | None = None
    """Metrics of the round before."""
    base: Metrics | None = None
    """Metrics of the model that this round's was made from; rolled-back rounds lie between the two."""


def sounding(spec: AlarmsSpec, measured: Round) -> list[AlarmStatus]:
    """The alarms that sound in a round: each once, by the first stage whose number is beyond its threshold."""
    return [alarm for rule in ALARMS if (alarm := _sounding(rule, getattr(spec, rule.name), measured))]


def _sounding(rule: AlarmRule, alarm: Alarm, measured: Round) -> AlarmStatus | None:
    action = alarm.action or rule.action
    if action == "Off":
        return None
    threshold = rule.threshold if alarm.threshold is None else alarm.threshold
    for stage, value in _values(rule, measured):
        if rule.sounds(value, threshold):
            return AlarmStatus(
                name=rule.field,
                iteration=measured.number,
                stage=stage,
                action=action,
                value=float(f"{value:.6g}"),
                threshold=threshold,
                message=_message(rule, action, stage, value, threshold),
            )
    return None


def _values(rule: AlarmRule, measured: Round) -> Iterator[tuple[str, float]]:
    """The stages that have measured the alarm's number, and that number."""
    reference = {"value": None, "growth": measured.before, "fall": measured.base}[rule.measured_as]
    earlier = None if reference is None else reference.model_dump(by_alias=True).get(rule.metric)
    for stage, metrics in measured.stages:
        value = metrics.get(rule.metric)
        if value is None:
            continue
        if rule.measured_as == "value":
            yield stage, value
        elif earlier is None:
            continue  # the first round has nothing to be compared with
        elif rule.measured_as == "fall":
            yield stage, earlier - value
        elif earlier > 0:
            yield stage, value / earlier


def _told(rule: AlarmRule, value: float) -> str:
    """A value as people say it: shares in percent."""
    return f"{100 * value:.3g} %" if rule.metric in _SHARES else f"{value:.3g}"


_ADVICE = " ("
"""Stands in a message between what was measured and what follows from it."""


def _message(rule: AlarmRule, action: str, stage: str, value: float, threshold: float) -> str:
    side = "at most" if rule.direction == "above" else "at least"
    going_on = f" To go on all the same, set alarms.{rule.field}.action to Warn." if action == "Stop" else ""
    return (
        f"{stage}: {rule.text.format(value=_told(rule, value))}{_ADVICE}alarms.{rule.field}.threshold: {side} "
        f"{threshold:g}). Try {rule.remedy}.{going_on} The rows that show it: `srr report` names them, `srr explain KEY` tells "
        "their story."
    )


def said_once(alarms: Sequence[AlarmStatus]) -> list[AlarmStatus]:
    """The alarms of a run, in order: what to try stands with the newest of each name, the others keep what was measured.

    All may sound in every round, and status must stay small.
    """
    newest = {alarm.name: alarm.iteration for alarm in alarms}
    return [
        alarm
        if alarm.iteration == newest[alarm.name]
        else alarm.model_copy(update={"message": alarm.message.partition(_ADVICE)[0]})
        for alarm in alarms
    ]


# ---------------------------------------------------------------------- in a pass

_BEFORE_THE_LOOP = frozenset({StageKind.TRAIN_BASELINE, StageKind.BUILD_EVALUATIONS})
"""Their judge has not been taught to judge yet, and rewards nothing."""


def record_alarms(view: View) -> View:
    """The view with `status.alarms` up to date. While the keys are not certain (Prepare of an edited spec has yet to run),
    all stays."""
    if not view.prepared:
        return view
    alarms: list[AlarmStatus] = []
    for iteration in view.graph.iterations:
        standing = [one for one in view.run.status.alarms if one.iteration == iteration.number]
        found = (
            standing
            if _is_past(view, iteration, standing)
            else sounding(_watched(view.spec), _round(view, iteration))
        )
        alarms += found
        if any(one.action == "Stop" for one in found):
            break  # what the store has of later iterations is not looked at: the run has ended here
    alarms = said_once(alarms)
    return view if alarms == view.status.alarms else view.having(alarms=alarms)


def _watched(spec: SelfRewardingRunSpec) -> AlarmsSpec:
    """The run's alarms. A judge of comparisons that is not the model itself rewards nothing: where it leans to a place, its
    numbers are worth less, and the run is none the worse for it."""
    compared, bias = spec.evaluation.head_to_head, spec.alarms.position_bias
    itself = compared is None or (compared.judge.model_uri is None and compared.judge.endpoint is None)
    if itself or bias.action is not None:
        return spec.alarms
    return spec.alarms.model_copy(update={"position_bias": bias.model_copy(update={"action": "Warn"})})


def _is_past(view: View, iteration: Iteration, standing: list[AlarmStatus]) -> bool:
    """Whether a later iteration may build on this one already, by the status that was read."""
    uri = view.model_uri(iteration.trained)
    before = next((model for model in view.run.status.models if model.uri == uri), None)
    decided = before is not None and before.gate in ("Promoted", "RolledBack")
    return (
        decided
        and all(view.is_done(stage) for stage in iteration.stages)
        and not any(one.action == "Stop" for one in standing)
    )


def _round(view: View, iteration: Iteration) -> Round:
    done = [stage for stage in iteration.stages if view.is_done(stage)]
    stages = [
        (str(stage.kind), view.status.results[stage.short].metrics)
        for stage in done
        if not measures_baseline(stage) and stage.kind not in _BEFORE_THE_LOOP
    ]
    model = view.model_of(iteration.trained)
    if model is not None:
        # A finished stage's summary may have been cut short; its metrics stand with the model.
        told = {name for stage in done for name in view.status.results[stage.short].metrics}
        kept = model.metrics.model_dump(by_alias=True, exclude_none=True)
        stages.append((model.name, {name: value for name, value in kept.items() if name not in told}))
    earlier = next((one for one in view.graph.iterations if one.number == iteration.number - 1), None)
    before = view.model_of(earlier.trained) if earlier is not None else None
    base = view.model_of(iteration.base)
    return Round(
        number=iteration.number,
        stages=tuple(stages),
        before=before.metrics if before is not None else None,
        base=base.metrics if base is not None else None,
    )
