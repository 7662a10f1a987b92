"""vLLM's own command line reads the key that the init container derives; no server is started."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from tests.support.serving_pod import Pod
from tests.support.stages import RUN, reference

from selfrewarding.contract.config import ModelRef
from selfrewarding.contract.program import run_program
from selfrewarding.contract.server_key import server_key
from selfrewarding.store.failures import stage_failure
from srr_sampler import fetch_model

SECRET = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY"


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    return Pod(tmp_path, monkeypatch)


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
