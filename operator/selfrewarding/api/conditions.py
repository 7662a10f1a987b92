"""Conditions of a run's status (Kubernetes API conventions; kstatus names) and the two helpers that change them."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Literal

from selfrewarding.api.base import ApiModel


class ConditionType(StrEnum):
    """The conditions of a run. `Reconciling` and `Stalled` are abnormal-true (kstatus)."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SUSPENDED = "Suspended"


class Condition(ApiModel):
    """One condition of the run (the shape of `metav1.Condition`)."""

    type: str
    """Name of the condition, e.g. Ready."""
    status: Literal["True", "False", "Unknown"]
    """Whether the condition holds."""
    observed_generation: int | None = None
    """The `metadata.generation` that this condition was computed from."""
    last_transition_time: str
    """When `status` last changed (RFC 3339)."""
    reason: str
    """One CamelCase word that a program can test."""
    message: str
    """A sentence for people, with the next step where one is needed."""


def get_condition(conditions: Iterable[Condition], kind: ConditionType) -> Condition | None:
    """The condition of this type, or None."""
    return next((c for c in conditions if c.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: ConditionType) -> bool:
    """Whether the condition of this type is there and True."""
    condition = get_condition(conditions, kind)
    return condition is not None and condition.status == "True"


def set_condition(conditions: Iterable[Condition], new: Condition) -> list[Condition]:
    """The conditions with `new` in place of the one of its type; the transition time is kept unless the status flips."""
    result: list[Condition] = []
    replaced = False
    for old in conditions:
        if old.type != new.type:
            result.append(old)
            continue
        kept = old.status == new.status
        result.append(
            new.model_copy(update={"last_transition_time": old.last_transition_time}) if kept else new
        )
        replaced = True
    if not replaced:
        result.append(new)
    return result
