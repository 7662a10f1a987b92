"""Which model a person lets go on when a gate holds (`srr approve`), and why there is none.

Pure. Neighbours: `models` reads the approval for the gate; the command line asks here before it writes one.
"""

from collections.abc import Iterable, Mapping

from selfrewarding.api import labels
from selfrewarding.api.conditions import ConditionType, get_condition
from selfrewarding.api.run import ModelStatus, SelfRewardingRunStatus

_ENDED_BY = {
    "StoppedByGate": "A gate has ended the run, which an approval does not undo: change gate.rules to go on.",
    "StoppedByAlarm": "An alarm has ended the run, which an approval does not undo: change alarms to go on.",
    "JudgeNotCalibrated": "The judge has not reached judge.calibration: change it, or the judge, to go on.",
}


class NothingHeld(Exception):
    """There is nothing to approve; the text says why."""


def held_model(
    status: SelfRewardingRunStatus, annotations: Mapping[str, str], iteration: int | None = None
) -> ModelStatus:
    """The model that the gate holds.

    Args:
        status: of the run.
        annotations: of the run.
        iteration: the one that the person means; None: whichever is held.

    Raises NothingHeld.
    """
    held = next((model for model in status.models if model.gate == "Held"), None)
    if held is None:
        raise NothingHeld(_why_nothing(status))
    if iteration is not None and iteration != held.iteration:
        raise NothingHeld(
            f"The gate holds {held.name} (iteration {held.iteration}), not the model of iteration {iteration}: "
            f"{held.gate_message or ''}".rstrip(": ")
        )
    if approves(annotations, held):
        raise NothingHeld(
            f"{held.name} is approved already; the run goes on as soon as the approval is seen."
        )
    return held


def approval_of(model: ModelStatus) -> str:
    """The value of the annotation that approves this very model, and no other that an edit makes in its place."""
    return f"{model.iteration}/{model.digest}"


def approves(annotations: Mapping[str, str], model: ModelStatus) -> bool:
    """Whether a person has approved a model: as it is, or its iteration whatever is made in it (a number alone)."""
    return annotations.get(labels.APPROVE) in (str(model.iteration), approval_of(model))


def newest_approval(approvals: Iterable[str]) -> str:
    """The one that reaches furthest: of the later iteration, then a number alone, then the first."""
    return max(approvals, key=_reach)


def _reach(approval: str) -> tuple[int, bool]:
    number, _, digest = approval.partition("/")
    return (int(number) if number.isdecimal() else 0, not digest)


def _why_nothing(status: SelfRewardingRunStatus) -> str:
    ready = get_condition(status.conditions, ConditionType.READY)
    if ready is not None and ready.reason in _ENDED_BY:
        return f"{_ENDED_BY[ready.reason]} {ready.message}".rstrip()
    done = get_condition(status.conditions, ConditionType.SUCCEEDED)
    if done is not None and done.status == "True":
        return f"No gate holds: the run is done. {done.message}".rstrip()
    if status.stage is not None:
        return f"No gate holds: the run is at {status.stage} of iteration {status.iteration or 0}."
    return "No gate holds: the run has not started."
