"""A clock that stands still until a test sets it. For a whole event loop on such a clock see `virtual_time`."""

from datetime import datetime
from typing import Generic, TypeVar

Time = TypeVar("Time", float, datetime)


class SetClock(Generic[Time]):
    """Tells `now` when it is called."""

    def __init__(self, now: Time) -> None:
        self.now = now

    def __call__(self) -> Time:
        return self.now
