"""What every artifact store promises: asked of a folder, and from tests/local/store of S3 servers."""

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.sample_tree import FILES

from selfrewarding.store import ArtifactStore, Corrupt, FileDigest, Misconfigured, NotFound, open_store

Place = tuple[str, dict[str, str]]


def keys(store: ArtifactStore, prefix: str = "") -> list[str]:
    return [entry.key for entry in store.list(prefix)]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_what_is_written_is_read(store: ArtifactStore) -> None:
    store.write("a/b.json", b"first")
    store.write("a/b.json", b"second")
    assert store.read("a/b.json") == b"second"
    with store.read_stream("a/b.json") as stream:
        assert stream.read(3) == b"sec"
        assert stream.read() == b"ond"
        assert stream.read() == b""


def test_a_stream_gives_lines(store: ArtifactStore) -> None:
    store.write("rows", b"".join(b"%d\n" % n for n in range(300_000)))
    with store.read_stream("rows") as stream:
        assert [int(line) for line in stream] == list(range(300_000))


def test_a_range_of_an_object(store: ArtifactStore) -> None:
    store.write("rows", b"0123456789")
    assert store.read_range("rows", 3, 4) == b"3456"
    assert store.read_range("rows", 8, 100) == b"89"
    assert store.read_range("rows", 10, 1) == b""
    assert store.read_range("rows", 0, 0) == b""
    with pytest.raises(NotFound):
        store.read_range("nothing", 0, 1)


def test_an_object_over_the_size_of_one_request(store: ArtifactStore) -> None:
    data = bytes(65 * 1024 * 1024)
    store.write("large", data)
    found = store.stat("large")
    assert found is not None
    assert found.size == len(data)
    assert hashlib.sha256(store.read("large")).digest() == hashlib.sha256(data).digest()


def test_what_is_not_there(store: ArtifactStore) -> None:
    store.write("folder/object", b"")
    for key in ("nothing", "folder", "folder/nothing"):
        assert store.stat(key) is None
        with pytest.raises(NotFound, match=key):
            store.read(key)
        with pytest.raises(NotFound):
            store.read_stream(key)
        store.delete(key)
    assert keys(store) == ["folder/object"]
    assert keys(store, "no/such/prefix") == []
    assert store.delete_prefix("no/such/prefix") == 0


def test_stat_changes_with_the_content(store: ArtifactStore) -> None:
    store.write("key", b"one")
    first = store.stat("key")
    assert first is not None
    assert first.size == 3
    assert store.stat("key") == first
    store.write("key", b"two")
    second = store.stat("key")
    assert second is not None
    assert second.etag != first.etag


def test_create_takes_only_the_first(store: ArtifactStore) -> None:
    assert store.create("stages/result.json", b"mine") is True
    assert store.create("stages/result.json", b"theirs") is False
    assert store.read("stages/result.json") == b"mine"
    store.delete("stages/result.json")
    assert store.create("stages/result.json", b"again") is True


def test_concurrent_create_has_exactly_one_winner(place: Place) -> None:
    stores = [open_store(*place) for _ in range(8)]
    for round_ in range(15):
        gate = threading.Barrier(len(stores))

        def commit(n: int, key: str = f"round/{round_}", gate: threading.Barrier = gate) -> bool:
            gate.wait()
            return stores[n].create(key, b"writer %d" % n)

        with ThreadPoolExecutor(len(stores)) as pool:
            won = list(pool.map(commit, range(len(stores))))
        assert won.count(True) == 1
        assert stores[0].read(f"round/{round_}") == b"writer %d" % won.index(True)


def test_a_reader_sees_a_whole_object(store: ArtifactStore) -> None:
    versions = {bytes([n]) * 700_000 for n in range(6)}
    store.write("key", bytes(700_000))
    done = threading.Event()

    def rewrite() -> None:
        for _ in range(4):
            for version in versions:
                store.write("key", version)
        done.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(rewrite)
        seen = 0
        while not done.is_set() and not writing.done():
            assert store.read("key") in versions
            seen += 1
        writing.result()
    assert seen > 0


