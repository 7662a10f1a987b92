"""Which of a row's copies counts, and rows while the store is away: what a chunk log does, whatever store it writes to."""

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.store.test_store_chunks import STAGE, attempt, row, written

from selfrewarding.store import ReadCounts, Unavailable, read_chunks
from selfrewarding.store.folder import FolderStore


def test_the_first_attempt_wins_whatever_its_name_and_its_time(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    for pod, value in (("zz", 1), ("mm", 2), ("aa", 3)):
        with attempt(store, pod) as log:
            log.append(row("shared", value))
            log.append(row(f"only-{pod}", value))
    expected = [("shared", 1), ("only-zz", 1), ("only-mm", 2), ("only-aa", 3)]
    counts = ReadCounts()
    assert [(r["key"], r["value"]) for r in read_chunks(store, STAGE, counts=counts)] == expected
    assert (counts.chunks, counts.rows, counts.duplicates, counts.damaged) == (3, 4, 2, 0)
    for path in store.root.rglob("*.jsonl"):
        os.utime(path, (random.randrange(10**9), random.randrange(10**9)))
    assert [(r["key"], r["value"]) for r in read_chunks(store, STAGE)] == expected


def test_rows_wait_for_company_until_their_time_is_up(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    log = attempt(store, "pod", max_seconds=600)
    for n in range(50):
        log.append(row(f"row-{n}"))
    time.sleep(0.1)
    assert written(store) == []
    log.close()
    assert len(written(store)) == 1


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 5), max_size=4)), max_size=8))
def test_reading_equals_the_plain_model(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, list[int]]]
) -> None:
    """Any sequence of pods, each writing some rows and dying: first by order of attempts, then by chunks, wins."""
    store = FolderStore(tmp_path_factory.mktemp("model") / "store")
    order: list[int] = []
    chunks: dict[int, list[tuple[str, int]]] = {}
    for value, (pod, row_keys) in enumerate(runs):
        with attempt(store, f"pod-{9 - pod}") as log:
            for number in row_keys:
                log.append(row(str(number), value))
        if row_keys:
            order += [pod] if pod not in order else []
            chunks.setdefault(pod, []).extend((str(number), value) for number in row_keys)
    model: dict[str, int] = {}
    for pod in order:
        for key, value in chunks[pod]:
            model.setdefault(key, value)
    assert {r["key"]: r["value"] for r in read_chunks(store, STAGE)} == model
    assert [r["key"] for r in read_chunks(store, STAGE)] == list(model)


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FolderStore, threading.Event]]:
    """A store that takes nothing as long as the event is set."""
    store, down = FolderStore(tmp_path / "store"), threading.Event()
    real = store.create

    def create(key: str, data: bytes) -> bool:
        if down.is_set():
            raise Unavailable("away")
        return real(key, data)

    monkeypatch.setattr(store, "create", create)
    yield store, down
    down.clear()


def test_no_row_is_lost_or_doubled_while_the_store_is_away(
    failing: tuple[FolderStore, threading.Event],
) -> None:
    store, down = failing
    log = attempt(store, "pod", max_seconds=600)
    log.append(row("a"))
    down.set()
    with pytest.raises(Unavailable):
        log.flush()
    log.append(row("b"))
    with pytest.raises(Unavailable):
        log.close()
    down.clear()
    log.close()
    assert [r["key"] for r in read_chunks(store, STAGE)] == ["a", "b"]
    assert len(written(store)) == 1


def test_the_time_watch_goes_on_after_a_failure(
    failing: tuple[FolderStore, threading.Event], caplog: pytest.LogCaptureFixture
) -> None:
    store, down = failing
    down.set()
    log = attempt(store, "pod", max_seconds=0.02)
    log.append(row("a"))
    end = time.monotonic() + 20
    while not caplog.records and time.monotonic() < end:
        time.sleep(0.01)
    assert "rows are held back" in caplog.text
    down.clear()
    while not written(store) and time.monotonic() < end:
        time.sleep(0.01)
    assert len(written(store)) == 1
    log.close()


def test_a_write_whose_answer_was_lost_is_not_a_second_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path / "store")
    real, calls = store.create, []

    def create(key: str, data: bytes) -> bool:
        made = real(key, data)
        calls.append(key)
        if len(calls) == 1:
            raise Unavailable("the answer got lost")
        return made

    monkeypatch.setattr(store, "create", create)
    log = attempt(store, "pod")
    log.append(row("a"))
    with pytest.raises(Unavailable):
        log.flush()
    log.close()
    assert len(calls) == 2
    assert len(written(store)) == 1
