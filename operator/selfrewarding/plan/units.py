"""What is under way, by the names that people and status know it by: stages and their serving pools.

Must not: judge any of it. Neighbours: `checks`, `pod_checks` and `report` ask here.
"""

from selfrewarding.contract.stages import StageKind
from selfrewarding.plan.observed import Pod
from selfrewarding.plan.stage import Stage, measures_baseline
from selfrewarding.plan.view import View, unit_of


def title(stage: Stage) -> str:
    """A stage as messages name it. No two of a plan have one title: an event of the second would count the first's."""
    if not stage.iteration:
        return str(stage.kind)
    whose = _measured_beside(stage)
    return f"{stage.kind} of iteration {stage.iteration}{f' ({whose})' if whose else ''}"


def _measured_beside(stage: Stage) -> str | None:
    """The model of a stage that its iteration has several of: a candidate, or the baseline beside M1."""
    if stage.kind is StageKind.ANSWER:
        return stage.holders["policy"].model.name
    return "Baseline" if measures_baseline(stage) else None


def units(view: View) -> list[tuple[str, str]]:
    """Titles and units (short keys, pool names) of the stages under way and of their serving pools."""
    stages = [(title(stage), stage.short) for stage in view.active]
    return stages + [
        (f"The server of {holder.model.name}", name) for name, holder in view.wanted_holders.items()
    ]


def step_units(view: View) -> list[tuple[str, str]]:
    """As `units`, of the step alone."""
    stage = view.step
    own = set() if stage is None else {stage.short, *(holder.name for holder in stage.holders.values())}
    return [(name, unit) for name, unit in units(view) if unit in own]


def own_pods(view: View) -> list[Pod]:
    """Pods of the current attempts of what is under way, by name."""
    own = {unit: entry.attempt for _, unit in units(view) if (entry := view.entry(unit)) is not None}
    pods = [
        pod for pod in view.live_pods if own.get(unit_of(pod)) == pod.attempt and pod.deleting_since is None
    ]
    return sorted(pods, key=lambda pod: pod.name)
