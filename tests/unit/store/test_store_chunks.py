"""Rows that survive a kill: in a folder, and from tests/local/store in S3."""

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from selfrewarding.store import (
    ArtifactStore,
    ChunkLog,
    NotFound,
    ReadCounts,
    Row,
    Unavailable,
    open_store,
    read_chunks,
    read_rows,
)

Place = tuple[str, dict[str, str]]
STAGE = "stages/Rollout/0123abcd"


def row(key: str, value: object = 0) -> bytes:
    return json.dumps({"key": key, "value": value}, ensure_ascii=False).encode()


def attempt(store: ArtifactStore, pod: str, **options: object) -> ChunkLog:
    return ChunkLog(store, f"{STAGE}/attempts/{pod}", **options)  # type: ignore[arg-type]


def written(store: ArtifactStore) -> list[str]:
    return [entry.key.removeprefix(f"{STAGE}/attempts/") for entry in store.list(f"{STAGE}/attempts")]


def test_rows_come_back_as_they_were(store: ArtifactStore) -> None:
    rows = [
        b'{ "key":"a",  "text": "\\ud55c\\n" }',
        '{"key": "b", "text": "한국어"}'.encode(),
        b'{"key":"c"}',
    ]
    with attempt(store, "pod-1") as log:
        log.append(rows[0])
        log.append(rows[1] + b"\n")
        log.flush()
        log.append(rows[2])
    assert list(read_rows(store, STAGE)) == [Row("a", rows[0]), Row("b", rows[1]), Row("c", rows[2])]
    assert list(read_chunks(store, STAGE)) == [json.loads(text) for text in rows]
    assert len(written(store)) == 2


def test_a_chunk_is_plain_json_lines_and_its_name_checks_it(store: ArtifactStore) -> None:
    import hashlib

    with attempt(store, "pod-1") as log:
        log.append(row("a"))
        log.append(row("b"))
    (name,) = written(store)
    data = store.read(f"{STAGE}/attempts/{name}")
    assert data == row("a") + b"\n" + row("b") + b"\n"
    assert name == f"pod-1/chunk-000001-a0001-r2-{hashlib.sha256(data).hexdigest()}.jsonl"


@pytest.mark.parametrize(
    "bad", [b"", b"[]", b"{}", b'{"key": 1}', b'{"key": "a"', b'{"key":\n"a"}', b"\xff", b"[" * 99_999]
)
def test_a_row_that_is_none(store: ArtifactStore, bad: bytes) -> None:
    with (
        attempt(store, "pod-1") as log,
        pytest.raises(ValueError, match="a row must be a JSON object on one line"),
    ):
        log.append(bad)
    assert written(store) == []


def test_pods_that_start_together_have_a_fixed_order(store: ArtifactStore) -> None:
    one, two = attempt(store, "pod-b"), attempt(store, "pod-a")
    one._place = two._place = (1, 0)  # both listed before either wrote
    one.append(row("x", "b"))
    two.append(row("x", "a"))
    one.close()
    two.close()
    assert [r["value"] for r in read_chunks(store, STAGE)] == ["a"]


def test_a_restarted_container_goes_on_in_its_own_folder(store: ArtifactStore) -> None:
    for pod, key in (("one", "a"), ("two", "b"), ("one", "c"), ("two", "d")):
        with attempt(store, pod) as log:
            log.append(row(key))
    assert [name.rsplit("-", 1)[0] for name in written(store)] == [
        "one/chunk-000001-a0001-r1",
        "one/chunk-000002-a0001-r1",
        "two/chunk-000001-a0002-r1",
        "two/chunk-000002-a0002-r1",
    ]
    assert [r["key"] for r in read_chunks(store, STAGE)] == ["a", "c", "b", "d"]


def test_logs_of_one_attempt_are_kept_apart(store: ArtifactStore) -> None:
    with (
        attempt(store, "pod", log="answers") as answers,
        attempt(store, "pod", log="judgements") as judgements,
    ):
        answers.append(row("a"))
        judgements.append(row("j"))
    store.write(f"{STAGE}/attempts/pod/checkpoint.json", b"{}")
    counts = ReadCounts()
    assert [r["key"] for r in read_chunks(store, STAGE, log="answers", counts=counts)] == ["a"]
    assert [r["key"] for r in read_chunks(store, STAGE, log="judgements", counts=counts)] == ["j"]
    assert list(read_chunks(store, STAGE, counts=counts)) == []
    assert counts.damaged == 0
    with pytest.raises(ValueError, match="log name"):
        attempt(store, "pod", log="An-swers")


