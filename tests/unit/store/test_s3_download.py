"""Files that come by ranges: in any order, over broken connections, one version only, and all of it or nothing."""

import base64
import contextlib
import hashlib
import http.server
import os
import random
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType

import pytest
from tests.support import s3_servers
from tests.support.scripted_s3 import OneObject, answering, s3_error

from selfrewarding.store import (
    ArtifactStore,
    Corrupt,
    Denied,
    NoSpace,
    StoreError,
    Unsuitable,
    open_store,
    s3_download,
    s3_stream,
)
from selfrewarding.store.digests import FileDigest
from selfrewarding.store.local_tree import Stop
from selfrewarding.store.s3 import S3Store
from selfrewarding.store.s3_download import _Arriving
from selfrewarding.store.s3_stream import ObjectRange

PAUSES = s3_stream._PAUSES
RANGE = 100_000
SIZE = 12 * RANGE + 1
"""Thirteen ranges; the last is one byte."""
DATA = random.Random(7).randbytes(SIZE)
WHOLE = FileDigest(SIZE, hashlib.sha256(DATA).hexdigest())


@pytest.fixture(autouse=True)
def _small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_download, "RANGE_BYTES", RANGE)
    monkeypatch.setattr(s3_download, "_PIECE_BYTES", 30_000)
    monkeypatch.setattr(s3_stream, "_PAUSES", (0.0, 0.05, 0.1, 0.2, 0.4, 0.8))


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


