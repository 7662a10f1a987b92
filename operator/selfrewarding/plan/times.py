"""Times in status: RFC 3339 in UTC with whole seconds, as Kubernetes writes them.

Must not: read a clock; `now` is always given. Neighbours: everything in `plan` that compares times with status.
"""

from datetime import UTC, datetime


def stamp(moment: datetime) -> str:
    """A time as status holds it, e.g. 2026-01-31T12:00:00Z."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment_of(text: str) -> datetime:
    """The time that `stamp` (or Kubernetes) wrote."""
    return datetime.fromisoformat(text)


def seconds_since(text: str, now: datetime) -> float:
    """Seconds from a time in status until now, never below 0 (clocks of two operators may differ)."""
    return max(0.0, (now - moment_of(text)).total_seconds())
