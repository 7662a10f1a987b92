"""One run from `kubectl apply` to its end, and what is looked at afterwards.

Neighbours: `run_spec` is what is applied, `deaths` what may happen meanwhile.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.end_to_end import bucket
from tests.cluster.end_to_end.installation import Installed
from tests.cluster.end_to_end.run_spec import small_run
from tests.cluster.end_to_end.watching import RUN_KIND, Watch, condition, wait_for

LIMIT_SECONDS = 2400.0


@dataclass
class Done:
    """A run that ended, as the tests look at it."""

    name: str
    run: dict[str, Any]
    versions: list[dict[str, Any]]
    artifacts: Path
    """Copy of its prefix, laid out like a local run's."""
    chunks: dict[str, bytes] = field(default_factory=dict)
    """Chunks of finished rows that were in the bucket when something was killed."""
    deaths: list[str] = field(default_factory=list)


def apply(installed: Installed, name: str) -> Watch:
    """Apply the run anew; what an earlier test session left of it is deleted first."""
    forget(installed, name)
    installed.team.apply(small_run(name, prefix=name, endpoint=installed.cluster.s3_endpoint))
    return Watch(installed.team, name)


def forget(installed: Installed, name: str) -> None:
    """Delete the run, and all that it left in the bucket."""
    installed.team("delete", RUN_KIND, name, "--ignore-not-found", "--wait", "--timeout=120s")
    bucket.empty(installed.s3, f"{name}/")


def until_ended(installed: Installed, name: str) -> dict[str, Any]:
    """Wait until the run has succeeded; fails at once if it has failed."""

    def ended() -> dict[str, Any] | None:
        run = installed.team.get(RUN_KIND, name)
        assert condition(run, "Failed").get("status") != "True", installed.explain(name)
        return run if condition(run, "Succeeded").get("status") == "True" else None

    try:
        return wait_for(f"run {name} has not ended", ended, seconds=LIMIT_SECONDS, every=2.0)
    except AssertionError:
        print(installed.explain(name))
        raise


def finish(installed: Installed, name: str, watch: Watch, folder: Path, began: float) -> Done:
    """Wait for the end and fetch what was left behind."""
    try:
        run = until_ended(installed, name)
    finally:
        versions = watch.stop()
    print(f"\n{name}: {time.monotonic() - began:.0f} s, {len(versions)} versions of the object")
    print(installed.team("get", "srr", name, "-o", "wide"))
    print(installed.team("describe", "srr", name))
    return Done(name, run, versions, bucket.download(installed.s3, name, folder))
