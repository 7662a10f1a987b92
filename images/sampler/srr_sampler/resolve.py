"""The Resolve stage: which results of a plan are in the store already, and their summaries.

Purpose: let the operator, which never reads the store, learn what is done without asking for a GPU.
What it finds, the run uses from now on: it leaves the mark of that (`store.references`).

Must not: write a result of its own; say more than a termination message may hold (Kubernetes keeps 4,096 bytes):
keys that do not fit are left out of both lists, and the planner asks for them again.
Neighbours: `contract.program` writes the message; `store.results` reads the results.
"""

from concurrent.futures import ThreadPoolExecutor

from selfrewarding.contract.config import ResolveParameters, StageConfig
from selfrewarding.contract.keys import short
from selfrewarding.contract.program import BadConfiguration, Surroundings, report_progress
from selfrewarding.contract.result import StageResult, TerminationMessage, summary_of
from selfrewarding.contract.stages import StageKind
from selfrewarding.store import open_store
from selfrewarding.store.references import find_and_refer

MAX_MESSAGE_BYTES = 4096
"""Kubernetes' limit of a container's termination message."""
_AT_ONCE = 16


def main(config: StageConfig, here: Surroundings) -> TerminationMessage:
    """Look for each stage's result. Raises StoreError."""
    del here
    parameters = config.parameters
    if not isinstance(parameters, ResolveParameters):
        raise BadConfiguration(f"the stage {config.kind} came with parameters of {parameters.kind}")
    store = open_store(config.store)
    # After a failure of the store this stage runs first: what comes next must be able to write there, not only to read.
    store.check_writable()

    def find(stage: tuple[StageKind, str]) -> StageResult | None:
        return find_and_refer(store, config.run, *stage)

    with ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="resolve") as pool:
        results = list(pool.map(find, parameters.stages))
    report_progress(done=len(results), total=len(results), unit="stages")
    return bounded_message(
        [(key, result) for (_, key), result in zip(parameters.stages, results, strict=True)]
    )


def bounded_message(found: list[tuple[str, StageResult | None]]) -> TerminationMessage:
    """The message for (key, result or None) pairs: as many, in order, as its bytes allow.

    Keys without a result come first: they are short, and each lets the planner start something.
    """
    message = TerminationMessage()
    for key, result in sorted(found, key=lambda item: item[1] is not None):
        if result is None:
            grown = message.model_copy(update={"missing": [*message.missing, short(key)]})
        else:
            grown = message.model_copy(update={"done": {**message.done, short(key): summary_of(result)}})
        if len(grown.model_dump_json(by_alias=True, exclude_defaults=True).encode()) <= MAX_MESSAGE_BYTES:
            message = grown
    return message
