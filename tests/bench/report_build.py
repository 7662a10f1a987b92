"""Seconds and bytes of the report of a run of 3 iterations with 10,000 pairs each.

    python tests/bench/report_build.py [--pairs 10000] [--iterations 3] [--keep FILE]

The run is made in a folder store first (not counted), with rows as the stages write them: four answers to a prompt, three
judgements of each. Counted is what `srr report` does after its start: reading, charts, page. Exit code 1 if it takes
longer than 10 seconds or the page is larger than 3 MB.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.support.finished_run import finished_run  # noqa: E402

from selfrewarding.report.collect import collect, load  # noqa: E402
from selfrewarding.report.page import render  # noqa: E402

MOST_SECONDS = 10.0
MOST_BYTES = 3_000_000


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="write the page here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Iteration 1 makes no pairs: so one more. A few prompts in a hundred end in ties.
        run = finished_run(
            Path(folder), iterations=arguments.iterations + 1, prompts=int(arguments.pairs * 1.02)
        )
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        pairs = sum(
            result.counts.get("pairs", 0) for result in run.results.values() if "Preferences" in result.kind
        )
        print(f"{arguments.iterations} iterations with pairs, {pairs:,} pairs, {size / 1e6:,.0f} MB of rows")
        started = time.monotonic()
        story = collect(run.store, run.run, load(run.store, run.stages), run.story)
        collected = time.monotonic()
        page = render(story).encode()
        ended = time.monotonic()
    print(
        f"read {collected - started:.2f} s, page {ended - collected:.2f} s, together {ended - started:.2f} s"
    )
    print(f"{len(page):,} bytes")
    if arguments.keep:
        arguments.keep.write_bytes(page)
    return int(ended - started > MOST_SECONDS or len(page) > MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main())
