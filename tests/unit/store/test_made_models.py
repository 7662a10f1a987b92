"""Where the files of a model lie: with its training, or where a choice says."""

from pathlib import Path

import pytest
from tests.support.stages import finished, reference

from selfrewarding.api.run import ModelStatus
from selfrewarding.contract.config import ModelRef
from selfrewarding.contract.program import ParentMissing
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.local.run_results import model_folder
from selfrewarding.store import open_store
from selfrewarding.store.models import CHOSEN, choice, chosen, makes_model, model_files, require_model
from selfrewarding.store.results import download_folder


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return (tmp_path / "store").as_uri()


def training(uri: str, tmp_path: Path, *, candidates: int = 2, key: str = "dpo") -> StageResult:
    for name in ["model", *(f"candidates/{number}" for number in range(1, candidates))]:
        folder = tmp_path / key / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(name)
        (folder / "model.safetensors").write_text(f"weights of {name}")
    return finished(uri, StageKind.PREFERENCE_OPTIMIZE, tmp_path / key, key=key, iteration=2)


def selected(uri: str, tmp_path: Path, trained: StageResult, folder: str) -> StageResult:
    report: dict[str, object] = {CHOSEN: choice(reference(trained), folder)}
    return finished(
        uri, StageKind.SELECT, tmp_path / "select", key=f"select {folder}", iteration=2, report=report
    )


def test_a_choice_is_found_where_its_training_wrote_it(uri: str, tmp_path: Path) -> None:
    trained = training(uri, tmp_path)
    select = selected(uri, tmp_path, trained, "candidates/1")
    store = open_store(uri)
    made = require_model(store, reference(select), ModelRef(name="M2", stage=reference(select)))
    assert (made.result.key, made.folder) == (trained.key, "candidates/1")
    assert made.files == ("candidates/1/config.json", "candidates/1/model.safetensors")
    download_folder(store, made.result, made.folder, tmp_path / "fetched")
    assert (tmp_path / "fetched" / "model.safetensors").read_text() == "weights of candidates/1"


def test_a_training_is_its_own_model_and_a_candidate_is_named(uri: str, tmp_path: Path) -> None:
    trained, store = training(uri, tmp_path), open_store(uri)
    assert model_files(store, trained).folder == "model"
    ref = ModelRef(name="M2.1", stage=reference(trained), folder="candidates/1")
    assert require_model(store, reference(trained), ref).folder == "candidates/1"


def test_what_is_gone_is_computed_again(uri: str, tmp_path: Path) -> None:
    trained, store = training(uri, tmp_path), open_store(uri)
    select = selected(uri, tmp_path, trained, "candidates/1")
    store.delete(f"stages/PreferenceOptimize/{trained.key}/result.json")
    with pytest.raises(ParentMissing, match="must be computed again") as error:
        model_files(store, select)
    assert error.value.key == trained.key, "the training, not the choice"


def test_a_folder_that_is_not_there_is_the_trainings_fault(uri: str, tmp_path: Path) -> None:
    trained, store = training(uri, tmp_path), open_store(uri)
    with pytest.raises(ParentMissing, match=r"has no candidates/7/config\.json") as error:
        model_files(store, selected(uri, tmp_path, trained, "candidates/7"))
    assert error.value.key == trained.key


def test_a_choice_that_says_nothing_is_made_again(uri: str, tmp_path: Path) -> None:
    select = finished(uri, StageKind.SELECT, tmp_path / "select", key="select")
    assert chosen(select) is None
    with pytest.raises(ParentMissing, match="does not say which model it chose") as error:
        model_files(open_store(uri), select)
    assert error.value.key == select.key


def test_a_model_is_what_was_chosen_and_not_what_it_was_chosen_from(uri: str, tmp_path: Path) -> None:
    trained = training(uri, tmp_path)
    assert not makes_model(trained)
    assert makes_model(selected(uri, tmp_path, trained, "model"))
    assert makes_model(training(uri, tmp_path, candidates=1, key="plain"))


def test_people_are_told_the_folder_of_the_choice(uri: str, tmp_path: Path) -> None:
    trained, store = training(uri, tmp_path), open_store(uri)
    select = selected(uri, tmp_path, trained, "candidates/1")
    model = ModelStatus(name="M2", iteration=2, uri=f"{uri}/stages/Select/{select.key}", digest="d")
    folder = model_folder(store, model)
    assert folder is not None
    assert (Path(folder) / "model.safetensors").read_text() == "weights of candidates/1"
