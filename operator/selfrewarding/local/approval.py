"""A person's approval of a held model of a local run, kept in `run.json` until `srr local` goes on.

Must not: decide what may be approved (`plan.approval` does). Neighbours: `run_record` turns it into the annotation.
"""

from selfrewarding.api import labels
from selfrewarding.api.run import ModelStatus
from selfrewarding.local.errors import LocalError
from selfrewarding.local.run_record import load_record, run_of, save_record
from selfrewarding.local.state import StateFolder
from selfrewarding.plan.approval import approval_of, held_model


def approve_local(state: StateFolder, iteration: int | None) -> ModelStatus:
    """Approve the model that the gate of a local run holds; returns it. Raises NothingHeld, LocalError."""
    if load_record(state) is None:
        raise LocalError(
            f"{state.root}: no such run was started here: `srr status --artifacts {state.artifacts}` lists those "
            "that were"
        )
    with state.locked():
        record = load_record(state)
        if record is None:
            raise LocalError(f"{state.run_file} has just been taken away")
        run = run_of(record)
        given = {} if record.approved is None else {labels.APPROVE: str(record.approved)}
        held = held_model(run.status, run.metadata.annotations | given, iteration)
        save_record(state, record.model_copy(update={"approved": approval_of(held)}))
    return held
