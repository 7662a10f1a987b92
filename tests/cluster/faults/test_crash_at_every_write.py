"""The operator is killed at its n-th API write, for every n of a whole run, before and after the write got through.

Each case is a run in a namespace of its own. Many die with one process: the proxy stops each namespace at its own n-th
write and holds it there until the process is dead (see `kill_points`). Then the operator is started again, and every run must
end as an undisturbed one does.
"""

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cluster.faults.invariants import everything_wrong
from tests.cluster.faults.kill_points import KillPoint, KillPoints, Moment
from tests.cluster.faults.operator_process import OperatorProcess, start_operator
from tests.cluster.faults.player import Player, playing
from tests.cluster.faults.proxy import Call, Proxy, proxying
from tests.cluster.faults.runs import (
    comparable,
    condition,
    create_run,
    describe,
    fresh,
    install_crds,
    is_finished,
    run_in,
    until,
    until_finished,
)

AT_ONCE = 33
"""Cases that die with one process."""
PATIENCE = 300.0
"""Seconds for the cases of a process to stand at their writes, and to end; a tenth of it on a machine with nothing else to do."""
SETTINGS = {"PASS_CONCURRENCY": "250", "LOG_LEVEL": "INFO"}
"""Each case holds one pass of its own until the process dies."""
SHOWN = 2
"""Cases of each process whose history is printed if they end in another way."""
MOMENTS: tuple[Moment, ...] = ("before", "after")


@dataclass
class Case:
    """One death."""

    namespace: str
    point: KillPoint
    outcome: str = ""
    seconds: float = 0.0
    """From the restart to the run's end."""


@dataclass
class Reference:
    """The undisturbed run."""

    writes: list[Call]
    status: dict[str, object]
    roles: list[tuple[str, ...]]
    seconds: float


@pytest.mark.timeout(2400)
async def test_survival_rules_01_and_02_hold_when_the_operator_is_killed_at_every_write(
    api_server_kubeconfig: Path, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every run ends; children are created once; the status at the end is that of the undisturbed run but for times."""
    started = time.monotonic()
    async with playing(api_server_kubeconfig) as player, proxying(api_server_kubeconfig) as proxy:
        await install_crds(player.api, repository)
        kubeconfig = proxy.kubeconfig(tmp_path)
        operator = await start_operator(kubeconfig, tmp_path, **SETTINGS)
        try:
            await operator.healthy()
            reference = await undisturbed(player, proxy)
            numbers = range(1, len(reference.writes) + 1)
            cases = [
                Case(fresh(f"crash-{number:03}-{moment}"), KillPoint(number, moment))
                for number in numbers
                for moment in MOMENTS
            ]
            for first in range(0, len(cases), AT_ONCE):
                batch = cases[first : first + AT_ONCE]
                await die_together(player, proxy, operator, batch)
                operator = await start_operator(kubeconfig, tmp_path, **SETTINGS)
                await end_together(player, batch, reference)
        except BaseException:
            print(operator.tail(120))
            raise
        finally:
            await operator.kill()
    with capsys.disabled():
        print_table(reference, cases, time.monotonic() - started)
    assert reference.writes
    wrong = [
        f"{case.namespace}: {case.outcome}" for case in cases if not case.outcome.startswith("Succeeded")
    ]
    assert not wrong, "\n".join(wrong)


async def undisturbed(player: Player, proxy: Proxy) -> Reference:
    """A run whose operator lives on."""
    namespace, began = fresh("crash-undisturbed"), time.monotonic()
    await create_run(player.api, namespace)
    run = await until_finished(player, namespace)
    seconds = time.monotonic() - began
    assert condition(run, "Succeeded")[0] == "True", run["status"]
    await until(player, "nothing is left", lambda: not player.census.left(namespace))
    assert not everything_wrong(player.census, namespace), everything_wrong(player.census, namespace)
    final = run_in(player, namespace)
    assert final is not None
    return Reference(proxy.writes(namespace), comparable(final), player.census.roles(namespace), seconds)


async def die_together(player: Player, proxy: Proxy, operator: OperatorProcess, cases: list[Case]) -> None:
    """Runs that all stand at their own write when the process is killed."""
    points = KillPoints({case.namespace: case.point for case in cases})
    proxy.faults.append(points)
    for case in cases:
        await create_run(player.api, case.namespace)
    await until(
        player,
        "every run at its write",
        lambda: all(case.point.reached.is_set() or _is_over(player, case) for case in cases),
        seconds=PATIENCE,
    )
    await operator.kill()
    points.dead.set()
    proxy.faults.remove(points)


def _is_over(player: Player, case: Case) -> bool:
    return is_finished(run_in(player, case.namespace))


async def end_together(player: Player, cases: list[Case], reference: Reference) -> None:
    """Wait for all, and for what they clear away; then say of each what became of it."""
    began = time.monotonic()
    waiting = list(cases)
    while waiting and time.monotonic() - began < PATIENCE:
        for case in [
            case for case in waiting if _is_over(player, case) and not player.census.left(case.namespace)
        ]:
            case.seconds = time.monotonic() - began
            waiting.remove(case)
        await asyncio.sleep(0.1)
    if waiting:
        print(describe(player))
    for case in cases:
        case.outcome = _outcome(player, case, reference)
    for case in [case for case in cases if not case.outcome.startswith("Succeeded")][:SHOWN]:
        print(f"{case.namespace}: {case.outcome}", *player.census.history(case.namespace), sep="\n")


def _outcome(player: Player, case: Case, reference: Reference) -> str:
    run = run_in(player, case.namespace)
    if run is None or not is_finished(run):
        return "not finished"
    if condition(run, "Succeeded")[0] != "True":
        return f"Failed: {condition(run, 'Failed')[1]}"
    if wrong := everything_wrong(player.census, case.namespace):
        return "; ".join(wrong)
    roles = player.census.roles(case.namespace)
    if roles != reference.roles:
        return f"other children: {sorted(set(roles) ^ set(reference.roles)) or 'other numbers'}"
    if left := player.census.left(case.namespace):
        return f"left behind: {left}"
    status = comparable(run)
    if status != reference.status:
        return "another status: " + "; ".join(_differences(reference.status, status))
    return "Succeeded" if case.point.reached.is_set() else "Succeeded before its write"


def _differences(expected: object, found: object, place: str = "status") -> list[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        names = sorted({*expected, *found})
        return [
            line
            for name in names
            for line in _differences(expected.get(name), found.get(name), f"{place}.{name}")
        ]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return [
            line
            for index, (one, other) in enumerate(zip(expected, found, strict=True))
            for line in _differences(one, other, f"{place}[{index}]")
        ]
    return [] if expected == found else [f"{place} is {found!r}, undisturbed {expected!r}"]


def print_table(reference: Reference, cases: list[Case], seconds: float) -> None:
    """n, the write, and the outcome of both deaths."""
    outcomes = {(case.point.number, case.point.moment): case for case in cases}
    print(
        f"\nKilled at every write: {len(reference.writes)} writes, {len(cases)} deaths, {seconds:.0f} s on {os.cpu_count()} cores"
    )
    print(f"{'n':>3}  {'write of the undisturbed run':<52} {'killed before it':<28} killed after it")
    for number, write in enumerate(reference.writes, start=1):
        what = f"{write.verb} {write.resource} {write.created or write.name or ''}"
        before, after = (outcomes[number, moment] for moment in MOMENTS)
        print(
            f"{number:>3}  {what[:52]:<52} {before.outcome[:20]:<20} {before.seconds:5.1f} s  "
            f"{after.outcome[:20]:<20} {after.seconds:5.1f} s"
        )
