"""`srr operator`: everything wired together, from the environment to kopf, and ended in order.

    settings ─► logs, health, metrics ─► client ─► Lease ─► { kopf ─► inventory, loops ─► passes } ─► Lease back

Only a lost Lease or a signal ends the process; what the API server does is waited out. Must not: hold logic of runs.
Neighbours: `starts` runs kopf, all others do the work.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import kopf
from prometheus_client import disable_created_metrics

from selfrewarding import __version__
from selfrewarding.cluster.calls import Calls
from selfrewarding.cluster.client import make_client
from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.kubernetes import KubernetesCluster
from selfrewarding.cluster.lease import LeaseElection
from selfrewarding.cluster.session import open_session
from selfrewarding.controller.health import Health, Passes
from selfrewarding.controller.leader import Leader
from selfrewarding.controller.logs import configure_logs
from selfrewarding.controller.loop import Controller
from selfrewarding.controller.measured import MeasuredCluster
from selfrewarding.controller.metrics import Metrics
from selfrewarding.controller.reconcile import Reconciler
from selfrewarding.controller.retire import Retirer
from selfrewarding.controller.settings import InvalidSettings, OperatorSettings
from selfrewarding.controller.starts import Starts
from selfrewarding.controller.wake import Wakes
from selfrewarding.controller.watches import Watches

log = logging.getLogger(__name__)


def run_operator(settings: OperatorSettings) -> None:
    """Serve runs until SIGTERM or SIGINT; passes in progress end first. Raises NoCluster, InvalidSettings."""
    configure_logs(settings.log_format, settings.log_level)
    disable_created_metrics()  # type: ignore[no-untyped-call]
    asyncio.run(serve(settings))


async def serve(settings: OperatorSettings) -> None:
    """As `run_operator`, in a running event loop."""
    log.info("selfrewarding-operator %s starts as %s", __version__, settings.pod_name)
    stop = asyncio.Event()
    _on_signals(stop.set)
    metrics, wakes, passes, inventory = Metrics(), Wakes(), Passes(), Inventory()
    watches = Watches(inventory, wakes, metrics)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(_listen("SRR_METRICS_PORT", settings.metrics_port, metrics.serve))
        client = await make_client()
        stack.push_async_callback(client.close)
        leader = _leader(settings, client)

        cluster = KubernetesCluster(
            client, inventory, on_request=metrics.requested, instance=settings.pod_name
        )
        stack.push_async_callback(cluster.aclose)
        measured = MeasuredCluster(cluster, metrics)
        controller = Controller(
            Reconciler(measured, _now, images=settings.images),
            wakes,
            passes=passes,
            metrics=metrics,
            concurrency=settings.pass_concurrency,
            may_act=leader.holds if leader else lambda: True,
            forget=cluster.forget,
            retirer=Retirer(measured, _now, images=settings.images),
        )

        async def login(**_: Any) -> kopf.AiohttpSession:
            session = open_session(client, watches)
            return kopf.AiohttpSession(server=client.configuration.host, aiohttp_session=session)

        starts = Starts(
            calls=Calls(client, metrics.requested),
            inventory=inventory,
            wakes=wakes,
            controller=controller,
            passes=passes,
            watches=watches,
            login=login,
            namespaces=settings.namespaces,
            on_signal=stop.set,
        )
        health = Health(
            stage=lambda: "leading" if leader is None or leader.leading.is_set() else "standby",
            alive=(passes.overdue, watches.deaf),
            ready=lambda: starts.unlisted() if leader is None or leader.leading.is_set() else None,
        )
        await _listen_async("SRR_HEALTH_PORT", settings.health_port, health.start)
        stack.push_async_callback(health.stop)

        async with _leadership(leader, stop):
            if not stop.is_set():
                metrics.lead(True)
                await starts.until(stop)
                metrics.lead(False)
    log.info("the operator has ended")


def _now() -> datetime:
    return datetime.now(UTC)


def _leader(settings: OperatorSettings, client: Any) -> Leader | None:
    if not settings.leader_election or settings.lease_namespace is None:
        return None
    return Leader(
        LeaseElection(
            client,
            namespace=settings.lease_namespace,
            name=settings.lease_name,
            identity=settings.pod_name,
        )
    )


@contextlib.asynccontextmanager
async def _leadership(leader: Leader | None, stop: asyncio.Event) -> AsyncIterator[None]:
    """Begins when this process leads, or is to stop; at the end the Lease is given back."""
    if leader is None:
        yield
        return
    async with leader.elected():
        waiters = [asyncio.create_task(event.wait()) for event in (leader.leading, stop)]
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        for waiter in waiters:
            waiter.cancel()
        yield


def _on_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


def _listen(variable: str, port: int, serve: Callable[[int], Callable[[], None]]) -> Callable[[], None]:
    try:
        return serve(port)
    except OSError as error:
        raise _taken(variable, port, error) from error


async def _listen_async(variable: str, port: int, start: Callable[[int], Any]) -> None:
    try:
        await start(port)
    except OSError as error:
        raise _taken(variable, port, error) from error


def _taken(variable: str, port: int, error: OSError) -> InvalidSettings:
    return InvalidSettings(
        f"{variable}: port {port} cannot be listened on ({error.strerror}): name another one, or end what uses it."
    )
