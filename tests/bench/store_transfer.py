"""How fast a model's folder goes to a bucket and back, against plain boto3 and s5cmd on the same server.

`python tests/bench/store_transfer.py [--megabytes 512] [--rounds 3]` prints MB/s and ratios of one run. The server is
versitygw over a local folder (`make versitygw` builds it), so both ends share this
machine's cores and disk: the ratios say something, the MB/s of a real bucket are others. What is ours includes SHA-256
of every file in both directions; the others check nothing beyond the transfer's checksums.
"""

import argparse
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "operator")]  # wherever this is started

from tests.support import s3_servers  # noqa: E402

from selfrewarding.store import ArtifactStore, FileDigest, open_store  # noqa: E402

MB = 1_000_000


def model_folder(folder: Path, megabytes: int) -> Path:
    """Two large shards and 32 files of 1 MB: what a sharded model with its tokenizer and reports looks like."""
    folder.mkdir()
    small = min(32, megabytes // 4)
    shard = (megabytes - small) * MB // 2
    for n in range(2):
        with (folder / f"model-{n}.safetensors").open("wb") as file:
            block = os.urandom(8 * MB)
            for start in range(0, shard, len(block)):
                file.write(block[: shard - start])
    for n in range(small):
        (folder / f"part-{n:02d}.json").write_bytes(os.urandom(MB))
    return folder


class Ours:
    """`ArtifactStore.upload_tree` and `download_tree`."""

    def __init__(self, name: str, store: ArtifactStore, *, writable: bool = True) -> None:
        self.name, self.store, self.writable = name, store, writable
        self.digests: dict[str, FileDigest] = {}

    def up(self, folder: Path, prefix: str) -> None:
        self.digests = self.store.upload_tree(folder, prefix)

    def down(self, folder: Path, prefix: str) -> None:
        self.store.download_tree(prefix, folder, self.digests, writable=self.writable)


class PlainBoto3:
    """upload_file and download_file with boto3's defaults, one file after the other."""

    name = "boto3, file by file"

    def __init__(self, address: str, bucket: str) -> None:
        self.client, self.bucket = s3_servers.client(address), bucket
        self.names: list[str] = []

    def up(self, folder: Path, prefix: str) -> None:
        self.names = sorted(path.name for path in folder.iterdir())
        for name in self.names:
            self.client.upload_file(str(folder / name), self.bucket, f"{prefix}/{name}")

    def down(self, folder: Path, prefix: str) -> None:
        folder.mkdir()
        for name in self.names:
            self.client.download_file(self.bucket, f"{prefix}/{name}", str(folder / name))


class S5cmd:
    """s5cmd with its defaults (256 workers)."""

    name = "s5cmd"

    def __init__(self, binary: str, address: str, bucket: str) -> None:
        self.command = [binary, "--log", "error", "--endpoint-url", address, "cp"]
        self.bucket = bucket
        self.env = {**os.environ, **s3_servers.settings(address)}

    def up(self, folder: Path, prefix: str) -> None:
        subprocess.run(
            [*self.command, f"{folder}/", f"s3://{self.bucket}/{prefix}/"], env=self.env, check=True
        )

    def down(self, folder: Path, prefix: str) -> None:
        subprocess.run(
            [*self.command, f"s3://{self.bucket}/{prefix}/*", f"{folder}/"], env=self.env, check=True
        )


class Copy:
    """shutil.copytree and, as a store's content must be on the disk, sync: what a folder store is measured against."""

    name = "shutil.copytree, up with sync"

    def __init__(self, root: Path) -> None:
        self.root = root

    def up(self, folder: Path, prefix: str) -> None:
        shutil.copytree(folder, self.root / prefix)
        os.sync()

    def down(self, folder: Path, prefix: str) -> None:
        shutil.copytree(self.root / prefix, folder)


Way = Ours | PlainBoto3 | S5cmd | Copy


def compare(title: str, ways: list[Way], model: Path, rounds: int, scratch: Path) -> None:
    """Run each way in turn, `rounds` times, and print medians as ratios to the last one's."""
    size = sum(path.stat().st_size for path in model.iterdir())
    seconds: dict[tuple[str, str], list[float]] = {}
    for round_ in range(rounds):
        for way in ways:
            prefix, down = f"{way.name.split()[0].rstrip(',')}-{ways.index(way)}-{round_}", scratch / "down"
            for direction, work, local in (("up", way.up, model), ("down", way.down, down)):
                os.sync()
                start = time.perf_counter()
                work(local, prefix)
                seconds.setdefault((way.name, direction), []).append(time.perf_counter() - start)
            assert sum(path.stat().st_size for path in down.iterdir() if path.is_file()) == size, way.name
            shutil.rmtree(down)
    print(f"\n{title}, {size / MB:.0f} MB in {len(list(model.iterdir()))} files, median of {rounds}")
    last = ways[-1].name
    for way in ways:
        line = f"  {way.name:<34}"
        for direction in ("up", "down"):
            took = statistics.median(seconds[way.name, direction])
            ratio = statistics.median(seconds[last, direction]) / took
            line += f" {direction:>5} {size / MB / took:7.0f} MB/s ({ratio:4.2f}x)"
        print(line)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    options = parser.parse_args()
    gateway = s3_servers.versitygw_path() if "versitygw" in s3_servers.names() else None
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        work = Path(name)
        model = model_folder(work / "model", options.megabytes)
        store = open_store((work / "store").as_uri())
        folders = [
            Ours("folder store", store, writable=False),
            Ours("folder store, files of one's own", store),
        ]
        compare("Folder", [*folders, Copy(work / "copies")], model, options.rounds, work)
        if gateway is None:
            print(
                "\nNo comparison over S3: there is no versitygw (needs Go and extended attributes; once: `make versitygw`)."
            )
            return
        (work / "gateway").mkdir()
        with s3_servers.versitygw(gateway, work / "gateway") as address:
            s3_servers.make_bucket(address, "bench")
            settings = s3_servers.settings(address)
            ways: list[Way] = [Ours("our store, Python threads", open_store("s3://bench", settings))]
            if importlib.util.find_spec("awscrt") is not None:
                ways.append(
                    Ours(
                        "our store, awscrt", open_store("s3://bench", {**settings, "SRR_S3_TRANSFER": "crt"})
                    )
                )
            binary = shutil.which("s5cmd")
            if binary is not None:
                ways.append(S5cmd(binary, address, "bench"))
            ways.append(PlainBoto3(address, "bench"))
            compare("S3 (versitygw on this machine)", ways, model, options.rounds, work)
            if importlib.util.find_spec("awscrt") is None:
                print("  (awscrt is not installed: no line for it)")
            if binary is None:
                print("  (s5cmd is not on PATH: no line for it)")


if __name__ == "__main__":
    main()
