"""Files that come by ranges: in any order, over broken connections, one version only, and all of it or nothing."""

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support import s3_servers
from tests.support.scripted_s3 import OneObject, answering, s3_error

from selfrewarding.store import ArtifactStore, Corrupt, Denied, NoSpace, StoreError, open_store, s3_download
from selfrewarding.store.digests import FileDigest

RANGE = 100_000
SIZE = 12 * RANGE + 1
"""Thirteen ranges; the last is one byte."""
DATA = random.Random(7).randbytes(SIZE)
WHOLE = FileDigest(SIZE, hashlib.sha256(DATA).hexdigest())


@pytest.fixture(autouse=True)
def _small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_download, "RANGE_BYTES", RANGE)
    monkeypatch.setattr(s3_download, "_PIECE_BYTES", 30_000)


def at(address: str) -> ArtifactStore:
    return open_store("s3://bucket/prefix", {**s3_servers.settings(address), "AWS_MAX_ATTEMPTS": "1"})


def fetch(server: OneObject, folder: Path, expected: FileDigest = WHOLE) -> dict[str, FileDigest]:
    with answering(server) as address:
        return at(address).download_tree("m", folder, {"model": expected})


def test_a_large_file_comes_by_ranges(tmp_path: Path) -> None:
    server = OneObject(DATA)
    assert fetch(server, tmp_path) == {"model": WHOLE}
    assert (tmp_path / "model").read_bytes() == DATA
    wanted = [f"bytes={start}-{min(start + RANGE, SIZE) - 1}" for start in range(0, SIZE, RANGE)]
    assert server.ranges[0] == "bytes=0-99999"
    assert sorted(map(str, server.ranges)) == sorted(wanted), "each byte is asked for once"


@pytest.mark.parametrize("size", [0, 1, RANGE])
def test_what_one_request_brings_is_asked_for_whole(size: int, tmp_path: Path) -> None:
    """Then the object's own checksum comes along, and is compared."""
    server = OneObject(DATA[:size])
    digest = FileDigest(size, hashlib.sha256(DATA[:size]).hexdigest())
    assert fetch(server, tmp_path, digest) == {"model": digest}
    assert server.ranges == [None]


def test_ranges_that_come_in_any_order(tmp_path: Path) -> None:
    """The digest waits for the slow ones; what comes early lies in the file already."""
    server = OneObject(DATA)
    server.look = lambda start: time.sleep(0.2 if start in (RANGE, 5 * RANGE) else 0)
    assert fetch(server, tmp_path) == {"model": WHOLE}


def test_ranges_go_on_where_their_connections_broke(tmp_path: Path) -> None:
    server = OneObject(DATA, breaks=20, bytes_each=40_000)
    assert fetch(server, tmp_path) == {"model": WHOLE}
    assert len(server.ranges) > 13 + 15, "a range of one byte comes in spite of it"
    assert any(each is not None and int(each[6:].split("-")[0]) % RANGE == 40_000 for each in server.ranges)


