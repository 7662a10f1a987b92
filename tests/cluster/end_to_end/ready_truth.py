"""Whether a run's conditions told the truth at every moment, by every version of the object that a watch saw.

The rules are kstatus' (cli-utils, "The Kstatus Library"): an object is Current only if `status.observedGeneration` is its
generation, `Reconciling` and `Stalled` are not True and `Ready` is not False. Neighbour: `watching` records.
"""

from collections.abc import Sequence
from typing import Any


def lies(versions: Sequence[dict[str, Any]]) -> list[str]:
    """One sentence for each version that claims what is not so; empty if all is well."""
    return [
        f"resourceVersion {version['metadata']['resourceVersion']}: {found}"
        for version in versions
        for found in _lies(version)
    ]


def _lies(version: dict[str, Any]) -> list[str]:
    generation, status = version["metadata"]["generation"], version.get("status") or {}
    observed = status.get("observedGeneration")
    if not status or observed is None:
        return []  # nothing is claimed yet
    conditions = {one["type"]: one for one in status.get("conditions", [])}
    found = []
    if observed > generation:
        found.append(f"observedGeneration {observed} is ahead of generation {generation}")
    found += [
        f"{one['type']} speaks of generation {one['observedGeneration']}, status of {observed}"
        for one in conditions.values()
        if one["observedGeneration"] > observed
    ]
    truth = {name: one["status"] for name, one in conditions.items()}
    if {"Ready", "Reconciling", "Stalled"} - set(truth):
        found.append(f"conditions are missing: {sorted(truth)}")
    if truth.get("Succeeded") == "True" and (
        truth.get("Failed") == "True" or truth.get("Reconciling") == "True"
    ):
        found.append(f"Succeeded beside {truth}")
    if truth.get("Stalled") == "True" and truth.get("Ready") == "True":
        found.append("Ready and Stalled at once")
    if truth.get("Failed") == "True" and truth.get("Ready") == "True":
        found.append("Ready and Failed at once")
    if truth.get("Reconciling") == "False" and truth.get("Ready") == "True" and _goes_on(status, truth):
        found.append("kstatus would call it Current while a stage is under way")
    return found


def _goes_on(status: dict[str, Any], truth: dict[str, str]) -> bool:
    ended = truth.get("Succeeded") == "True" or truth.get("Suspended") == "True"
    return not ended and status.get("stage") is not None
