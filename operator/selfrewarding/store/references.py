"""Which runs use which stages, so that deleting one run never takes away what another one needs.

Two small objects for each pair: one in the stage's folder (who uses this?), one in the run's (what does it use?). The
pods of a run write them before the run can rely on a stage: a stage's own program when it starts, Resolve for what it
finds in the store. They are never read to compute anything.

Must not: delete; `srr_sampler.retire` does. Neighbours: `contract.artifacts` names the objects.
"""

from selfrewarding.contract.artifacts import stage_prefix, used_key, user_key
from selfrewarding.contract.config import RunRef
from selfrewarding.contract.keys import canonical_json
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.store.results import find_result


def refer(store: ArtifactStore, run: RunRef, stage: str) -> None:
    """Note that a run uses a stage (its folder: `contract.artifacts.stage_prefix`); may be done again. Raises StoreError.

    The run's own list comes first: a program that dies in between leaves a mark that `retire` finds.
    """
    who = canonical_json(run)
    store.write(used_key(run.namespace, run.name, run.uid, stage), who)
    store.write(user_key(stage, run.uid), who)


def find_and_refer(store: ArtifactStore, run: RunRef, kind: StageKind, key: str) -> StageResult | None:
    """The result of a stage that the run uses from now on, or None if it is not done. Raises StoreError.

    Looked for once more after the mark is there: from then on nobody takes the result away, but another run that is just
    being deleted may have done so in between.
    """
    if find_result(store, kind, key) is None:
        return None
    refer(store, run, stage_prefix(kind, key))
    return find_result(store, kind, key)
