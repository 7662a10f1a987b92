"""The checks of a pass that look at pods and servers: what keeps them from being made, placed, started, or ended.

Purpose: as `checks`, of which these are part (`checks.CHECKS` has the order). Must not: change status or name actions.
Neighbours: `waiting` finds the words.
"""

from selfrewarding.contract.stages import SLUGS
from selfrewarding.plan.facts import cannot_start as pod_cannot_start
from selfrewarding.plan.facts import is_unscheduled
from selfrewarding.plan.holders import blocking, missing_holders, ready
from selfrewarding.plan.observed import Child, Phase, Pod
from selfrewarding.plan.retries import FailureClass
from selfrewarding.plan.units import own_pods, title, units
from selfrewarding.plan.verdict import State, Verdict
from selfrewarding.plan.view import View, unit_of
from selfrewarding.plan.waiting import for_node, for_pods, to_start

WATCHING = 10.0
"""Seconds until the next look at something that is about to change."""


def cannot_start(view: View) -> Verdict | None:
    """A pod's image, Secret or configuration is missing; it starts by itself once that is mended."""
    for pod in own_pods(view):
        if pod_cannot_start(pod):
            waiting = to_start(pod, view.run.metadata.namespace or "default")
            return Verdict(
                state=State.STALLED, reason="PodCannotStart", look_again=30.0, waiting_for=waiting.what,
                message=f'Pod "{pod.name}" cannot start: {waiting.said}. {waiting.remedy}',
            )  # fmt: skip
    return None


def pods_not_made(view: View) -> Verdict | None:
    """Kubernetes does not let a child make its pods: a quota, an admission policy, a missing ServiceAccount.

    A Job or a Deployment that has some of its pods goes on with those; training waits until it has all.
    """
    own = {unit: entry.attempt for _, unit in units(view) if (entry := view.entry(unit)) is not None}
    for child in view.observed.children:
        unit = unit_of(child)
        ended = child.phase in (Phase.SUCCEEDED, Phase.FAILED)
        if child.message is None or ended or child.deleting or own.get(unit) != child.attempt:
            continue
        live = sum(view.is_live(pod) for pod in view.pods_of(unit, child.attempt))
        if live and child.kind != "PyTorchJob":
            continue
        waiting = for_pods(child)
        return Verdict(
            state=State.STALLED, reason="PodsNotCreated", look_again=30.0, waiting_for=waiting.what,
            message=f'{child.kind} "{child.name}" has {f"only {live} of its" if live else "no"} pods: '
            f"{waiting.said}. {waiting.remedy}",
        )  # fmt: skip
    return None


def waits_for_nodes(view: View) -> Verdict | None:
    """Pods wait for nodes; gang timeouts are facts, this is only what people see."""
    for pod in own_pods(view):
        if is_unscheduled(pod):
            waiting, entry = for_node(pod), view.entry(unit_of(pod))
            # One time-out after the other is no queue any more.
            stalled = entry is not None and entry.failure == FailureClass.NOT_STARTED
            return Verdict(
                state=State.STALLED if stalled else State.PROGRESSING, reason="WaitingForNodes", look_again=30.0,
                message=f'Pod "{pod.name}" waits for a node: {waiting.said}. {waiting.remedy}',
                waiting_for=waiting.what,
            )  # fmt: skip
    return None


def handing_over(view: View) -> Verdict | None:
    """The GPUs of the last pool or training stage are still being freed (survival rule 4)."""
    stage = view.step
    if stage is None or not stage.uses_accelerators or not (missing_holders(view, stage) or stage.trains):
        return None
    left = blocking(view, stage)
    if not left or (stage.trains and view.job_of(stage) is not None):
        return None
    what = _leaving(view, left)
    return Verdict(
        reason="HandingOver", look_again=WATCHING, waiting_for=what,
        message=f"{title(stage)} waits for {what}, which hold the GPUs that it needs.",
    )  # fmt: skip


def server_starting(view: View) -> Verdict | None:
    """The stage starts when its servers answer."""
    stage = view.step
    if stage is None or view.job_of(stage) is not None:
        return None
    waiting = [holder for holder in stage.holders.values() if not ready(view, holder)]
    if not waiting:
        return None
    name = waiting[0].model.name
    return Verdict(
        reason="ServerStarting", look_again=WATCHING,
        message=f"{title(stage)} starts once a server of {name} is ready.",
        waiting_for=f"a server of {name} to be ready",
    )  # fmt: skip


def _leaving(view: View, left: list[Child | Pod]) -> str:
    """Those that hold the GPUs now, e.g. `2 pods of sft-1 to end`."""
    pods = [thing for thing in left if isinstance(thing, Pod)]
    unit = unit_of(pods[0] if pods else left[0])
    number = sum(unit_of(pod) == unit for pod in pods)
    stage = next((one for one in view.graph.stages if one.short == unit), None)
    holders = (holder for one in view.graph.stages for holder in one.holders.values())
    model = next((holder.model.name for holder in holders if holder.name == unit), None)
    if stage is not None:
        name = f"{SLUGS[stage.kind]}-{stage.iteration}"
    elif model is not None:
        name = f"the server of {model}"
    else:
        name = next((f"{one.kind} {one.name}" for one in left if isinstance(one, Child)), "an earlier plan")
    return f"{f'{number} ' if number > 1 else ''}pods of {name} to end"
