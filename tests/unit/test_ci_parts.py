"""`.ci/parts.py` runs every part, counts its tests, and fails if any part did: a green CI must mean what it says."""

import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = """
good:
\t@echo '<testsuites><testsuite tests="5" failures="0" errors="0" skipped="1"/></testsuites>' > reports/good.xml
bad:
\t@echo '<testsuites><testsuite tests="4" failures="1" errors="1" skipped="0"/></testsuites>' > reports/bad.xml; exit 1
dead:
\t@echo '<testsuites><testsuite tests="4" fail' > reports/dead.xml; exit 137
plain:
\t@echo checked
slow:
\t@sleep 0.3; echo built > built
needs:
\t@cat built
"""


def run_parts(folder: Path, script: Path, *parts: str) -> subprocess.CompletedProcess[str]:
    (folder / "Makefile").write_text(MAKEFILE, encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(script), "--reports", "reports", *parts],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("parts", "closing_line", "code"),
    [
        (["good"], "4 passed, 0 failed, 1 skipped", 0),
        (["plain", "good"], "5 passed, 0 failed, 1 skipped", 0),
        (["bad", "good"], "6 passed, 2 failed, 1 skipped", 1),
        (["dead", "good"], "4 passed, 1 failed, 1 skipped", 1),
        (["unknown-target"], "0 passed, 1 failed, 0 skipped", 1),
    ],
    ids=[
        "all pass",
        "a part without tests counts as one",
        "a failure does not stop the rest",
        "killed",
        "unknown",
    ],
)
def test_outcome(repository: Path, tmp_path: Path, parts: list[str], closing_line: str, code: int) -> None:
    done = run_parts(tmp_path, repository / ".ci" / "parts.py", *parts)
    assert done.stdout.splitlines()[-1] == closing_line
    assert done.returncode == code
    for part in parts:
        assert any(line.startswith(part) for line in done.stdout.splitlines()), (
            "each part has a row with its seconds"
        )


def test_report_of_an_earlier_run_is_not_counted(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "unknown-target.xml").write_text('<testsuite tests="9"/>', encoding="utf-8")
    done = run_parts(tmp_path, repository / ".ci" / "parts.py", "unknown-target")
    assert done.stdout.splitlines()[-1] == "0 passed, 1 failed, 0 skipped"


def test_the_part_beside_the_others_has_ended_before_the_last_one_starts(
    repository: Path, tmp_path: Path
) -> None:
    done = run_parts(tmp_path, repository / ".ci" / "parts.py", "--beside", "slow", "plain", "needs")
    assert done.stdout.splitlines()[-1] == "3 passed, 0 failed, 0 skipped"
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("slow"))
    assert float(row.split()[1]) >= 0.3


def test_the_part_beside_the_others_counts_when_it_fails(repository: Path, tmp_path: Path) -> None:
    done = run_parts(tmp_path, repository / ".ci" / "parts.py", "--beside", "dead", "plain", "good")
    assert done.stdout.splitlines()[-1] == "5 passed, 1 failed, 1 skipped"
    assert done.returncode == 1
