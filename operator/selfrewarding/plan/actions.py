"""What a pass does, as data: the controller turns each into calls."""

from dataclasses import dataclass
from typing import Literal

from selfrewarding.api.run import SelfRewardingRunStatus
from selfrewarding.plan.observed import ChildKind
from selfrewarding.plan.stage import Holder, Stage


@dataclass(frozen=True, kw_only=True)
class StartStage:
    """Create the ConfigMap and the Job or PyTorchJob of a stage's attempt (create-only)."""

    stage: Stage
    attempt: int


@dataclass(frozen=True, kw_only=True)
class StartHolder:
    """Create the ConfigMap, Service, NetworkPolicy and Deployment of a serving pool (create-only)."""

    holder: Holder
    iteration: int
    attempt: int


@dataclass(frozen=True, kw_only=True)
class ScaleHolder:
    """Set the replicas of a serving pool's Deployment by server-side apply."""

    name: str
    replicas: int


@dataclass(frozen=True, kw_only=True)
class Delete:
    """Delete a child in the background; the UID is a precondition."""

    kind: ChildKind
    name: str
    uid: str


@dataclass(frozen=True, kw_only=True)
class StartRetirement:
    """Create the Job that clears a deleted run's artifacts away (create-only, without an owner)."""

    attempt: int


Action = StartStage | StartHolder | ScaleHolder | Delete


@dataclass(frozen=True, kw_only=True)
class Event:
    """A Kubernetes event, posted after the status write."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What one pass decided. Facts first (survival rule 1): if `status` holds facts that the last one did not, there
    are no actions that follow from them; they come in the pass that has read them back."""

    status: SelfRewardingRunStatus
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float
    """Seconds until the next pass, if nothing wakes it before."""
