"""Run make targets one after another; then say how long each took and how many tests passed.

    python3 .ci/parts.py --reports artifacts/reports --beside cluster-ready check test-unit test-local test-cluster

A part that fails does not stop the others: one run shows all that is wrong. The part named by `--beside` runs at low
priority while the others do, and has ended before the last of them starts: the last needs what it builds. The counts
come from the JUnit report `<reports>/<part>.xml` that a part's pytest writes; a part without tests counts as one.
Standard library only, since it also runs where the environment could not be installed.
"""

import argparse
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree


@dataclass(frozen=True)
class Part:
    """One part's outcome: wall-clock seconds, and its tests (errors and failures together)."""

    name: str
    seconds: float
    passed: int
    failed: int
    skipped: int
    beside: bool = False


class Background(threading.Thread):
    """`make NAME` at the lowest priority; its output waits in a file until it is joined."""

    def __init__(self, name: str, reports: Path) -> None:
        super().__init__()
        self.part = Part(name, 0.0, 0, 1, 0, beside=True)
        self.log = reports / f"{name}.log"

    def run(self) -> None:
        """The thread's work: run the target and note how long it took."""
        started = time.monotonic()
        with self.log.open("wb") as output:
            command = ["nice", "-n", "19", "make", self.part.name]
            code = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
        seconds = time.monotonic() - started
        self.part = Part(self.part.name, seconds, int(code == 0), int(code != 0), 0, beside=True)

    def outcome(self) -> Part:
        """Wait for its end and show its output."""
        self.join()
        output = self.log.read_text(errors="replace")
        print(f"\n=== {self.part.name} (ran beside the parts above)\n{output}", flush=True)
        return self.part


def count_tests(report: Path) -> tuple[int, int, int]:
    """Read (passed, failed, skipped) from a JUnit report; zeros if there is none or it was cut short."""
    try:
        suites = list(ElementTree.parse(report).iter("testsuite"))  # noqa: S314 - our own pytest wrote it
    except (FileNotFoundError, ElementTree.ParseError):
        return 0, 0, 0
    total, failed, skipped = (
        sum(int(suite.get(name, "0")) for suite in suites for name in names)
        for names in (("tests",), ("failures", "errors"), ("skipped",))
    )
    return total - failed - skipped, failed, skipped


def run_part(name: str, reports: Path) -> Part:
    """Run `make NAME` with its output passed through."""
    report = reports / f"{name}.xml"
    report.unlink(missing_ok=True)
    print(f"\n=== {name}", flush=True)
    started = time.monotonic()
    code = subprocess.run(["make", name], check=False).returncode
    seconds = time.monotonic() - started
    has_tests = report.exists()
    passed, failed, skipped = count_tests(report)
    if code and not failed:
        failed = 1  # died outside its tests
    if not code and not has_tests:
        passed = 1
    return Part(name, seconds, passed, failed, skipped)


def main() -> int:
    """Run the parts; the exit code is 1 if any of them failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", metavar="PART", help="a make target")
    parser.add_argument("--reports", type=Path, required=True, help="folder of the JUnit reports")
    parser.add_argument("--beside", metavar="PART", help="a make target that runs while the others do")
    arguments = parser.parse_args()
    arguments.reports.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    background = Background(arguments.beside, arguments.reports) if arguments.beside else None
    if background is not None:
        background.start()
    *first, last = arguments.parts
    parts = [run_part(name, arguments.reports) for name in first]
    if background is not None:
        parts.append(background.outcome())
    parts.append(run_part(last, arguments.reports))

    width = max(len(part.name) for part in parts)
    print(f"\n{'part':<{width}}  {'seconds':>8}  {'passed':>7}  {'failed':>7}  {'skipped':>7}")
    for part in parts:
        counts = f"{part.passed:>7}  {part.failed:>7}  {part.skipped:>7}"
        print(
            f"{part.name:<{width}}  {part.seconds:>8.1f}  {counts}{'  (beside the others)' if part.beside else ''}"
        )
    print(f"{'all':<{width}}  {time.monotonic() - began:>8.1f}\n")
    failed = sum(part.failed for part in parts)
    passed, skipped = sum(part.passed for part in parts), sum(part.skipped for part in parts)
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
