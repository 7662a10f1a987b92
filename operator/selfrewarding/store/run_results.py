"""All finished stages of a run, found by the marks that the run left in the store.

Purpose: from a run's name to its results without a planner or a cluster: the same for a run that goes on, that ended, and
that was planned by an older release.
Must not: know what a result means.
Neighbours: `references` writes the marks; `lineage`, `exports` and the commands read results through this.
"""

import contextlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from selfrewarding.contract.artifacts import run_prefix
from selfrewarding.contract.config import RunRef
from selfrewarding.contract.keys import SHORT, short
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.store.results import find_pinned

BASELINE = "Baseline"
_AT_ONCE = 8
_ORDER = {kind: number for number, kind in enumerate(StageKind)}


@dataclass(frozen=True, slots=True)
class Stored:
    """A result and the digest that stages which read it pin."""

    result: StageResult
    digest: str


@dataclass(frozen=True)
class RunResults:
    """The finished stages of a run in the order of iterations and of stages in them.

    Attributes:
        run: whose.
        stages: with those that an edit of the spec has superseded.
        current: short keys of those that count now; None where nobody said.
    """

    run: RunRef
    stages: tuple[Stored, ...]
    current: frozenset[str] | None = None

    def of(self, *kinds: StageKind) -> list[Stored]:
        """Those of these kinds that count now."""
        return [one for one in self.stages if one.result.kind in kinds and self.counts(one.result)]

    def counts(self, result: StageResult) -> bool:
        """Whether a result belongs to the run as it is specified now, as far as that is known."""
        return self.current is None or short(result.key) in self.current

    def parent(self, result: StageResult, role: str) -> Stored | None:
        """The result that a stage read in a role, by the digest that it pinned; None if it is not there any more."""
        digest = result.parents.get(role)
        return next((one for one in self.stages if one.digest == digest), None) if digest else None

    def children(self, parent: Stored, *kinds: StageKind) -> Iterator[Stored]:
        """Stages of these kinds that read a result."""
        return (
            one
            for one in self.stages
            if one.result.kind in kinds and parent.digest in one.result.parents.values()
        )


def model_name(result: StageResult) -> str:
    """M1, M2, … or Baseline, by the training stage that made it."""
    return BASELINE if result.kind is StageKind.TRAIN_BASELINE else f"M{result.iteration}"


def runs_in(store: ArtifactStore) -> list[RunRef]:
    """The runs that have left marks in a store, newest last. Raises StoreError."""
    newest: dict[tuple[str, str, str], float] = {}
    for entry in store.list("runs"):
        parts = entry.key.split("/")
        if len(parts) == 7 and parts[4] == "stages":
            who = (parts[1], parts[2], parts[3])
            newest[who] = max(newest.get(who, 0.0), entry.modified.timestamp())
    return [
        RunRef(namespace=who[0], name=who[1], uid=who[2]) for who in sorted(newest, key=newest.__getitem__)
    ]


def results_of_run(store: ArtifactStore, run: RunRef, *, current: Iterable[str] | None = None) -> RunResults:
    """Read all results of a run. `current`: keys that count, their first 16 digits at least. Raises StoreError."""
    marks = f"{run_prefix(run.namespace, run.name)}/{run.uid}/stages"
    wanted = []
    for entry in store.list(marks):
        kind, _, key = entry.key.removeprefix(f"{marks}/").partition("/")
        with contextlib.suppress(ValueError):
            wanted.append((StageKind(kind), key))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        # A stage without a result is not done; retirement may have taken it away.
        results = pool.map(lambda stage: find_pinned(store, *stage), wanted)
        found = [Stored(*one) for one in results if one is not None]
    found.sort(key=_order)
    known = frozenset(key[:SHORT] for key in current) if current is not None else None
    return RunResults(run, tuple(found), known)


def _order(one: Stored) -> tuple[int, int, str]:
    result = one.result
    return result.iteration, _ORDER[result.kind], result.finished or ""
