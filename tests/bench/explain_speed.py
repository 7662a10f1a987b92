"""`srr explain` on a run with 100,000 pairs: seconds from the start of the process to its end. Goal: at most 1 s
in the median; the exit code is 1 where it is missed.

Asked for keys of pairs, and for keys of prompts, as alarms name them.

    python tests/bench/explain_speed.py [--pairs 100000] [--folder DIR]

The run has three iterations; answers and judgements are as long as a small model's. The first call after writing reads
files that may be in memory, so `--cold` asks the kernel to forget them (needs root).
"""

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.support.lineage_run import RUN, FinishedRun

from selfrewarding.contract.artifacts import PAIRS, stage_prefix

CALLS = 10
GOAL_SECONDS = 1.0


def some_rows(run: FinishedRun, count: int) -> list[dict[str, str]]:
    """Pairs of both iterations, from anywhere in the files."""
    found = []
    for name in ("preferences2", "preferences3"):
        result = run.results[name]
        path = run.store.root / stage_prefix(result.kind, result.key) / result.files[PAIRS].path
        with path.open("rb") as lines:
            rows = [{"key": row["key"], "id": row["id"]} for row in map(json.loads, lines)]
        found += random.Random(7).sample(rows, count // 2)
    return found


def processor_seconds() -> float:
    """Of the calls so far: what a call takes where nothing else wants the processors."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def forget(folder: Path) -> None:
    """Drop the files from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--cold", action="store_true", help="drop files from memory before each call")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="srr-explain-"))
    try:
        began = time.perf_counter()
        run = FinishedRun(folder, prompts=asked.pairs // 2, padding=600)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(
            f"run with {asked.pairs:,} pairs, {size / 1e6:,.0f} MB, written in {time.perf_counter() - began:.0f} s"
        )
        rows = some_rows(run, CALLS)
        missed: list[str] = []
        for what, field in (("pair", "key"), ("prompt", "id")):
            seconds: list[float] = []
            before = processor_seconds()
            for row in rows:
                if asked.cold:
                    forget(folder)
                command = [str(Path(sys.executable).parent / "srr"), "explain", row[field][:16]]
                command += ["--store", folder.as_uri(), "--run", f"{RUN.namespace}/{RUN.name}"]
                began = time.perf_counter()
                done = subprocess.run(command, capture_output=True, check=True)
                seconds.append(time.perf_counter() - began)
                assert row["key"].encode() in done.stdout
            print(
                f"srr explain, key of a {what}: median {statistics.median(seconds):.2f} s, slowest {max(seconds):.2f} s of "
                f"{CALLS} calls, process start included (goal: {GOAL_SECONDS:g} s); "
                f"{(processor_seconds() - before) / CALLS:.2f} s of a processor"
            )
            missed += [what] if statistics.median(seconds) > GOAL_SECONDS else []
        for what in missed:
            print(f"MISSED: the median of explaining a {what}", file=sys.stderr)
        return int(bool(missed))
    finally:
        if asked.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
