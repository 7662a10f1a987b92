"""Real S3 servers on the loopback: moto's, and versitygw where its binary is there (`make versitygw` builds it).

tests/local/store holds the store to its promises on them, tests/bench/store_transfer.py measures it.
"""

import contextlib
import functools
import logging
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tests.cluster.testbed import binaries

ACCESS, SECRET = "test-access-key", "test-secret-key-never-shown"


def versitygw_path() -> Path:
    """Where the test cluster's builds put it, in the version that its versions file names."""
    return binaries.path("versitygw")


def has_attributes(folder: Path) -> bool:
    """Whether files there can have extended attributes: versitygw keeps ETags in them, atomically with the data."""
    with tempfile.NamedTemporaryFile(dir=folder) as file, contextlib.suppress(OSError):
        os.setxattr(file.name, "user.srr", b"1")
        return True
    return False


@functools.cache
def names() -> tuple[str, ...]:
    """The servers that there are here; versitygw only once it is built."""
    there = binaries.part("versitygw").built and has_attributes(Path(tempfile.gettempdir()))
    return ("moto", "versitygw") if there else ("moto",)


def settings(endpoint: str) -> dict[str, str]:
    """The environment that a stage program gets for a store at `endpoint`; two attempts, so that failures are quick."""
    return {
        "SRR_S3_ENDPOINT": endpoint,
        "SRR_S3_ADDRESSING": "path",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": ACCESS,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_MAX_ATTEMPTS": "2",
    }


@contextlib.contextmanager
def models_read_once() -> Iterator[None]:
    """Each client reads megabytes of JSON that say what S3 is: otherwise a third of the time of tests that make many."""
    from botocore.loaders import JSONFileLoader

    load = functools.cache(JSONFileLoader().load_file)
    with mock.patch.object(JSONFileLoader, "load_file", lambda self, path: load(path)):
        yield


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """A moto server in a thread of this process; yields its address."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextlib.contextmanager
def versitygw(binary: Path, folder: Path, *options: str) -> Iterator[str]:
    """A versitygw process over a folder; yields its address."""
    port = free_port()
    data = folder / "data"
    data.mkdir(exist_ok=True)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [binary, "--quiet", "--port", f"127.0.0.1:{port}", *options, "posix", data],
            env={"ROOT_ACCESS_KEY": ACCESS, "ROOT_SECRET_KEY": SECRET, "PATH": os.environ["PATH"]},
            stdout=log,
            stderr=log,
        )
    try:
        _wait_for(port, process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def make_bucket(endpoint: str, bucket: str) -> None:
    """An empty bucket."""
    client(endpoint).create_bucket(Bucket=bucket)


@functools.cache
def client(endpoint: str) -> Any:
    """boto3's client for one of these servers, with its defaults."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS,
        aws_secret_access_key=SECRET,
    )


def free_port() -> int:
    """A port on which nobody listens at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"versitygw did not start:\n{log.read_text()}")
