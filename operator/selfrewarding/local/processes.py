"""Processes of containers: start one under its shim, wait for it, find and kill what a dead `srr` left.

Purpose: the only module that starts or signals processes. Must not: know pods' restarts, probes or owners.
Neighbours: `shim` is the program in between; `pod` decides when to start and stop.

A process belongs to a pod if the pod's marker stands in its environment or if it is in the session of the pod's shim.
Both are needed: torchrun gives its workers sessions of their own, and programs that set their title (vLLM) overwrite
the memory that holds their environment.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel

from selfrewarding.local import shim
from selfrewarding.local.pod_environment import MARKER, Launch

SHIM_MARGIN = 5.0
"""Seconds that a shim gets beyond the grace period before it is killed itself."""


class Session(BaseModel):
    """A shim's session, told from a later one with the same number."""

    pid: int
    start_ticks: int
    boot_id: str


@dataclass(frozen=True)
class Ended:
    """How a container ended."""

    code: int
    """0 to 255; 128 + n for death by signal n."""
    lost: bool = False
    """The shim was killed, so nobody saw how the program ended."""
    out_of_memory: bool = False
    """The kernel killed for want of memory meanwhile, and the code can come from that."""


class Running:
    """A container that was started."""

    def __init__(self, process: asyncio.subprocess.Process, exit_file: Path, grace: float) -> None:
        self._process = process
        self._exit_file = exit_file
        self._grace = grace
        self._killer: asyncio.TimerHandle | None = None
        self.session = Session(pid=process.pid, start_ticks=start_ticks(process.pid) or 0, boot_id=boot_id())

    @property
    def pid(self) -> int:
        """The shim's process, whose session the container's processes are in."""
        return self._process.pid

    def stop(self) -> None:
        """SIGTERM to the program, SIGKILL to what is left after the grace period. Returns at once."""
        self._signal(signal.SIGTERM)
        if self._killer is None:
            loop = asyncio.get_running_loop()
            self._killer = loop.call_later(self._grace + SHIM_MARGIN, self._signal, signal.SIGKILL)

    def kill(self) -> None:
        """SIGKILL to all processes of the container. Returns at once."""
        self._signal(signal.SIGUSR1)

    async def wait(self) -> Ended:
        """Wait until the last process has ended."""
        await self._process.wait()
        if self._killer is not None:
            self._killer.cancel()
        try:
            document = json.loads(self._exit_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return Ended(128 + signal.SIGKILL, lost=True)
        return Ended(int(document["code"]))

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)


async def start(launch: Launch, *, log: Path, exit_file: Path, grace: float) -> Running:
    """Start a container in a session of its own; its output is appended to `log`. Raises OSError.

    Must be called from the main thread: the death signal is tied to the thread that forks.
    """
    _forget(exit_file)
    with _appending(log) as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            shim.__file__,
            str(os.getpid()),
            str(exit_file),
            str(grace),
            *launch.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=launch.env,
            cwd=launch.working_dir,
            start_new_session=True,
        )
    return Running(process, exit_file, grace)


def _forget(exit_file: Path) -> None:
    exit_file.unlink(missing_ok=True)


def _appending(log: Path) -> BinaryIO:
    return log.open("ab")


def finished_code(exit_file: Path) -> int | None:
    """The exit code that a shim left while nobody waited for it, None if it left none."""
    try:
        return int(json.loads(exit_file.read_text(encoding="utf-8"))["code"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def survivors(state: Path, sessions: Iterable[Session]) -> dict[int, str | None]:
    """Living processes of the pods of a state folder: process number → pod UID, None where only the session tells."""
    sids = {session.pid for session in sessions if _is_current(session)}
    marker = f"{MARKER}={state}:".encode()
    own = {os.getpid(), os.getppid()}
    found: dict[int, str | None] = {}
    for pid, sid in _own_processes():
        if pid in own:
            continue
        uid = _marked(pid, marker)
        if uid is not None:
            found[pid] = uid
        elif sid in sids:
            found[pid] = None
    return found


def kill_survivors(
    state: Path, sessions: Iterable[Session], *, uid: str | None = None, timeout: float = 10.0
) -> int:
    """SIGKILL to all survivors, or to those of one pod, until there is none; returns how many processes were killed.

    Blocks. Raises TimeoutError if some do not die (stuck in the kernel: a dead network file system, a GPU driver).
    """
    known = list(sessions)
    killed: set[int] = set()
    until = time.monotonic() + timeout
    while left := [
        pid for pid, owner in survivors(state, known).items() if uid in (None, owner) or owner is None
    ]:
        if time.monotonic() > until:
            raise TimeoutError(
                f"processes {', '.join(map(str, sorted(left)))} of an earlier start do not end"
            )
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed.update(left)
        time.sleep(0.05)
    return len(killed)


def memory_of(pids: Iterable[int]) -> int:
    """Memory of processes together, in bytes: each one's own pages, and the largest set of shared ones once.

    Pages that several processes map (libraries, a model's file) so count about once. The exact figure (smaps_rollup) walks
    the page tables of a process while holding its memory lock: tens of milliseconds for a trainer, every time.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    own = shared_most = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError):
            _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split())
            own += resident - shared
            shared_most = max(shared_most, shared)
    return (own + shared_most) * page


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it is gone."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def boot_id() -> str:
    """Names this boot of the machine: process numbers mean nothing after the next."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def oom_kills() -> int:
    """How often the kernel has killed for want of memory: in our control group, else on the whole machine."""
    for path in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        with contextlib.suppress(OSError):
            for line in Path(path).read_text(encoding="ascii").splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return 0


def _is_current(session: Session) -> bool:
    """Whether the session can still have members.

    A number stays taken as long as a process uses it as its session. So if another process has it now, all members of
    the old session are gone.
    """
    if session.boot_id != boot_id():
        return False
    now = start_ticks(session.pid)
    return now is None or now == session.start_ticks


def _own_processes() -> list[tuple[int, int]]:
    """Process and session numbers of all living processes of this user."""
    user = os.getuid()
    found: list[tuple[int, int]] = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if entry.stat().st_uid != user:
                continue
            fields = _stat(int(entry.name))
            if fields and fields[0] not in "ZX":
                found.append((int(entry.name), int(fields[3])))
    return found


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat from the state on (field 3 of proc(5)); None if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _marked(pid: int, marker: bytes) -> str | None:
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    start = environ.find(marker)
    if start < 0 or (start > 0 and environ[start - 1] != 0):
        return None
    end = environ.find(b"\0", start)
    return environ[start + len(marker) : end if end >= 0 else None].decode(errors="replace")