@pytest.mark.parametrize("shorter", [False, True])
def test_an_object_that_is_replaced_between_two_ranges(shorter: bool, tmp_path: Path) -> None:
    server = OneObject(DATA)

    def replace(start: int) -> None:
        if start == 3 * RANGE:
            server.etag = '"two"'
            server.data = DATA[: 2 * RANGE] if shorter else DATA[::-1]

    server.look = replace
    with pytest.raises(Corrupt, match="was replaced while it was read"):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_knows_no_conditions_and_a_shorter_object(tmp_path: Path) -> None:
    """Without If-Match a range that comes short is what tells."""
    server = OneObject(DATA)

    def replace(start: int) -> None:
        if start == 12 * RANGE:
            server.data = DATA[: 11 * RANGE + 5]
        elif start > 0:
            time.sleep(0.05)

    server.look = replace
    with pytest.raises(Corrupt, match="was replaced while it was read"):
        fetch(server, tmp_path)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (b"", "shorter than it was written"),
        (DATA[:50], "is damaged: found 50 bytes"),
        (DATA[: 3 * RANGE], "is damaged: found 300000 bytes"),
        (DATA + DATA, "is damaged: found 2400002 bytes"),
        (DATA[:-1] + b"\x00", "is damaged: found 1200001 bytes"),
    ],
)
def test_an_object_that_is_not_the_one_that_was_written(found: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match=said):
        fetch(OneObject(found), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_range_that_fails_ends_the_file_at_once(tmp_path: Path) -> None:
    server, refuse = OneObject(DATA), s3_error(403, "AccessDenied")
    asked = []

    def handle(request: object) -> None:
        start = request.headers["Range"]  # type: ignore[attr-defined]
        asked.append(start)
        (refuse if start.startswith("bytes=200000-") else server)(request)  # type: ignore[arg-type]

    with answering(handle) as address, pytest.raises(Denied, match="do not allow this"):
        at(address).download_tree("m", tmp_path, {"model": WHOLE})
    assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("store")]


def test_a_file_that_fails_stops_the_others(tmp_path: Path) -> None:
    """The first error is told; ranges of other files are not fetched to their end."""
    server, refuse = OneObject(DATA), s3_error(403, "AccessDenied")
    failed = threading.Event()
    server.look = lambda start: failed.wait(5) if start else None
    asked: list[str] = []

    def handle(request: object) -> None:
        path: str = request.path  # type: ignore[attr-defined]
        asked.append(path)
        if path.endswith("/closed"):
            refuse(request)  # type: ignore[arg-type]
            threading.Timer(0.2, failed.set).start()
        else:
            server(request)  # type: ignore[arg-type]

    files = {"closed": WHOLE} | {f"open-{number}": WHOLE for number in range(5)}
    with answering(handle) as address, pytest.raises(Denied):
        at(address).download_tree("m", tmp_path, files)
    assert len(asked) < 5 * 13, "the rest was given up"
    assert list(tmp_path.iterdir()) == []


def test_an_error_does_not_wait_behind_the_ranges_of_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_download, "RANGES_AT_ONCE", 1)
    slow, broken, refuse = OneObject(DATA), OneObject(DATA, breaks=1, bytes_each=40_000), s3_error(403, "No")
    queued = threading.Event()

    def look(start: int) -> None:
        if start:
            queued.set()
            time.sleep(0.5)

    slow.look = look

    def handle(request: object) -> None:
        if request.path.endswith("/slow"):  # type: ignore[attr-defined]
            slow(request)  # type: ignore[arg-type]
        elif request.headers["Range"].startswith("bytes=0-"):  # type: ignore[attr-defined]
            queued.wait(5)
            broken(request)  # type: ignore[arg-type]
        else:
            refuse(request)  # type: ignore[arg-type]

    with answering(handle) as address, pytest.raises(Denied):
        at(address).download_tree("m", tmp_path, {"slow": WHOLE, "broken": WHOLE})
    assert len(slow.ranges) <= 4, "of 13, at half a second each"


def test_a_disk_that_is_full_is_blamed_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., int] = os.pwrite

    def full(descriptor: int, data: bytes, position: int) -> int:
        if position >= 6 * RANGE:
            raise OSError(28, "No space left on device")
        return real(descriptor, data, position)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(NoSpace) as caught:
        fetch(OneObject(DATA), tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_takes_less_than_all_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., int] = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda descriptor, data, position: real(descriptor, data[:7001], position)
    )
    assert fetch(OneObject(DATA), tmp_path) == {"model": WHOLE}
    assert (tmp_path / "model").read_bytes() == DATA


def test_a_store_that_stops_answering_half_way(tmp_path: Path) -> None:
    server = OneObject(DATA, breaks=10_000, bytes_each=0)
    with pytest.raises(StoreError, match="no answer") as caught:
        fetch(server, tmp_path)
    assert caught.value.retryable
    assert list(tmp_path.iterdir()) == []
