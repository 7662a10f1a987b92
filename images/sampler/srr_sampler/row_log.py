"""Where a stage's finished rows lie: in its own folder, or in one that belongs to what its rows were asked.

Purpose: a shared log outlives the key of a stage. It lies in `stages/<kind>/<digest of who was asked, and how>`, so that a
stage with more resamples or one more set of prompts asks only for what no stage before it has asked. Its seeds come from the
same digest: the rows are the same, whichever stage asks first.
Must not: know what is in a row.
Neighbours: `judged_rows`, `answers` and `compare` write and read the rows; `store.references` has the marks that tell
`retire` who uses a log.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfrewarding.contract.artifacts import attempt_prefix, stage_prefix
from selfrewarding.contract.keys import digest
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.store.references import refer
from srr_sampler.asking import Stage
from srr_sampler.sampling import Seeds


@dataclass(frozen=True, slots=True)
class RowLog:
    """A folder of rows.

    Attributes:
        store: that it lies in.
        folder: of all attempts; what `store.chunks.read_rows` reads.
        attempt: the folder in it that this pod writes under.
        seeds: of the requests that its rows come from.
    """

    store: ArtifactStore
    folder: str
    attempt: str
    seeds: Seeds


def own_log(stage: Stage) -> RowLog:
    """The stage's own."""
    return _log(stage, stage.config.key)


def shared_log(stage: Stage, asked: Mapping[str, Any]) -> RowLog:
    """The log of all stages of this kind that ask the same of the same model, marked as used by the run.

    Args:
        stage: one of them.
        asked: all that decides what a row says besides its key: who was asked, and how. The run's seed and the contract
            belong to it always.

    Raises:
        StoreError: the mark cannot be written.
    """
    log = _log(stage, digest({**asked, "seed": stage.config.seed, "contract": stage.config.contract}))
    refer(stage.store, stage.config.run, log.folder)
    return log


def _log(stage: Stage, key: str) -> RowLog:
    kind = stage.config.kind
    return RowLog(
        stage.store,
        stage_prefix(kind, key),
        attempt_prefix(kind, key, stage.here.pod_uid),
        Seeds(stage.config.seed, key),
    )
