"""Whether the status of the runs in a namespace was true in every version that the API server ever showed.

What the conditions say together is judged by `end_to_end.ready_truth`, by kstatus' rules; here it is held against the
history: against the versions before, and against the pods that lived at that version (`resourceVersion` counts the writes
of the whole API server, so it says what came before what, across kinds).

Must not: wait or change anything. Neighbours: `faults.census` has the history; `scene` asks after every test.
"""

from collections import defaultdict
from collections.abc import Iterator

from tests.cluster.end_to_end.ready_truth import lies
from tests.cluster.faults.api_client import DEPLOYMENTS, JOBS, PODS, PYTORCH_JOBS, Raw
from tests.cluster.faults.census import Census

from selfrewarding.api import labels

_OVER = ("Succeeded", "Failed")
_FOREVER = 2**62


def untruths(census: Census, namespace: str) -> list[str]:
    """One sentence for each claim that was not so; empty if all is well."""
    versions: dict[str, list[Raw]] = defaultdict(list)
    for run in census.statuses(namespace):
        versions[run["metadata"]["uid"]].append(run)
    return [
        *(lie for runs in versions.values() for lie in lies(runs)),
        *(lie for runs in versions.values() for lie in _against_the_past(runs)),
        *(lie for runs in versions.values() for lie in _of_suspension(census, namespace, runs)),
    ]


def _against_the_past(runs: list[Raw]) -> Iterator[str]:
    """Generations that fall, conditions of another one than the status', and transition times that do not fit."""
    observed, known = 0, {}
    for run in runs:
        version, status = run["metadata"]["resourceVersion"], run.get("status") or {}
        now = status.get("observedGeneration", 0)
        if now < observed:
            yield f"resourceVersion {version}: observedGeneration fell from {observed} to {now}"
        observed = now
        for one in status.get("conditions", []):
            if one.get("observedGeneration") != now:
                yield f"resourceVersion {version}: {one['type']} is of {one.get('observedGeneration')}, not of {now}"
            before = known.get(one["type"])
            if before and before["status"] == one["status"] and _moved(before, one):
                yield f"resourceVersion {version}: {one['type']} stayed {one['status']}, yet its time moved"
            if before and before["status"] != one["status"] and _when(one) < _when(before):
                yield f"resourceVersion {version}: {one['type']} changed before it last changed"
            known[one["type"]] = one


def _of_suspension(census: Census, namespace: str, runs: list[Raw]) -> Iterator[str]:
    """Versions that say Suspended while something of the run lives."""
    said = [run for run in runs if _is_true(run, "Suspended")]
    if not said:
        return
    name = said[0]["metadata"]["name"]
    lives = list(_lives(census, namespace, name))
    for run in said:
        version = int(run["metadata"]["resourceVersion"])
        for what, begin, end in lives:
            if begin < version < end:
                yield f"resourceVersion {version}: Suspended while {what} lives"


def _lives(census: Census, namespace: str, run: str) -> Iterator[tuple[str, int, int]]:
    """What computes or makes pods that do: its name, and the versions at which it came and ended."""
    found: dict[str, tuple[str, int, int]] = {}
    for change in census.of(namespace, (PODS, JOBS, PYTORCH_JOBS, DEPLOYMENTS)):
        if change.label(labels.RUN) != run:
            continue
        version = int(change.object["metadata"]["resourceVersion"])
        _, begin, end = found.get(change.uid, ("", version, _FOREVER))
        phase = change.object.get("status", {}).get("phase") if change.kind == PODS.plural else None
        if change.type == "DELETED" or phase in _OVER:
            end = min(end, version)
        found[change.uid] = (f"{change.kind} {change.name}", begin, end)
    yield from found.values()


def _is_true(run: Raw, kind: str) -> bool:
    conditions = (run.get("status") or {}).get("conditions", [])
    return any(one["type"] == kind and one["status"] == "True" for one in conditions)


def _when(condition: Raw) -> str:
    return str(condition["lastTransitionTime"])


def _moved(before: Raw, after: Raw) -> bool:
    return _when(before) != _when(after)
