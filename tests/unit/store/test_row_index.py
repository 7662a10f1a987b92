"""The index of rows: every row is found, by key and by prefix, with a few ranged reads however many there are."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfrewarding.contract.artifacts import stage_prefix
from selfrewarding.contract.result import FileRef, StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.data.jsonl import encode_row
from selfrewarding.store import Corrupt
from selfrewarding.store.folder import FolderStore
from selfrewarding.store.row_index import IndexWriter, find_rows

NAME, INDEX = "rows.jsonl", "rows.index"


class CountingStore(FolderStore):
    """Counts what is asked for."""

    ranged = 0
    range_bytes = 0

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """As the folder does."""
        self.ranged += 1
        self.range_bytes += length
        return super().read_range(key, start, length)


def stored(folder: Path, keys: Sequence[str], *, indexed: bool = True) -> tuple[CountingStore, StageResult]:
    store, index = CountingStore(folder), IndexWriter()
    rows = b"".join(index.add(key, encode_row({"key": key, "n": n})) for n, key in enumerate(keys))
    content = {NAME: rows} | ({INDEX: index.content()} if indexed else {})
    result = StageResult(
        contract=1,
        kind=StageKind.BUILD_PREFERENCES,
        iteration=2,
        key="a" * 64,
        files={name: FileRef(path=name, size=len(data), sha256="") for name, data in content.items()},
        seconds=1,
        pod="p",
    )
    for name, data in content.items():
        store.write(f"{stage_prefix(result.kind, result.key)}/{name}", data)
    return store, result


def numbers(store: CountingStore, result: StageResult, wanted: str) -> list[int]:
    return [found.row["n"] for found in find_rows(store, result, NAME, INDEX, wanted)]


def digests(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


@pytest.mark.parametrize("indexed", [True, False])
def test_every_row_is_found_by_key_and_by_prefix(tmp_path: Path, indexed: bool) -> None:
    keys = digests(3000)
    store, result = stored(tmp_path, keys, indexed=indexed)
    for number in (0, 1, 1023, 1024, 1500, 2998, 2999):
        assert numbers(store, result, keys[number]) == [number]
        assert number in numbers(store, result, keys[number][:12])
    assert numbers(store, result, "0" * 64) == []
    # One digit more than exist in common: nobody.
    assert numbers(store, result, keys[5][:30] + "g") == []


def test_one_of_many_rows_is_found_with_a_few_small_reads(tmp_path: Path) -> None:
    keys = digests(100_000)
    store, result = stored(tmp_path, keys)
    for number in range(0, 100_000, 9973):
        store.ranged = store.range_bytes = 0
        assert numbers(store, result, keys[number]) == [number]
        assert store.ranged <= 6
        assert store.range_bytes <= 5 * 44 * 1024 + 1000


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_keys_that_are_not_spread_evenly_are_found_too(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    beginning = data.draw(st.sampled_from(["0", "f", "7", ""]))
    count = data.draw(st.sampled_from([1, 2, 1024, 1025, 2049, 5000]))
    keys = [(beginning * 12 + f"{number:x}".rjust(20, "0")).ljust(64, "a")[:64] for number in range(count)]
    store, result = stored(tmp_path_factory.mktemp("rows"), keys)
    number = data.draw(st.integers(0, count - 1))
    assert number in numbers(store, result, keys[number])


def test_equal_keys_and_keys_that_are_no_digests(tmp_path: Path) -> None:
    store, result = stored(tmp_path, ["p001", "p002", "p001", "Ärger/1"])
    assert numbers(store, result, "p001") == [0, 2]
    assert numbers(store, result, "Ärger/1") == [3]
    assert numbers(store, result, "p00") == [], "only the beginning of a digest is looked for"


def test_no_more_rows_than_asked_for(tmp_path: Path) -> None:
    keys = digests(200)
    store, result = stored(tmp_path, keys)
    some = {found.row["key"] for found in find_rows(store, result, NAME, INDEX, "a", limit=3)}
    assert len(some) == 3
    assert all(key.startswith("a") for key in some)


def test_a_file_that_is_not_there_and_an_empty_one(tmp_path: Path) -> None:
    store, result = stored(tmp_path, [])
    assert find_rows(store, result, NAME, INDEX, "a" * 64) == []
    assert find_rows(store, result, "other.jsonl", INDEX, "a" * 64) == []


@pytest.mark.parametrize("name", [NAME, INDEX])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    keys = digests(10)
    store, result = stored(tmp_path, keys)
    where = f"{stage_prefix(result.kind, result.key)}/{name}"
    store.write(where, b"x" * len(store.read(where)))
    with pytest.raises(Corrupt, match="damaged"):
        find_rows(store, result, NAME, INDEX, keys[3])
