"""Serving pools: which are there, which are missing, and what still sits on the GPUs that the next one needs.

Must not: start or delete; `starts` does, from what stands here (survival rules 4 and 7).
Neighbours: `checks` tells people what these functions find.
"""

from selfrewarding.plan.observed import Child, Pod
from selfrewarding.plan.stage import Holder, Stage
from selfrewarding.plan.view import View, holds_accelerators, unit_of

SHARED_BY_ATTEMPTS = frozenset({"Service", "NetworkPolicy"})
"""Objects of a serving pool whose names hold no attempt: the next attempt answers at the same address."""


def ready(view: View, holder: Holder) -> bool:
    """Whether a server of the pool answers."""
    deployment = view.deployment_of(holder)
    return deployment is not None and deployment.ready_replicas > 0


def missing_holders(view: View, stage: Stage) -> list[Holder]:
    """Pools that the stage asks and that have no Deployment."""
    return [holder for holder in stage.holders.values() if view.deployment_of(holder) is None]


def lacks_parts(view: View, holder: Holder) -> bool:
    """Whether somebody deleted the address or the configuration of a pool that is there."""
    deployment = view.deployment_of(holder)
    if deployment is None:
        return False
    there = {
        child.kind
        for child in view.observed.children
        if child.holder == holder.name
        and (child.kind in SHARED_BY_ATTEMPTS or child.attempt == deployment.attempt)
    }
    return not {"ConfigMap", *SHARED_BY_ATTEMPTS} <= there


def blocking(view: View, stage: Stage) -> list[Child | Pod]:
    """What must be gone before the stage's own pods or missing pools may come.

    Another pool, another training stage, an older attempt of either; not a pod 60 s past its deletionTimestamp.
    """
    own = {holder.name for holder in stage.holders.values() if view.deployment_of(holder) is not None}
    if view.job_of(stage) is not None:
        own.add(stage.short)
    children = [
        child
        for child in view.observed.children
        if child.kind in ("Deployment", "PyTorchJob") and not _is_current(view, child, own)
    ]
    pods = [pod for pod in view.live_pods if holds_accelerators(pod) and not _is_current(view, pod, own)]
    return [*children, *pods]


def _is_current(view: View, thing: Child | Pod, own: set[str]) -> bool:
    unit = unit_of(thing)
    entry = view.entry(unit)
    if isinstance(thing, Child) and thing.deleting:
        return False
    return unit in own and entry is not None and entry.attempt == thing.attempt
