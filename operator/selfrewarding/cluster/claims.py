"""Who creates what, at this very moment: of two runs that start the same stage at once, one does (survival rule 8).

A pass looks for rivals first and creates last; two runs that go in step would both find nobody. Between these two moments
only what this process does can tell, and it is the only one that acts.

Must not: ask the API server. Neighbours: `kubernetes` claims around each creation, `translate` finds rivals that are there.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from selfrewarding.api import labels
from selfrewarding.api.run import RawObject, SelfRewardingRun
from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.kinds import WORKLOADS
from selfrewarding.cluster.protocol import Conflict
from selfrewarding.cluster.translate import rivals_of
from selfrewarding.contract.stages import StageKind

_EACH_FOR_ITSELF = frozenset({StageKind.PREPARE.value, StageKind.RESOLVE.value})
"""Stages that every run does for itself."""


class Claims:
    """Results that are about to be computed, by their artifact label."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._held: dict[str, str] = {}

    @contextmanager
    def held(self, run: SelfRewardingRun, manifest: RawObject) -> Iterator[None]:
        """Hold the claim to the result of a stage while its Job is created. Raises Conflict if it is another run's."""
        own = manifest["metadata"].get("labels") or {}
        artifact = own.get(labels.ARTIFACT)
        if manifest["kind"] not in WORKLOADS or artifact is None or own.get(labels.STAGE) in _EACH_FOR_ITSELF:
            yield
            return
        uid = run.metadata.uid or ""
        there = (
            rival.run for rival in rivals_of(self._inventory.shared(), uid) if rival.artifact == artifact
        )
        holder = self._held.get(artifact) or next(there, None)
        if holder is not None:
            raise Conflict(f'run "{holder}" has begun to compute the same {own.get(labels.STAGE)}')
        self._held[artifact] = f"{run.metadata.namespace}/{run.metadata.name}"
        try:
            yield
        finally:
            del self._held[artifact]
