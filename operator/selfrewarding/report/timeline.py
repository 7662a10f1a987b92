"""When the stages of a run went, and where GPUs waited between them. Pure.

A result says when it was written and how long its attempt took. What GPUs did between two stages that use them is told by
the planner's hand-over times where it knows them; else the gap is taken. So a pause of the whole run, or a result that
another run made last week, counts as no idle time where the planner measured the hand-over.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from selfrewarding.contract.result import StageResult
from selfrewarding.report.story import Idle, StageSpan, Timeline


def timeline(
    results: Mapping[str, StageResult], *, gpus: Mapping[str, int], handover_seconds: Mapping[str, float]
) -> Timeline:
    """The timeline of results by role; those without a time of their own are left out."""
    spans = sorted(
        (
            (role, span)
            for role, result in results.items()
            if (span := _span(result, gpus.get(role, 0))) is not None
        ),
        key=lambda item: (item[1].started, item[1].finished),
    )
    return Timeline(spans=tuple(span for _, span in spans), idle=tuple(_idle(spans, handover_seconds)))


def stage_name(kind: str, iteration: int) -> str:
    """A stage as people say it: M2 Rollout."""
    return f"M{iteration} {kind}" if iteration else kind


def _span(result: StageResult, gpus: int) -> StageSpan | None:
    finished = _moment(result.finished)
    if finished is None:
        return None
    counts = result.counts
    return StageSpan(
        kind=result.kind.value,
        iteration=result.iteration,
        started=finished - timedelta(seconds=max(0.0, result.seconds)),
        finished=finished,
        gpus=gpus,
        tokens_in=counts.get("promptTokens", 0),
        tokens_out=counts.get("outputTokens", 0),
        tokens_trained=counts.get("tokens", 0),
    )


def _moment(text: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found is not None and found.tzinfo is None else found


def _idle(spans: Sequence[tuple[str, StageSpan]], handover: Mapping[str, float]) -> list[Idle]:
    holding = [(role, span) for role, span in spans if span.gpus]
    found: list[Idle] = []
    busy_until: datetime | None = None
    for role, span in holding:
        if busy_until is not None and span.started > busy_until:
            gap = span.started - busy_until
            known = handover.get(role)
            waited = gap if known is None else min(gap, timedelta(seconds=known))
            if waited:
                found.append(
                    Idle(
                        started=span.started - waited,
                        finished=span.started,
                        gpus=span.gpus,
                        before=stage_name(span.kind, span.iteration),
                    )
                )
        busy_until = span.finished if busy_until is None else max(busy_until, span.finished)
    return found
