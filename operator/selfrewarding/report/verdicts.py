"""The four questions that the page answers first, in words that the numbers carry. Pure.

A difference whose 95 % interval holds "no difference" is called no difference, however large it looks.
"""

from dataclasses import dataclass
from typing import Literal

from selfrewarding.report.story import Comparison, IterationStory, Measure, RunStory
from selfrewarding.report.wording import ALARM_NAMES, duration, interval, large, percent

Tone = Literal["good", "bad", "plain"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One question with its answer."""

    question: str
    answer: str
    """A few words, or one number."""
    detail: str
    tone: Tone = "plain"
    link: str
    """Anchor of the section that has more."""


def verdicts(run: RunStory) -> list[Verdict]:
    """Did it get better? Can the judge be trusted? Did an alarm sound? What did it cost?"""
    return [_better(run), _judge(run), _alarms(run), _cost(run)]


def _better(run: RunStory) -> Verdict:
    question, link = "Did it get better?", "progress"
    found = next(
        (
            (one, comparison)
            for one in reversed(run.iterations)
            for comparison in one.comparisons
            if comparison.win_rate
        ),
        None,
    )
    if found is None:
        undefined = [
            reason for one in run.iterations for made in one.comparisons for reason in made.undefined.values()
        ]
        if undefined:
            why = f"The comparisons give no win rate: {undefined[0]}."
        elif run.compared:
            why = "No comparison is finished yet."
        else:
            why = "Models were not compared: evaluation.headToHead is not set."
        return Verdict(question=question, answer="Not measured", detail=why, link=link)
    newest, comparison = found
    rate = comparison.win_rate or Measure(value=0.5)
    words, tone = _against_half(rate)
    if run.fixed_judge is None and tone == "good":
        words, tone = "Better, by its own judgement", "plain"
    detail = (
        f"{newest.model} wins {percent(rate)} of the comparisons with {comparison.against}{_within(rate)}."
    )
    controlled = comparison.length_controlled
    if controlled is not None:
        detail += f" At equal lengths: {percent(controlled)}{_within(controlled)}."
    if run.fixed_judge is None:
        detail += " The model itself was the judge: a fixed one (evaluation.headToHead.judge) would say more."
    elif baseline := _of(newest, "baseline", comparison):
        detail += f" Against the baseline: {percent(baseline)}{_within(baseline)}."
    return Verdict(question=question, answer=words, detail=detail, tone=tone, link=link)


def _of(one: IterationStory, opponent: str, other: Comparison) -> Measure | None:
    return next(
        (found.win_rate for found in one.comparisons if found.opponent == opponent and found is not other),
        None,
    )


def _against_half(rate: Measure) -> tuple[str, Tone]:
    if rate.low is None or rate.high is None:
        return f"{percent(rate)} wins", "plain"
    if rate.low > 0.5:
        return "Yes, better", "good"
    return ("No, worse", "bad") if rate.high < 0.5 else ("No difference shown", "plain")


def _within(value: Measure) -> str:
    return "" if value.low is None else f" (95 % interval {interval(value)})"


def _judge(run: RunStory) -> Verdict:
    question, link = "Can the judge be trusted?", "judge"
    measured = [one for one in run.iterations if one.judge and "pairwiseAccuracy" in one.judge.metrics]
    if not measured:
        undefined = [reason for one in run.iterations if one.judge for reason in one.judge.undefined.values()]
        detail = (
            f"Its agreement with people could not be computed: {undefined[0]}."
            if undefined
            else ("There are no held-out ranked answers to measure it on.")
        )
        return Verdict(question=question, answer="Not measured", detail=detail, link=link)
    newest = measured[-1]
    now = newest.judge.metrics["pairwiseAccuracy"] if newest.judge else Measure(value=0.0)
    tone: Tone
    if now.low is None:
        answer, tone = f"{percent(now)} right", "plain"
    elif now.low > 0.5:
        answer, tone = "Better than chance", "good"
    else:
        answer, tone = "Not shown", "bad"
    who = "The dedicated judge" if run.dedicated_judge else f"As judge {newest.model}"
    detail = f"{who} orders {percent(now)} of the held-out pairs as people did{_within(now)}"
    if len(measured) > 1 and measured[0].judge and not run.dedicated_judge:
        first = measured[0].judge.metrics["pairwiseAccuracy"]
        detail += f"; {measured[0].model} did {percent(first)}"
    detail += "."
    compared = next((one for one in reversed(run.iterations) if one.position_bias is not None), None)
    if compared is not None and (bias := compared.position_bias) is not None:
        # Who compares answers need not be who scores them.
        who = "the fixed judge" if run.fixed_judge else compared.model
        detail += (
            f" Comparing answers, {who} preferred the same place in both orders in {percent(bias)} of the "
            f"comparisons{_within(bias)}."
        )
    return Verdict(question=question, answer=answer, detail=detail, tone=tone, link=link)


def _alarms(run: RunStory) -> Verdict:
    question, link = "Did an alarm sound?", "alarms"
    unseen = ", ".join(f"{ALARM_NAMES.get(name, name)} ({name})" for name in run.alarms_off)
    off = f" Turned off, and so not looked at: {unseen}." if unseen else ""
    if len(run.alarms_off) == len(ALARM_NAMES):
        return Verdict(
            question=question, answer="Not looked at", detail="All alarms are turned off.", link=link
        )
    if not run.alarms:
        signs = "All other measured signs" if off else "All measured signs"
        return Verdict(
            question=question, answer="No alarm", detail=f"{signs} of a collapse stay within their thresholds.{off}",
            tone="plain" if off else "good", link=link,
        )  # fmt: skip
    stops = [one for one in run.alarms if one.action == "Stop"]
    answer = f"{len(run.alarms)} {'alarm' if len(run.alarms) == 1 else 'alarms'}"
    detail = (
        f"{len(stops)} of them stopped the run." if stops else "The run went on: they warn and do not stop."
    )
    return Verdict(question=question, answer=answer, detail=detail + off, tone="bad", link=link)


def _cost(run: RunStory) -> Verdict:
    question, link = "What did it cost?", "cost"
    time = run.timeline
    if not time.spans:
        return Verdict(question=question, answer="Not known", detail="No stage says when it ran.", link=link)
    tokens = f"{large(time.tokens_out)} tokens written, {large(time.tokens_in)} read, trained on {large(time.tokens_trained)}."
    if not time.gpu_hours:
        return Verdict(
            question=question,
            answer=duration(time.stage_seconds),
            detail=f"In stages, without a GPU. {tokens}",
            link=link,
        )
    idle = f"{time.idle_gpu_hours:,.2f} GPU-hours more were idle between stages." if time.idle else ""
    return Verdict(
        question=question,
        answer=f"{time.gpu_hours:,.1f} GPU-hours",
        detail=f"{duration(time.stage_seconds)} in stages. {tokens} {idle}".strip(),
        link=link,
    )
