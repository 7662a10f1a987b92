"""How often each stage was carried out, counted by keys and by objects that the API server had.

Must not: wait or change anything. Neighbours: `faults.census` has the history.
"""

from collections import Counter, defaultdict

from tests.cluster.faults.api_client import JOBS, PODS, PYTORCH_JOBS
from tests.cluster.faults.census import Census

from selfrewarding.api import labels

OF_ITS_OWN = frozenset({"Prepare", "Resolve", "Report"})
"""Stages that every run does for itself, and again after an edit; they need no GPU."""


def jobs_by_stage(census: Census, namespace: str, *, since: int = 0) -> Counter[str]:
    """Jobs and PyTorchJobs that were created, by stage and iteration, e.g. `Rollout-2`.

    `since` is a number of changes (`len(census.changes)`): what came before is left out.
    """
    return Counter(f"{stage}-{iteration}" for stage, iteration, _ in _created(census, namespace, since))


def computed(census: Census, namespace: str, *, since: int = 0) -> Counter[str]:
    """As `jobs_by_stage`, without what every run does for itself."""
    found = jobs_by_stage(census, namespace, since=since)
    return Counter({name: count for name, count in found.items() if name.partition("-")[0] not in OF_ITS_OWN})


def keys_of(census: Census, namespace: str, stage: str) -> list[str]:
    """Short keys of the Jobs of a stage, in the order of their creation, with repetitions."""
    return [key for kind, _, key in _created(census, namespace, 0) if kind == stage]


def finished_by_artifact(census: Census, namespaces: list[str]) -> Counter[tuple[str, str]]:
    """How many pods ended well for each result (stage and label ARTIFACT), over several namespaces."""
    ended: dict[str, tuple[str, str]] = {}
    for namespace in namespaces:
        for change in census.of(namespace, (PODS,)):
            stage, artifact = change.label(labels.STAGE), change.label(labels.ARTIFACT)
            if stage is None or artifact is None or stage in OF_ITS_OWN:
                continue
            if change.object.get("status", {}).get("phase") == "Succeeded":
                ended[change.uid] = (stage, artifact)
    return Counter(ended.values())


def side_by_side(census: Census, namespaces: list[str]) -> list[str]:
    """Results that pods of two runs computed at the same time."""
    lives: dict[tuple[str, str], dict[str, tuple[str, int, int]]] = defaultdict(dict)
    for namespace in namespaces:
        for change in census.of(namespace, (PODS,)):
            stage, artifact = change.label(labels.STAGE), change.label(labels.ARTIFACT)
            if stage is None or artifact is None or stage in OF_ITS_OWN:
                continue
            version = int(change.object["metadata"]["resourceVersion"])
            of_result = lives[stage, artifact]
            run, begin, end = of_result.get(
                change.uid, (f"{namespace}/{change.label(labels.RUN)}", version, 2**62)
            )
            over = change.type == "DELETED" or change.object.get("status", {}).get("phase") in (
                "Succeeded",
                "Failed",
            )
            of_result[change.uid] = (run, begin, min(end, version) if over else end)
    found = []
    for (stage, _), of_result in lives.items():
        ordered = sorted(of_result.values(), key=lambda life: life[1])
        found += [
            f"{stage}: {second[0]} began while {first[0]} computed it"
            for index, first in enumerate(ordered)
            for second in ordered[index + 1 :]
            if first[0] != second[0] and second[1] < first[2]
        ]
    return found


def _created(census: Census, namespace: str, since: int) -> list[tuple[str, str, str]]:
    known = {
        change.uid for change in census.changes[:since] if change.kind in (JOBS.plural, PYTORCH_JOBS.plural)
    }
    found: dict[str, tuple[str, str, str]] = {}
    for change in census.of(namespace, (JOBS, PYTORCH_JOBS)):
        stage = change.label(labels.STAGE)
        if stage is not None and change.uid not in known:
            names = (change.label(labels.ITERATION) or "", change.label(labels.KEY) or "")
            found.setdefault(change.uid, (stage, *names))
    return list(found.values())