def test_listing_is_sorted_by_key_and_knows_folders(store: ArtifactStore) -> None:
    written = ["a-b", "a.txt", "a/b", "a/c/d", "a0", "b", "한국어"]
    for key in reversed(written):
        store.write(key, key.encode())
    assert keys(store) == sorted(written, key=str.encode) == written
    assert keys(store, "a") == keys(store, "a/") == ["a/b", "a/c/d"]
    entry = next(entry for entry in store.list() if entry.key == "b")
    assert entry.size == 1
    assert abs(entry.modified - datetime.now(UTC)) < timedelta(minutes=10)


def test_a_listing_of_more_than_one_page(store: ArtifactStore) -> None:
    names = [f"many/{n:05d}" for n in range(1_100)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.write(key, b""), names))
    assert keys(store, "many") == names
    assert store.delete_prefix("many") == 1_100
    assert keys(store) == []


def test_delete_prefix_takes_a_folder_and_nothing_beside_it(store: ArtifactStore) -> None:
    for key in ("run/a", "run/b/c", "run2/a", "run-a", "other"):
        store.write(key, b"x")
    assert store.delete_prefix("run") == 2
    assert keys(store) == ["other", "run-a", "run2/a"]
    with pytest.raises(Misconfigured, match="refused to delete all"):
        store.delete_prefix("")
    assert keys(store) == ["other", "run-a", "run2/a"]


def test_sub_is_the_same_store_further_down(store: ArtifactStore) -> None:
    stage = store.sub("stages/Rollout").sub("key/")
    stage.write("a", b"1")
    assert keys(store) == ["stages/Rollout/key/a"]
    assert keys(stage) == ["a"]
    assert stage.uri == f"{store.uri}/stages/Rollout/key"
    assert store.sub("").uri == store.uri


def test_a_key_cannot_lead_out_of_the_store(store: ArtifactStore) -> None:
    for key in (
        "",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/../../b",
        "a/./b",
        "a\\b",
        "a\nb",
        "a\0b",
        "x" * 1025,
        "\udc80",
    ):
        for call in (store.stat, store.read, store.read_stream, store.delete, store.sub(".hidden").read):
            with pytest.raises(Misconfigured, match="bad artifact key"):
                call(key)
        with pytest.raises(Misconfigured, match="bad artifact key"):
            store.write(key, b"")
        with pytest.raises(Misconfigured, match="bad artifact key"):
            store.create(key, b"")


def test_a_tree_goes_up_and_comes_down(store: ArtifactStore, tree: Path, tmp_path: Path) -> None:
    digests = store.upload_tree(tree, "models/M1")
    assert digests == {
        name: FileDigest(len(data), hashlib.sha256(data).hexdigest()) for name, data in sorted(FILES.items())
    }
    assert list(digests) == sorted(FILES)
    assert keys(store) == sorted((f"models/M1/{name}" for name in FILES), key=str.encode)
    assert store.download_tree("models/M1", tmp_path / "down", digests) == digests
    assert contents(tmp_path / "down") == FILES
    assert store.download_tree("models/M1", tmp_path / "all") == digests
    assert contents(tmp_path / "all") == FILES


def test_one_file_goes_up(store: ArtifactStore, tree: Path) -> None:
    digest = store.upload_file(tree / "model.safetensors", "shards/model.safetensors")
    assert digest.sha256 == hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    assert store.read("shards/model.safetensors") == FILES["model.safetensors"]


def test_a_download_takes_only_the_named_files(store: ArtifactStore, tree: Path, tmp_path: Path) -> None:
    digests = store.upload_tree(tree, "m")
    store.write("m/left-over-of-a-killed-attempt", b"x")
    store.download_tree("m", tmp_path / "down", {"config.json": digests["config.json"]})
    assert contents(tmp_path / "down") == {"config.json": FILES["config.json"]}


