"""The operator's own numbers, against a real API server: latencies, writes, lists, memory.

`python tests/bench/operator_numbers.py [--applies 100] [--runs 15] [--memory-runs 200] [--kubeconfig FILE]` starts etcd,
API server and controller manager (none with --kubeconfig), plays kubelet and training operator, runs `srr operator`
behind a counting proxy, and prints each figure beside what it must reach. Exit code 1 if one does not.

"Child finished" is the moment at which the end of its pod is written to the API server, "applied" the moment at which a
watch shows the next workload; so the API server's and the watch's share is in every latency. A 99th percentile is given
for a hundred values or more; for fewer, the highest.
"""

import argparse
import asyncio
import datetime
import importlib.metadata
import itertools
import math
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "operator")]

from tests.cluster.faults.api_client import NAMESPACES, PODS, RUNS  # noqa: E402 (found through the line above)
from tests.cluster.faults.census import CHILDREN, Change  # noqa: E402
from tests.cluster.faults.faults import Progressing  # noqa: E402
from tests.cluster.faults.invariants import everything_wrong, workloads  # noqa: E402
from tests.cluster.faults.kubelet import Pace  # noqa: E402
from tests.cluster.faults.operator_process import OperatorProcess, operating  # noqa: E402
from tests.cluster.faults.player import Player, playing  # noqa: E402
from tests.cluster.faults.proxy import Call, Proxy, proxying  # noqa: E402
from tests.cluster.faults.runs import (  # noqa: E402
    NAME,
    REPORTS,
    STAGES,
    condition,
    create_run,
    fresh,
    install_crds,
    run_in,
    until,
    until_finished,
)
from tests.cluster.testbed import binaries  # noqa: E402
from tests.cluster.testbed import cluster as testbed  # noqa: E402

from selfrewarding.api import labels  # noqa: E402

ENOUGH = 100
"""Values from which on there is a 99th percentile."""
QUIET_SECONDS = 100.0
PROGRESS_EVERY = 30.0
"""Seconds between two writes of a stage's progress, at least."""
AT_ONCE = 20
"""Runs that are started together when memory is measured."""


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    measured: str
    target: str = ""
    reached: bool = True


@dataclass(frozen=True)
class Bench:
    """What every measurement needs."""

    player: Player
    proxy: Proxy
    operator: OperatorProcess


@asynccontextmanager
async def bench(kubeconfig: Path, folder: Path, name: str, pace: Pace | None = None) -> AsyncIterator[Bench]:
    """A fresh operator behind a fresh proxy."""
    async with playing(kubeconfig, pace) as player, proxying(kubeconfig) as proxy:
        await install_crds(player.api, ROOT)
        own = folder / name
        own.mkdir()
        async with operating(proxy.kubeconfig(own), own, name) as operator:
            yield Bench(player, proxy, operator)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all values do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def latency(what: str, values: Sequence[float], limit: float) -> Figure:
    """A latency: its median, its highest value, and its 99th percentile where there are enough values for one."""
    middle, highest = percentile(values, 0.5), max(values)
    name, judged = ("p99", percentile(values, 0.99)) if len(values) >= ENOUGH else ("max", highest)
    shown = {"p50": middle, name: judged, "max": highest}
    text = ", ".join(f"{key} {value * 1000:.0f} ms" for key, value in shown.items())
    return Figure(what, f"{text} (n={len(values)})", f"{name} ≤ {limit * 1000:.0f} ms", judged <= limit)


# ---------------------------------------------------------------------- latencies


