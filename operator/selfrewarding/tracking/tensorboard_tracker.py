"""TensorBoard: one event file with all points of a run, in the artifact store.

Purpose: the file holds the same bytes for the same points, and is replaced whole: who sends twice changes nothing, and a
TensorBoard that reads along finds new points at the end.
Must not: append (a store cannot); know another tracker.
Source: tensorboardX's SummaryWriter, which writes TensorBoard's own format.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from selfrewarding.contract.artifacts import run_prefix
from selfrewarding.contract.config import RunRef
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.tracking.points import Point

FOLDER = "tensorboard"
FILE = "events.out.tfevents.0.selfrewarding"
"""TensorBoard reads every file of a folder whose name has `tfevents` in it; there is one."""


def send(store: ArtifactStore, run: RunRef, points: Sequence[Point]) -> None:
    """Write the file. Raises StoreError, ImportError."""
    store.write(f"{run_prefix(run.namespace, run.name)}/{FOLDER}/{FILE}", event_file(points))


def event_file(points: Sequence[Point]) -> bytes:
    """The content of an event file with these points."""
    from tensorboardX import SummaryWriter

    with tempfile.TemporaryDirectory(prefix="srr-tensorboard-") as folder:
        with SummaryWriter(folder, write_to_disk=True) as writer:
            for point in points:
                writer.add_scalar(point.name, point.value, point.iteration, walltime=point.time)
        (written,) = Path(folder).iterdir()
        return written.read_bytes()
