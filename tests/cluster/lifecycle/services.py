"""Which models were ready behind which Service, at every moment of a namespace's history.

Must not: wait or change anything. Neighbours: `faults.census` has the history; `test_truth` shows that this finds a mixture.
"""

from tests.cluster.faults.api_client import PODS, SERVICES, Raw
from tests.cluster.faults.census import Census

from selfrewarding.api import labels


def mixtures(census: Census, namespace: str) -> list[str]:
    """Moments at which pods of two models were ready behind one Service's selector.

    Every version of every pod and Service that the API server had is looked at, in the order of its writes.
    """
    services: dict[str, Raw] = {}
    ready: dict[str, Raw] = {}
    changes = census.of(namespace, (PODS, SERVICES))
    found = []
    for change in sorted(changes, key=lambda one: int(one.object["metadata"]["resourceVersion"])):
        there = services if change.kind == SERVICES.plural else ready
        if change.type == "DELETED" or (change.kind == PODS.plural and not _is_ready(change.object)):
            there.pop(change.uid, None)
        else:
            there[change.uid] = change.object
        for service in services.values():
            behind = [pod for pod in ready.values() if _selects(service, pod)]
            models = {pod["metadata"]["labels"].get(labels.KEY) for pod in behind}
            if len(models) > 1 or any(labels.HOLDER not in pod["metadata"]["labels"] for pod in behind):
                names = sorted(pod["metadata"]["name"] for pod in behind)
                found.append(
                    f"{service['metadata']['name']} at {change.object['metadata']['resourceVersion']}: {names}"
                )
    return found


def _selects(service: Raw, pod: Raw) -> bool:
    own = pod["metadata"]["labels"]
    return all(own.get(name) == value for name, value in service["spec"]["selector"].items())


def _is_ready(pod: Raw) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def ready_models(census: Census, namespace: str) -> int:
    """The most models that were ready at the same time."""
    ready: dict[str, str] = {}
    most = 0
    for change in census.of(namespace, (PODS,)):
        if (holder := change.label(labels.HOLDER)) is None:
            continue
        if change.type != "DELETED" and _is_ready(change.object):
            ready[change.uid] = holder
        else:
            ready.pop(change.uid, None)
        most = max(most, len(set(ready.values())))
    return most
