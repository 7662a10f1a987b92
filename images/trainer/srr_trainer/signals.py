"""SIGTERM: a pod is told to go. While training, the step is finished first; at any other time the program ends at once.

Must not: save anything (that is `callbacks`).
"""

import signal
from types import FrameType

from selfrewarding.contract.program import Retry


class StopRequest:
    """Whether SIGTERM has come. `steps_follow` says whether somebody will ask `asked` after the next step."""

    def __init__(self) -> None:
        self.asked = False
        self.steps_follow = False

    def install(self) -> None:
        """Take SIGTERM over for this process."""
        signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, _: int, __: FrameType | None) -> None:
        if self.asked:
            return
        self.asked = True
        if not self.steps_follow:
            raise Retry(
                "stopped by SIGTERM before or after training; the next attempt begins at the last checkpoint"
            )
