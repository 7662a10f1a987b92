"""Clearing a deleted run's artifacts away, and keeping what others use."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfrewarding.contract import CONTRACT_VERSION, environment
from selfrewarding.contract.artifacts import stage_prefix
from selfrewarding.contract.config import RetireConfig, RunRef
from selfrewarding.contract.program import ExitCode
from selfrewarding.contract.result import StageResult, parse_termination
from selfrewarding.contract.stages import StageKind
from selfrewarding.store.folder import FolderStore
from selfrewarding.store.protocol import Entry
from selfrewarding.store.references import find_and_refer, refer
from selfrewarding.store.results import commit_result, find_result
from srr_sampler import retire as program
from srr_sampler.__main__ import main
from srr_sampler.retire import retire

OURS = RunRef(namespace="lab", name="demo", uid="uid-1")
OTHERS = RunRef(namespace="lab", name="sweep", uid="uid-2")
KEYS = {kind: number * 64 for kind, number in ((StageKind.TRAIN_BASELINE, "a"), (StageKind.ROLLOUT, "b"))}


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "artifacts")


def compute(store: FolderStore, run: RunRef, kind: StageKind, *, done: bool = True) -> str:
    """A stage's program ran: its mark, what it wrote, its result."""
    key, stage = KEYS[kind], stage_prefix(kind, KEYS[kind])
    refer(store, run, stage)
    for name in ("rows-0.jsonl", "rows-1.jsonl", "model/model.safetensors"):
        store.write(f"{stage}/attempts/pod-of-{run.uid}/{name}", b"x")
    if done:
        commit_result(
            store,
            StageResult(contract=1, kind=kind, iteration=1, key=key, seconds=1.0, pod=f"pod-of-{run.uid}"),
        )
    return stage


def keys(store: FolderStore, prefix: str = "") -> list[str]:
    return [entry.key for entry in store.list(prefix)]


def quiet(**numbers: object) -> None:
    """No progress lines."""


def test_all_of_a_run_goes_finished_or_not(store: FolderStore) -> None:
    compute(store, OURS, StageKind.TRAIN_BASELINE)
    compute(store, OURS, StageKind.ROLLOUT, done=False)
    store.write("runs/lab/demo/index.json", b"{}")
    store.write("runs/lab/demo-2/index.json", b"another run's")
    store.write("models/base/config.json", b"nobody's stage")
    assert retire(store, OURS, quiet) == (0, 2)
    assert keys(store) == ["models/base/config.json", "runs/lab/demo-2/index.json"]


def test_what_another_run_uses_stays_until_that_one_goes_too(store: FolderStore) -> None:
    shared, own = (compute(store, OURS, kind) for kind in KEYS)
    assert find_and_refer(store, OTHERS, StageKind.TRAIN_BASELINE, KEYS[StageKind.TRAIN_BASELINE]) is not None
    before = keys(store, f"{shared}/attempts")
    assert retire(store, OURS, quiet) == (1, 1)
    assert keys(store, own) == []
    assert keys(store, f"{shared}/attempts") == before
    assert find_result(store, StageKind.TRAIN_BASELINE, KEYS[StageKind.TRAIN_BASELINE]) is not None
    assert retire(store, OTHERS, quiet) == (0, 1)
    assert keys(store) == []


def test_a_stage_that_another_run_has_only_begun_stays(store: FolderStore) -> None:
    """It goes on from our rows: whoever finished them."""
    stage = compute(store, OURS, StageKind.ROLLOUT, done=False)
    refer(store, OTHERS, stage)
    before = keys(store, f"{stage}/attempts")
    assert retire(store, OURS, quiet) == (1, 0)
    assert keys(store, f"{stage}/attempts") == before


class Interrupted(FolderStore):
    """A store in which something happens just before the n-th call."""

    def __init__(self, root: Path, at: int) -> None:
        super().__init__(root)
        self.calls = itertools.count(1)
        self.at = at

    def _tick(self) -> None:
        if next(self.calls) == self.at:
            self.happen()

    def happen(self) -> None:
        raise KeyboardInterrupt

    def list(self, prefix: str = "") -> Iterator[Entry]:
        self._tick()
        return super().list(prefix)

    def delete(self, key: str) -> None:
        self._tick()
        super().delete(key)

    def create(self, key: str, data: bytes) -> bool:
        self._tick()
        return super().create(key, data)

    def read(self, key: str) -> bytes:
        self._tick()
        return super().read(key)


