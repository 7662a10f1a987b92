"""The store that these tests are about: a folder. tests/local/store asks the same of S3 servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import s3_servers
from tests.support.sample_tree import make_tree

from selfrewarding.store import ArtifactStore, open_store

Place = tuple[str, dict[str, str]]


@pytest.fixture(scope="session", autouse=True)
def _models_read_once() -> Iterator[None]:
    with s3_servers.models_read_once():
        yield


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """URI and settings of an empty store."""
    return (tmp_path / "store").as_uri(), {}


@pytest.fixture
def store(place: Place) -> ArtifactStore:
    """An empty store."""
    return open_store(*place)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small model's folder."""
    return make_tree(tmp_path / "model")
