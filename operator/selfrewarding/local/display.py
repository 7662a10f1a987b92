"""What `srr local` shows while it runs: a live view on a terminal, one line per change elsewhere.

Must not: ask the cluster or decide anything; it draws snapshots.
Neighbours: `driver` feeds it, `results_report` has the tables at the end.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from selfrewarding.contract.program import PROGRESS_PREFIX
from selfrewarding.local.observing import tail
from selfrewarding.local.snapshot import Snapshot, StageLine
from selfrewarding.plan.actions import Event

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LOG_LINES = 6
_TAIL_BYTES = 8192
PLAIN_EVERY = 10.0
"""Least seconds between two lines of progress where the output is no terminal."""
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")
_MARKS = {
    "done": "[green]done[/]",
    "running": "[cyan]running[/]",
    "starting": "[yellow]starting[/]",
    "waiting": "[dim]–[/]",
}


class Display(Protocol):
    """Where a run is shown while it goes on."""

    def show(self, snapshot: Snapshot) -> None:
        """The run at this moment."""

    def event(self, event: Event) -> None:
        """Something happened that people should hear of."""

    def close(self) -> None:
        """The run has ended or stops: leave the terminal as it was."""


def open_display(console: "Console") -> Display:
    """The display that fits the console."""
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


class LiveDisplay:
    """Header, stages of the iteration, progress bar and the end of the log, redrawn in place."""

    def __init__(self, console: "Console") -> None:
        from rich.live import Live

        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def show(self, snapshot: Snapshot) -> None:
        """See `Display.show`."""
        self._live.update(drawing(snapshot, self._console.width), refresh=True)

    def event(self, event: Event) -> None:
        """See `Display.event`. The line stays above the live part."""
        from rich.markup import escape

        style = "yellow" if event.type == "Warning" else "dim"
        self._console.print(f"[{style}]{escape(event.message)}[/]", highlight=False)

    def close(self) -> None:
        """See `Display.close`."""
        self._live.stop()


class PlainDisplay:
    """One line per change of stage or reason to wait, and one of progress at most every ten seconds."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._last: tuple[object, ...] = ()
        self._progress: tuple[int, int] | None = None
        self._told = float("-inf")

    def show(self, snapshot: Snapshot) -> None:
        """See `Display.show`."""
        change = (snapshot.iteration, snapshot.stage, snapshot.waiting_for)
        progress = (snapshot.progress.done, snapshot.progress.total) if snapshot.progress else None
        changed = change != self._last and (snapshot.stage or snapshot.waiting_for)
        moved = progress != self._progress and snapshot.elapsed - self._told >= PLAIN_EVERY
        if changed or moved:
            self._last, self._progress, self._told = change, progress, snapshot.elapsed
            self._print(f"{clock(snapshot.elapsed)} {sentence(snapshot)}")

    def event(self, event: Event) -> None:
        """See `Display.event`."""
        self._print(f"{'warning: ' if event.type == 'Warning' else ''}{event.message}")

    def close(self) -> None:
        """See `Display.close`."""

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def sentence(snapshot: Snapshot) -> str:
    """A snapshot on one line."""
    where = f"iteration {snapshot.iteration} of {snapshot.iterations}" if snapshot.iteration else "start"
    parts = [f"{where}: {snapshot.stage or 'between stages'}"]
    if snapshot.progress is not None:
        line = snapshot.progress
        parts.append(f"{line.done:,}/{line.total:,} {line.unit}")
        if line.rate:
            parts.append(f"{line.rate:.2f}/s")
        if line.eta_seconds is not None:
            parts.append(f"{clock(line.eta_seconds)} left")
        if (rate := snapshot.tokens_per_second) is not None:
            parts.append(f"{rate:.0f} tokens/s")
    if snapshot.waiting_for:
        parts.append(f"waiting for {snapshot.waiting_for}")
    return ", ".join(parts)


def drawing(snapshot: Snapshot, width: int) -> "RenderableType":
    """A snapshot as a rich renderable."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    gpus = f"{snapshot.gpus} GPUs" if snapshot.gpus else "no GPU in use"
    memory = f", peak {snapshot.peak_bytes / 2**30:.1f} GiB" if snapshot.peak_bytes else ""
    header = (
        f"[bold]{escape(snapshot.run)}[/]  iteration {snapshot.iteration} of {snapshot.iterations}  "
        f"[bold cyan]{snapshot.stage or ''}[/]  {clock(snapshot.elapsed)} elapsed, {gpus}{memory}"
    )
    stages = Table.grid(padding=(0, 2))
    for line in snapshot.lines:
        stages.add_row(*_cells(line))
    parts: list[RenderableType] = [Text.from_markup(header), stages]
    if snapshot.progress is not None:
        parts.append(_bar(snapshot, width))
    if snapshot.waiting_for:
        parts.append(Text(f"waiting for {snapshot.waiting_for}", style="yellow"))
    if snapshot.log is not None:
        parts.append(Text(f"── {snapshot.log.name}", style="dim"))
        parts += [
            Text(line[:width], style="dim", no_wrap=True) for line in last_lines(snapshot.log, LOG_LINES)
        ]
    return Group(*parts)


def _cells(line: StageLine) -> tuple[str, str, str, str]:
    from rich.markup import escape

    seconds = "" if line.seconds is None else clock(line.seconds)
    return f"  {line.name}", _MARKS[line.state], seconds, f"[yellow]{escape(line.note)}[/]"


def _bar(snapshot: Snapshot, width: int) -> "RenderableType":
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    line = snapshot.progress
    assert line is not None  # noqa: S101 - the caller has looked
    text = f"{line.done:,}/{line.total:,} {line.unit}"
    text += f"  {line.rate:.2f}/s" if line.rate else ""
    text += f"  {clock(line.eta_seconds)} left" if line.eta_seconds is not None else ""
    rate = snapshot.tokens_per_second
    text += f"  {rate:,.0f} tokens/s" if rate is not None else ""
    grid = Table.grid(padding=(0, 1))
    grid.add_row(
        "  ",
        ProgressBar(total=max(1, line.total), completed=line.done, width=max(10, min(50, width // 3))),
        text,
    )
    return grid


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log as plain text, progress lines left out: the bar shows those."""
    lines = [_CONTROL.sub("", line).rstrip() for line in tail(log, _TAIL_BYTES).splitlines()]
    return [line for line in lines if line and PROGRESS_PREFIX not in line][-count:]


def clock(seconds: float) -> str:
    """Seconds as people read them: 0:07, 12:30, 2:01:05."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