@pytest.mark.parametrize("at", range(1, 25))
def test_killed_at_any_call_and_started_again_it_ends_as_it_would_have(tmp_path: Path, at: int) -> None:
    store = FolderStore(tmp_path)
    for kind in KEYS:
        compute(store, OURS, kind)
    find_and_refer(store, OTHERS, StageKind.TRAIN_BASELINE, KEYS[StageKind.TRAIN_BASELINE])
    kept = {key for key in keys(store) if "TrainBaseline" in key and "uid-1" not in key.rpartition("/")[2]}
    try:
        retire(Interrupted(tmp_path, at), OURS, quiet)
    except KeyboardInterrupt:
        retire(store, OURS, quiet)
    assert set(keys(store)) == {key for key in kept if not key.startswith("runs/lab/demo/")}


class Joined(Interrupted):
    """A store in which another run finds the stage just before the n-th call, and counts on what it found."""

    def __init__(self, root: Path, at: int) -> None:
        super().__init__(root, at)
        self.found: StageResult | None = None

    def happen(self) -> None:
        self.found = find_and_refer(
            FolderStore(self.root), OTHERS, StageKind.ROLLOUT, KEYS[StageKind.ROLLOUT]
        )


@pytest.mark.parametrize("at", range(1, 20))
def test_a_run_that_finds_a_stage_at_any_moment_keeps_all_of_it(tmp_path: Path, at: int) -> None:
    store = Joined(tmp_path, at)
    stage = compute(FolderStore(tmp_path), OURS, StageKind.ROLLOUT)
    whole = keys(FolderStore(tmp_path), f"{stage}/attempts")
    retire(store, OURS, quiet)
    left = keys(FolderStore(tmp_path), stage)
    if store.found is not None:
        assert {f"{stage}/result.json", f"{stage}/runs/uid-2", *whole} <= set(left)
    else:
        assert not left, "nobody uses it and it is still there"


def test_two_runs_that_are_deleted_at_once_leave_nothing(tmp_path: Path) -> None:
    class Both(Interrupted):
        def happen(self) -> None:
            retire(FolderStore(self.root), OTHERS, quiet)

    for at in range(1, 20):
        root = tmp_path / str(at)
        compute(FolderStore(root), OURS, StageKind.ROLLOUT)
        refer(FolderStore(root), OTHERS, stage_prefix(StageKind.ROLLOUT, KEYS[StageKind.ROLLOUT]))
        retire(Both(root, at), OURS, quiet)
        retire(FolderStore(root), OTHERS, quiet)
        assert keys(FolderStore(root)) == []


def test_an_earlier_run_of_the_same_name_that_was_kept_stays_whole(store: FolderStore) -> None:
    kept = RunRef(namespace="lab", name="demo", uid="uid-0")
    compute(store, kept, StageKind.TRAIN_BASELINE)
    store.write("runs/lab/demo/index.json", b"{}")
    compute(store, OURS, StageKind.ROLLOUT)
    retire(store, OURS, quiet)
    left = keys(store)
    assert "runs/lab/demo/index.json" in left
    assert not [key for key in left if "Rollout" in key]
    assert len([key for key in left if key.startswith("stages/TrainBaseline/")]) == 5


def test_what_pods_of_another_run_write_after_the_look_stays(tmp_path: Path) -> None:
    """It computes the stage anew, under folders of its own."""

    class Writing(Interrupted):
        def happen(self) -> None:
            stage = stage_prefix(StageKind.ROLLOUT, KEYS[StageKind.ROLLOUT])
            FolderStore(self.root).write(f"{stage}/attempts/a-new-pod/rows-0.jsonl", b"new")

    for at in range(6, 9):
        root = tmp_path / str(at)
        stage = compute(FolderStore(root), OURS, StageKind.ROLLOUT)
        retire(Writing(root, at), OURS, quiet)
        assert keys(FolderStore(root), stage) == [f"{stage}/attempts/a-new-pod/rows-0.jsonl"]


def test_the_program_reads_its_variable_and_says_what_it_did(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compute(store, OURS, StageKind.ROLLOUT)
    config = RetireConfig(contract=CONTRACT_VERSION, run=OURS, store=store.root.as_uri())
    monkeypatch.setenv(environment.RETIRE, config.model_dump_json(by_alias=True))
    monkeypatch.setenv(environment.TERMINATION, str(tmp_path / "termination"))
    assert main([program.__name__.rpartition(".")[2]]) == 0
    told = parse_termination((tmp_path / "termination").read_text())
    assert told is not None
    assert told.message == "1 stages deleted, 0 kept since other runs use them"
    assert keys(store) == []


@pytest.mark.parametrize("text", ["", "{}", '{"contract": 99}'])
def test_a_variable_that_says_nothing_is_bad_configuration(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(environment.RETIRE, text)
    assert main(["retire"]) == ExitCode.BAD_CONFIGURATION
