"""Marks of which run uses which stage: in a folder, and from tests/local/store in S3."""

import pytest

from selfrewarding.contract.artifacts import stage_prefix
from selfrewarding.contract.config import RunRef
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.store import ArtifactStore
from selfrewarding.store.references import find_and_refer, refer
from selfrewarding.store.results import commit_result

RUN = RunRef(namespace="lab", name="demo", uid="uid-1")
KIND, KEY = StageKind.ROLLOUT, "a" * 64
STAGE = stage_prefix(KIND, KEY)
RESULT = StageResult(contract=1, kind=KIND, iteration=2, key=KEY, seconds=1.0, pod="p")


def keys(store: ArtifactStore) -> list[str]:
    return [entry.key for entry in store.list()]


def test_a_use_is_marked_at_the_stage_and_at_the_run_however_often(store: ArtifactStore) -> None:
    for _ in range(2):
        refer(store, RUN, STAGE)
    assert keys(store) == [f"runs/lab/demo/uid-1/{STAGE}", f"{STAGE}/runs/uid-1"]
    assert RunRef.model_validate_json(store.read(f"{STAGE}/runs/uid-1")) == RUN


def test_what_resolve_finds_is_used_from_then_on_and_what_it_does_not_find_is_not(
    store: ArtifactStore,
) -> None:
    assert find_and_refer(store, RUN, KIND, KEY) is None
    assert keys(store) == []
    committed = commit_result(store, RESULT)
    assert find_and_refer(store, RUN, KIND, KEY) == committed
    assert f"{STAGE}/runs/uid-1" in keys(store)


def test_a_result_that_goes_while_it_is_being_marked_was_not_found(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that made it is being deleted at this moment."""
    commit_result(store, RESULT)

    def marked(*where: object) -> None:
        refer(store, RUN, STAGE)
        store.delete(f"{STAGE}/result.json")

    monkeypatch.setattr("selfrewarding.store.references.refer", marked)
    assert find_and_refer(store, RUN, KIND, KEY) is None
