"""The story of a run as one HTML page that needs nothing but itself.

Purpose: the verdicts in words, and the page around charts and pairs: no script, no network, no font from elsewhere; pairs
are added one by one until the page has reached its size.
Must not: read a store; put text into markup except through Jinja's escaping or `text.shown`.
Neighbours: `collect` makes the story, `charts` the pictures; templates/ has markup and style.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from selfrewarding import __version__
from selfrewarding.api.run import Metrics
from selfrewarding.report import charts, text, wording
from selfrewarding.report.charts import Chart
from selfrewarding.report.story import IterationStory, RunStory
from selfrewarding.report.verdicts import verdicts

PAIRS_BYTES = 2_000_000
"""All pairs on the page together, as markup; charts and the rest take some hundred kB, so a page stays under 3 MB."""
PROMPT_CHARACTERS = 3000
ANSWER_CHARACTERS = 4000
JUDGEMENT_CHARACTERS = 2000
SUMMARY_CHARACTERS = 90


@dataclass(frozen=True, kw_only=True)
class ShownPairs:
    """The pairs of an iteration that have room on the page, as markup."""

    iteration: IterationStory
    pairs: tuple[Markup, ...]
    anchors: dict[str, str]
    """Keys of the pairs, and of their prompts → where on the page they stand."""


def render(run: RunStory) -> str:
    """The page. Equal stories give equal pages, byte for byte."""
    environment = _environment()
    shown = _shown_pairs(environment, run.iterations)
    style = files("selfrewarding.report").joinpath("templates/report.css").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(
        run=run,
        verdicts=verdicts(run),
        progress=_there(charts.win_rates(run)),
        judge=_there(charts.judge_agreement(run), charts.judge_correlation(run)),
        data=_there(
            charts.score_distributions(run), charts.length_distributions(run), charts.prompt_outcomes(run)
        ),
        watched=_watched(run.iterations),
        timeline=_there(charts.stage_timeline(run)),
        shown_pairs=shown,
        anchors={key: anchor for one in shown for key, anchor in one.anchors.items()},
        style=Markup(style),  # noqa: S704 - our own file
        version=__version__,
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("selfrewarding.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "percent": wording.percent,
        "interval": wording.interval,
        "correlation": wording.signed,
        "number": wording.number,
        "score": wording.score,
        "large": wording.large,
        "duration": wording.duration,
        "plain": text.plain,
        "short_key": text.short_key,
        "anchor": _anchor,
        "prompt_text": partial(text.shown, limit=PROMPT_CHARACTERS),
        "answer_text": partial(text.shown, limit=ANSWER_CHARACTERS),
        "judgement_text": partial(text.shown, limit=JUDGEMENT_CHARACTERS),
        "whole_text": partial(text.shown, limit=200_000),
    }
    environment.globals |= {
        "ALARM_NAMES": wording.ALARM_NAMES,
        "METRIC_NAMES": wording.METRIC_NAMES,
        "SUMMARY_CHARACTERS": SUMMARY_CHARACTERS,
    }
    return environment


def _shown_pairs(environment: Environment, iterations: Sequence[IterationStory]) -> list[ShownPairs]:
    """Every iteration has the same room; what one does not need goes to the later ones."""
    template = environment.get_template("pair.html.j2")
    told = [one for one in iterations if one.pairs is not None]
    found: list[ShownPairs] = []
    left = PAIRS_BYTES
    for index, one in enumerate(told):
        room = left // (len(told) - index)
        markup: list[Markup] = []
        anchors: dict[str, str] = {}
        for number, pair in enumerate(one.pairs.sample if one.pairs else ()):
            part = Markup(template.render(pair=pair, number=number + 1))  # noqa: S704 - rendered with autoescape
            size = len(part.encode())
            if size > room:
                continue
            room -= size
            left -= size
            markup.append(part)
            anchors |= {pair.prompt_key: _anchor(pair.key), pair.key: _anchor(pair.key)}
        found.append(ShownPairs(iteration=one, pairs=tuple(markup), anchors=anchors))
    return found


def _watched(iterations: Sequence[IterationStory]) -> list[tuple[str, ...]]:
    """The numbers that alarms and gate rules read, by the names that these use: a row for each, a cell for each model."""
    names = [field.alias or name for name, field in Metrics.model_fields.items()]
    return [
        (name, *(f"{one.metrics[name]:.4g}" if name in one.metrics else "–" for one in iterations))
        for name in names
        if any(name in one.metrics for one in iterations)
    ]


def _anchor(key: str) -> str:
    """An identifier for a row's key, whatever characters that has."""
    return f"row-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _there(*found: Chart | None) -> list[Chart]:
    return [one for one in found if one is not None]
