"""What must hold for everything that ever happened to a run, told from the versions that the API server gave.

Versions (`resourceVersion`) count the writes of the whole API server, so they say what came before what, across kinds.

Purpose: judge a run by its history, not only by its end. Must not: wait or change anything.
Neighbours: `census` has the history.
"""

from collections.abc import Iterator

from tests.cluster.faults.api_client import DEPLOYMENTS, JOBS, PODS, PYTORCH_JOBS, Raw
from tests.cluster.faults.census import Census, Change

from selfrewarding.api import labels


def created_twice(census: Census, namespace: str) -> dict[tuple[str, str], set[str]]:
    """Children whose name stood for several objects (survival rule 2)."""
    return {name: uids for name, uids in census.creations(namespace).items() if len(uids) > 1}


def deleted_too_early(census: Census, namespace: str) -> list[str]:
    """Jobs that were deleted before their stage's result was in status (survival rule 1).

    For runs in which nothing fails.
    """
    recorded: dict[str, int] = {}
    for run in census.statuses(namespace):
        for key in _known(run):
            recorded.setdefault(key, _version(run))
    return [
        f"{change.name} was deleted before {change.label(labels.STAGE)} was recorded"
        for change in census.of(namespace, (JOBS, PYTORCH_JOBS))
        if change.type == "DELETED" and change.label(labels.STAGE) != "Resolve"
        if recorded.get(change.label(labels.KEY) or "", 2**62) > _version(change.object)
    ]


def _known(run: Raw) -> Iterator[str]:
    yield from run.get("status", {}).get("results", {})


def side_by_side(census: Census, namespace: str) -> list[str]:
    """Pods that hold accelerators for different units at the same time (survival rule 4)."""
    lives: dict[str, tuple[str, str, int, int]] = {}
    for change in census.of(namespace, (PODS,)):
        unit = _accelerated(change)
        if unit is None:
            continue
        _, _, begin, end = lives.get(change.uid, (unit, change.name, _version(change.object), 2**62))
        if change.type == "DELETED" or change.object.get("status", {}).get("phase") in (
            "Succeeded",
            "Failed",
        ):
            end = min(end, _version(change.object))
        lives[change.uid] = (unit, change.name, begin, end)
    found = sorted(lives.values(), key=lambda life: life[2])
    return [
        f"{later[1]} was created while {earlier[1]} lived"
        for index, earlier in enumerate(found)
        for later in found[index + 1 :]
        if earlier[0] != later[0] and later[2] < earlier[3]
    ]


def _accelerated(change: Change) -> str | None:
    if pool := change.label(labels.HOLDER):
        return pool
    training = change.label(labels.STAGE) in ("TrainBaseline", "SupervisedFineTune", "PreferenceOptimize")
    return f"{change.label(labels.KEY)}-{change.label(labels.ATTEMPT)}" if training else None


def status_lies(census: Census, namespace: str) -> list[str]:
    """Versions of status that say something untrue or forget what was known."""
    found: list[str] = []
    before: Raw = {}
    for run in census.statuses(namespace):
        status, generation = run.get("status", {}), run["metadata"]["generation"]
        observed = status.get("observedGeneration", 0)
        if observed > generation or observed < before.get("observedGeneration", 0):
            found.append(f"observedGeneration {observed} at generation {generation}")
        found += [
            f"{one['type']} was computed from {one.get('observedGeneration')}, status from {observed}"
            for one in status.get("conditions", [])
            if one.get("observedGeneration") != observed
        ]
        # A report makes way for the next one: nothing is computed from it.
        lasting = {key for key, one in before.get("results", {}).items() if one["stage"] != "Report"}
        if lost := lasting - status.get("results", {}).keys():
            found.append(f"results {sorted(lost)} were forgotten")
        for unit, entry in status.get("attempts", {}).items():
            if entry["attempt"] < before.get("attempts", {}).get(unit, {}).get("attempt", 0):
                found.append(f"attempt of {unit} fell to {entry['attempt']}")
        before = status
    return found


def workloads(census: Census, namespace: str) -> list[Change]:
    """Jobs, PyTorchJobs and Deployments in the order of their creation."""
    first: dict[str, Change] = {}
    for change in census.of(namespace, (JOBS, PYTORCH_JOBS, DEPLOYMENTS)):
        first.setdefault(change.uid, change)
    return list(first.values())


def _version(body: Raw) -> int:
    return int(body["metadata"]["resourceVersion"])


def everything_wrong(census: Census, namespace: str) -> list[str]:
    """All of the above for a run in which nothing failed and nothing was edited."""
    twice = [
        f"{kind} {name} was created {len(uids)} times"
        for (kind, name), uids in created_twice(census, namespace).items()
    ]
    retried = [
        f"{change.name} is attempt {change.label(labels.ATTEMPT)}"
        for change in workloads(census, namespace)
        if change.label(labels.ATTEMPT) != "1"
    ]
    return [
        *twice,
        *retried,
        *deleted_too_early(census, namespace),
        *side_by_side(census, namespace),
        *status_lies(census, namespace),
    ]