async def apply_to_first_child(here: Bench, times: int) -> list[Figure]:
    """One run after the other on a cluster where nothing else happens."""
    any_child, first_job = [], []
    for number in range(times):
        namespace = fresh(f"apply-{number}")
        metadata = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        await here.player.api.create(NAMESPACES, None, metadata)
        await asyncio.sleep(0.3)
        began = time.monotonic()
        await create_run(here.player.api, namespace)
        await until(here.player, "a job", lambda space=namespace: workloads(here.player.census, space))
        any_child.append(here.player.census.of(namespace, CHILDREN)[0].at - began)
        first_job.append(workloads(here.player.census, namespace)[0].at - began)
        await here.player.api.delete(RUNS, namespace, NAME)
        await until(here.player, "gone", lambda space=namespace: run_in(here.player, space) is None)
    return [
        latency("kubectl apply → first child exists", any_child, 1.0),
        latency("kubectl apply → first Job exists", first_job, 1.0),
    ]


async def finished_to_next(here: Bench, times: int) -> list[Figure]:
    """Whole runs, one after the other."""
    gaps: list[float] = []
    for number in range(times):
        namespace = fresh(f"next-{number}")
        await create_run(here.player.api, namespace)
        await until_finished(here.player, namespace)
        await until(here.player, "nothing left", lambda space=namespace: not here.player.census.left(space))
        wrong = everything_wrong(here.player.census, namespace)
        assert not wrong, wrong
        gaps += _gaps(here.player, namespace)
    return [latency("child finished → next child applied", gaps, 0.5)]


def _gaps(player: Player, namespace: str) -> list[float]:
    """From the end of each child's pod (of a server: from Ready) to the next workload. Reports run beside them."""
    order = [one for one in workloads(player.census, namespace) if one.label(labels.STAGE) != "Report"]
    gaps = []
    for earlier, later in itertools.pairwise(order):
        ends = [
            player.kubelet.ended[change.uid]
            for change in player.census.of(namespace, (PODS,))
            if change.type == "ADDED" and _unit(change) == _unit(earlier)
        ]
        gaps.append(later.at - max(ends))
    return gaps


def _unit(change: Change) -> tuple[str | None, str | None, str | None]:
    return change.label(labels.HOLDER), change.label(labels.STAGE), change.label(labels.ATTEMPT)


async def own_part_of_hand_over(here: Bench, times: int) -> list[Figure]:
    """Pods take seconds to leave: from the moment at which the last server is gone to the training job behind it."""
    namespaces = [fresh(f"hand-over-{number}") for number in range(times)]
    for namespace in namespaces:
        await create_run(here.player.api, namespace)
        await until_finished(here.player, namespace)
    gaps = [_hand_over(here.player, namespace) for namespace in namespaces]
    return [latency("GPU hand-over, own part (last server gone → training job)", gaps, 2.0)]


def _hand_over(player: Player, namespace: str) -> float:
    pods = player.census.of(namespace, (PODS,))
    gone = max(change.at for change in pods if change.type == "DELETED" and change.label(labels.HOLDER))
    jobs = workloads(player.census, namespace)
    return next(job.at for job in jobs if job.label(labels.STAGE) == "PreferenceOptimize") - gone


# ---------------------------------------------------------------------- writes and lists


def is_child(call: Call) -> bool:
    """Whether a write creates or removes a child."""
    return not call.resource.startswith("selfrewardingruns") and call.resource != "events"


async def writes_of_a_run(here: Bench) -> list[Figure]:
    """Everything that one whole run costs."""
    namespace = fresh("writes")
    await create_run(here.player.api, namespace)
    await until_finished(here.player, namespace)
    await until(here.player, "nothing left", lambda: not here.player.census.left(namespace))
    await asyncio.sleep(2.0)
    calls = here.proxy.writes(namespace)
    beyond = [call for call in calls if not is_child(call)]
    kinds = Counter(
        f"{call.verb} {call.resource.removeprefix('selfrewardingruns') or 'run'}" for call in beyond
    )
    detail = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
    stages = len(STAGES) + REPORTS
    per_stage = len(beyond) / stages
    children = Counter(call.verb for call in calls if is_child(call))
    return [
        Figure(
            f"API writes beyond the children, per stage ({stages} stages)",
            f"{per_stage:.1f} ({len(beyond)}: {detail})",
            "≤ 5",
            per_stage <= 5,
        ),
        Figure(
            "API writes for children, whole run", ", ".join(f"{n} {verb}" for verb, n in children.items())
        ),
    ]


