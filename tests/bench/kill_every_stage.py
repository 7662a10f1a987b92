"""`kill -9` of the whole tree in the middle of each stage of the small run, then the same command again.

    python tests/bench/kill_every_stage.py [--folder DIR]

Two runs of the quickstart in small: one undisturbed, one killed once in every stage. Prints for each stage what was done
at the kill and what the next attempt went on from, then compares the two: rows that were finished at a kill stay
byte-identical, and row ids, seeds and counts equal those of the undisturbed run. Exits 1 if anything differs.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from selfrewarding.contract.artifacts import PROMPTS, ROLLOUT

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.support.small_run import (
    STAGES,
    identities,
    kill_tree,
    prepare,
    results,
    rows,
    start,
    status,
    tail,
    wait_until,
)

KINDS = (
    "Prepare", "TrainBaseline", "BuildEvaluations", "Evaluate", "SupervisedFineTune", "Compare", "Report",
    "GeneratePrompts", "Rollout", "BuildPreferences", "PreferenceOptimize",
)  # fmt: skip
"""In the order in which each is met first: the baseline is measured before M1 is trained."""
OF_ITS_OWN = frozenset({"Prepare", "Report"})
"""Their keys have the run's UID in them."""
ASKING = frozenset({"BuildEvaluations", "Evaluate", "Compare", "GeneratePrompts", "Rollout"})
"""Stages that are killed once they have written rows."""
TRAINING = frozenset({"TrainBaseline", "SupervisedFineTune", "PreferenceOptimize"})
"""Stages that are killed once they have made a step; the others end too soon for either."""


def main() -> int:
    """Run both, compare, and say so."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--folder", type=Path, default=Path(tempfile.mkdtemp(prefix="kill-every-stage-")))
    folder: Path = arguments.parse_args().folder
    quiet, killed = (prepare(folder / name) for name in ("undisturbed", "killed"))

    began = time.monotonic()
    process = start(quiet, quiet / "srr.log")
    if process.wait() != 0:
        print(tail(quiet / "srr.log"))
        return 1
    print(f"undisturbed: {time.monotonic() - began:.0f} s")

    began = time.monotonic()
    frozen: dict[Path, bytes] = {}
    for kind in KINDS:
        frozen |= killed_in(kind, killed)
    process = start(killed, killed / "srr.log")
    if process.wait() != 0:
        print(tail(killed / "srr.log"))
        return 1
    print(f"killed {len(KINDS)} times: {time.monotonic() - began:.0f} s")
    return compare(quiet, killed, frozen)


def killed_in(kind: str, artifacts: Path) -> dict[Path, bytes]:
    """Start, kill while this stage is under way; the row chunks that were there."""
    log = artifacts / "srr.log"
    process = start(artifacts, log)

    def under_way() -> bool:
        if results(artifacts, kind):
            return True  # too quick to be met: killed right behind it
        if kind in ASKING:
            return any(artifacts.glob(f"{STAGES}/{kind}/*/attempts/*/*-0*.jsonl"))
        if (
            kind == "Report"
        ):  # beside the stage that status shows: its mark in the store is the first that it writes
            return any(artifacts.glob(f"{STAGES}/{kind}/*/runs/*"))
        found = status(artifacts)
        progress = found.get("progress") or {}
        return found.get("stage") == kind and (kind not in TRAINING or progress.get("done", 0) > 0)

    wait_until(process, under_way, log)
    progress = status(artifacts).get("progress") or {}
    kill_tree(process, artifacts)
    chunks = {path: path.read_bytes() for path in artifacts.glob(f"{STAGES}/*/*/attempts/*/*-0*.jsonl")}
    done = (
        "its result was there"
        if results(artifacts, kind)
        else f"{progress.get('done', 0)} of {progress.get('total', '?')}"
    )
    print(f"  {kind:20} killed at {done}; {len(chunks)} chunks of rows in the store", flush=True)
    return chunks


def compare(quiet: Path, killed: Path, frozen: dict[Path, bytes]) -> int:
    """What must be equal is equal."""
    wrong = [
        f"{path} was changed after it was finished"
        for path, content in frozen.items()
        if path.read_bytes() != content
    ]
    for kind in KINDS:
        mine, theirs = (sorted(result.key for _, result in results(one, kind)) for one in (killed, quiet))
        if kind not in OF_ITS_OWN and mine != theirs:
            wrong.append(f"{kind}: keys differ")
    for kind, name in (("GeneratePrompts", PROMPTS), ("Rollout", ROLLOUT)):
        if identities(rows(killed, kind, name)) != identities(rows(quiet, kind, name)):
            wrong.append(f"{kind}: ids, seeds or counts differ")
    for line in wrong:
        print(f"DIFFERENT: {line}")
    print(
        f"{len(frozen)} chunks unchanged; keys, ids, seeds and counts equal"
        if not wrong
        else f"{len(wrong)} differences"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
