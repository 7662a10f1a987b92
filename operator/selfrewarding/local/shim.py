"""The parent of one container's processes: a program of its own, so that nothing outlives `srr` or a pod.

    python -I -S shim.py PARENT_PID EXIT_FILE GRACE_SECONDS COMMAND [ARGUMENT…]

Starts the command, passes SIGTERM on to it, kills what is left after the grace period, and ends when the last
descendant has ended, as a container's process namespace would. It adopts orphans (PR_SET_CHILD_SUBREAPER), so a
descendant that started a session of its own does not get away. If `srr` dies, even by SIGKILL, it stops the command as
if it had been told to (PR_SET_PDEATHSIG). How the command ended is written to EXIT_FILE: {"code", "signal"}; a
container that died of signal n has code 128 + n.

Signals: SIGTERM stops with grace, SIGHUP (the parent's death) with at most ten seconds of it, SIGUSR1 kills at once.

Knows no Kubernetes object and imports the standard library only: it is started without site-packages, once for each
container.
Neighbour: `processes` starts it and reads the exit file.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ORPHANED_GRACE = 10.0
"""Longest grace, in seconds, once `srr` is dead: the next start may come soon and wants the machine."""
AGAIN = 0.2
"""Seconds between two rounds of SIGKILL, for what was forked meanwhile."""
HANDLED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM)


class Shim:
    """One command and its descendants."""

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.child = 0
        self.stopping = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Stop with grace, or kill; runs between two system calls of `wait`."""
        del frame
        if number in (signal.SIGTERM, signal.SIGHUP) and not self.stopping:
            self.stopping = True
            grace = self.grace if number == signal.SIGTERM else min(self.grace, ORPHANED_GRACE)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGTERM)
            # setitimer(0) would disarm the timer: no grace at all is a very short one.
            signal.setitimer(signal.ITIMER_REAL, max(grace, 0.001), AGAIN)
        elif number in (signal.SIGUSR1, signal.SIGALRM):
            kill_children()
            signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)

    def start(self, command: list[str]) -> None:
        """Start the command in a process group of its own, with the signals of a fresh process.

        The handled signals must be blocked when this is called; they are let through once there is a child to tell.
        """
        own = os.getpid()
        self.child = os.fork()
        if self.child == 0:
            os.setpgid(0, 0)
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != own:
                os._exit(137)
            for number in (*HANDLED, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
            try:
                os.execvp(command[0], command)  # noqa: S606 - a container's command, without a shell
            except OSError as error:
                # Kubernetes' exit code for a container that could not be started.
                os.write(2, f"cannot start {command[0]!r}: {error.strerror}\n".encode())
                os._exit(128)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)

    def wait(self) -> int:
        """Wait for the command, then kill and reap what it left. Returns waitpid's status of the command."""
        status = 0
        while True:
            try:
                pid, ended = os.waitpid(-1, 0)
            except ChildProcessError:
                return status
            if pid == self.child:
                status = ended
                self.stopping = True
                kill_children()
                signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)


def prctl(option: int, value: int) -> None:
    """Linux prctl(2) with one argument. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def kill_children() -> None:
    """SIGKILL to all children. Grandchildren then become children (PR_SET_CHILD_SUBREAPER): a later round gets them."""
    own = os.getpid()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and parent_of(entry.name) == own:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(entry.name), signal.SIGKILL)


def parent_of(pid: str) -> int | None:
    """The parent of a process, None if it is gone."""
    try:
        text = Path("/proc", pid, "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name, in brackets, may itself hold brackets and spaces: the fields start behind its last one.
    return int(text.rpartition(")")[2].split()[1])


def write_exit(path: Path, status: int) -> None:
    """Write how the command ended, whole or not at all."""
    code = os.waitstatus_to_exitcode(status)
    document = {"code": code if code >= 0 else 128 - code, "signal": -code if code < 0 else None}
    draft = path.with_name(path.name + ".tmp")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def main(arguments: list[str]) -> int:
    """Run one command to its end; see the module's text for the arguments."""
    parent, exit_file, grace, *command = arguments
    shim = Shim(float(grace))
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    for number in HANDLED:
        signal.signal(number, shim.on_signal)
    # A Ctrl-C in the terminal is for `srr`, which tells us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
    if os.getppid() != int(parent):
        return 1  # the parent died before it could be watched
    shim.start(command)
    status = shim.wait()
    signal.setitimer(signal.ITIMER_REAL, 0)
    write_exit(Path(exit_file), status)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
