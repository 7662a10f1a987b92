"""Take a deleted run's artifacts away (`retention.onDelete: Delete`), and nothing that another run uses.

    python -m srr_sampler retire

Reads a RetireConfig. The run's own folder lists the stages that it used; a stage's folder lists the runs that use it
(`store.references`). A stage goes if no other run is on its list.

Another run may come to use a stage at the same time. So: our mark goes first; then the stage is listed, and if nobody
else is there its result.json goes, so that nobody finds it any more; then the list is read once more, and whoever
has come meanwhile gets the result back. Only what was listed before is deleted: what another run's pods write from then
on stays. Two runs that are deleted at once never each keep a stage for the other's sake. All of it may be killed and run
again: a stage is crossed off the run's list last.

Must not: delete anything in doubt; read what the artifacts hold.
Neighbours: `manifests.retirement` renders the Job, `plan.retirement` says when.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from selfrewarding.contract.artifacts import RESULT, USERS, run_prefix, user_key
from selfrewarding.contract.config import RetireConfig, RunRef
from selfrewarding.contract.program import read_retire_config, report_progress
from selfrewarding.contract.result import TerminationMessage
from selfrewarding.store import ArtifactStore, NotFound, open_store

_AT_ONCE = 16


def main() -> TerminationMessage:
    """Clear the run away. Raises BadConfiguration, StoreError."""
    config: RetireConfig = read_retire_config()
    kept, gone = retire(open_store(config.store), config.run)
    return TerminationMessage(message=f"{gone} stages deleted, {kept} kept since other runs use them")


def retire(
    store: ArtifactStore, run: RunRef, progress: Callable[..., None] = report_progress
) -> tuple[int, int]:
    """Clear a run away; returns how many stages are kept for other runs and how many are gone. Raises StoreError."""
    own = f"{run_prefix(run.namespace, run.name)}/{run.uid}"
    stages = [entry.key.removeprefix(f"{own}/") for entry in store.list(own)]
    kept = 0
    for number, stage in enumerate(stages, 1):
        kept += not _retire_stage(store, run, stage)
        store.delete(f"{own}/{stage}")
        progress(done=number, total=len(stages), unit="stages")
    _delete_run_folder(store, run)
    return kept, len(stages) - kept


def _retire_stage(store: ArtifactStore, run: RunRef, stage: str) -> bool:
    """Delete a stage unless another run uses it; returns whether it is gone."""
    store.delete(user_key(stage, run.uid))
    listed = [entry.key for entry in store.list(stage)]
    if _users(listed, stage):
        return False
    result = _read(store, f"{stage}/{RESULT}")
    if result is not None:
        store.delete(f"{stage}/{RESULT}")
        if any(True for _ in store.list(f"{stage}/{USERS}")):
            store.create(f"{stage}/{RESULT}", result)
            return False
    elif any(True for _ in store.list(f"{stage}/{USERS}")):
        return False
    _delete(store, listed)
    if not any(True for _ in store.list(stage)):
        store.delete_prefix(stage)  # parts of uploads that were cut off, empty folders
    return True


def _delete_run_folder(store: ArtifactStore, run: RunRef) -> None:
    """Index and report. A run of the same name that came before and was kept has its marks there: then all stays."""
    folder = run_prefix(run.namespace, run.name)
    left = [entry.key for entry in store.list(folder)]
    if any("/stages/" in key.removeprefix(folder) for key in left):
        return
    _delete(store, left)
    store.delete_prefix(folder)


def _users(keys: Iterable[str], stage: str) -> list[str]:
    return [key for key in keys if key.startswith(f"{stage}/{USERS}/")]


def _read(store: ArtifactStore, key: str) -> bytes | None:
    try:
        return store.read(key)
    except NotFound:
        return None


def _delete(store: ArtifactStore, keys: Iterable[str]) -> None:
    with ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="retire") as pool:
        for _ in pool.map(store.delete, keys):
            pass
