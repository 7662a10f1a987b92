"""Stage results: written once, last; read only as they were pinned."""

from pathlib import Path

import pytest

from selfrewarding.contract.artifacts import stage_prefix
from selfrewarding.contract.config import StageRef
from selfrewarding.contract.program import BadConfiguration, BadData, ParentMissing, StoreUnavailable
from selfrewarding.contract.result import StageResult, result_bytes, result_digest
from selfrewarding.contract.stages import StageKind
from selfrewarding.data.errors import DataError
from selfrewarding.store.errors import Corrupt, Denied, Misconfigured, NoSpace, Unavailable, Unsuitable
from selfrewarding.store.failures import stage_failure
from selfrewarding.store.protocol import ArtifactStore
from selfrewarding.store.results import (
    commit_result,
    download_folder,
    find_result,
    read_jsonl,
    require_result,
    upload_files,
)

KEY = "d" * 64
PREFIX = stage_prefix(StageKind.ROLLOUT, KEY)


def a_result(pod: str = "p", **files: object) -> StageResult:
    values = {
        "contract": 1,
        "kind": StageKind.ROLLOUT,
        "iteration": 2,
        "key": KEY,
        "seconds": 1.0,
        "pod": pod,
    }
    return StageResult.model_validate(values | files)


def ref(result: StageResult) -> StageRef:
    digest = result_digest(result_bytes(result))
    return StageRef(kind=result.kind, iteration=result.iteration, key=result.key, digest=digest)


def uploaded(store: ArtifactStore, folder: Path) -> StageResult:
    """A result with rows.jsonl and model/config.json, as a pod commits it."""
    (folder / "model").mkdir(parents=True)
    (folder / "rows.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    (folder / "model/config.json").write_text("{}")
    files = upload_files(store, folder, f"{PREFIX}/attempts/p", PREFIX)
    return commit_result(store, a_result().model_copy(update={"files": files}))


def test_survival_rule_03_the_first_result_stays(store: ArtifactStore) -> None:
    first = commit_result(store, a_result("first"))
    assert first.pod == a_result("first").pod
    assert first.finished is not None
    assert first.code is not None
    assert commit_result(store, a_result("second")) == first
    assert find_result(store, StageKind.ROLLOUT, KEY) == first


def test_survival_rule_03_a_result_is_read_only_with_the_digest_that_was_pinned(store: ArtifactStore) -> None:
    result = commit_result(store, a_result())
    assert require_result(store, ref(result)) == result
    with pytest.raises(ParentMissing, match="digest") as raised:
        require_result(store, ref(a_result("another")))
    assert raised.value.key == KEY


def test_a_parent_that_is_gone_says_which_key_to_compute_again(store: ArtifactStore) -> None:
    assert find_result(store, StageKind.ROLLOUT, KEY) is None
    with pytest.raises(ParentMissing, match="must be computed again") as raised:
        require_result(store, ref(a_result()))
    assert raised.value.key == KEY


def test_files_come_back_as_they_were_uploaded(store: ArtifactStore, tmp_path: Path) -> None:
    result = uploaded(store, tmp_path / "made")
    assert list(read_jsonl(store, result, "rows.jsonl")) == [{"a": 1}, {"a": 2}]
    download_folder(store, result, "model", tmp_path / "fetched")
    assert (tmp_path / "fetched/config.json").read_text() == "{}"


def test_a_damaged_file_of_a_parent_makes_the_parent_missing(store: ArtifactStore, tmp_path: Path) -> None:
    result = uploaded(store, tmp_path / "made")
    store.write(f"{PREFIX}/attempts/p/rows.jsonl", b'{"a": 1}\n{"a": 3}\n')
    store.delete(f"{PREFIX}/attempts/p/model/config.json")
    with pytest.raises(ParentMissing, match="damaged"):
        list(read_jsonl(store, result, "rows.jsonl"))
    with pytest.raises(ParentMissing):
        download_folder(store, result, "model", tmp_path / "fetched")


def test_a_result_that_is_no_document_is_corrupt(store: ArtifactStore) -> None:
    store.write(f"{PREFIX}/result.json", b"{}")
    with pytest.raises(Corrupt, match="Delete it"):
        find_result(store, StageKind.ROLLOUT, KEY)


def test_errors_mean_the_stage_failure_that_fits() -> None:
    data = DataError(file="f", found="x", expected="y", remedy="z")
    for mended_elsewhere in (
        Unavailable("later"),
        Denied("no"),
        NoSpace("full"),
        Unsuitable("another region"),
    ):
        assert isinstance(stage_failure(mended_elsewhere), StoreUnavailable)
    assert isinstance(stage_failure(Misconfigured("no such scheme")), BadConfiguration)
    assert isinstance(stage_failure(data), BadData)
    assert stage_failure(ZeroDivisionError()) is None
