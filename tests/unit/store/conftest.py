import functools
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for s3_servers, which is a program too

import s3_servers
from botocore.loaders import JSONFileLoader
from samples import make_tree

from selfrewarding.store import ArtifactStore, open_store

S3_SERVERS = s3_servers.names()

_buckets = itertools.count(1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if "versitygw" not in S3_SERVERS:
        terminalreporter.write_line(
            "ARTIFACT STORE: NOT TESTED AGAINST versitygw (needs Go and extended attributes; once: `make versitygw`)",
            red=True,
        )


@pytest.fixture(scope="session", autouse=True)
def read_botocores_models_once() -> Iterator[None]:
    """Each client reads megabytes of JSON that say what S3 is: a third of these tests' time."""
    load = functools.cache(JSONFileLoader().load_file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda self, path: load(path))
        yield


@pytest.fixture(scope="session")
def moto_address() -> Iterator[str]:
    with s3_servers.moto() as address:
        yield address


@pytest.fixture(scope="session")
def versitygw_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_servers.versitygw(s3_servers.versitygw_path(), tmp_path_factory.mktemp("versitygw")) as address:
        yield address


@pytest.fixture(params=S3_SERVERS)
def s3_settings(request: pytest.FixtureRequest) -> dict[str, str]:
    return s3_servers.settings(request.getfixturevalue(f"{request.param}_address"))


@pytest.fixture
def s3_uri(s3_settings: dict[str, str]) -> str:
    """A bucket of its own for one test."""
    bucket = f"bucket-{os.getpid()}-{next(_buckets)}"
    s3_servers.make_bucket(s3_settings["SRR_S3_ENDPOINT"], bucket)
    return f"s3://{bucket}/runs/self-rewarding"


@pytest.fixture
def s3_store(s3_uri: str, s3_settings: dict[str, str]) -> ArtifactStore:
    return open_store(s3_uri, s3_settings)


Place = tuple[str, dict[str, str]]


@pytest.fixture(params=["folder", *S3_SERVERS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """URI and settings of an empty store, of every kind there is."""
    if request.param == "folder":
        return (tmp_path / "store").as_uri(), {}
    bucket = f"bucket-{os.getpid()}-{next(_buckets)}"
    address = request.getfixturevalue(f"{request.param}_address")
    s3_servers.make_bucket(address, bucket)
    return f"s3://{bucket}/runs/self-rewarding", s3_servers.settings(address)


@pytest.fixture
def store(place: Place) -> ArtifactStore:
    return open_store(*place)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small model's folder."""
    return make_tree(tmp_path / "model")