def test_the_checksum_of_what_one_request_brings_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is compared after the last byte: all the bytes being there is not the end."""
    server, real = OneObject(DATA[:50_000]), ObjectRange._read
    of_other_bytes = base64.b64encode(b"\x01\x02\x03\x04").decode()
    server.dress = lambda headers: headers.setdefault("x-amz-checksum-crc32", of_other_bytes)

    def read(part: ObjectRange, most: int) -> bytes:
        if part._at == 50_000:
            time.sleep(0.2)
        return real(part, most)

    monkeypatch.setattr(ObjectRange, "_read", read)
    with pytest.raises(Corrupt, match="checksum does not fit"):
        fetch(server, tmp_path, FileDigest(50_000, hashlib.sha256(DATA[:50_000]).hexdigest()))


def test_ranges_that_come_in_any_order(tmp_path: Path) -> None:
    """The digest waits for the slow ones; what comes early lies in the file already."""
    server = OneObject(DATA)
    server.look = lambda start: time.sleep(0.2 if start in (RANGE, 5 * RANGE) else 0)
    assert fetch(server, tmp_path) == {"model": WHOLE}


def test_ranges_go_on_where_their_connections_broke(tmp_path: Path) -> None:
    server = OneObject(DATA, breaks=20, bytes_each=40_000)
    assert fetch(server, tmp_path) == {"model": WHOLE}
    assert len(server.ranges) >= 13 + 13, "but for those whose last bytes came in spite of it"
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


@pytest.mark.parametrize(("size", "etag"), [(2 * RANGE, "one"), (SIZE + 5, "one"), (SIZE, "two")])
def test_a_store_that_knows_no_conditions(size: int, etag: str, tmp_path: Path) -> None:
    """Without If-Match it is the answer that tells: no such range, another size, or another tag."""
    server = OneObject(DATA)
    server.knows_conditions = False

    def replace(start: int) -> None:
        if start == 11 * RANGE:
            server.data, server.etag = (DATA[::-1] * 2)[:size], f'"{etag}"'

    server.look = replace
    with pytest.raises(Corrupt, match="was replaced while it was read"):
        fetch(server, tmp_path)


@pytest.mark.parametrize("etag", [None, 'W/"one"'])
def test_a_store_whose_tags_no_condition_can_name(etag: str | None, tmp_path: Path) -> None:
    server = OneObject(DATA, breaks=3, bytes_each=40_000)
    server.etag = etag or ""
    server.dress = lambda headers: None if etag else headers.pop("etag")
    asked: list[str | None] = []

    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        asked.append(request.headers.get("If-Match"))
        server(request)

    with answering(handle) as address:
        assert at(address).download_tree("m", tmp_path, {"model": WHOLE}) == {"model": WHOLE}
    assert set(asked) == {None}


def test_a_store_that_sends_all_instead_of_a_range(tmp_path: Path) -> None:
    server = OneObject(DATA)
    server.knows_ranges = False
    assert fetch(server, tmp_path) == {"model": WHOLE}
    assert len(server.ranges) == 1


def test_a_store_that_forgets_about_ranges(tmp_path: Path) -> None:
    """Nothing may be written to where it does not belong, whether somebody knows the digest or not."""
    server = OneObject(DATA)
    server.look = lambda start: setattr(server, "knows_ranges", start != 5 * RANGE)
    with pytest.raises(Unsuitable, match="does not answer requests for a part of an object as S3 does"):
        fetch(server, tmp_path)


@pytest.mark.parametrize("said", [None, "bytes 0-99999/*", "bytes 5-100004/1200001", "none"])
def test_a_part_of_which_nobody_says_where_it_belongs(said: str | None, tmp_path: Path) -> None:
    server = OneObject(DATA)

    def dress(headers: dict[str, str]) -> None:
        headers.pop("content-range")
        if said is not None:
            headers["content-range"] = said

    server.dress = dress
    with pytest.raises(Unsuitable, match="does not answer requests for a part of an object as S3 does"):
        fetch(server, tmp_path)


def test_a_store_that_is_away_for_a_moment(tmp_path: Path) -> None:
    """A gateway that restarts: some ranges are refused, the connections of others break."""
    server, away = OneObject(DATA), s3_error(502, "BadGateway")
    begun: list[float] = []

    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        begun.append(time.monotonic())
        (server if not 0 < time.monotonic() - begun[0] < 0.6 else away)(request)

    with answering(handle) as address:
        assert at(address).download_tree("m", tmp_path, {"model": WHOLE}) == {"model": WHOLE}
    assert len(begun) > 13


def test_the_pauses_are_long_enough_for_a_gateway_that_restarts() -> None:
    assert sum(PAUSES) >= 20


def test_the_checksum_of_a_whole_object_is_not_taken_for_that_of_a_range(tmp_path: Path) -> None:
    """As Ceph sends it with every range, and Amazon S3 a sum of sums with a range of all there is."""
    server = OneObject(DATA, breaks=5, bytes_each=0)
    whole = base64.b64encode(zlib.crc32(DATA).to_bytes(4, "big")).decode()
    server.dress = lambda headers: headers.setdefault("x-amz-checksum-crc32", whole)
    assert fetch(server, tmp_path) == {"model": WHOLE}

    small = OneObject(DATA[:50_000], breaks=1, bytes_each=0)
    digest = FileDigest(50_000, hashlib.sha256(DATA[:50_000]).hexdigest())
    assert fetch(small, tmp_path / "small", digest) == {"model": digest}
    assert small.ranges == [None, None], "asked for whole again"


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


class Gate:
    """Serves an object but for one range, which it refuses; the other ranges are not answered until `opened`."""

    def __init__(self, refused: int) -> None:
        self.server, self.refused, self.opened = (
            OneObject(DATA),
            f"bytes={refused * RANGE}-",
            threading.Event(),
        )
        self.waiting = threading.Semaphore(0)

    def __call__(self, request: http.server.BaseHTTPRequestHandler) -> None:
        asked = request.headers["Range"]
        if asked.startswith(self.refused):
            assert self.waiting.acquire(timeout=5), "another range waits already"
            s3_error(403, "AccessDenied")(request)
            return
        if not asked.startswith("bytes=0-"):
            self.waiting.release()
            self.opened.wait(20)
        self.server(request)


@pytest.mark.parametrize("broken", [False, True])
def test_an_error_does_not_wait_for_ranges_that_are_silent(
    broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it was told, those write nothing, are not asked for again, and no later file gets what was meant for this."""
    gate, written = Gate(refused=1), []
    real: Callable[..., int] = os.pwrite
    with answering(gate) as address:
        begun = time.monotonic()
        with pytest.raises(Denied, match="do not allow this"):
            at(address).download_tree("m", tmp_path, {"model": WHOLE})
        assert time.monotonic() - begun < 10, "of 20 s of silence"
        others = [(tmp_path / f"other-{number}").open("wb") for number in range(50)]
        monkeypatch.setattr(os, "pwrite", lambda *what: written.append(what) or real(*what))
        gate.server.breaks = 1000 if broken else 0
        gate.opened.set()
        until_no_range_is_read()
    assert written == []
    assert [os.fstat(file.fileno()).st_size for file in others] == [0] * 50
    for file in others:
        file.close()
        Path(file.name).unlink()
    assert list(tmp_path.iterdir()) == []
    assert len(gate.server.ranges) <= 12, "each at most once"


