"""The charts of the report as inline SVG, by matplotlib.

Purpose: each function draws one chart and gives its picture with the numbers behind it, as rows of a table.
Must not: put a model's text into a picture; use a colour of its own.
Neighbours: `drawing` is how pictures look; `page` puts pictures, titles and tables together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from selfrewarding.report.axis import Axis
from selfrewarding.report.drawing import (
    GRID,
    INK,
    MUTED,
    PAPER,
    SERIES,
    interval_line,
    legend,
    models_axis,
    percent_axis,
    plain_axes,
    single_axes,
    svg_of,
    swatches_of,
)
from selfrewarding.report.story import IterationStory, JudgeQuality, Lengths, Measure, RunStory, ScoreCounts
from selfrewarding.report.wording import (
    OUTCOME_NAMES,
    STAGE_NAMES,
    duration,
    interval,
    number,
    percent,
    signed,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OPPONENTS = {"previous": "the model before", "initial": "M1", "baseline": "baseline"}
"""Roles of opponents → words, in the order in which they are drawn."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture and the numbers in it."""

    name: str
    """For its anchor and its identifiers."""
    title: str
    label: str
    """What a screen reader says in its place."""
    note: str = ""
    svg: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def win_rates(run: RunStory) -> Chart | None:
    """Win rates by model and opponent; one line only where one judge compared all rounds."""
    series: dict[str, list[tuple[int, Measure, str]]] = {}
    for opponent, title in _OPPONENTS.items():
        points = [
            (one.number, comparison.win_rate, comparison.against)
            for one in run.iterations
            for comparison in one.comparisons
            if comparison.opponent == opponent and comparison.win_rate is not None
        ]
        if points:
            series[title] = points
    if not series:
        return None
    numbers = [one.number for one in run.iterations]

    def draw(figure: "Figure") -> None:
        axes = single_axes(figure)
        axes.axhline(50, color=MUTED, linewidth=1, dashes=(4, 3))
        for index, (title, points) in enumerate(series.items()):
            shift = (index - (len(series) - 1) / 2) * 0.12
            values = [(at + shift, value) for at, value, _ in points]
            interval_line(axes, values, index, title, joined=run.fixed_judge is not None)
        models_axis(axes, numbers)
        percent_axis(axes)
        legend(figure, axes)

    rows = [
        (f"M{at}", against, percent(value), interval(value))
        for points in series.values()
        for at, value, against in points
    ]
    return Chart(
        name="win-rate",
        title="Win rate, head to head against …",
        label="Win rate of each model against earlier ones, with 95 % intervals; the numbers are in the table below",
        note="A tie counts one half; at 50 % neither is better. Bars are 95 % intervals."
        if run.fixed_judge
        else "Each round was judged by its own newest model, so rounds are not joined by a line: a judge that drifts would "
        "draw the same picture as a model that improves.",
        svg=svg_of("win-rate", draw),
        head=("Model", "Against", "Win rate", "95 % interval"),
        rows=tuple(rows),
    )


def judge_agreement(run: RunStory) -> Chart | None:
    """The judge's shares by model: pairwise accuracy, 5-best, exact match."""
    return _judge(
        run,
        {"pairwiseAccuracy": "pairwise accuracy", "fiveBest": "5-best", "exactMatch": "exact match"},
        name="judge-agreement",
        title="The judge agrees with people",
        note="Share of held-out answers that the judge orders as people did. A judge that says the same of everything has a "
        "pairwise accuracy of 50 %.",
        shares=True,
    )


def judge_correlation(run: RunStory) -> Chart | None:
    """The judge's rank correlations by model."""
    return _judge(
        run,
        {"spearman": "Spearman", "kendallTau": "Kendall tau"},
        name="judge-correlation",
        title="Rank correlation with people",
        note="Mean over held-out prompts; 0 is chance, 1 the same order as people's.",
        shares=False,
    )


