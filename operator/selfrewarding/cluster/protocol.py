"""The port that both adapters implement."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import ValidationError

from selfrewarding.api.run import RawObject, SelfRewardingRun, SelfRewardingRunStatus
from selfrewarding.plan.actions import Event
from selfrewarding.plan.observed import ChildKind, Observed


class ClusterError(Exception):
    """A call to the cluster failed."""


class NotFound(ClusterError):
    """The object does not exist."""


class Conflict(ClusterError):
    """Somebody else changed the object, or it exists already and is not ours."""


class Forbidden(ClusterError):
    """Rights are missing; the text names the verb and the kind."""


class Unavailable(ClusterError):
    """The API does not answer for now."""

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that the API server asks to wait (Retry-After), 0 if it says nothing."""


class KindMissing(NotFound):
    """The cluster does not know the kind."""


class Refused(ClusterError):
    """The cluster takes no such object here: a quota, an admission policy, a webhook, or its own validation. It will
    once somebody has changed something; the text says what."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """One CamelCase word for the condition: QuotaExceeded, NotAdmitted, NotValid, NamespaceTerminating,
        WebhookFails."""


class NameTaken(Conflict):
    """An object of this name is there, and it is not ours."""


class InvalidRun(ClusterError):
    """The run's spec is none that this release can read."""

    def __init__(self, run: SelfRewardingRun, error: ValidationError) -> None:
        super().__init__(str(error))
        self.run = run
        """The run with its metadata and status; its spec must not be read."""
        self.error = error


@dataclass(frozen=True)
class RunKey:
    """A run by namespace and name."""

    namespace: str
    name: str


class Cluster(Protocol):
    """What a pass needs. Every method may raise a ClusterError."""

    async def get_run(self, key: RunKey) -> SelfRewardingRun | None:
        """The run as it is now, its spec as the user wrote it (no preset filled in); None if it is gone.

        Raises InvalidRun besides.
        """

    async def observe(self, run: SelfRewardingRun) -> Observed:
        """The run's children and their pods, with progress and termination messages."""

    async def create(self, run: SelfRewardingRun, manifest: RawObject) -> None:
        """Create an object owned by the run. An equal name that is ours and not being deleted counts as created;
        any other raises Conflict."""

    async def scale(self, run: SelfRewardingRun, name: str, replicas: int) -> None:
        """Set a Deployment's replicas by server-side apply."""

    async def delete(self, run: SelfRewardingRun, kind: ChildKind, name: str, uid: str) -> None:
        """Delete a child in the background if it still has this UID; an absent one is fine."""

    async def patch_status(self, run: SelfRewardingRun, status: SelfRewardingRunStatus) -> None:
        """Write the status; carries the resourceVersion that was read, a newer one raises Conflict."""

    async def post_events(self, run: SelfRewardingRun, events: Sequence[Event]) -> None:
        """Post events; equal ones are counted, not repeated."""
