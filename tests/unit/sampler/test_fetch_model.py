"""The serving pod's init container: what lies in the model folder afterwards."""

import json
import shutil
from pathlib import Path

import pytest
from tests.support.serving_pod import RUNS_TEMPLATE, Pod
from tests.support.stages import finished, reference
from tests.support.tiny_model import CHATML, make_model
from transformers import PreTrainedTokenizerFast

from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.config import ModelRef
from selfrewarding.contract.program import BadConfiguration, BadData, ExitCode, ParentMissing, run_program
from selfrewarding.contract.result import StageResult, parse_termination
from selfrewarding.contract.stages import StageKind
from selfrewarding.store.failures import stage_failure
from selfrewarding.store.models import CHOSEN, choice
from srr_sampler import fetch_model


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    return Pod(tmp_path, monkeypatch)


def test_a_model_of_the_run_comes_with_the_runs_tokenizer(
    pod: Pod, capsys: pytest.CaptureFixture[str]
) -> None:
    pod.config(ModelRef(name="M1", stage=reference(pod.trained())), pod.prepared())
    fetch_model.main()
    assert (pod.folder / "model.safetensors").read_bytes() == (pod.model / "model.safetensors").read_bytes()
    assert PreTrainedTokenizerFast.from_pretrained(str(pod.folder)).chat_template == RUNS_TEMPLATE
    assert "special_tokens_map.json" not in pod.names(), (
        "a file of the model's own tokenizer would win or mix"
    )
    last = json.loads(capsys.readouterr().out.splitlines()[-1].removeprefix("SRR-PROGRESS "))
    assert last["done"] == last["total"] > 100_000
    assert last["unit"] == "bytes"


def test_the_stores_own_files_are_never_written_to(pod: Pod) -> None:
    """The files in the folder may be hard links into the store."""
    trained, prepared = pod.trained(), pod.prepared()
    before = {path: path.read_bytes() for path in (pod.root / "store").rglob("*") if path.is_file()}
    pod.config(ModelRef(name="M1", stage=reference(trained)), prepared)
    fetch_model.main()
    (pod.folder / "model.safetensors").unlink()
    fetch_model.main()
    assert {path: path.read_bytes() for path in before} == before


def test_a_fixed_model_keeps_its_own_tokenizer(pod: Pod) -> None:
    judge = make_model(pod.root / "judge", seed=3)
    pod.config(ModelRef(name="Judge", uri=judge.as_uri()))
    fetch_model.main()
    assert PreTrainedTokenizerFast.from_pretrained(str(pod.folder)).chat_template == CHATML
    assert (pod.folder / "model.safetensors").read_bytes() == (judge / "model.safetensors").read_bytes()


def test_what_a_model_before_left_behind_is_taken_away(pod: Pod) -> None:
    pod.folder.mkdir()
    shutil.copy(pod.model / "model.safetensors", pod.folder / "model-00001-of-00002.safetensors")
    (pod.folder / "model.safetensors.index.json").write_text("{}")
    (pod.folder / "tokenizer.model").write_bytes(b"old")
    pod.config(ModelRef(name="M1", stage=reference(pod.trained())), pod.prepared())
    fetch_model.main()
    assert not pod.names() & {
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.model",
    }


