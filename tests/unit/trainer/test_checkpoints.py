"""Checkpoints in the store: only whole ones count, whichever pod wrote them."""

from pathlib import Path

import pytest

from selfrewarding.contract.artifacts import attempt_prefix, stage_prefix
from selfrewarding.contract.keys import digest
from selfrewarding.contract.program import BadConfiguration
from selfrewarding.contract.stages import StageKind
from selfrewarding.store import ArtifactStore, open_store
from srr_trainer.checkpoint_timer import SAVE_SHARE, CheckpointTimer
from srr_trainer.checkpoints import CheckpointStore
from srr_trainer.ranks import Ranks

KIND, KEY = StageKind.SUPERVISED_FINE_TUNE, digest("k")
FILES = {
    "latest": "global_step3",
    "trainer_state.json": "{}",
    "global_step3/mp_rank_00_model_states.pt": "model",
    "global_step3/zero_pp_rank_0_mp_rank_00_optim_states.pt": "optimizer 0",
    "global_step3/zero_pp_rank_1_mp_rank_00_optim_states.pt": "optimizer 1",
    "rng_state_0.pth": "chance 0",
    "rng_state_1.pth": "chance 1",
}


class Pod(Ranks):
    """A pod with one rank that need not wait for others: what they would have gathered is given."""

    def barrier(self) -> None:
        pass

    def broadcast(self, value: object) -> object:
        return value

    def gather(self, value: object) -> list[object]:
        return [value]


def pod(rank: int = 0, world: int = 1) -> Pod:
    return Pod(rank=rank, local_rank=0, world=world, local_world=1, device="cpu")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store((tmp_path / "store").as_uri())


def checkpoints(
    store: ArtifactStore,
    name: str = "pod-1",
    *,
    ranks: Pod | None = None,
    zero_stage: int = 2,
    keep: bool = False,
) -> CheckpointStore:
    return CheckpointStore(
        store, KIND, KEY, attempt_prefix(KIND, KEY, name), ranks or pod(), zero_stage=zero_stage, keep=keep
    )


def write(folder: Path, files: dict[str, str] = FILES) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_the_newest_whole_checkpoint_of_any_pod_is_found_and_older_ones_go(
    store: ArtifactStore, tmp_path: Path
) -> None:
    assert checkpoints(store).newest() is None
    checkpoints(store, "pod-1").upload(write(tmp_path / "a"), 3)
    checkpoints(store, "pod-2").upload(write(tmp_path / "b"), 10)
    assert not (tmp_path / "a").exists(), "scratch space is given back"
    found = checkpoints(store, "pod-3").newest()
    assert found is not None
    assert (found.step, found.world) == (10, 1)
    assert not list(store.list(f"{attempt_prefix(KIND, KEY, 'pod-1')}/checkpoints"))
    checkpoints(store, "pod-3").restore(found, tmp_path / "there")
    assert (tmp_path / "there" / "latest").read_text(encoding="utf-8") == "global_step3"


def test_a_checkpoint_without_its_mark_or_with_a_file_missing_does_not_count(
    store: ArtifactStore, tmp_path: Path
) -> None:
    checkpoints(store, keep=True).upload(write(tmp_path / "a"), 3)
    checkpoints(store, keep=True).upload(write(tmp_path / "b"), 4)
    checkpoints(store, keep=True).upload(write(tmp_path / "c"), 5)
    folder = f"{attempt_prefix(KIND, KEY, 'pod-1')}/checkpoints"
    store.delete(f"{folder}/step-5/complete.json")
    store.delete(f"{folder}/step-4/rng_state_0.pth")
    found = checkpoints(store).newest()
    assert found is not None
    assert found.step == 3


def test_a_pod_fetches_what_its_ranks_read_and_no_other_ranks_shards(
    store: ArtifactStore, tmp_path: Path
) -> None:
    checkpoints(store, ranks=pod(world=2)).upload(write(tmp_path / "a"), 3)
    found = checkpoints(store, ranks=pod(world=2)).newest()  # rank 0 tells the others
    assert found is not None
    second = checkpoints(store, "pod-9", ranks=pod(rank=1, world=2))
    second.restore(found, tmp_path / "there")
    names = {
        str(path.relative_to(tmp_path / "there"))
        for path in (tmp_path / "there").rglob("*")
        if path.is_file()
    }
    assert names == set(FILES) - {
        "rng_state_0.pth",
        "global_step3/zero_pp_rank_0_mp_rank_00_optim_states.pt",
    }


def test_rule_15_a_changed_number_of_ranks_is_refused_with_its_remedy(
    store: ArtifactStore, tmp_path: Path
) -> None:
    checkpoints(store, ranks=pod(world=2)).upload(write(tmp_path / "a"), 3)
    with pytest.raises(
        BadConfiguration, match=r"started with 2 ranks .* 3 steps, now there are 4: set .* back, or delete"
    ):
        checkpoints(store, ranks=pod(world=4)).newest()
    with pytest.raises(BadConfiguration, match=r"zeroStage 2 .* now it is 3: set it back, or delete"):
        checkpoints(store, ranks=pod(world=2), zero_stage=3).newest()


def test_checkpoints_go_once_the_stage_is_done_unless_they_are_kept(
    store: ArtifactStore, tmp_path: Path
) -> None:
    checkpoints(store, keep=True).upload(write(tmp_path / "a"), 3)
    checkpoints(store, keep=True).upload(write(tmp_path / "b"), 4)
    store.write(f"{attempt_prefix(KIND, KEY, 'pod-1')}/model/config.json", b"{}")
    checkpoints(store, "pod-2", keep=True).delete_all()
    assert len(list(store.list(stage_prefix(KIND, KEY)))) == 2 * (len(FILES) + 1) + 1
    checkpoints(store, "pod-2").delete_all()
    assert [entry.key for entry in store.list(stage_prefix(KIND, KEY))] == [
        f"{attempt_prefix(KIND, KEY, 'pod-1')}/model/config.json"
    ]


def test_rule_15_between_two_checkpoints_lies_twenty_times_what_one_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("srr_trainer.checkpoint_timer.time.monotonic", lambda: now)
    timer = CheckpointTimer(30, first_guess=1)
    assert not timer.due
    now += 30
    assert timer.due
    timer.saved(seconds=5)
    now += 30
    assert not timer.due, "5 s of saving every 30 s would cost a sixth of the time"
    now += SAVE_SHARE * 5 - 30
    assert timer.due
    timer.saved(seconds=0.1)
    now += 30
    assert timer.due


def test_after_sigterm_only_a_cheap_checkpoint_is_saved() -> None:
    assert CheckpointTimer(30, first_guess=5).cheap
    assert not CheckpointTimer(30, first_guess=500).cheap
    timer = CheckpointTimer(30, first_guess=5)
    timer.saved(seconds=60)
    assert not timer.cheap
