"""Candidates in the store: saved once each, whichever pod goes on, and before the checkpoint of their step."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl

from selfrewarding.api.algorithm import DpoSpec, EarlyStoppingSpec, SftSpec
from selfrewarding.contract.artifacts import attempt_prefix, candidate_folder, candidate_key
from selfrewarding.contract.keys import digest
from selfrewarding.contract.program import BadConfiguration
from selfrewarding.contract.stages import StageKind
from selfrewarding.store import ArtifactStore, open_store
from srr_trainer.candidates import CandidateCallback, CandidateStore, candidate_steps
from srr_trainer.checkpoints import CheckpointStore
from srr_trainer.ranks import Ranks

KIND, KEY = StageKind.PREFERENCE_OPTIMIZE, digest("k")


def ranks(rank: int = 0) -> Ranks:
    return Ranks(rank=rank, local_rank=rank, world=1, local_world=1, device="cpu")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store((tmp_path / "store").as_uri())


def candidates(store: ArtifactStore, pod: str = "pod-1") -> CandidateStore:
    return CandidateStore(store, KIND, KEY, attempt_prefix(KIND, KEY, pod), ranks())


def folder(tmp_path: Path, text: str = "weights") -> Path:
    made = tmp_path / "candidate"
    made.mkdir(exist_ok=True)
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_text(text)
    return made


def early(count: int) -> DpoSpec:
    return DpoSpec(early_stopping=EarlyStoppingSpec(candidates=count))


@pytest.mark.parametrize(
    ("count", "steps", "saved"),
    [(4, 100, [25, 50, 75]), (2, 3, [1]), (4, 4, [1, 2, 3]), (3, 10, [3, 6]), (8, 9, [1, 2, 3, 4, 5, 6, 7])],
)
def test_candidates_lie_at_equal_parts_of_the_steps(count: int, steps: int, saved: list[int]) -> None:
    assert candidate_steps(early(count), steps) == saved
    assert len(set(saved)) == count - 1


def test_the_last_candidate_is_the_trainings_own_model() -> None:
    assert [candidate_folder(one, 3) for one in (1, 2, 3)] == ["candidates/1", "candidates/2", "model"]


def test_nobody_asks_for_candidates_of_other_trainings() -> None:
    assert candidate_steps(DpoSpec(), 100) == []
    assert candidate_steps(SftSpec(), 100) == []


def test_too_few_steps_are_named() -> None:
    with pytest.raises(BadConfiguration, match="saves 4 candidates, but the training has 3 steps"):
        candidate_steps(early(4), 3)


def test_another_pod_finds_what_was_saved(store: ArtifactStore, tmp_path: Path) -> None:
    candidates(store).upload(1, folder(tmp_path))
    found = candidates(store, "pod-2")
    assert found.has(1)
    assert not found.has(2)
    files = found.files()
    assert sorted(files) == ["candidates/1/config.json", "candidates/1/model.safetensors"]
    assert files["candidates/1/config.json"].path == "attempts/pod-1/candidates/1/config.json"
    assert not found.lacks([3, 6], before=5)
    assert found.lacks([3, 6], before=6)
    assert not found.lacks([3, 6], before=0)


def test_a_candidate_whose_files_are_gone_is_saved_again(store: ArtifactStore, tmp_path: Path) -> None:
    candidates(store).upload(1, folder(tmp_path))
    store.delete(f"{attempt_prefix(KIND, KEY, 'pod-1')}/candidates/1/model.safetensors")
    found = candidates(store, "pod-2")
    assert not found.has(1)
    found.upload(1, folder(tmp_path, "weights again"))
    assert candidates(store, "pod-3").files()["candidates/1/config.json"].path.startswith("attempts/pod-2/")


def test_a_part_of_an_upload_is_no_candidate(store: ArtifactStore, tmp_path: Path) -> None:
    store.upload_tree(folder(tmp_path), f"{attempt_prefix(KIND, KEY, 'pod-1')}/candidates/1")
    assert not candidates(store, "pod-2").has(1)


def test_cleaning_checkpoints_away_leaves_candidates(store: ArtifactStore, tmp_path: Path) -> None:
    candidates(store).upload(1, folder(tmp_path))
    attempt = attempt_prefix(KIND, KEY, "pod-1")
    checkpoints = CheckpointStore(store, KIND, KEY, attempt, ranks(), zero_stage=0, keep=False)
    saved = tmp_path / "checkpoint"
    saved.mkdir()
    (saved / "state.pt").write_text("state")
    checkpoints.upload(saved, 3)
    checkpoints.delete_all()
    assert not [entry.key for entry in store.list("") if "/checkpoints/" in entry.key]
    assert candidates(store, "pod-2").has(1)
    assert store.read(candidate_key(KIND, KEY, 1))


def test_each_candidate_is_saved_once_at_its_step(store: ArtifactStore, tmp_path: Path) -> None:
    saved: list[int] = []

    def steps(callback: CandidateCallback, until: int, since: int = 1) -> None:
        for step in range(since, until + 1):
            state: Any = SimpleNamespace(global_step=step, is_world_process_zero=True)
            arguments: Any = SimpleNamespace(hf_deepspeed_config=None)
            callback.on_step_end(arguments, state, TrainerControl())

    def callback(pod: str) -> CandidateCallback:
        def save(where: Path) -> None:
            saved.append(len(saved) + 1)
            where.mkdir()
            (where / "config.json").write_text("{}")

        return CandidateCallback(
            candidates(store, pod), [2, 4], save, folder=tmp_path / "way", card=lambda step: f"after {step}"
        )

    steps(callback("pod-1"), 3)
    assert saved == [1]
    again = callback("pod-2")
    steps(again, 5)
    assert saved == [1, 2], "the first is there"
    files = candidates(store, "pod-3").files()
    assert files["candidates/1/README.md"].path == "attempts/pod-1/candidates/1/README.md"
    assert files["candidates/2/README.md"].path == "attempts/pod-2/candidates/2/README.md"
    assert not (tmp_path / "way").exists(), "the disk is free again"


def test_other_ranks_of_a_pod_leave_the_folder_to_the_first(store: ArtifactStore, tmp_path: Path) -> None:
    """They are done with a candidate while the first still uploads it, and may come to the next one after it."""
    way, seen = folder(tmp_path), []
    second = CandidateCallback(
        candidates(store), [1], lambda where: seen.append(sorted(where.iterdir())), folder=way, card=str
    )
    second._candidates.upload = lambda number, where: None  # type: ignore[method-assign]
    state: Any = SimpleNamespace(global_step=1, is_world_process_zero=False)
    arguments: Any = SimpleNamespace(hf_deepspeed_config=None)
    second.on_step_end(arguments, state, TrainerControl())
    files = [way / "config.json", way / "model.safetensors"]
    assert seen == [files]
    assert sorted(way.iterdir()) == files
