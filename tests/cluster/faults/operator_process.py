"""The real `srr operator` as a process: started, read, measured, killed.

Purpose: tests and benchmarks run what users run. Must not: import the operator into the test.
Neighbours: `proxy` is what its KUBECONFIG leads to.
"""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

IMAGES = {
    "SRR_TRAINER_IMAGE": "selfrewarding-trainer:test",
    "SRR_SAMPLER_IMAGE": "selfrewarding-sampler:test",
    "SRR_VLLM_IMAGE": "vllm:test",
    "SRR_VLLM_CPU_IMAGE": "selfrewarding-vllm-cpu:test",
}
START_SECONDS = 180.0
"""Until it answers: many are started at once, and most of a start is Python's own work."""


@dataclass
class OperatorProcess:
    """One start of the operator."""

    process: asyncio.subprocess.Process
    log: Path
    started: float
    health: str

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    async def kill(self) -> None:
        """SIGKILL: nothing is tidied up."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self, patience: float = 40.0) -> int:
        """SIGTERM; the exit status. Raises TimeoutError if it does not stop."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), patience)

    async def healthy(self) -> None:
        """Wait until it says that it is alive. Raises AssertionError with its log if it ends before."""
        until = time.monotonic() + START_SECONDS
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < until:
                assert self.process.returncode is None, f"the operator ended:\n{self.tail()}"
                try:
                    async with session.get(self.health) as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.1)
        raise AssertionError(f"the operator is not healthy after {START_SECONDS} s:\n{self.tail()}")

    def tail(self, lines: int = 60) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def memory(self) -> dict[str, float]:
        """Resident memory and its highest value, MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        found = dict(line.split(":", 1) for line in status if ":" in line)
        return {name: int(found[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}

    def cpu_seconds(self) -> float:
        """CPU time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


_PORTS = itertools.cycle(random.sample(range(20_000, 30_000), 10_000))
"""Below those that the kernel gives to outgoing connections: one of them could take the port before the operator does."""


def free_port() -> int:
    """A port that nobody listens on now, and that this process has not given away lately."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("0.0.0.0", port))
            return port
    raise AssertionError("the ports are endless")


async def start_operator(
    kubeconfig: Path, folder: Path, name: str = "operator", **settings: str
) -> OperatorProcess:
    """Start `srr operator`; its settings (SRR_…) by name without the prefix."""
    health = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "KUBECONFIG": str(kubeconfig),
        "SRR_LEADER_ELECTION": "false",
        "SRR_HEALTH_PORT": str(health),
        "SRR_METRICS_PORT": str(free_port()),
        "SRR_POD_NAME": name,
        "SRR_LOG_FORMAT": "text",
        **IMAGES,
        **{f"SRR_{key}": value for key, value in settings.items()},
    }
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "selfrewarding", "operator",
            env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder,
        )  # fmt: skip
    return OperatorProcess(process, log, time.monotonic(), f"http://127.0.0.1:{health}/healthz")


@asynccontextmanager
async def operating(
    kubeconfig: Path, folder: Path, name: str = "operator", **settings: str
) -> AsyncIterator[OperatorProcess]:
    """An operator for as long as the block lasts."""
    operator = await start_operator(kubeconfig, folder, name, **settings)
    try:
        await operator.healthy()
        yield operator
    finally:
        await operator.kill()