def test_an_error_on_this_side_ends_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_download, "RANGES_AT_ONCE", 2)
    server, opened = OneObject(DATA), threading.Event()
    server.look = lambda start: opened.wait(20) if start else None
    with answering(server) as address, (tmp_path / "model").open("wb") as file:
        store = at(address)
        assert isinstance(store, S3Store)
        with pytest.raises(FileNotFoundError):
            store._connection.downloads.fetch("m", SIZE, file, tmp_path / "gone", Stop())
        opened.set()
        until_no_range_is_read()
    assert len(server.ranges) <= 3, "of 13"
    assert open_files(tmp_path) == 0


def test_nothing_stays_open(tmp_path: Path) -> None:
    gate = Gate(refused=12)
    gate.opened.set()
    with answering(OneObject(DATA)) as good, answering(gate) as bad:
        at(good).download_tree("m", tmp_path, {"warm": WHOLE})
        before = open_files(tmp_path)
        at(good).download_tree("m", tmp_path, {"model": WHOLE})
        with pytest.raises(Denied):
            at(bad).download_tree("m", tmp_path, {"bad": WHOLE})
        until_no_range_is_read()
        assert open_files(tmp_path) == before == 0


def open_files(folder: Path) -> int:
    """This process's open files in a folder, removed ones too."""
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.append(str(descriptor.readlink()))
    return sum(name.startswith(str(folder)) for name in names)


def until_no_range_is_read() -> None:
    """Wait until the threads that read ranges have nothing to do."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        frames = sys._current_frames()
        busy = [
            thread
            for thread in threading.enumerate()
            if thread.name.startswith("s3-range")
            and thread.ident in frames
            and any(code is _Arriving.work.__code__ for code in codes(frames[thread.ident]))
        ]
        if not busy:
            return
        time.sleep(0.02)
    raise AssertionError("ranges are still read")


def codes(frame: FrameType | None) -> Iterator[CodeType]:
    """What a thread is in."""
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def test_an_error_does_not_wait_behind_the_ranges_of_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other file's ranges are ahead in the queue, and none of them is begun any more."""
    monkeypatch.setattr(s3_download, "RANGES_AT_ONCE", 2)
    slow, refuse = OneObject(DATA), s3_error(403, "AccessDenied")
    reading, opened = threading.Event(), threading.Event()

    def look(start: int) -> None:
        if start:
            reading.set()
            opened.wait(20)

    slow.look = look

    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        if request.path.endswith("/slow"):
            slow(request)
        else:
            reading.wait(5)
            refuse(request)

    with answering(handle) as address:
        begun = time.monotonic()
        with pytest.raises(Denied):
            at(address).download_tree("m", tmp_path, {"broken": WHOLE, "slow": WHOLE})
        assert time.monotonic() - begun < 10, "of 20 s of silence"
        opened.set()
        until_no_range_is_read()
    assert len(slow.ranges) <= 3, "of 13"


def test_a_thread_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod at its limit of processes: one error, and nothing left behind."""
    real, started = threading.Thread.start, []

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("s3-range"):
            started.append(thread.name)
            if len(started) == 4:
                raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        fetch(OneObject(DATA), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_somebody_cuts_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., int] = os.pwrite

    def cut(descriptor: int, data: bytes, position: int) -> int:
        written = real(descriptor, data, position)
        if position >= 5 * RANGE:
            os.ftruncate(descriptor, 4 * RANGE)
        return written

    monkeypatch.setattr(os, "pwrite", cut)
    with pytest.raises(Corrupt, match=r"became shorter while it was written|is damaged"):
        fetch(OneObject(DATA), tmp_path)


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