def test_a_download_goes_on_where_it_stopped(store: ArtifactStore, tree: Path, tmp_path: Path) -> None:
    digests = store.upload_tree(tree, "m")
    down = tmp_path / "down"
    store.download_tree("m", down, digests)
    kept = (down / "model.safetensors").stat()
    (down / "config.json").unlink()
    (down / "tokenizer/tokenizer.json").unlink()
    (down / "tokenizer/tokenizer.json").write_bytes(b"[]")
    store.download_tree("m", down, digests)
    assert contents(down) == FILES
    again = (down / "model.safetensors").stat()
    assert (again.st_ino, again.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)


def test_a_damaged_object_is_noticed_and_not_delivered(
    store: ArtifactStore, tree: Path, tmp_path: Path
) -> None:
    digests = store.upload_tree(tree, "m")
    damaged = bytearray(FILES["model.safetensors"])
    damaged[len(damaged) // 2] ^= 1
    store.write("m/model.safetensors", bytes(damaged))
    with pytest.raises(Corrupt, match=r"model\.safetensors.*expected .* bytes with SHA-256"):
        store.download_tree("m", tmp_path / "down", digests)
    assert not (tmp_path / "down/model.safetensors").exists()
    assert not list((tmp_path / "down").rglob(".srr-tmp-*"))
    store.write("m/model.safetensors", FILES["model.safetensors"][:-1])
    with pytest.raises(Corrupt):
        store.download_tree("m", tmp_path / "down", digests)


def test_a_named_file_that_is_missing(store: ArtifactStore, tree: Path, tmp_path: Path) -> None:
    digests = store.upload_tree(tree, "m")
    store.delete("m/config.json")
    with pytest.raises(NotFound, match=r"m/config\.json"):
        store.download_tree("m", tmp_path / "down", digests)
    with pytest.raises(NotFound, match="nothing below"):
        store.download_tree("no/such/model", tmp_path / "none")


def test_a_name_in_a_result_cannot_lead_out_of_the_folder(store: ArtifactStore, tmp_path: Path) -> None:
    store.write("m/a", b"x")
    with pytest.raises(Misconfigured, match="bad artifact key"):
        store.download_tree("m", tmp_path / "down", {"../escaped": FileDigest(1, "0" * 64)})
    assert not (tmp_path / "escaped").exists()


def test_downloaded_files_of_ones_own_can_be_changed(
    store: ArtifactStore, tree: Path, tmp_path: Path
) -> None:
    digests = store.upload_tree(tree, "m")
    for writable_first in (True, False):
        down = tmp_path / f"down-{writable_first}"
        store.download_tree("m", down, digests, writable=writable_first)
        store.download_tree("m", down, digests, writable=True)
        (down / "config.json").write_bytes(b"changed in place")
        assert store.read("m/config.json") == FILES["config.json"]


def test_links_to_files_are_followed_and_others_refused(
    store: ArtifactStore, tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "blob").write_bytes(b"weights")
    (tree / "linked.bin").symlink_to(tmp_path / "blob")
    assert "linked.bin" in store.upload_tree(tree, "m")
    assert store.read("m/linked.bin") == b"weights"
    (tree / "dangling").symlink_to(tmp_path / "nothing")
    with pytest.raises(Misconfigured, match=r"dangling.*link to nothing"):
        store.upload_tree(tree, "m2")
    (tree / "dangling").unlink()
    (tree / "folder").symlink_to(tmp_path)
    with pytest.raises(Misconfigured, match="link to a folder"):
        store.upload_tree(tree, "m2")
    (tree / "folder").unlink()
    os.mkfifo(tree / "pipe")
    with pytest.raises(Misconfigured, match="no regular file"):
        store.upload_tree(tree, "m2")
    with pytest.raises(NotFound, match="not a folder"):
        store.upload_tree(tree / "config.json", "m2")
    assert keys(store, "m2") == []


def test_a_file_that_changes_during_its_upload(
    store: ArtifactStore, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change comes while it is digested, where both adapters read it."""
    real = hashlib.sha256
    changed = threading.Event()

    def touch_then_digest(*args: object, **options: object) -> object:
        if not changed.is_set():
            changed.set()
            with (tree / "model.safetensors").open("ab") as file:
                file.write(b"one more step")
        return real()

    monkeypatch.setattr(hashlib, "sha256", touch_then_digest)
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, name: (touch_then_digest(), file.read(), real())[2]
    )
    with pytest.raises(Corrupt, match=r"model\.safetensors changed"):
        store.upload_file(tree / "model.safetensors", "m")


def test_the_check_before_a_run_leaves_nothing_behind(store: ArtifactStore) -> None:
    store.write("somebody/elses", b"x")
    store.check_writable()
    assert keys(store) == ["somebody/elses"]


def test_the_first_error_of_many_files_stops_the_rest(
    store: ArtifactStore, tree: Path, tmp_path: Path
) -> None:
    digests = store.upload_tree(tree, "m")
    wanted = {f"missing-{n:03d}": digests["config.json"] for n in range(200)}
    with pytest.raises(NotFound):
        store.download_tree("m", tmp_path / "down", wanted)
    assert contents(tmp_path / "down") == {}


KILLED_UPLOAD = """
    import sys, time
    from pathlib import Path
    from selfrewarding.store import folder, open_store

    def stall(*anything, **named):
        print("half-way", flush=True)
        time.sleep(600)

    store = open_store(sys.argv[1])
    if sys.argv[1].startswith("s3:") and store._connection.uploads.by_awscrt:
        from s3transfer.crt import BotocoreCRTCredentialsWrapper as Credentials

        give, asked = Credentials.__call__, []
        def stall_at_part_two(self):
            asked.append(len(asked))  # once for each request: the first begins the upload
            return give(self) if len(asked) < 3 else stall()
        Credentials.__call__ = stall_at_part_two
    elif sys.argv[1].startswith("s3:"):
        def stall_at_part_two(params, **named):
            if "partNumber=2" in params["query_string"].__str__() or params["query_string"].get("partNumber") == 2:
                stall()
        store._client.meta.events.register("before-call.s3.UploadPart", stall_at_part_two)
    else:
        real = folder._copy
        def copy(source, target, stop):
            target.write(source.read(4_000_000))
            target.flush()
            stall()
        folder._copy = copy
        folder._share_blocks = lambda *files: False
    store.upload_tree(Path(sys.argv[2]), "models/M1")
"""


def test_a_kill_in_the_middle_of_an_upload_leaves_nothing_visible(
    place: Place, tree: Path, tmp_path: Path
) -> None:
    uri, settings = place
    for name in FILES:
        if name != "model.safetensors":
            (tree / name).unlink()
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED_UPLOAD), uri, str(tree)],
        env={**os.environ, **settings, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"half-way\n"
        store = open_store(uri, settings)
        assert keys(store) == []
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert keys(store) == []
    assert store.stat("models/M1/model.safetensors") is None
    with pytest.raises(NotFound):
        store.download_tree("models/M1", tmp_path / "down")
    digests = store.upload_tree(tree, "models/M1")
    store.download_tree("models/M1", tmp_path / "down", digests)
    assert contents(tmp_path / "down") == {"model.safetensors": FILES["model.safetensors"]}
    store.delete_prefix("models/M1")
    assert_nothing_is_left(store)


def assert_nothing_is_left(store: ArtifactStore) -> None:
    """Neither temporary files nor parts of an upload that was never finished."""
    if hasattr(store, "root"):
        assert [path for path in store.root.rglob("*") if path.is_file()] == []
    else:
        client = store._client  # type: ignore[attr-defined]
        assert client.list_multipart_uploads(Bucket=store._bucket).get("Uploads", []) == []  # type: ignore[attr-defined]