def test_the_streamer_gets_everything_but_the_weights_and_their_address(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = pod.root / "server.yaml"
    monkeypatch.setenv("SRR_MODEL_LOAD", "Streamer")
    monkeypatch.setenv("SRR_SERVER_CONFIG", str(server))
    trained = pod.trained()
    pod.config(ModelRef(name="M1", stage=reference(trained)), pod.prepared())
    fetch_model.main()
    assert not [name for name in pod.names() if name.endswith(".safetensors")]
    assert {"config.json", "tokenizer.json"} <= pod.names()
    key, value = server.read_text().strip().split(": ", 1)
    assert key == "model"
    address = Path(json.loads(value))
    assert (address / "model.safetensors").is_file()
    assert trained.key in str(address)


def chosen_candidate(pod: Pod) -> tuple[StageResult, StageResult]:
    """A training with two candidates, and a Select that took the first one."""
    make_model(pod.root / "dpo" / "model", seed=5)
    make_model(pod.root / "dpo" / "candidates" / "1", seed=6)
    trained = finished(pod.store, StageKind.PREFERENCE_OPTIMIZE, pod.root / "dpo", key="dpo", iteration=2)
    report: dict[str, object] = {CHOSEN: choice(reference(trained), "candidates/1")}
    select = finished(pod.store, StageKind.SELECT, pod.root / "select", key="s", iteration=2, report=report)
    return trained, select


def test_a_chosen_candidate_comes_from_its_training(pod: Pod) -> None:
    trained, select = chosen_candidate(pod)
    weights = (pod.root / "dpo" / "candidates" / "1" / "model.safetensors").read_bytes()
    pod.config(ModelRef(name="M2", stage=reference(select)), pod.prepared())
    fetch_model.main()
    assert (pod.folder / "model.safetensors").read_bytes() == weights
    pod.config(ModelRef(name="M2.2", stage=reference(trained)), pod.prepared())
    fetch_model.main()
    assert (pod.folder / "model.safetensors").read_bytes() != weights
    pod.config(ModelRef(name="M2.1", stage=reference(trained), folder="candidates/1"), pod.prepared())
    fetch_model.main()
    assert (pod.folder / "model.safetensors").read_bytes() == weights


def test_the_streamer_streams_a_chosen_candidate_from_its_training(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, select = chosen_candidate(pod)
    monkeypatch.setenv("SRR_MODEL_LOAD", "Streamer")
    pod.config(ModelRef(name="M2", stage=reference(select)), pod.prepared())
    fetch_model.main()
    assert not [name for name in pod.names() if name.endswith(".safetensors")]
    address = Path(json.loads(pod.server.read_text().strip().removeprefix("model: ")))
    assert trained.key in str(address)
    assert address.parts[-2:] == ("candidates", "1")
    assert (address / "model.safetensors").is_file()


def test_the_streamer_streams_a_fixed_model_from_where_it_lies(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = make_model(pod.root / "judge")
    monkeypatch.setenv("SRR_MODEL_LOAD", "Streamer")
    monkeypatch.setenv("SRR_SERVER_CONFIG", str(pod.root / "server.yaml"))
    pod.config(ModelRef(name="Judge", uri=judge.as_uri()))
    fetch_model.main()
    assert "model.safetensors" not in pod.names()
    assert json.loads((pod.root / "server.yaml").read_text().removeprefix("model: ")) == str(judge)
    pod.config(ModelRef(name="Judge", uri="hf://org/judge"))
    with pytest.raises(BadConfiguration, match="Streamer reads from S3, not from a hub"):
        fetch_model.main()


def test_a_damaged_weights_file_in_the_store_is_computed_again(pod: Pod) -> None:
    trained = pod.trained()
    (stored,) = (pod.root / "store").rglob("model.safetensors")
    stored.write_bytes(stored.read_bytes()[:-1] + b"\x7f")
    pod.config(ModelRef(name="M1", stage=reference(trained)), pod.prepared())
    code = run_program(fetch_model.main, translate=stage_failure)
    assert code == ExitCode.PARENT_MISSING
    told = parse_termination((pod.root / "termination").read_text())
    assert told is not None
    assert (told.failure, told.parent) == ("ParentMissing", trained.key[:16])


def test_a_result_without_a_model_is_computed_again(pod: Pod) -> None:
    (pod.model / "config.json").unlink()
    pod.config(ModelRef(name="M1", stage=reference(pod.trained())))
    with pytest.raises(ParentMissing, match=r"has no model/config\.json"):
        fetch_model.main()


def test_a_cut_fixed_model_is_refused_before_a_server_starts(pod: Pod) -> None:
    weights = pod.model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    pod.config(ModelRef(name="Judge", uri=pod.model.as_uri()))
    with pytest.raises(BadData, match="its header asks for"):
        fetch_model.main()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SRR_MODEL_DIR", "", "names the folder that the model is copied to"),
        ("SRR_STAGE_CONFIG", "/nowhere/serve.json", "cannot be read: No such file"),
    ],
)
def test_missing_surroundings_are_named(
    pod: Pod, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    pod.config(ModelRef(name="M1", stage=reference(pod.trained())))
    monkeypatch.setenv(name, value)
    with pytest.raises(BadConfiguration, match=said):
        fetch_model.main()


def test_a_document_of_another_contract_version_is_refused(pod: Pod) -> None:
    pod.config(ModelRef(name="M1", stage=reference(pod.trained())))
    path = pod.root / "serve.json"
    path.write_text(path.read_text().replace(f'"contract":{CONTRACT_VERSION}', '"contract":99'))
    with pytest.raises(BadConfiguration, match="contract version 99"):
        fetch_model.main()


def test_the_configuration_file_never_writes_through_a_link_into_the_store(pod: Pod) -> None:
    stored = pod.root / "stored.yaml"
    stored.write_text("of the model")
    pod.server.hardlink_to(stored)
    pod.config(ModelRef(name="M1", stage=reference(pod.trained())))
    fetch_model.main()
    assert stored.read_text() == "of the model"


def test_a_configuration_file_that_cannot_be_written_is_named(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.config(ModelRef(name="M1", stage=reference(pod.trained())))
    monkeypatch.setenv("SRR_SERVER_CONFIG", "/dev/null/server.yaml")
    with pytest.raises(BadConfiguration, match=r"SRR_SERVER_CONFIG=/dev/null/server\.yaml cannot be written"):
        fetch_model.main()


def test_progress_counts_what_has_arrived_not_how_long_the_file_is(tmp_path: Path) -> None:
    """The last range of a file may come first."""
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.seek(64 * 1024 * 1024)
        file.write(b"x" * 100_000)
    assert 100_000 <= fetch_model._arrived(path) < 1_000_000
    path.write_bytes(b"x" * 10_001)
    assert fetch_model._arrived(path) == 10_001
    assert fetch_model._arrived(tmp_path / "gone") == fetch_model._arrived(tmp_path) == 0