def _judge(
    run: RunStory, metrics: Mapping[str, str], *, name: str, title: str, note: str, shares: bool
) -> Chart | None:
    measured: list[tuple[int, str, JudgeQuality]] = []
    if run.baseline is not None:
        measured.append((0, "Baseline", run.baseline))
    measured += [(one.number, one.model, one.judge) for one in run.iterations if one.judge is not None]
    present = {
        metric: words
        for metric, words in metrics.items()
        if any(metric in one.metrics for _, _, one in measured)
    }
    if not present:
        return None

    def draw(figure: "Figure") -> None:
        axes = single_axes(figure)
        scale = 100 if shares else 1
        for index, (metric, words) in enumerate(present.items()):
            shift = (index - (len(present) - 1) / 2) * 0.12
            points = [(at + shift, one.metrics[metric]) for at, _, one in measured if metric in one.metrics]
            interval_line(axes, points, index, words, scale=scale)
        models_axis(axes, [at for at, _, _ in measured])
        if shares:
            percent_axis(axes)
        else:
            lowest = min(
                (bound for _, _, one in measured for metric in present if metric in one.metrics
                 for bound in (one.metrics[metric].value, one.metrics[metric].low or 0.0)),
                default=0.0,
            )  # fmt: skip
            axes.set_ylim(min(0.0, lowest * 1.1), 1.0)
            axes.axhline(0, color=MUTED, linewidth=1)
        legend(figure, axes)

    say = percent if shares else signed
    rows = [
        (model, words, say(one.metrics[metric]), interval(one.metrics[metric], shares=shares))
        for metric, words in present.items()
        for _, model, one in measured
        if metric in one.metrics
    ]
    return Chart(
        name=name,
        title=title,
        label=f"{title}, by model, with 95 % intervals; the numbers are in the table below",
        note=note,
        svg=svg_of(name, draw),
        head=("Model", "Metric", "Value", "95 % interval"),
        rows=tuple(rows),
    )


