"""A store with a tokenizer, a scripted server and its address in the environment; Prepare with a tiny model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.prepare_bench import Bench
from tests.support.sampler_stages import MODEL, Workplace
from tests.support.scripted_server import ScriptedServer
from tests.support.tiny_model import make_model
from tests.support.tiny_tokenizer import save_tokenizer

from selfrewarding.contract import environment


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny tokenizer as a folder."""
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder; nobody changes it."""
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def bench(tmp_path: Path, model: Path) -> Bench:
    """Prepare's surroundings: a store, seed files, that model."""
    return Bench(tmp_path, model)


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """An empty store and what stages need around it."""
    return Workplace(tmp_path)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """The policy's server."""
    with ScriptedServer(MODEL) as scripted:
        monkeypatch.setenv(environment.SERVER_URL["policy"], scripted.url)
        yield scripted


@pytest.fixture
def referee_key(monkeypatch: pytest.MonkeyPatch) -> str:
    """The key of the endpoint that compares answers, in the environment."""
    monkeypatch.setenv(environment.REFEREE_API_KEY, "very-secret")
    return "very-secret"
