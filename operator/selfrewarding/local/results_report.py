"""The final tables of a run: what each iteration made and what each stage cost.

Purpose: numbers from results to rows, and rows to rich tables. Must not: read a store or a clock.
Neighbours: `run_results` reads the results; `srr local` and `srr status` print what is made here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.data.intervals import Interval, intervals_of
from selfrewarding.local.run_results import Finished
from selfrewarding.plan.stage import measures_baseline

if TYPE_CHECKING:
    from rich.table import Table

_INVALID = {
    "missing": "no score",
    "malformed": "malformed",
    "outOfRange": "out of range",
    "truncated": "cut off",
    "tooLong": "prompt too long",
}
"""Counts of invalid judgements by reason → words."""
_DROPPED = {
    "similar": "similar",
    "tooShort": "too short",
    "tooLong": "too long",
    "keyword": "keyword",
    "writeAProgram": "asks for a program",
    "punctuationFirst": "starts with punctuation",
    "notAsciiFirst": "starts with another script",
}
"""Counts of dropped prompts by reason → words."""
_UNPAIRED = {
    "belowMargin": "below margin",
    "identical": "identical",
    "tooFewResponses": "too few answers",
    "truncatedOnly": "cut answers only",
    "tooFewValid": "too few valid",
    "noPositive": "none positive",
}
"""Counts of prompts without a pair, ties aside → words."""
_TOKENS = ("outputTokens", "tokens")
"""Generated tokens of asking stages, trained tokens of training stages."""


@dataclass(kw_only=True)
class IterationRow:
    """What one iteration made."""

    iteration: int
    prompts: int | None = None
    """New prompts that were accepted."""
    ranked_prompts: int | None = None
    """Human-ranked prompts whose answers the baseline judged (first iteration)."""
    dropped: dict[str, int] = field(default_factory=dict)
    answers: int | None = None
    judgements: int | None = None
    valid: int | None = None
    invalid: dict[str, int] = field(default_factory=dict)
    pairs: int | None = None
    ties: int | None = None
    unpaired: dict[str, int] = field(default_factory=dict)
    pairwise_accuracy: float | None = None
    held_out_pairs: int | None = None
    win_rate: float | None = None
    """Against the model before."""
    win_interval: Interval | None = None
    initial_win_rate: float | None = None
    """Against M1, where that is not the model before."""
    initial_win_interval: Interval | None = None
    baseline_win_rate: float | None = None
    """Against the baseline: M1 has no other opponent."""
    baseline_win_interval: Interval | None = None
    loss: float | None = None
    reward_margin: float | None = None
    chosen: str | None = None
    """Which of its training's candidates it is."""


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """What one stage cost."""

    iteration: int
    stage: str
    seconds: float
    tokens: int | None
    tokens_per_second: float | None
    peak_bytes: int | None


def iteration_rows(finished: Sequence[Finished]) -> list[IterationRow]:
    """One row for each iteration that has a finished stage."""
    rows: dict[int, IterationRow] = {}
    for one in finished:
        if one.stage.iteration and not measures_baseline(one.stage):
            row = rows.setdefault(one.stage.iteration, IterationRow(iteration=one.stage.iteration))
            _take(row, one.stage.kind, one.result)
    return [rows[number] for number in sorted(rows)]


def stage_rows(finished: Sequence[Finished], peaks: Mapping[str, int]) -> list[StageRow]:
    """One row for each finished stage, in order; `peaks` are bytes by short key."""
    rows = []
    for one in finished:
        result = one.result
        tokens = next((result.counts[name] for name in _TOKENS if name in result.counts), None)
        rate = result.metrics.get("tokensPerSecond")
        if rate is None and tokens and result.seconds > 0:
            rate = tokens / result.seconds
        rows.append(
            StageRow(
                iteration=one.stage.iteration,
                stage=one.stage.kind.value,
                seconds=result.seconds,
                tokens=tokens,
                tokens_per_second=rate,
                peak_bytes=peaks.get(one.stage.short),
            )
        )
    return rows


def iterations_table(rows: Sequence[IterationRow]) -> "Table":
    """What each iteration made, for people."""
    from rich.table import Table

    table = Table(title="What each iteration made", title_justify="left", pad_edge=False)
    compared = any(_wins(row) for row in rows)
    wins = ["Win rate"] if compared else []
    for name in (
        "Model",
        "Prompts",
        "Answers",
        "Judgements",
        "Pairs",
        "Judge accuracy",
        *wins,
        "Loss",
        "Margin",
    ):
        table.add_column(name, justify="left" if name == "Model" else "right", overflow="fold")
    for row in rows:
        table.add_row(
            f"M{row.iteration}" + (f"\nchosen: {row.chosen}" if row.chosen else ""),
            _prompts(row),
            _number(row.answers),
            _judgements(row),
            _number(row.pairs)
            + _reasons("without", {**({"ties": row.ties} if row.ties else {}), **row.unpaired}),
            _accuracy(row),
            *([_wins(row) or "–"] if compared else []),
            "–" if row.loss is None else f"{row.loss:.4f}",
            "–" if row.reward_margin is None else f"{row.reward_margin:+.4f}",
        )
    return table


