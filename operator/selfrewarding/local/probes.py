"""Startup, readiness and liveness probes of a running container, as a kubelet polls them.

Must not: stop or restart anything; it tells its owner. Neighbour: `pod`.
"""

import asyncio
import http.client
import urllib.request
from collections.abc import Callable

from selfrewarding.local.pod_spec import ContainerSpec, Probe

QUICK = 0.5
"""Seconds between two tries of a startup probe: a hand-over should not wait for a ten-second period."""
PATIENT = 5.0
"""Least seconds for an answer: a machine whose cores are all computing answers late, and is not dead for that."""
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


async def watch(container: ContainerSpec, port: int | None, on_ready: Callable[[bool], None]) -> str:
    """Poll the container's probes; returns why it must be restarted, and never returns otherwise.

    `on_ready` is called whenever readiness changes. A container without probes is ready at once.
    """
    if port is None:
        on_ready(True)
        await asyncio.Event().wait()
        return ""
    if container.startup is not None:
        failed = await _startup(container.startup, port)
        if failed:
            return failed
    liveness = asyncio.ensure_future(_liveness(container.liveness, port))
    readiness = asyncio.ensure_future(_readiness(container.readiness, port, on_ready))
    try:
        return await liveness
    finally:
        liveness.cancel()
        readiness.cancel()


async def _startup(probe: Probe, port: int) -> str | None:
    """Poll until it answers; returns what to say if it does not in time."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(probe.initial_delay)
    limit = probe.period * probe.failure_threshold
    until = loop.time() + limit
    while not await answers(probe, port):
        if loop.time() > until:
            return f"the startup probe had no answer for {limit:.0f} s"
        await asyncio.sleep(min(QUICK, probe.period))
    return None


async def _readiness(probe: Probe | None, port: int, on_ready: Callable[[bool], None]) -> None:
    if probe is None:
        on_ready(True)
        return
    await asyncio.sleep(probe.initial_delay)
    good = bad = 0
    ready = False
    while True:
        if await answers(probe, port):
            good, bad = good + 1, 0
        else:
            good, bad = 0, bad + 1
        now = good >= probe.success_threshold or (ready and bad < probe.failure_threshold)
        if now != ready:
            ready = now
            on_ready(ready)
        await asyncio.sleep(probe.period if ready else min(QUICK, probe.period))


async def _liveness(probe: Probe | None, port: int) -> str:
    if probe is None:
        await asyncio.Event().wait()
        return ""
    await asyncio.sleep(probe.initial_delay)
    bad = 0
    while bad < probe.failure_threshold:
        bad = 0 if await answers(probe, port) else bad + 1
        await asyncio.sleep(probe.period)
    return f"the liveness probe failed {bad} times"


async def answers(probe: Probe, port: int) -> bool:
    """Whether the container answers: a status from 200 to 399, or a connection where the probe has no path."""
    timeout = max(probe.timeout, PATIENT)
    if probe.path is None:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), timeout)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True
    return await asyncio.to_thread(_get, f"http://127.0.0.1:{port}{probe.path}", timeout)


def _get(url: str, timeout: float) -> bool:
    try:
        with _NO_PROXY.open(url, timeout=timeout) as answer:
            return bool(200 <= answer.status < 400)
    except (OSError, ValueError, http.client.HTTPException):
        return False
