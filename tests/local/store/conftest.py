"""S3 servers on the loopback, and stores in empty buckets of each. They replace the folder of tests/unit/store."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import s3_servers
from tests.support.sample_tree import make_tree

from selfrewarding.store import ArtifactStore, open_store

Place = tuple[str, dict[str, str]]
collect_ignore = [] if "versitygw" in s3_servers.names() else ["test_versitygw.py"]
_numbers = itertools.count(1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One loud line where less is tested than could be."""
    if "versitygw" not in s3_servers.names():
        terminalreporter.write_line(
            "ARTIFACT STORE: NOT TESTED AGAINST versitygw (needs Go and extended attributes; once: `make versitygw`)",
            red=True,
        )


@pytest.fixture(scope="session", autouse=True)
def _models_read_once() -> Iterator[None]:
    with s3_servers.models_read_once():
        yield


@pytest.fixture(scope="session")
def moto_address() -> Iterator[str]:
    """moto's server."""
    with s3_servers.moto() as address:
        yield address


@pytest.fixture(scope="session")
def versitygw_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """versitygw over a folder."""
    with s3_servers.versitygw(s3_servers.versitygw_path(), tmp_path_factory.mktemp("versitygw")) as address:
        yield address


@pytest.fixture(params=[*s3_servers.names(), f"{s3_servers.names()[-1]} by threads"])
def s3_settings(request: pytest.FixtureRequest) -> dict[str, str]:
    """A stage program's environment for the store: of each server there is, large files sent by awscrt and by Python."""
    server, _, by_threads = request.param.partition(" ")
    settings = s3_servers.settings(request.getfixturevalue(f"{server}_address"))
    return {**settings, "SRR_S3_TRANSFER": "python"} if by_threads else settings


@pytest.fixture
def s3_uri(s3_settings: dict[str, str]) -> str:
    """A place in a bucket of its own."""
    bucket = f"bucket-{os.getpid()}-{next(_numbers)}"
    s3_servers.make_bucket(s3_settings["SRR_S3_ENDPOINT"], bucket)
    return f"s3://{bucket}/runs/self-rewarding"


@pytest.fixture
def place(s3_uri: str, s3_settings: dict[str, str]) -> Place:
    """URI and settings of an empty store."""
    return s3_uri, s3_settings


@pytest.fixture
def store(place: Place) -> ArtifactStore:
    """An empty store."""
    return open_store(*place)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small model's folder."""
    return make_tree(tmp_path / "model")
