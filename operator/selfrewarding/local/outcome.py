"""How a start of `srr local` ended, and what is said about it.

Exit codes: 0 done (or stopped where it was asked to), 1 a failed run, 130 and the like for a signal.
Neighbours: `driver` asks `ending_of` after each pass; the command prints what `tell` says.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from selfrewarding.api import labels
from selfrewarding.api.conditions import ConditionType, get_condition, is_true
from selfrewarding.api.run import SelfRewardingRun
from selfrewarding.contract.artifacts import REPORT, run_prefix
from selfrewarding.contract.stages import StageKind
from selfrewarding.local import results_report
from selfrewarding.local.display import clock, last_lines
from selfrewarding.local.run_results import Finished, model_folder
from selfrewarding.local.state import StateFolder
from selfrewarding.local.usage import Usage
from selfrewarding.store.folder import FolderStore
from selfrewarding.store.protocol import ArtifactStore

if TYPE_CHECKING:
    from rich.console import Console

LOG_LINES = 20

How = Literal["succeeded", "failed", "stalled", "until", "suspended", "held", "interrupted", "broken"]


@dataclass(frozen=True)
class Ending:
    """Why the loop ended."""

    how: How
    message: str = ""
    signal: int | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A start of `srr local`, when nothing of it runs any more."""

    ending: Ending
    run: SelfRewardingRun
    finished: list[Finished]
    usage: Usage
    state: StateFolder
    failed_log: Path | None
    """Log of the last pod that failed by itself in this start."""
    store: ArtifactStore
    seconds: float

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        match self.ending.how:
            case "succeeded" | "until" | "suspended" | "held":
                return 0
            case "interrupted":
                return 128 + (self.ending.signal or 0)
            case "failed" | "stalled" | "broken":
                return 1


def ending_of(
    run: SelfRewardingRun, *, living: bool, stalled: bool, until: StageKind | None, from_iteration: int
) -> Ending | None:
    """Whether the run is at an end for this start; None to go on.

    `living`: whether any pod lives; an end that the planner has named waits until none does. `until` is reached when a
    stage of this kind is done in the iteration that the start began with, or in a later one.
    """
    conditions = run.status.conditions
    if until is not None and from_iteration <= _done_in(run, until):
        return Ending("until", f"{until} is done, as --until asked for")
    failed = get_condition(conditions, ConditionType.FAILED)
    refused = failed is not None and failed.status == "True" and failed.reason == "InvalidSpec"
    if living and not refused:
        return None
    for kind, how in (
        (ConditionType.SUCCEEDED, "succeeded"),
        (ConditionType.FAILED, "failed"),
        (ConditionType.SUSPENDED, "suspended"),
    ):
        if is_true(conditions, kind):
            return Ending(how, _message(run, kind))  # type: ignore[arg-type]
    ready = get_condition(conditions, ConditionType.READY)
    if ready is not None and ready.reason == "HeldByGate":
        return Ending("held", ready.message)
    return Ending("stalled", _message(run, ConditionType.STALLED)) if stalled else None


def tell(outcome: Outcome, console: "Console", command: str) -> None:
    """Print the final tables, where everything lies, and what to do next. `command` is how to go on."""
    rows = results_report.iteration_rows(outcome.finished)
    costs = results_report.stage_rows(outcome.finished, outcome.usage.stages)
    if rows:
        console.print(results_report.iterations_table(rows))
    if costs:
        console.print(results_report.stages_table(costs, outcome.usage.peak_bytes))
    _say(console, f"{clock(outcome.seconds)} in this start; peak memory of all processes "
                  f"{outcome.usage.peak_bytes / 2**30:.2f} GiB.")  # fmt: skip
    for alarm in outcome.run.status.alarms:
        _say(
            console,
            f"Alarm {alarm.name} (M{alarm.iteration}, {alarm.action}): {alarm.message}",
            "bold yellow",
        )
    models = [(model, model_folder(outcome.store, model)) for model in outcome.run.status.models]
    for model, folder in models:
        gate = f" ({model.gate})" if model.gate else ""
        _say(console, f"{model.name}{gate}: {folder or model.uri}")
    where = str(outcome.store.root if isinstance(outcome.store, FolderStore) else outcome.store.uri)
    page = f"{run_prefix(outcome.run.metadata.namespace or 'default', outcome.run.metadata.name)}/{REPORT}"
    if outcome.store.stat(page) is not None:
        _say(console, f"Report: {where}/{page}")
    _say(console, f"Artifacts: {where}")
    _say(console, f"Logs: {outcome.state.logs}")
    _tell_ending(outcome, console, command)


def _tell_ending(outcome: Outcome, console: "Console", command: str) -> None:
    ending = outcome.ending
    match ending.how:
        case "succeeded":
            _say(console, ending.message, "bold green")
        case "until" | "suspended" | "held":
            _say(console, ending.message, "bold")
            remedy = {
                "until": "Go on with",
                "suspended": "Set spec.suspend to false, then go on with",
                "held": "To let it go on: "
                f"srr approve {outcome.run.metadata.name} -n {outcome.run.metadata.namespace or 'default'} "
                f"--artifacts {outcome.state.artifacts} (or set the annotation {labels.APPROVE}: "
                f'"{outcome.run.status.iteration}" in the file\'s metadata), then go on with',
            }[ending.how]
            _say(console, f"{remedy}: {command}")
        case "interrupted":
            _say(console, f"Stopped; nothing is lost. Go on with: {command}", "bold")
        case "failed" | "stalled" | "broken":
            _say(console, ending.message or "The run failed.", "bold red")
            log = outcome.failed_log or newest_log(outcome.state)
            if log is not None:
                _say(console, f"The end of {log}:")
                for line in last_lines(log, LOG_LINES):
                    _say(console, f"  {line}", "dim")
            _say(console, f"Mend what it says (edit the file if need be), then go on with: {command}")


def newest_log(state: StateFolder) -> Path | None:
    """The log that was written to last; None if there is none."""
    logs = [path for path in state.logs.glob("*.log") if path.stat().st_size > 0]
    return max(logs, key=lambda path: path.stat().st_mtime_ns, default=None)


def _done_in(run: SelfRewardingRun, kind: StageKind) -> float:
    """The last iteration in which a kind of stage is done; stages that belong to no iteration count for all."""
    if kind is StageKind.GATE:
        passed = [model.iteration for model in run.status.models if model.gate is not None]
    else:
        passed = [one.iteration for one in run.status.results.values() if one.stage == kind]
    return max((number or float("inf") for number in passed), default=-1)


def _message(run: SelfRewardingRun, kind: ConditionType) -> str:
    condition = get_condition(run.status.conditions, kind)
    if condition is not None and condition.message:
        return condition.message
    ready = get_condition(run.status.conditions, ConditionType.READY)
    return ready.message if ready is not None else ""


def _say(console: "Console", text: str, style: str = "") -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
