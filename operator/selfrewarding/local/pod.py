"""One pod: init containers, then the program, with restarts, probes and deletion, as a kubelet would do it.

Purpose: drive the processes of one pod through its life and keep `pod.json` true at every step.
Must not: know what owns the pod or when it is wanted; its owner says `run` and `terminate`.
Neighbours: `processes` starts containers, `probes` asks them, `pod_environment` fills their variables in; `cluster`
owns pods.
"""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel

from selfrewarding.api.run import RawObject
from selfrewarding.local import probes, processes
from selfrewarding.local.pod_environment import Machine, PodPlace, launch, make_volumes
from selfrewarding.local.pod_spec import ContainerSpec, PodSpec, UnsupportedManifest
from selfrewarding.local.processes import Ended, Running, Session
from selfrewarding.local.state import write_json
from selfrewarding.plan.observed import Phase

FIRST_RESTART, LONGEST_RESTART = 2.0, 60.0
"""Seconds before the first restart in place; doubled each time, up to the second number."""
NODE_LOST = "NodeLost"
"""Reason of a pod whose `srr` died: what a cluster calls a pod on a node that is gone."""


TERMINATION_BYTES = 4096
"""Kubernetes' limit for a termination message."""
NOT_STARTED = "CreateContainerConfigError"
"""Why a container waits that cannot be started as its manifest says."""


class PodRecord(BaseModel):
    """The content of `pod.json`: what is known of a pod, also after a restart of `srr`."""

    name: str
    uid: str
    owner_kind: str
    owner_name: str
    owner_uid: str
    labels: dict[str, str] = {}
    index: int = 0
    gpus: int = 0
    created: datetime
    phase: Phase = Phase.PENDING
    scheduled: bool = False
    scheduling_message: str | None = None
    waiting_reason: str | None = None
    waiting_message: str | None = None
    ready: bool = False
    restarts: int = 0
    started: datetime | None = None
    finished: datetime | None = None
    deleting_since: datetime | None = None
    exit_code: int | None = None
    reason: str | None = None
    termination: str | None = None
    """Termination message of the last container that ended and left one."""
    sessions: list[Session] = []
    log: str
    scratch: str | None = None
    port: int | None = None

    @property
    def ended(self) -> bool:
        """Whether no container of the pod will run again."""
        return self.phase in (Phase.SUCCEEDED, Phase.FAILED)


@dataclass(frozen=True)
class Surroundings:
    """What all pods of a run share."""

    state: Path
    namespace: str
    machine: Machine
    addresses: Callable[[str], Sequence[str]]
    config_maps: Callable[[str], RawObject | None]
    changed: Callable[[], None]
    """Called whenever something about a pod changed."""
    scratch_base: Path | None = None
    """Folder for pods' temporary files; None: the system's."""


