"""A disk that is full while a model goes into a folder, or comes out of a bucket."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.support import s3_servers

from selfrewarding.store import open_store

FULL_DISK = """
    import resource, subprocess, sys
    from pathlib import Path
    from selfrewarding.store import NoSpace, open_store
    from selfrewarding.store.folder import FolderStore

    kind, root, model, source = sys.argv[1:]
    Path(root).mkdir()
    if kind == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", root], check=True)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))
    store = FolderStore(Path(root))
    large = bytes(12 << 20)
    def upload(): store.upload_tree(Path(model), "m")
    def write(): store.write("large", large)
    def create(): store.create("large", large)
    def download(): open_store(source).download_tree("m", Path(root) / "down")
    for call in (upload, write, create, download):
        try:
            call()
            print("no error from", call.__name__)
        except NoSpace as error:
            print(error)
    print("left:", [e.key for e in store.list() if e.size > 1 << 20], len(list(Path(root).rglob(".srr-tmp-*"))))
    store.write("small", b"there is room for this")
    print(store.read("small").decode())
"""


def _may_mount() -> bool:
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(probe, capture_output=True, check=False).returncode == 0
    )


@pytest.mark.parametrize("kind", ["limit on file size", *(["tmpfs"] if _may_mount() else [])])
def test_a_full_disk_is_said_plainly_and_leaves_nothing_behind(
    kind: str, tmp_path: Path, tree: Path, moto_address: str
) -> None:
    bucket = f"full-{kind.replace(' ', '-')}"
    s3_servers.make_bucket(moto_address, bucket)
    s3_uri, s3_settings = f"s3://{bucket}/runs", s3_servers.settings(moto_address)
    open_store(s3_uri, s3_settings).upload_tree(tree, "m")
    root = tmp_path / "disk"
    in_own_mounts = ["unshare", "--mount"] if kind == "tmpfs" else []
    run = subprocess.run(
        [*in_own_mounts, sys.executable, "-c", textwrap.dedent(FULL_DISK), kind, root, tree, s3_uri],
        env={**os.environ, **s3_settings, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = run.stdout.splitlines()
    assert len(lines) == 6, run.stderr
    remedy = "enlarge the volume" if kind == "tmpfs" else "ulimit -f"
    for line in lines[:4]:
        assert str(root) in line
        assert remedy in line
        assert "MiB free on that file system" in line
    assert lines[4:] == ["left: [] 0", "there is room for this"]
