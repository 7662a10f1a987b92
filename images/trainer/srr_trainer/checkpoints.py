"""Checkpoints of a training stage in the store: whole ones only, from whichever pod wrote them.

    <attempt>/checkpoints/step-<n>/…            what one pod's ranks wrote
    <attempt>/checkpoints/step-<n>/complete.json   written last, by rank 0: the parts of all pods, with digests

Purpose: find the newest whole checkpoint of a stage, fetch what this pod's ranks need of it, write new ones.
Must not: decide when (that is `callbacks`). Neighbours: `program` restores, `callbacks` saves.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from selfrewarding.contract.artifacts import stage_prefix
from selfrewarding.contract.program import BadConfiguration
from selfrewarding.contract.stages import StageKind
from selfrewarding.store import ArtifactStore, FileDigest, NotFound
from srr_trainer.ranks import Ranks

COMPLETE = "complete.json"
_MARKER = re.compile(r"(?P<attempt>.*/attempts/[^/]+)/checkpoints/step-(?P<step>\d+)/complete\.json")
_OF_RANK = re.compile(r"(?:.*_)?zero_pp_rank_(?P<zero>\d+)_mp_rank_\d+_.*\.pt|rng_state_(?P<rng>\d+)\.pth")
"""Files that only one rank reads: DeepSpeed's shards and the state of the random numbers."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint in the store."""

    step: int
    world: int
    zero_stage: int
    prefix: str
    parts: dict[str, dict[str, FileDigest]]
    """Per pod: its prefix → relative path → digest."""


class CheckpointStore:
    """The checkpoints of one stage. `attempt` is this pod's own prefix."""

    def __init__(
        self,
        store: ArtifactStore,
        kind: StageKind,
        key: str,
        attempt: str,
        ranks: Ranks,
        *,
        zero_stage: int,
        keep: bool,
    ) -> None:
        self._store = store
        self._attempts = f"{stage_prefix(kind, key)}/attempts"
        self._attempt = attempt
        self._ranks = ranks
        self._zero_stage = zero_stage
        self._keep = keep

    def newest(self) -> Checkpoint | None:
        """The whole checkpoint with the most steps, of any attempt; the same one on every rank.

        Raises BadConfiguration if another number of ranks or ZeRO stage made it: DeepSpeed's shards fit no other.
        """
        found: Checkpoint | None = self._ranks.broadcast(self._newest() if self._ranks.first else None)
        if found is None:
            return None
        where = f"{self._store.uri}/{self._attempts}/*/checkpoints"
        if found.world != self._ranks.world:
            raise BadConfiguration(
                f"this stage was started with {found.world} ranks and has trained {found.step} steps, now there are "
                f"{self._ranks.world}: set training.nodes and training.gpusPerNode back, or delete the checkpoints "
                f"({where}) to train from the start"
            )
        if found.zero_stage != self._zero_stage:
            raise BadConfiguration(
                f"this stage was started with deepspeed.zeroStage {found.zero_stage} and has trained {found.step} "
                f"steps, now it is {self._zero_stage}: set it back, or delete the checkpoints ({where}) to train from "
                "the start"
            )
        return found

    def restore(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Fetch what this pod's ranks read of a checkpoint; the pod's first rank fetches, the others wait."""
        if self._ranks.first_of_node:
            first = self._ranks.rank
            own = range(first, first + self._ranks.local_world)
            present: set[str] = set()
            for prefix, files in checkpoint.parts.items():
                wanted = {
                    name: digest
                    for name, digest in files.items()
                    if name not in present and _read_by(name, own)
                }
                present |= set(wanted)
                if wanted:
                    self._store.download_tree(prefix, folder, wanted, writable=True)
        self._ranks.barrier()

    def upload(self, folder: Path, step: int) -> None:
        """Upload what all pods' ranks saved into their local `folder`, then mark it whole; older ones go."""
        self._ranks.barrier()  # every rank of every pod has written its files
        part: tuple[str, dict[str, FileDigest]] | None = None
        prefix = f"{self._attempt}/checkpoints/step-{step}"
        if self._ranks.first_of_node:
            part = prefix, self._store.upload_tree(folder, prefix)
            shutil.rmtree(folder)
        parts = [found for found in self._ranks.gather(part) if found is not None]
        if not self._ranks.first:
            return
        marker = {
            "step": step,
            "worldSize": self._ranks.world,
            "zeroStage": self._zero_stage,
            "parts": {
                where: {name: {"size": found.size, "sha256": found.sha256} for name, found in files.items()}
                for where, files in parts
            },
        }
        self._store.write(f"{prefix}/{COMPLETE}", json.dumps(marker).encode())
        if not self._keep:
            self._delete(older_than=step)

    def delete_all(self) -> None:
        """Delete the checkpoints of all attempts, unless they are to be kept; only the first rank does it."""
        if self._ranks.first and not self._keep:
            self._delete(older_than=None)

    def _newest(self) -> Checkpoint | None:
        markers = [entry.key for entry in self._store.list(self._attempts) if _MARKER.fullmatch(entry.key)]
        for key in sorted(markers, key=_step, reverse=True):
            checkpoint = self._read(key)
            if checkpoint is not None:
                return checkpoint
        return None

    def _read(self, key: str) -> Checkpoint | None:
        """The checkpoint behind a marker, or None if files of it are gone (half deleted)."""
        try:
            marker = json.loads(self._store.read(key))
        except NotFound:
            return None
        parts = {
            prefix: {name: FileDigest(found["size"], found["sha256"]) for name, found in files.items()}
            for prefix, files in marker["parts"].items()
        }
        for prefix, files in parts.items():
            sizes = {entry.key.removeprefix(f"{prefix}/"): entry.size for entry in self._store.list(prefix)}
            if any(sizes.get(name) != found.size for name, found in files.items()):
                return None
        return Checkpoint(
            step=marker["step"],
            world=marker["worldSize"],
            zero_stage=marker["zeroStage"],
            prefix=key.removesuffix(f"/{COMPLETE}"),
            parts=parts,
        )

    def _delete(self, older_than: int | None) -> None:
        """The marker goes first, so that nobody takes what is left for whole."""
        folders = set()
        for entry in self._store.list(self._attempts):
            match = re.match(r"(?P<folder>.*/checkpoints/step-(?P<step>\d+))/", entry.key)
            if match and (older_than is None or int(match["step"]) < older_than):
                folders.add(match["folder"])
        for folder in sorted(folders):
            self._store.delete(f"{folder}/{COMPLETE}")
            self._store.delete_prefix(folder)


def _step(marker_key: str) -> int:
    match = _MARKER.fullmatch(marker_key)
    return int(match["step"]) if match else -1


def _read_by(name: str, ranks: range) -> bool:
    match = _OF_RANK.fullmatch(name.rpartition("/")[2])
    if match is None:
        return True
    return int(match["zero"] or match["rng"]) in ranks