class PodRunner:
    """A pod with its processes. `run` once; `terminate` at any time."""

    def __init__(self, record: PodRecord, spec: PodSpec, around: Surroundings) -> None:
        self.record = record
        self.spec = spec
        self._around = around
        self._folder = around.state / "pods" / record.uid
        self._current: Running | None = None
        self._deleted = asyncio.Event()

    async def run(
        self, *, workload_env: dict[str, str], devices: Sequence[str], processes_in_all: int
    ) -> None:
        """Run the pod to its end. Never raises but for cancellation."""
        record = self.record
        record.scheduled, record.scheduling_message = True, None
        try:
            scratch = Path(tempfile.mkdtemp(prefix="srr-", dir=self._around.scratch_base))
            record.scratch = str(scratch)
            self.save()
            place = PodPlace(
                name=record.name,
                uid=record.uid,
                namespace=self._around.namespace,
                folder=self._folder,
                scratch=scratch,
                state=self._around.state,
                port=record.port,
                workload_env=workload_env,
                devices=devices,
                processes=processes_in_all,
            )
            volumes = make_volumes(self.spec, place, self._around.config_maps)
            await self._live(place, volumes)
        except (OSError, UnsupportedManifest) as error:
            # A kubelet would try again for ever; here nothing will change by itself.
            self._append_to_log(f"the pod cannot be started: {error}")
            record.waiting_reason, record.waiting_message = NOT_STARTED, str(error)
            if self.spec.restart_policy == "Never":
                self._end(Ended(128), NOT_STARTED)
        finally:
            self.remove_volumes()
            self.save()

    def terminate(self) -> None:
        """Stop the pod with its grace period. Returns at once; `run` ends when all its processes have."""
        if self.record.deleting_since is None:
            self.record.deleting_since = datetime.now(UTC) + timedelta(seconds=self.spec.grace)
            self.save()
        self._deleted.set()
        if self._current is not None:
            self._current.stop()

    def kill(self) -> None:
        """End all processes at once."""
        self.terminate()
        if self._current is not None:
            self._current.kill()

    def save(self) -> None:
        """Write `pod.json` and tell that something changed. A full disk must not stop a pod: the file is older then."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._folder / "pod.json", self.record.model_dump(mode="json"))
        self._around.changed()

    def remove_volumes(self) -> None:
        """Remove what only running containers need."""
        shutil.rmtree(self._folder / "volumes", ignore_errors=True)
        if self.record.scratch is not None:
            shutil.rmtree(self.record.scratch, ignore_errors=True)

    def remove(self) -> None:
        """Remove all of the pod but its log."""
        self.remove_volumes()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _live(self, place: PodPlace, volumes: dict[str, Path]) -> None:
        for container in self.spec.init:
            ended = await self._until_done(container, place, volumes)
            if ended.code != 0 or self._deleted.is_set():
                self._end(ended)
                return
        while True:
            ended = await self._once(self.spec.program, place, volumes)
            if not await self._again(ended):
                self._end(ended)
                return

    async def _until_done(self, container: ContainerSpec, place: PodPlace, volumes: dict[str, Path]) -> Ended:
        """Run an init container until it succeeds, or once where the pod is never restarted."""
        while True:
            ended = await self._once(container, place, volumes)
            if ended.code == 0 or not await self._again(ended):
                return ended

    async def _again(self, ended: Ended) -> bool:
        """Whether the container is to be started again, after the pause that is due."""
        policy = self.spec.restart_policy
        if self._deleted.is_set() or policy == "Never" or (policy == "OnFailure" and ended.code == 0):
            return False
        record = self.record
        record.exit_code, record.reason = ended.code, _reason(ended)
        record.restarts += 1
        record.waiting_reason = "CrashLoopBackOff"
        pause = min(LONGEST_RESTART, FIRST_RESTART * 2 ** (record.restarts - 1))
        record.waiting_message = f"exit code {ended.code}; started again in {pause:.0f} s; see {record.log}"
        self.save()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._deleted.wait(), pause)
        record.waiting_reason = record.waiting_message = None
        return not self._deleted.is_set()

    async def _once(self, container: ContainerSpec, place: PodPlace, volumes: dict[str, Path]) -> Ended:
        """Start a container and wait for its end; a failed probe ends it."""
        if self._deleted.is_set():
            return Ended(143)
        record = self.record
        around = self._around
        what = launch(
            container,
            self.spec,
            place,
            volumes=volumes,
            machine=around.machine,
            addresses=around.addresses,
            config_maps=around.config_maps,
        )
        is_program = container is self.spec.program
        oom_before = processes.oom_kills()
        place.termination.unlink(missing_ok=True)
        running = await processes.start(
            what,
            log=Path(record.log),
            exit_file=exit_file(self._folder, container.name),
            grace=self.spec.grace,
        )
        self._current = running
        record.sessions = [*record.sessions[-8:], running.session]
        if is_program:
            record.phase = Phase.RUNNING
            record.started = record.started or datetime.now(UTC)
        self.save()
        if self._deleted.is_set():
            running.stop()
        watch = asyncio.ensure_future(self._watch(container, running)) if is_program else None
        try:
            ended = await running.wait()
        finally:
            self._current = None
            if watch is not None:
                watch.cancel()
                record.ready = False
        record.termination = _message(place.termination)
        if ended.lost:
            await asyncio.to_thread(
                processes.kill_survivors, self._around.state, [running.session], uid=record.uid
            )
        # torchrun says 1 where a worker was killed; a program that failed by itself left a message.
        unexplained = ended.code == 137 or (ended.code == 1 and record.termination is None)
        if unexplained and processes.oom_kills() > oom_before:
            ended = Ended(ended.code, lost=ended.lost, out_of_memory=True)
        return ended

    async def _watch(self, container: ContainerSpec, running: Running) -> None:
        def on_ready(ready: bool) -> None:
            self.record.ready = ready
            self.save()

        port = self.record.port
        has_probes = container.startup or container.readiness or container.liveness
        why = await probes.watch(container, port if has_probes else None, on_ready)
        self._append_to_log(f"{why}: the container is started again")
        running.stop()

    def _end(self, ended: Ended, reason: str | None = None) -> None:
        record = self.record
        record.phase = Phase.SUCCEEDED if ended.code == 0 else Phase.FAILED
        record.exit_code, record.reason = ended.code, reason or _reason(ended)
        record.finished = datetime.now(UTC)
        record.ready = False

    def _append_to_log(self, text: str) -> None:
        with contextlib.suppress(OSError), Path(self.record.log).open("a", encoding="utf-8") as log:
            log.write(f"[srr] {text}\n")


def _message(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(TERMINATION_BYTES).decode(errors="replace") or None
    except OSError:
        return None


def exit_file(folder: Path, container: str) -> Path:
    """Where a container's shim writes how it ended."""
    return folder / f"exit-{container}.json"


def _reason(ended: Ended) -> str:
    """Kubernetes' reason for a terminated container."""
    if ended.code == 0:
        return "Completed"
    return "OOMKilled" if ended.out_of_memory else "Error"
