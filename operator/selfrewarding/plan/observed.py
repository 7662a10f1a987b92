"""All that one pass saw, in one frozen object. Adapters translate their API to this; `decide` reads nothing else."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from selfrewarding.contract.progress import ProgressLine
from selfrewarding.contract.result import TerminationMessage

ChildKind = Literal["ConfigMap", "Service", "NetworkPolicy", "Deployment", "Job", "PyTorchJob"]


class Phase(StrEnum):
    """Where a child or pod stands."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, kw_only=True)
class Child:
    """An object that we own (checked by owner UID), as its labels and status describe it."""

    kind: ChildKind
    name: str
    uid: str
    key: str
    """Label KEY: short key of the stage, or of the model for a serving pool."""
    stage: str | None
    """Label STAGE; None for the objects of a serving pool."""
    holder: str | None = None
    """Label HOLDER of a serving pool's objects."""
    iteration: int
    attempt: int
    phase: Phase = Phase.PENDING
    deleting: bool = False
    replicas: int = 0
    """Deployments: replicas that the spec asks for."""
    ready_replicas: int = 0
    """Deployments: servers that answer."""
    created: datetime
    message: str | None = None
    """Reason and message of the condition that says why it failed; of a child that runs, why its pods cannot be made."""


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod below one of our children."""

    name: str
    uid: str
    key: str
    attempt: int
    stage: str | None
    holder: str | None = None
    index: int = 0
    """Completion index of an Indexed Job's pod; node rank of a PyTorchJob's."""
    phase: Phase = Phase.PENDING
    scheduled: bool = False
    scheduling_message: str | None = None
    """What the scheduler says while it has no node."""
    waiting_reason: str | None = None
    """Why a container waits, e.g. ImagePullBackOff, CreateContainerConfigError."""
    waiting_message: str | None = None
    ready: bool = False
    restarts: int = 0
    gpus: int = 0
    created: datetime
    started: datetime | None = None
    deleting_since: datetime | None = None
    """deletionTimestamp, which already includes the grace period."""
    exit_code: int | None = None
    """Exit code of the container named for the program, once it ended."""
    reason: str | None = None
    """Kubernetes' reason: OOMKilled, Error, Evicted, NodeLost, …"""
    termination: TerminationMessage | None = None
    """Our own message, if the program left one."""
    progress: ProgressLine | None = None


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A live child of another run that computes a result with the same artifact label."""

    run: str
    """namespace/name of the other run."""
    artifact: str
    """Label ARTIFACT."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One look at a run's children."""

    children: tuple[Child, ...] = ()
    pods: tuple[Pod, ...] = ()
    rivals: tuple[Rival, ...] = ()
    missing_kinds: frozenset[str] = field(default_factory=frozenset)
    """Kinds that the cluster does not know, e.g. PyTorchJob."""