def score_distributions(run: RunStory) -> Chart | None:
    """The scores of each iteration, one row each: piling on one value is the first sign of a collapse."""
    told = [(one.model, one.scores) for one in run.iterations if one.scores is not None and one.scores.total]
    if not told:
        return None
    top = max(5.0, *(score for _, scores in told for score in scores.counts))
    most = max(scores.share(score) for _, scores in told for score in scores.counts)
    highest = 20 * (1 + int(100 * most) // 20)

    def draw(figure: "Figure") -> None:
        rows = figure.subplots(len(told), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (model, scores) in zip(rows, told, strict=True):
            whole = all(score == int(score) for score in scores.counts)
            plain_axes(axes)
            axes.bar(
                list(scores.counts),
                [100 * scores.share(score) for score in scores.counts],
                width=0.7 if whole else 0.09,
                color=SERIES[0],
            )
            axes.set_ylabel(model, rotation=0, ha="right", va="center", color=INK)
            axes.set_xlim(-0.5, top + 0.5)
            axes.set_ylim(0, highest)
            axes.set_yticks([0, highest / 2, highest], ["", f"{highest / 2:.0f} %", f"{highest} %"])
            axes.tick_params(axis="y", labelsize=7.5, labelcolor=MUTED, labelright=True, labelleft=False)
            axes.grid(axis="y", color=GRID, linewidth=0.8)
        rows[-1].set_xlabel("score", color=MUTED)

    return Chart(
        name="scores",
        title="Scores",
        label="Distribution of the scores in each iteration; the numbers are in the table below",
        note=f"Share of the answers at each score. {_counted(told)}",
        svg=svg_of("scores", draw, height=0.5 + (0.9 if len(told) < 6 else 0.55) * len(told)),
        head=("Model", "Score", "Answers", "Share"),
        rows=tuple(
            (model, f"{score:g}", f"{count:,}", percent(scores.share(score)))
            for model, scores in told
            for score, count in scores.counts.items()
        ),
    )


def _counted(told: Sequence[tuple[str, ScoreCounts]]) -> str:
    by_words: dict[str, list[str]] = {}
    for model, scores in told:
        by_words.setdefault(scores.of, []).append(model)
    return "; ".join(f"{', '.join(models)}: {words}" for words, models in by_words.items()) + "."


def length_distributions(run: RunStory) -> Chart | None:
    """Lengths of chosen and rejected answers: a judge that likes length shows here before training."""
    told = [one for one in run.iterations if one.pairs is not None and one.pairs.chosen is not None]
    if not told:
        return None

    def sets(one: IterationStory) -> list[tuple[str, Lengths]]:
        pairs = one.pairs
        found = [] if pairs is None else [("chosen", pairs.chosen), ("rejected", pairs.rejected)]
        return [(words, lengths) for words, lengths in found if lengths is not None]

    points = [lengths.points for one in told for _, lengths in sets(one)]
    # A few endless answers would flatten all others: their lines run out of the picture, the table has them.
    longest = 1.05 * min(max(one[4] for one in points), 4 * max(one[3] for one in points)) + 1

    def draw(figure: "Figure") -> None:
        axes = single_axes(figure)
        for row, one in enumerate(told):
            for index, (_, lengths) in enumerate(sets(one)):
                at, color = row + (index - 0.5) * 0.32, SERIES[index]
                lowest, lower, middle, upper, highest = lengths.points
                axes.plot([lowest, highest], [at, at], color=color, linewidth=1.2)
                axes.barh(at, upper - lower, left=lower, height=0.24, color=color)
                axes.plot([middle, middle], [at - 0.12, at + 0.12], color=PAPER, linewidth=2)
        axes.set_yticks(range(len(told)), [one.model for one in told])
        axes.set_ylim(len(told) - 0.4, -0.6)
        axes.set_xlim(0, longest)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.locator_params(axis="x", nbins=6)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_xlabel("characters", color=MUTED)
        legend(figure, axes, swatches_of(("chosen", "rejected")))

    return Chart(
        name="lengths",
        title="Length of chosen and rejected answers",
        label="Lengths of chosen and rejected answers in each iteration; the numbers are in the table below",
        note="Bars hold the middle half of the answers, lines run from the 5 % to the 95 % point, the gap is the median.",
        svg=svg_of("lengths", draw, height=1.0 + 0.62 * len(told)),
        head=("Model", "Answers", "5 %", "25 %", "Median", "75 %", "95 %", "Mean"),
        rows=tuple(
            (one.model, words, *(f"{point:,.0f}" for point in lengths.points), f"{lengths.mean:,.0f}")
            for one in told
            for words, lengths in sets(one)
        ),
    )


def prompt_outcomes(run: RunStory) -> Chart | None:
    """What became of the prompts of each iteration: pairs, ties, and the rest."""
    told = [one for one in run.iterations if one.outcomes]
    if not told:
        return None
    names = [name for name in OUTCOME_NAMES if any(name in one.outcomes for one in told)]
    names = sorted(names, key=lambda name: -max(one.outcomes.get(name, 0) for one in told))
    kept, rest = names[: len(SERIES) - 1], names[len(SERIES) - 1 :]

    def draw(figure: "Figure") -> None:
        axes = single_axes(figure)
        for row, one in enumerate(told):
            total, left = sum(one.outcomes.values()), 0.0
            values = [one.outcomes.get(name, 0) for name in kept]
            values += [sum(one.outcomes.get(name, 0) for name in rest)] if rest else []
            for index, value in enumerate(values):
                share = 100 * value / total
                axes.barh(row, share, left=left, height=0.55, color=SERIES[index], edgecolor=PAPER)
                left += share
        axes.set_yticks(range(len(told)), [one.model for one in told])
        axes.set_ylim(len(told) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f} %")
        legend(
            figure, axes, swatches_of([OUTCOME_NAMES[name] for name in kept] + (["other"] if rest else []))
        )

    return Chart(
        name="outcomes",
        title="What became of the prompts",
        label="Shares of the prompts that gave pairs, ties or nothing, in each iteration; the numbers are in the table below",
        svg=svg_of("outcomes", draw, height=1.0 + 0.42 * len(told)),
        head=("Model", "Outcome", "Prompts", "Share"),
        rows=tuple(
            (
                one.model,
                OUTCOME_NAMES[name],
                f"{value:,}",
                f"{100 * value / sum(one.outcomes.values()):.1f} %",
            )
            for one in told
            for name in names
            if (value := one.outcomes.get(name, 0))
        ),
    )


def stage_timeline(run: RunStory) -> Chart | None:
    """Stages over time, one lane for each kind; GPUs that wait are marked in a lane of their own."""
    spans, idle = run.timeline.spans, run.timeline.idle
    if not spans:
        return None
    axis = Axis.of([(span.started, span.finished) for span in spans])
    lanes = [kind for kind in STAGE_NAMES if any(span.kind == kind for span in spans)]
    holds = any(span.gpus for span in spans)

    def draw(figure: "Figure") -> None:
        from matplotlib.patches import Patch

        axes = single_axes(figure)
        for span in spans:
            start, end = axis.at(span.started), axis.at(span.finished)
            width = max(end - start, axis.width * 0.004)
            row = lanes.index(span.kind)
            color = SERIES[(span.iteration - 1) % 5] if span.iteration else MUTED
            axes.barh(row, width, left=start, height=0.6, color=color)
            if holds and span.gpus:
                axes.barh(len(lanes), width, left=start, height=0.6, color=INK)
        for one in idle:
            start, end = axis.at(one.started), axis.at(one.finished)
            axes.barh(
                len(lanes), max(end - start, axis.width * 0.003), left=start, height=0.6, color=PAPER,
                edgecolor=SERIES[1], hatch="//////", linewidth=1,
            )  # fmt: skip
        for cut in axis.cuts:
            axes.axvline(cut, color=MUTED, linewidth=1, dashes=(1, 2))
        made = max((span.iteration for span in spans), default=0)
        # With more iterations the colours begin anew: they only tell neighbours apart.
        swatches = swatches_of([f"M{number}" for number in range(1, made + 1)]) if made <= 5 else []
        if idle:
            swatches.append(Patch(facecolor=PAPER, edgecolor=SERIES[1], hatch="//////", label="GPUs idle"))
        axes.set_yticks(
            range(len(lanes) + holds), [STAGE_NAMES[kind] for kind in lanes] + (["GPUs"] if holds else [])
        )
        axes.set_ylim(len(lanes) + holds - 0.4, -0.6)
        axes.set_xlim(0, axis.width)
        ticks = axis.ticks()
        axes.set_xticks([at for at, _ in ticks], [words for _, words in ticks])
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_xlabel("time since the first stage began", color=MUTED)
        legend(figure, axes, swatches)

    note = "A dotted line is a pause in which no stage ran, drawn short." if axis.cuts else ""
    return Chart(
        name="timeline",
        title="Stages over time",
        label="When each stage ran, and where GPUs were idle between stages; the numbers are in the table below",
        note=note if holds else f"No stage of this run held a GPU. {note}".strip(),
        svg=svg_of("timeline", draw, height=1.1 + 0.27 * (len(lanes) + holds)),
        head=("Stage", "Began (UTC)", "Took", "GPUs", "GPU-hours", "Tokens read", "Tokens written", "Trained on"),
        rows=tuple(
            (
                f"M{span.iteration} {STAGE_NAMES.get(span.kind, span.kind)}" if span.iteration
                else STAGE_NAMES.get(span.kind, span.kind),
                f"{span.started:%Y-%m-%d %H:%M:%S}",
                duration(span.seconds),
                number(span.gpus),
                f"{span.gpu_hours:,.2f}" if span.gpus else "–",
                number(span.tokens_in),
                number(span.tokens_out),
                number(span.tokens_trained),
            )
            for span in spans
        ),
    )  # fmt: skip
