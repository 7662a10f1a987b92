"""The serving pod's init container: what lies in the model folder afterwards."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support.stages import RUN, finished, reference
from tests.support.tiny_model import CHATML, make_model, make_tokenizer
from transformers import PreTrainedTokenizerFast

from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.config import ModelRef, ServeConfig
from selfrewarding.contract.program import BadConfiguration, BadData, ExitCode, ParentMissing, run_program
from selfrewarding.contract.result import StageResult, parse_termination
from selfrewarding.contract.server_key import server_key
from selfrewarding.contract.stages import StageKind
from selfrewarding.store.failures import stage_failure
from srr_sampler import fetch_model

RUNS_TEMPLATE = CHATML.replace("assistant", "assistant of this run")


class Pod:
    """A serving pod's surroundings."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.monkeypatch = root, monkeypatch
        self.store = (root / "store").as_uri()
        self.folder = root / "served"
        self.model = make_model(root / "trained" / "model")
        (self.model / "special_tokens_map.json").write_text("{}")
        monkeypatch.setenv("SRR_MODEL_DIR", str(self.folder))
        monkeypatch.setenv("SRR_TERMINATION_LOG", str(root / "termination"))
        self.server = root / "server.yaml"
        monkeypatch.setenv("SRR_SERVER_CONFIG", str(self.server))
        monkeypatch.delenv("SRR_MODEL_LOAD", raising=False)
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)

    def trained(self) -> StageResult:
        return finished(self.store, StageKind.SUPERVISED_FINE_TUNE, self.root / "trained", key="m1")

    def prepared(self) -> StageResult:
        tokenizer = make_tokenizer(RUNS_TEMPLATE)
        tokenizer.save_pretrained(str(self.root / "prepare" / "tokenizer"))
        return finished(self.store, StageKind.PREPARE, self.root / "prepare", key="prepare", iteration=0)

    def config(self, model: ModelRef, prepare: StageResult | None = None) -> None:
        document = ServeConfig(
            contract=CONTRACT_VERSION,
            run=RUN,
            store=self.store,
            served_name="m1-aaaa-policy",
            prepare=reference(prepare) if prepare else None,
            model=model,
        )
        path = self.root / "serve.json"
        path.write_text(document.model_dump_json(by_alias=True, exclude_none=True))
        self.monkeypatch.setenv("SRR_STAGE_CONFIG", str(path))

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


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


SECRET = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY"


def vllm_arguments(*words: str) -> Any:
    """What the installed vLLM makes of its command line; its parser alone, since importing the server takes a minute."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "utils" / "argparse_utils.py"
    found = importlib.util.spec_from_file_location("vllm_argparse", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    parser = module.FlexibleArgumentParser()
    parser.add_argument("--config")
    parser.add_argument("--model")
    parser.add_argument("--api-key", nargs="*")
    return parser.parse_args(list(words))


@pytest.mark.parametrize("load", ["Copy", "Streamer"])
def test_vllm_reads_the_key_that_the_sampler_derives(
    pod: Pod, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], load: str
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("SRR_MODEL_LOAD", load)
    pod.config(ModelRef(name="M1", stage=reference(pod.trained())), pod.prepared())
    assert run_program(fetch_model.main, translate=stage_failure) == 0
    key = server_key({"AWS_SECRET_ACCESS_KEY": SECRET}, run_uid=RUN.uid, served_name="m1-aaaa-policy")
    read = vllm_arguments("--config", str(pod.server), "--model", "of-the-command-line")
    assert read.api_key == [key]
    assert pod.server.stat().st_mode & 0o777 in (0o600, 0o640)
    printed = "".join(capfd.readouterr())
    for place in [
        printed,
        *(path.read_text(errors="replace") for path in pod.root.rglob("*") if path.is_file()),
    ]:
        assert SECRET not in place
        assert key not in place or place == pod.server.read_text(), "the key stands in one file only"


def test_without_a_shared_secret_there_is_no_key_and_vllm_takes_the_file(pod: Pod) -> None:
    pod.config(ModelRef(name="M1", stage=reference(pod.trained())), pod.prepared())
    fetch_model.main()
    read = vllm_arguments("--config", str(pod.server), "--model", "of-the-command-line")
    assert (read.api_key, read.model) == (None, "of-the-command-line")


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