async def quiet(here: Bench) -> list[Figure]:
    """A run that is done and one that is suspended, one whose stage says nothing new, one whose stage goes on."""
    done, suspended, silent, going = (fresh(name) for name in ("done", "suspended", "silent", "going"))
    here.proxy.faults.append(Progressing(going))
    for namespace in (suspended, silent, going):
        here.player.hold(namespace, _is_rollout)
    for namespace in (done, suspended, silent, going):
        await create_run(here.player.api, namespace)
    await until_finished(here.player, done)
    for namespace in (suspended, silent, going):
        await until(here.player, "the rollout", lambda space=namespace: _has_rollout(here.player, space))
    await here.player.api.patch(RUNS, suspended, NAME, {"spec": {"suspend": True}})
    await until(
        here.player, "Suspended", lambda: condition(run_in(here.player, suspended), "Suspended")[0] == "True"
    )
    await asyncio.sleep(5.0)  # what the last status write makes the operator do
    began = time.monotonic()
    await asyncio.sleep(QUIET_SECONDS)
    calls = [call for call in here.proxy.calls if call.at >= began and call.resource]
    progress = [call.at for call in calls if call.namespace == going and call.is_write]
    closest = min((later - earlier for earlier, later in itertools.pairwise(progress)), default=math.inf)
    return [
        # What has no namespace is asked of all runs together: lists and watches of a kind.
        _counted("a finished and a suspended run", calls, {done, suspended, None}, writes=0, lists=0),
        # Once a minute a running stage's pods are listed, in case a watch has gone deaf.
        _counted("a stage that runs and says nothing new", calls, {silent}, writes=0, lists=2),
        Figure(
            f"progress writes of a stage that goes on, {QUIET_SECONDS:.0f} s",
            f"{len(progress)}, the closest {closest:.1f} s apart",
            f"≥ {PROGRESS_EVERY:.0f} s apart, and some",
            len(progress) > 1 and round(closest) >= PROGRESS_EVERY,
        ),
    ]


def _counted(
    what: str, calls: Sequence[Call], namespaces: set[str | None], *, writes: int, lists: int
) -> Figure:
    seen = Counter(
        "writes" if call.is_write else f"{call.verb}s" for call in calls if call.namespace in namespaces
    )
    others = ", ".join(f"{number} {verb}" for verb, number in seen.items() if verb not in ("writes", "lists"))
    return Figure(
        f"{what}, {QUIET_SECONDS:.0f} s",
        f"{seen['writes']} writes, {seen['lists']} lists" + (f" (besides: {others})" if others else ""),
        f"{writes} writes, {lists} lists",
        seen["writes"] <= writes and seen["lists"] <= lists,
    )


def _is_rollout(pod: dict[str, dict[str, dict[str, str]]]) -> bool:
    return pod["metadata"]["labels"].get(labels.STAGE) == "Rollout"


def _has_rollout(player: Player, namespace: str) -> bool:
    return any(
        kind == PODS.plural and _is_rollout(pod) and pod["status"].get("phase") == "Running"
        for kind, pod in player.census.there(namespace)
    )


# ---------------------------------------------------------------------- memory


