"""Runs whose pods, operator and container runtime die at random moments, one run after another, for as long as asked.

    python -m tests.cluster.end_to_end.chaos --minutes 60 [--every 45] [--seed 1] [--name default]

The first run is left alone; every later one, at least one, must end with the same keys, row ids, seeds and counts.
Prints each death and each run's outcome; exits 1 at the first difference. Not part of CI: `make test-chaos`.
"""

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.cluster.end_to_end.deaths import Deaths
from tests.cluster.end_to_end.finished_run import Done, apply, finish, forget
from tests.cluster.end_to_end.installation import Installed, install, packaged_model
from tests.cluster.testbed import cluster as testbed
from tests.cluster.testbed.handle import TestbedError
from tests.support.small_run import identities, results, rows

from selfrewarding.contract.artifacts import PROMPTS, ROLLOUT

TRAINING = ("TrainBaseline", "SupervisedFineTune", "PreferenceOptimize")


def main() -> int:
    """Runs until the time is over; 0 if all were equal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=45.0, help="seconds between two deaths, on average")
    parser.add_argument("--seed", type=int, default=None, help="repeats the same choices")
    parser.add_argument("--name", default="default", help="the test cluster")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}", flush=True)
    choices = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        cluster = testbed.up(arguments.name, say=print)
        return _runs(install(cluster, packaged_model(Path(folder))), Path(folder), choices, arguments)


def _runs(installed: Installed, folder: Path, choices: random.Random, arguments: argparse.Namespace) -> int:
    ends = time.monotonic() + 60 * arguments.minutes
    reference, number = one_run(installed, "chaos-0", folder, None, arguments.every), 0
    while number == 0 or time.monotonic() < ends:
        number += 1
        done = one_run(installed, f"chaos-{number}", folder, choices, arguments.every)
        wrong = differences(reference, done)
        print(f"run {number}: {len(wrong)} differences, {len(done.deaths)} deaths", flush=True)
        if wrong:
            print("\n".join(wrong))
            return 1
        # Gigabytes each: of a night's runs only those that differ are kept.
        forget(installed, done.name)
        shutil.rmtree(done.artifacts)
    return 0


def one_run(
    installed: Installed, name: str, folder: Path, choices: random.Random | None, every: float
) -> Done:
    """A run, with deaths by `choices` while it lasts."""
    began, watch = time.monotonic(), apply(installed, name)
    deaths, over = Deaths(installed, name), threading.Event()
    killer = threading.Thread(target=_kill_at_random, args=(deaths, choices, every, over), daemon=True)
    if choices is not None:
        killer.start()
    try:
        done = finish(installed, name, watch, folder / name, began)
    finally:
        over.set()
        if choices is not None:
            killer.join()
    done.deaths = deaths.told
    return done


def _kill_at_random(
    deaths: Deaths, choices: random.Random | None, every: float, over: threading.Event
) -> None:
    assert choices is not None
    while not over.wait(choices.expovariate(1 / every)):
        die = choices.choice(
            (
                lambda: deaths.any_pod_dies(choices),
                lambda: deaths.any_pod_dies(choices),
                deaths.operators_die,
                deaths.containerd_restarts,
            )
        )
        try:
            die()
        except TestbedError as error:
            print(f"  nobody died: {error}", flush=True)


def differences(reference: Done, done: Done) -> list[str]:
    """What is not equal between an undisturbed run and another."""
    found = []
    for kind in (*TRAINING, "BuildEvaluations", "Evaluate", "Compare", "GeneratePrompts", "Rollout",
                 "BuildPreferences"):  # fmt: skip
        mine, theirs = (sorted(r.key for _, r in results(one.artifacts, kind)) for one in (done, reference))
        if mine != theirs:
            found.append(f"{kind}: keys differ")
    for kind, name in (("GeneratePrompts", PROMPTS), ("Rollout", ROLLOUT)):
        mine, theirs = (identities(rows(one.artifacts, kind, name)) for one in (done, reference))
        if mine != theirs:
            found.append(f"{kind}: ids, seeds or counts differ")
    return found


if __name__ == "__main__":
    sys.exit(main())
