"""One whole run under each kind of fault between operator and API server: the same end, nothing created twice, no hang.

All kinds run side by side, each with an operator and a proxy of its own that look after one namespace.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cluster.faults import faults
from tests.cluster.faults.api_client import RUNS, Raw
from tests.cluster.faults.invariants import everything_wrong
from tests.cluster.faults.operator_process import operating
from tests.cluster.faults.player import Player, playing
from tests.cluster.faults.proxy import NoFault, Proxy, proxying
from tests.cluster.faults.runs import (
    TookTooLong,
    comparable,
    condition,
    create_run,
    fresh,
    install_crds,
    run_in,
    until,
    until_finished,
)

SILENCE = 30.0
LONGEST = 240.0
"""Seconds that a run may take under any fault; undisturbed it takes about fifteen."""

KINDS: Mapping[str, Callable[[], NoFault]] = {
    "undisturbed": NoFault,
    "409 on writes": lambda: faults.Some(faults.is_write, faults.CONFLICT),
    "429 with Retry-After": lambda: faults.Some(faults.is_single, faults.TOO_MANY),
    "500 instead of an answer": lambda: faults.Some(faults.is_single, faults.INTERNAL),
    "500 though carried out": lambda: faults.Some(faults.is_write, faults.INTERNAL, carried_out=True),
    "503 instead of an answer": lambda: faults.Some(faults.is_single, faults.UNAVAILABLE),
    "cut before": lambda: faults.Some(faults.is_single, None),
    "cut though carried out": lambda: faults.Some(faults.is_write, None, carried_out=True),
    "410 in watches": lambda: faults.WatchGone(every=6),
    "watches cut": lambda: faults.WatchCut(every=6),
    "30 s of silence": lambda: faults.Silence(time.monotonic() + 5.0, SILENCE),
    "events twice and out of order": faults.WatchRepeats,
    "pods late": lambda: faults.WatchLate(frozenset({"pods"}), 1.5),
    "children late": lambda: faults.WatchLate(
        frozenset({"jobs", "pytorchjobs", "deployments", "configmaps", "services", "networkpolicies"}), 1.5
    ),
    "runs late": lambda: faults.WatchLate(frozenset({"selfrewardingruns"}), 1.5),
}


@dataclass
class Record:
    """How a run under a fault went."""

    kind: str
    seconds: float = 0.0
    calls: int = 0
    writes: int = 0
    met: int = 0
    """How often the fault struck."""
    status: Raw | None = None
    succeeded: bool = False
    wrong: tuple[str, ...] = ()
    roles: tuple[tuple[str, ...], ...] = ()
    log: str = ""


@pytest.fixture(scope="module")
def records(
    api_server_kubeconfig: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Record]:
    """All kinds, side by side."""
    return asyncio.run(_run_all(api_server_kubeconfig, repository, tmp_path_factory.mktemp("faults")))


async def _run_all(kubeconfig: Path, repository: Path, folder: Path) -> dict[str, Record]:
    async with playing(kubeconfig) as player:
        await install_crds(player.api, repository)
        found = await asyncio.gather(
            *(_run_one(player, kubeconfig, folder, number, kind) for number, kind in enumerate(KINDS))
        )
    return {record.kind: record for record in found}


async def _run_one(player: Player, kubeconfig: Path, folder: Path, number: int, kind: str) -> Record:
    record, namespace = Record(kind), fresh(f"fault-{number:02}")
    own = folder / namespace
    own.mkdir()
    async with proxying(kubeconfig) as proxy:
        settings = {"NAMESPACES": namespace, "LOG_LEVEL": "INFO"}
        run = await create_run(player.api, namespace, {"suspend": True})
        async with operating(proxy.kubeconfig(own), own, namespace, **settings) as operator:
            await until(
                player,
                f"{kind}: suspended",
                lambda: condition(run_in(player, namespace), "Suspended")[0] == "True",
            )
            began = time.monotonic()
            fault = KINDS[kind]()
            proxy.faults.append(fault)
            run = await player.api.patch(RUNS, namespace, "demo", {"spec": {"suspend": False}})
            try:
                run = await until_finished(player, namespace, LONGEST)
            except TookTooLong as error:
                record.log = f"{error.text}\n{operator.tail()}"
            else:
                await asyncio.sleep(3.0)  # what it still clears away, and events that come late
                run = run_in(player, namespace) or run
            _judge(record, player, proxy, namespace, run)
            record.seconds, record.met = time.monotonic() - began, getattr(fault, "met", 0)
    return record


def _judge(record: Record, player: Player, proxy: Proxy, namespace: str, run: Raw) -> None:
    record.succeeded = condition(run, "Succeeded")[0] == "True"
    record.status = comparable(run) if record.succeeded else run.get("status")
    record.wrong = tuple(everything_wrong(player.census, namespace))
    record.roles = tuple(player.census.roles(namespace))
    record.calls, record.writes = len(proxy.calls), len(proxy.writes(namespace))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_run_under_a_fault_ends_as_an_undisturbed_one(kind: str, records: dict[str, Record]) -> None:
    """The same status but for times, the same children, each created once, results recorded before anything is deleted."""
    record, reference = records[kind], records["undisturbed"]
    assert record.succeeded, f"{record.status}\n{record.log}"
    assert not record.wrong
    assert record.roles == reference.roles
    assert record.status == reference.status
    assert kind == "undisturbed" or record.met, "the fault never struck"


def test_faults_are_shown_in_a_table(records: dict[str, Record], capsys: pytest.CaptureFixture[str]) -> None:
    """What each fault costs."""
    with capsys.disabled():
        print(f"\n{'fault':<32} {'struck':>6} {'calls':>6} {'writes':>6} {'seconds':>8}  outcome")
        for record in records.values():
            outcome = "as undisturbed" if record.status == records["undisturbed"].status else "DIFFERENT"
            print(
                f"{record.kind:<32} {record.met:>6} {record.calls:>6} {record.writes:>6} {record.seconds:>8.1f}  {outcome}"
            )
    assert all(record.seconds < LONGEST for record in records.values())