async def memory(kubeconfig: Path, folder: Path, count: int) -> list[Figure]:
    """Resident memory with many runs in the middle of their rollouts, and after a start with all of them there."""
    figures = []
    namespaces = [fresh(f"memory-{number:03}") for number in range(count)]
    async with playing(kubeconfig, keep_bodies=False) as player, proxying(kubeconfig) as proxy:
        await install_crds(player.api, ROOT)
        for namespace in namespaces:
            player.hold(namespace, _is_rollout)
        for phase in ("grown", "started"):
            own = folder / phase
            own.mkdir()
            async with operating(proxy.kubeconfig(own), own, f"memory-{phase}") as operator:
                if phase == "grown":
                    await asyncio.sleep(5.0)
                    empty = operator.memory()["VmRSS"]
                    figures.append(Figure("operator memory without a run of its own", f"{empty:.0f} MiB"))
                    for first in range(0, count, AT_ONCE):
                        batch = namespaces[first : first + AT_ONCE]
                        for namespace in batch:
                            await create_run(player.api, namespace)
                        await until(player, "rollouts", _all_in_rollout(player, batch), seconds=180)
                await asyncio.sleep(20.0)
                busy, began = operator.cpu_seconds(), time.monotonic()
                await asyncio.sleep(30.0)
                load = (operator.cpu_seconds() - busy) / (time.monotonic() - began)
                used = operator.memory()
                what = "after they were all applied" if phase == "grown" else "after a restart among them"
                figures.append(
                    Figure(
                        f"operator memory with {count} runs in their rollouts, {what}",
                        f"{used['VmRSS']:.0f} MiB (highest {used['VmHWM']:.0f}), {load * 100:.0f} % of a core",
                        "≤ 150 MiB",
                        used["VmRSS"] <= 150,
                    )
                )
        for namespace in namespaces:
            await player.api.delete(RUNS, namespace, NAME)
    return figures


def _all_in_rollout(player: Player, namespaces: Sequence[str]) -> Callable[[], bool]:
    return lambda: all(_has_rollout(player, namespace) for namespace in namespaces)


# ---------------------------------------------------------------------- the whole


async def measure(kubeconfig: Path, folder: Path, asked: argparse.Namespace) -> list[Figure]:
    """All figures, one after the other."""
    figures: list[Figure] = []
    async with bench(kubeconfig, folder, "latencies") as here:
        figures += await apply_to_first_child(here, asked.applies)
        figures += await finished_to_next(here, asked.runs)
        figures += await writes_of_a_run(here)
    async with bench(kubeconfig, folder, "hand-over", Pace(grace=2.0)) as here:
        figures += await own_part_of_hand_over(here, max(3, asked.runs // 2))
    async with bench(kubeconfig, folder, "quiet") as here:
        figures += await quiet(here)
    figures += await memory(kubeconfig, folder, asked.memory_runs)
    return figures


def versions() -> str:
    """What was measured, when, and on what."""
    told = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("selfrewarding", "kopf"))
    told += f", Kubernetes {binaries.KUBERNETES}, etcd {binaries.VERSIONS['go']['etcd']}"
    today = datetime.datetime.now(datetime.UTC).date()
    return f"{today}, {os.cpu_count()} cores, Python {platform.python_version()}, {told}, load {os.getloadavg()[0]:.1f}"


def show(figures: Sequence[Figure]) -> None:
    """The table."""
    width = max(len(figure.what) for figure in figures)
    for figure in figures:
        verdict = "" if not figure.target else "reached" if figure.reached else "MISSED"
        print(
            f"{figure.what:<{width}}  {figure.measured}  {figure.target and f'[{figure.target}]'} {verdict}".rstrip()
        )


def main() -> int:
    """Measure and print; 1 if a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--applies", type=int, default=100, help="runs that are applied one after the other")
    parser.add_argument("--runs", type=int, default=15, help="whole runs, one after the other")
    parser.add_argument("--memory-runs", type=int, default=200, help="runs at once when memory is measured")
    parser.add_argument(
        "--kubeconfig", type=Path, help="an API server that runs already, with nobody else on it"
    )
    asked = parser.parse_args()
    name, began = fresh("numbers"), versions()
    if asked.kubeconfig is None and (reason := testbed.missing()):
        print(reason)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        kubeconfig = asked.kubeconfig or testbed.up(name, node=False, say=print).kubeconfig
        try:
            figures = asyncio.run(measure(kubeconfig, Path(folder), asked))
        finally:
            if asked.kubeconfig is None:
                testbed.down(name, purge=True, say=print)
    print(f"\n{began}")
    show(figures)
    return 0 if all(figure.reached for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
