"""What is special about a folder: modes, links, temporary files, other users."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.sample_tree import FILES

from selfrewarding.store import (
    Denied,
    Misconfigured,
    NoSpace,
    NotFound,
    StoreError,
    Unavailable,
    atomic,
)
from selfrewarding.store import folder as folder_module
from selfrewarding.store.atomic import pending, sweep
from selfrewarding.store.errors import from_os_error
from selfrewarding.store.folder import FolderStore


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def private_umask() -> None:
    """Set where a user's shell is strict; put back after the test by `restore_umask`."""
    os.umask(0o077)


@pytest.fixture(autouse=True)
def restore_umask() -> object:
    before = os.umask(0)
    os.umask(before)
    yield
    os.umask(before)


@pytest.mark.usefixtures("private_umask")
def test_other_users_can_read_what_was_saved_privately(
    store: FolderStore, tree: Path, tmp_path: Path
) -> None:
    """safetensors saves with mode 0600: a pod of another user could not read the model."""
    (tree / "model.safetensors").chmod(0o600)
    store.upload_tree(tree, "models/M1")
    store.write("a/b/result.json", b"{}")
    store.create("c/d/result.json", b"{}")
    paths = list(store.root.rglob("*"))
    assert len(paths) > 8
    for path in [store.root, *paths]:
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path
    assert (tree / "model.safetensors").stat().st_mode & 0o777 == 0o600
    store.download_tree("models/M1", tmp_path / "down", writable=True)
    assert (tmp_path / "down/model.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_download_makes_hard_links_where_it_can(store: FolderStore, tree: Path, tmp_path: Path) -> None:
    digests = store.upload_tree(tree, "m")
    store.download_tree("m", tmp_path / "down", digests)
    stored, got = store.root / "m/model.safetensors", tmp_path / "down/model.safetensors"
    shares_blocks = got.stat().st_ino != stored.stat().st_ino
    if shares_blocks:
        with stored.open("rb") as one, (tmp_path / "clone").open("wb") as two:
            assert folder_module._share_blocks(one, two), "a full copy was made where a link was possible"
    # Repeating it replaces a link by itself; nothing temporary may stay.
    (tmp_path / "down/config.json").write_bytes(b"x") if shares_blocks else None
    store.download_tree("m", tmp_path / "down")
    assert sorted(path.name for path in (tmp_path / "down").rglob("*") if path.is_file()) == sorted(
        Path(name).name for name in FILES
    )


def test_a_download_copies_where_it_cannot_link(
    store: FolderStore, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = store.upload_tree(tree, "m")

    def refuse(*paths: object, **options: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(folder_module, "_share_blocks", lambda *files: False)
    assert store.download_tree("m", tmp_path / "down", digests) == digests
    assert (tmp_path / "down/model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert (tmp_path / "down/model.safetensors").stat().st_nlink == 1


def test_create_has_one_winner_on_a_file_system_without_hard_links(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: object, **options: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for n in range(20):
        gate = threading.Barrier(6)

        def commit(writer: int, key: str = f"k{n}", gate: threading.Barrier = gate) -> bool:
            gate.wait()
            return store.create(key, b"%d" % writer)

        with ThreadPoolExecutor(6) as pool:
            won = list(pool.map(commit, range(6)))
        assert won.count(True) == 1
        assert store.read(f"k{n}") == b"%d" % won.index(True)
    assert {path.name for path in store.root.iterdir()} == {f"k{n}" for n in range(20)}


def test_create_knows_its_own_link_whose_answer_was_lost(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS: the server makes the link, the answer is lost, the repeated request finds the name taken."""
    real = os.link

    def link_and_lose_the_answer(source: Path, target: Path) -> None:
        real(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link_and_lose_the_answer)
    assert store.create("result.json", b"mine") is True
    monkeypatch.setattr(os, "link", real)
    assert store.create("result.json", b"theirs") is False


def test_temporary_files_are_in_no_listing_and_no_key(store: FolderStore, tmp_path: Path) -> None:
    store.write("a/object", b"x")
    with pending(store.root / "a/other") as unfinished:
        unfinished.file.write(b"half")
        assert [entry.key for entry in store.list()] == ["a/object"]
        assert unfinished.path.parent == store.root / "a"
        with pytest.raises(Misconfigured, match="reserved"):
            store.read(f"a/{unfinished.path.name}")
    assert [path.name for path in (store.root / "a").iterdir()] == ["object"]


DIES_WRITING = """
    import os, sys
    from pathlib import Path
    from selfrewarding.store.atomic import PendingFile
    unfinished = PendingFile(Path(sys.argv[1]))
    unfinished.side_path.write_bytes(b"x")
    os._exit(9)
"""


def test_only_dead_writers_files_are_swept(tmp_path: Path) -> None:
    with pending(tmp_path / "alive") as alive:
        alive.side_path.write_bytes(b"side")
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(DIES_WRITING), tmp_path / "dead"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
        assert len(list(tmp_path.iterdir())) == 4
        sweep(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([alive.path, alive.side_path])
        alive.file.write(b"whole")
        alive.replace(0o644)
    assert [path.name for path in tmp_path.iterdir()] == ["alive"]
    assert (tmp_path / "alive").read_bytes() == b"whole"
    sweep(tmp_path / "nothing")


def test_nothing_is_swept_where_files_cannot_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(atomic.fcntl, "flock", refuse)
    with pending(tmp_path / "alive") as alive:
        sweep(tmp_path)
        assert alive.path.exists()
        alive.replace(0o644)
    assert (tmp_path / "alive").exists()


def test_a_folder_that_vanishes_while_it_is_written_to_is_made_again(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tries = folder_module.make_folders, []

    def make_and_lose(folder: Path) -> None:
        real(folder)
        tries.append(folder)
        if len(tries) < 3:
            shutil.rmtree(store.root)

    monkeypatch.setattr(folder_module, "make_folders", make_and_lose)
    store.write("a/b/c", b"x")
    assert store.read("a/b/c") == b"x"


def test_a_key_below_an_object(store: FolderStore) -> None:
    store.write("a", b"x")
    with pytest.raises(Misconfigured, match="both an object and a folder"):
        store.write("a/b", b"y")
    store.write("c/d", b"x")
    with pytest.raises(Misconfigured, match="both an object and a folder"):
        store.write("c", b"y")
    assert [entry.key for entry in store.list()] == ["a", "c/d"]


def test_a_link_to_a_folder_is_not_deleted_through(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/precious").write_bytes(b"x")
    store.write("run/a", b"x")
    (store.root / "run/link").symlink_to(tmp_path / "outside")
    assert store.delete_prefix("run") == 1
    assert (tmp_path / "outside/precious").exists()


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.ENOSPC, NoSpace, "enlarge the volume"),
        (errno.EDQUOT, NoSpace, "quota"),
        (errno.EFBIG, NoSpace, "ulimit"),
        (errno.EACCES, Denied, "fsGroup"),
        (errno.EPERM, Denied, "fsGroup"),
        (errno.EROFS, Denied, "writable"),
        (errno.ENOENT, NotFound, "No such file"),
        (errno.ENOTDIR, Misconfigured, "both an object and a folder"),
        (errno.ENAMETOOLONG, Misconfigured, "255 bytes"),
        (errno.ESTALE, Unavailable, "still mounted"),
        (errno.EIO, Unavailable, "still mounted"),
    ],
)
def test_errors_of_the_operating_system(number: int, kind: type[StoreError], said: str) -> None:
    error = from_os_error(OSError(number, os.strerror(number)), "write", Path("/no/such/folder/object"))
    assert type(error) is kind
    assert said in str(error)
    assert "/no/such/folder/object" in str(error)
    assert error.retryable is (kind is Unavailable)


def test_the_check_before_a_run_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Misconfigured, match=f"cannot be used: cannot write {tmp_path}/file/store/"):
        FolderStore(tmp_path / "file/store").check_writable()


READ_ONLY = """
    import os, sys
    from pathlib import Path
    from selfrewarding.store import Denied
    from selfrewarding.store.folder import FolderStore
    os.chdir("/")
    if os.geteuid() == 0:
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
    try:
        FolderStore(Path(sys.argv[1])).check_writable()
    except Denied as error:
        print(error)
"""


def test_the_check_before_a_run_in_a_folder_of_somebody_else(tmp_path: Path) -> None:
    folder = tmp_path / "readonly"
    folder.mkdir()
    folder.chmod(0o555)
    for parent in [folder.parent, *folder.parent.parents][:3]:
        if parent.stat().st_uid == os.geteuid():
            parent.chmod(parent.stat().st_mode | 0o055)
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(READ_ONLY), folder],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "cannot be used" in run.stdout, run.stderr
    assert "fsGroup" in run.stdout
