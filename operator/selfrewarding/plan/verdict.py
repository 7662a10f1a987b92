"""What a check says: how the run stands, and how much of it may go on."""

from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    """What may live and start in this pass."""

    GO = "Go"
    """The step may start, and what is under way goes on."""
    HOLD = "Hold"
    """Nothing starts; serving pools are scaled to 0, so that no GPU waits."""
    CLEAR = "Clear"
    """Nothing of the run may live."""


class State(StrEnum):
    """How the run stands, as conditions show it."""

    PROGRESSING = "Progressing"
    STALLED = "Stalled"
    """It does not come on without help from outside, and goes on by itself once that has come."""
    FAILED = "Failed"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The first check that had something to say."""

    mode: Mode = Mode.GO
    state: State = State.PROGRESSING
    reason: str
    """One CamelCase word."""
    message: str
    """A sentence for people, with the next step where one is needed."""
    waiting_for: str | None = None
    look_again: float = 300.0
    """Seconds until the next pass if nothing wakes the run before."""
