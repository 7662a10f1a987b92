"""How every chart of the report is drawn: colours, axes, legend, and the way from a matplotlib figure to inline SVG.

Must not: know what a chart shows. Neighbours: `charts` draws with this.

Pictures are reproducible: no date, and identifiers by a fixed salt. Colours are drawn as place holders and then replaced
by CSS variables, so that the page's style sheet has them all, for light, dark and print; text stays text, in the page's
own font.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from selfrewarding.report.story import Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

INK, MUTED, GRID, PAPER = "#010203", "#010204", "#010205", "#010206"
SERIES = ("#020101", "#020102", "#020103", "#020104", "#020105", "#020106", "#020107")
_VARIABLES = {
    INK: "--ink", MUTED: "--muted", GRID: "--line", PAPER: "--card",
    **{color: f"--series-{index + 1}" for index, color in enumerate(SERIES)},
}  # fmt: skip
_MARKERS = ("o", "s", "D", "^", "v")
_WIDE, _HIGH = 5.0, 2.8
"""Inches of 72 points: 360 points, which is about the width that a phone has."""


def interval_line(
    axes: "Axes",
    points: Sequence[tuple[float, Measure]],
    index: int,
    label: str,
    *,
    joined: bool = True,
    scale: float = 100,
) -> None:
    """Points with their 95 % intervals; values are multiplied by `scale`."""
    color = SERIES[index % len(SERIES)]
    at = [x for x, _ in points]
    values = [scale * one.value for _, one in points]
    below = [
        scale * (one.value - (one.value if one.low is None else min(one.low, one.value))) for _, one in points
    ]
    above = [
        scale * ((one.value if one.high is None else max(one.high, one.value)) - one.value)
        for _, one in points
    ]
    axes.errorbar(
        at, values, yerr=[below, above], color=color, label=label, marker=_MARKERS[index % len(_MARKERS)],
        linestyle="-" if joined else "none", linewidth=1.6, markersize=5, elinewidth=1.4, capsize=3,
    )  # fmt: skip


def single_axes(figure: "Figure") -> "Axes":
    """The one pair of axes of a figure."""
    axes = figure.subplots()
    plain_axes(axes)
    return axes


def plain_axes(axes: "Axes") -> None:
    """Axes without frame and tick marks."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(length=0, colors=INK)
    axes.set_axisbelow(True)


def models_axis(axes: "Axes", numbers: Sequence[int]) -> None:
    """The models along x; 0 is the baseline."""
    told = list(numbers)[:: 1 + len(numbers) // 13]
    axes.set_xticks(told, ["Baseline" if at == 0 else f"M{at}" for at in told])
    axes.set_xlim(min(numbers) - 0.5, max(numbers) + 0.5)


def percent_axis(axes: "Axes") -> None:
    """A y axis from 0 to 100 %."""
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f} %")
    axes.grid(axis="y", color=GRID, linewidth=0.8)


def legend(figure: "Figure", axes: "Axes", swatches: Sequence["Patch"] = ()) -> None:
    """A legend above the axes: what was drawn with a label, or these swatches."""
    drawn, _ = axes.get_legend_handles_labels()
    handles = [*drawn, *swatches]
    if handles:
        brief = sum(len(str(one.get_label())) for one in handles) < 30
        figure.legend(
            handles=handles, loc="outside upper left", ncols=min(4 if brief else 3, len(handles)), frameon=False, labelcolor=INK,
            handlelength=1.4, columnspacing=1.4, borderaxespad=0.0,
        )  # fmt: skip


def swatches_of(words: Sequence[str]) -> list["Patch"]:
    """Legend entries in the order of the series' colours."""
    from matplotlib.patches import Patch

    return [Patch(color=SERIES[index], label=one) for index, one in enumerate(words)]


@contextmanager
def _style(salt: str) -> Iterator[None]:
    from matplotlib import rc_context, rcdefaults, rcParams

    with rc_context():
        rcdefaults()  # whatever a person's own matplotlibrc says
        rcParams.update({
            "svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9.5, "text.color": INK, "text.parse_math": False,
            "axes.edgecolor": GRID, "axes.labelcolor": MUTED, "xtick.color": INK, "ytick.color": INK,
            "hatch.color": SERIES[1], "hatch.linewidth": 1.0,
        })  # fmt: skip
        yield


def svg_of(name: str, draw: Callable[["Figure"], None], height: float = _HIGH) -> str:
    """The picture as an <svg> element without width and height: it is as wide as its place."""
    from matplotlib.figure import Figure

    with _style(name):
        figure = Figure(figsize=(_WIDE, height), layout="constrained")
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return _cleaned(text[text.index("<svg") :], name)


def _cleaned(svg: str, name: str) -> str:
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1
    )
    # Each picture's identifiers are its own: several stand in one document.
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="|url\()#([^")]+)', rf"\1#{name}-\2", svg)
    svg = re.sub(r'font-family: [^;"]*', "font-family: var(--sans)", svg)
    svg = re.sub(r'font: ([\d.]+px) [^;"]*', r"font: \1 var(--sans)", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return re.sub(r"\s*\n\s*", "\n", svg).strip()