def stages_table(rows: Sequence[StageRow], peak_bytes: int) -> "Table":
    """What each stage cost, for people. Peak memory is that of all pods together while the stage ran."""
    from rich.table import Table

    table = Table(title="What each stage took", title_justify="left", pad_edge=False, show_footer=True)
    table.add_column("Iteration", footer="all")
    table.add_column("Stage")
    table.add_column("Seconds", justify="right", footer=f"{sum(row.seconds for row in rows):,.0f}")
    table.add_column("Tokens", justify="right", footer=f"{sum(row.tokens or 0 for row in rows):,}")
    table.add_column("Tokens/s", justify="right")
    table.add_column("Peak memory", justify="right", footer=_bytes(peak_bytes))
    for row in rows:
        table.add_row(
            str(row.iteration) if row.iteration else "–",
            row.stage,
            f"{row.seconds:,.0f}",
            _number(row.tokens),
            "–" if row.tokens_per_second is None else f"{row.tokens_per_second:,.1f}",
            _bytes(row.peak_bytes),
        )
    return table


def _take(row: IterationRow, kind: StageKind, result: StageResult) -> None:
    counts, metrics = result.counts, result.metrics
    match kind:
        case StageKind.GENERATE_PROMPTS:
            row.prompts = counts.get("prompts")
            row.dropped = _named(counts, _DROPPED)
        case StageKind.ROLLOUT | StageKind.BUILD_EVALUATIONS:
            row.answers = counts.get("answers")
            row.judgements, row.valid = counts.get("judgements"), counts.get("valid")
            row.invalid = _named(counts, _INVALID)
            if kind is StageKind.BUILD_EVALUATIONS:
                row.ranked_prompts = counts.get("prompts")
        case StageKind.BUILD_PREFERENCES:
            row.pairs = counts.get("pairs", counts.get("positives"))
            row.ties = counts.get("ties", 0)
            row.unpaired = _named(counts, _UNPAIRED)
        case StageKind.SUPERVISED_FINE_TUNE | StageKind.PREFERENCE_OPTIMIZE:
            row.loss, row.reward_margin = metrics.get("loss"), metrics.get("rewardMargin")
        case StageKind.SELECT:
            row.chosen = str(result.report.get("chosen") or "") or None
        case StageKind.EVALUATE:
            row.pairwise_accuracy, row.held_out_pairs = metrics.get("pairwiseAccuracy"), counts.get("pairs")
        case StageKind.COMPARE:
            intervals = intervals_of(result)
            row.win_rate, row.win_interval = metrics.get("winRate"), intervals.get("winRate")
            if result.parents.get("initial") != result.parents.get("previous"):
                row.initial_win_rate = metrics.get("winRateInitial")
                row.initial_win_interval = intervals.get("winRateInitial")
            row.baseline_win_rate = metrics.get("winRateBaseline")
            row.baseline_win_interval = intervals.get("winRateBaseline")
        case _:
            pass


def _named(counts: Mapping[str, int], names: Mapping[str, str]) -> dict[str, int]:
    found = {words: counts[name] for name, words in names.items() if counts.get(name)}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _reasons(word: str, reasons: Mapping[str, int]) -> str:
    if not reasons:
        return ""
    listed = ", ".join(f"{count} {name}" for name, count in reasons.items())
    return f"\n{word}: {listed}"


def _prompts(row: IterationRow) -> str:
    if row.prompts is None and row.ranked_prompts is not None:
        return f"{row.ranked_prompts:,} ranked"
    return _number(row.prompts) + _reasons("dropped", row.dropped)


def _judgements(row: IterationRow) -> str:
    if row.judgements is None or row.valid is None:
        return "–"
    share = f" ({row.valid / row.judgements:.0%})" if row.judgements else ""
    return f"{row.valid:,} of {row.judgements:,} valid{share}" + _reasons("invalid", row.invalid)


def _accuracy(row: IterationRow) -> str:
    if row.pairwise_accuracy is None:
        return "–"
    among = f"\nof {row.held_out_pairs} held-out pairs" if row.held_out_pairs is not None else ""
    return f"{row.pairwise_accuracy:.1%}{among}"


def _wins(row: IterationRow) -> str:
    told = [_rate(row.win_rate, row.win_interval)] if row.win_rate is not None else []
    if row.initial_win_rate is not None:
        told.append(f"M1: {_rate(row.initial_win_rate, row.initial_win_interval)}")
    if row.baseline_win_rate is not None:
        told.append(f"Baseline: {_rate(row.baseline_win_rate, row.baseline_win_interval)}")
    return "\n".join(told)


def _rate(rate: float, interval: Interval | None) -> str:
    return f"{rate:.1%}" + (f"\n{interval[0]:.1%} to {interval[1]:.1%}" if interval else "")


def _bytes(value: int | None) -> str:
    return "–" if not value else f"{value / 2**30:.2f} GiB"