def test_what_is_damaged_or_unfinished_is_left_out_and_counted(
    store: ArtifactStore, caplog: pytest.LogCaptureFixture
) -> None:
    with attempt(store, "pod") as log:
        for n in range(5):
            log.append(row(f"row-{n}"))
            log.flush()
    names = [f"{STAGE}/attempts/{name}" for name in written(store)]
    store.write(names[0], store.read(names[0])[:-4])
    store.write(names[2], store.read(names[2]).replace(b'"value": 0', b'"value": 7'))
    store.write(f"{STAGE}/attempts/pod/chunk-000009.jsonl", row("never"))
    counts = ReadCounts()
    with caplog.at_level(logging.WARNING):
        assert [r["key"] for r in read_chunks(store, STAGE, counts=counts)] == ["row-1", "row-3", "row-4"]
    assert (counts.damaged, counts.chunks, counts.rows) == (3, 3, 3)
    assert len(caplog.records) == 3
    assert all(store.uri in record.getMessage() for record in caplog.records)


def test_a_chunk_that_goes_while_it_is_read(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with attempt(store, "pod") as log:
        for n in range(3):
            log.append(row(f"row-{n}"))
            log.flush()
    real = store.read

    def read(key: str) -> bytes:
        if "000002" in key:
            raise NotFound(key)
        return real(key)

    monkeypatch.setattr(store, "read", read)
    counts = ReadCounts()
    assert [r["key"] for r in read_chunks(store, STAGE, counts=counts)] == ["row-0", "row-2"]
    assert counts.damaged == 1


def test_a_store_that_fails_is_no_damaged_chunk(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with attempt(store, "pod") as log:
        log.append(row("a"))

    def read(key: str) -> bytes:
        raise Unavailable("away")

    monkeypatch.setattr(store, "read", read)
    with pytest.raises(Unavailable):
        list(read_rows(store, STAGE))


def test_chunks_are_bounded_by_size(store: ArtifactStore) -> None:
    with attempt(store, "pod", max_bytes=1000) as log:
        for n in range(100):
            log.append(row(f"row-{n:03d}"))
        assert len(written(store)) >= 3
    sizes = [entry.size for entry in store.list(f"{STAGE}/attempts")]
    assert max(sizes) < 1000 + 40
    assert len(list(read_rows(store, STAGE))) == 100


def test_chunks_are_bounded_by_time(store: ArtifactStore) -> None:
    log = attempt(store, "pod", max_seconds=0.1)
    for n in range(3):
        log.append(row(f"row-{n}"))
        end = time.monotonic() + 20
        while len(written(store)) <= n:
            assert time.monotonic() < end, "a row was never written, although its time was up"
            time.sleep(0.02)
    log.close()
    log.close()
    assert len(written(store)) == 3
    with pytest.raises(ValueError, match="closed"):
        log.append(row("late"))
    assert log._timer is not None
    log._timer.join(10)
    assert not log._timer.is_alive()


def test_many_threads_append_to_one_log(store: ArtifactStore) -> None:
    with attempt(store, "pod", max_bytes=2000, max_seconds=0.05) as log:

        def work(n: int) -> None:
            for i in range(100):
                log.append(row(f"{n}-{i:03d}"))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    counts = ReadCounts()
    keys = [r.key for r in read_rows(store, STAGE, counts=counts)]
    assert sorted(keys) == [f"{n}-{i:03d}" for n in range(6) for i in range(100)]
    assert counts.duplicates == 0
    for n in range(6):
        assert [key for key in keys if key.startswith(f"{n}-")] == [f"{n}-{i:03d}" for i in range(100)]


WRITER = """
    import json, sys
    from selfrewarding.store import ChunkLog, open_store
    log = ChunkLog(open_store(sys.argv[1]), sys.argv[2], max_bytes=600)
    n = 0
    while True:
        log.append(json.dumps({"key": f"row-{n:06d}"}).encode())
        n += 1
        if n % 50 == 0:
            log.flush()
            print(n, flush=True)
"""


def test_a_kill_loses_nothing_that_was_flushed(place: Place) -> None:
    uri, env = place
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), uri, f"{STAGE}/attempts/pod-1"],
        env={**os.environ, **env, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout:
        flushed = [int(process.stdout.readline()) for _ in range(3)][-1]
        process.send_signal(signal.SIGKILL)
        process.wait()
    store = open_store(uri, env)
    counts = ReadCounts()
    keys = [r.key for r in read_rows(store, STAGE, counts=counts)]
    assert keys == [f"row-{n:06d}" for n in range(len(keys))]
    assert len(keys) >= flushed
    assert counts.damaged == counts.duplicates == 0
    before = {name: store.read(f"{STAGE}/attempts/{name}") for name in written(store)}
    with attempt(store, "pod-2") as log:
        log.append(row(keys[0], "computed again"))
        log.append(row("row-new"))
    after = list(read_rows(store, STAGE))
    assert [r.key for r in after] == [*keys, "row-new"]
    assert all(store.read(f"{STAGE}/attempts/{name}") == data for name, data in before.items())
