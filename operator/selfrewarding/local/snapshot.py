"""One moment of a run as people see it: the stages of the iteration, how far the current one is, what it waits for.

Pure. Neighbours: the driver makes one after each pass, `display` draws it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from selfrewarding.api.run import SelfRewardingRun, SelfRewardingRunSpec
from selfrewarding.contract.progress import ProgressLine, summed
from selfrewarding.contract.stages import StageKind
from selfrewarding.local.pod import PodRecord
from selfrewarding.plan.observed import Observed, Phase, Pod
from selfrewarding.plan.stage import Stage
from selfrewarding.plan.view import View

StageState = Literal["done", "running", "starting", "waiting"]


@dataclass(frozen=True)
class StageLine:
    """One stage in the table of an iteration."""

    name: str
    state: StageState
    seconds: float | None
    """How long it took, or has taken so far."""
    note: str = ""


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment."""

    run: str
    """namespace/name."""
    now: datetime
    started: datetime
    """When this start of `srr local` began."""
    iteration: int
    iterations: int
    stage: str | None
    gpus: int
    lines: tuple[StageLine, ...]
    progress: ProgressLine | None
    stage_started: datetime | None
    """When the first pod of the current stage started."""
    waiting_for: str | None
    peak_bytes: int
    log: Path | None
    """Log of the pod that the stage's work is seen in: its own, or its server's while that starts."""

    @property
    def elapsed(self) -> float:
        """Seconds since this start."""
        return (self.now - self.started).total_seconds()

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of the current stage per second since its first pod started."""
        if self.progress is None or not self.progress.tokens or self.stage_started is None:
            return None
        seconds = (self.now - self.stage_started).total_seconds()
        return self.progress.tokens / seconds if seconds > 1 else None


def take(
    run: SelfRewardingRun,
    spec: SelfRewardingRunSpec,
    observed: Observed,
    pods: Sequence[PodRecord],
    *,
    now: datetime,
    started: datetime,
    peak_bytes: int,
) -> Snapshot:
    """The moment after a pass."""
    view = View(run=run, spec=spec, observed=observed, now=now, status=run.status)
    step = view.step
    number = run.status.iteration or 0
    mine = [
        pod for pod in observed.pods if step is not None and pod.key == step.short and pod.stage is not None
    ]
    latest = max((pod.attempt for pod in mine), default=0)
    mine = [pod for pod in mine if pod.attempt == latest]
    current = next((iteration for iteration in view.graph.iterations if iteration.number == number), None)
    stages: list[Stage] = [view.graph.prepare, *(current.stages if current else ())]
    if step is not None and step.kind is StageKind.RESOLVE:
        stages.insert(1, step)
    return Snapshot(
        run=f"{run.metadata.namespace}/{run.metadata.name}",
        now=now,
        started=started,
        iteration=number,
        iterations=spec.iterations,
        stage=run.status.stage,
        gpus=sum(pod.gpus for pod in view.live_pods),
        lines=tuple(_line(view, stage, step) for stage in stages),
        progress=summed([pod.progress for pod in mine if pod.progress is not None]),
        stage_started=min((pod.started for pod in mine if pod.started is not None), default=None),
        waiting_for=run.status.waiting_for,
        peak_bytes=peak_bytes,
        log=_log(pods, mine),
    )


def _line(view: View, stage: Stage, step: Stage | None) -> StageLine:
    entry = view.entry(stage.short)
    name = stage.kind.value
    if view.is_done(stage):
        return StageLine(name, "done", view.status.results[stage.short].seconds)
    if step is None or stage.short != step.short:
        return StageLine(name, "waiting", None)
    note = ""
    if entry is not None and entry.attempt > 1:
        note = f"attempt {entry.attempt}" + (f": {entry.last_failure}" if entry.last_failure else "")
    pods = view.pods_of(stage.short, entry.attempt) if entry is not None else ()
    running = [pod for pod in pods if pod.started is not None and view.is_live(pod)]
    if running:
        return StageLine(name, "running", _since(running, view.now), note)
    asked = {holder.name for holder in stage.holders.values()}
    servers = [pod for pod in view.live_pods if pod.holder in asked]
    return StageLine(name, "starting", _since(servers, view.now), note)


def _since(pods: Sequence[Pod], now: datetime) -> float | None:
    first = min((pod.started or pod.created for pod in pods), default=None)
    return (now - first).total_seconds() if first is not None else None


def _log(pods: Sequence[PodRecord], mine: Sequence[Pod]) -> Path | None:
    """The log of a living pod of the stage, else of any living pod: a server that starts, or one that leaves."""
    own = {pod.uid for pod in mine}
    living = [pod for pod in pods if not pod.ended]
    best = [pod for pod in living if pod.uid in own] or [
        pod for pod in living if pod.phase is not Phase.PENDING
    ]
    return Path((best or living)[-1].log) if living else None
