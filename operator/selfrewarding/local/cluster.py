"""`LocalCluster`: the `Cluster` port over processes of this machine.

Purpose: keep a run's objects and pods in its state folder, and carry out what their controllers want.
Must not: decide anything about stages; that is the planner's.
Neighbours: `workloads` says which pods an object wants, `pod` runs one, `observing` shows a pass what is there.
"""

import asyncio
import contextlib
import json
import logging
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from selfrewarding.api.run import RawObject, SelfRewardingRun, SelfRewardingRunStatus
from selfrewarding.cluster.protocol import Conflict, Forbidden, NotFound, RunKey, Unavailable
from selfrewarding.local import observing, processes, workloads
from selfrewarding.local.devices import Devices, visible_gpus
from selfrewarding.local.errors import LocalError
from selfrewarding.local.pod import NODE_LOST, PodRecord, PodRunner, Surroundings, exit_file
from selfrewarding.local.pod_environment import Machine
from selfrewarding.local.pod_spec import PodSpec, UnsupportedManifest, read_pod
from selfrewarding.local.ports import free_port
from selfrewarding.local.run_record import RunRecord, run_of, save_record, with_status
from selfrewarding.local.state import StateFolder, read_json, write_json
from selfrewarding.plan.actions import Event
from selfrewarding.plan.observed import ChildKind, Observed, Phase

log = logging.getLogger(__name__)

KINDS = ("ConfigMap", "Service", "NetworkPolicy", *workloads.WORKLOADS)


@dataclass
class _Pod:
    """A pod of this process: how to run it, and its task once it has been started."""

    runner: PodRunner
    spec: PodSpec
    wanted: workloads.WantedPod | None
    task: asyncio.Task[None] | None = None

    @property
    def record(self) -> PodRecord:
        return self.runner.record


class LocalCluster:
    """One run's cluster. The state folder must be locked by the caller."""

    def __init__(
        self,
        state: StateFolder,
        record: RunRecord,
        machine: Machine,
        *,
        scratch_base: Path | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.state = state
        self.changed = asyncio.Event()
        """Set whenever a pass could find something new; the waiter clears it."""
        self.killed_at_start = 0
        """Processes of an earlier start that had to be killed."""
        self.failed_log: Path | None = None
        """Log of the last pod that failed by itself."""
        self._record = record
        self._devices = Devices(visible_gpus(machine.user_env))
        self._on_event = on_event
        self._objects: dict[tuple[str, str], RawObject] = {}
        self._pods: dict[str, _Pod] = {}
        self._posted: dict[tuple[str, str, str], int] = {}
        self._stopping = False
        self._around = Surroundings(
            state=state.root,
            namespace=record.object["metadata"]["namespace"],
            machine=machine,
            addresses=self._addresses,
            config_maps=lambda name: self._objects.get(("ConfigMap", name)),
            changed=self.changed.set,
            scratch_base=scratch_base,
        )

    async def start(self) -> None:
        """Take up what an earlier start left: kill its processes, mark its pods as lost, let workloads go on.

        Raises LocalError if its processes cannot be killed or its files cannot be read.
        """
        records = [
            PodRecord.model_validate(value)
            for path in sorted(self.state.pods.glob("*/pod.json"))
            if (value := read_json(path)) is not None
        ]
        sessions = [session for record in records for session in record.sessions]
        try:
            self.killed_at_start = await asyncio.to_thread(
                processes.kill_survivors, self.state.root, sessions
            )
        except TimeoutError as error:
            raise LocalError(
                f"{error}: end them by hand, or restart the machine, then start again"
            ) from error
        for path in sorted(self.state.objects.glob("*.json")):
            manifest = read_json(path)
            self._objects[manifest["kind"], manifest["metadata"]["name"]] = manifest
        for record in records:
            self._take_up(record)
        for manifest in self._workloads():
            self._give_ports(manifest)
            self._sync(manifest)

    async def get_run(self, key: RunKey) -> SelfRewardingRun | None:
        """See `Cluster.get_run`. Raises pydantic.ValidationError for a spec that cannot be."""
        metadata = self._record.object["metadata"]
        if (metadata["namespace"], metadata["name"]) != (key.namespace, key.name):
            return None
        return run_of(self._record)

    async def observe(self, run: SelfRewardingRun) -> Observed:
        """See `Cluster.observe`."""
        children = [observing.child(manifest, self._records(manifest)) for manifest in self._objects.values()]
        return Observed(
            children=tuple(found for found in children if found is not None),
            pods=tuple(observing.pod(pod.record) for pod in self._pods.values()),
            rivals=observing.rivals(self.state, run.spec.artifacts.uri),
        )

    async def create(self, run: SelfRewardingRun, manifest: RawObject) -> None:
        """See `Cluster.create`."""
        del run
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        if kind not in KINDS:
            raise NotFound(f"the local backend has no {kind}: it knows {', '.join(KINDS)}")
        if (kind, name) in self._objects:
            return
        if self._stopping:
            raise Unavailable("srr is stopping")
        made = json.loads(json.dumps(manifest))
        now = datetime.now(UTC).isoformat()
        made["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now, "generation": 1}
        made["status"] = {}
        self._give_ports(made)
        try:
            if kind in workloads.WORKLOADS:
                self._check(made)
        except (UnsupportedManifest, KeyError, TypeError, ValueError) as error:
            raise Forbidden(f"{kind} {name} cannot run on this machine: {error}") from error
        self._save(made)
        self._objects[kind, name] = made
        self._sync(made)

    async def scale(self, run: SelfRewardingRun, name: str, replicas: int) -> None:
        """See `Cluster.scale`."""
        del run
        manifest = self._objects.get(("Deployment", name))
        if manifest is None:
            raise NotFound(f"Deployment {name} does not exist")
        if workloads.replicas_of(manifest) == replicas:
            return
        manifest["spec"]["replicas"] = replicas
        manifest["metadata"]["generation"] += 1
        self._give_ports(manifest)
        self._save(manifest)
        self._sync(manifest)

    async def delete(self, run: SelfRewardingRun, kind: ChildKind, name: str, uid: str) -> None:
        """See `Cluster.delete`. As in a cluster the object is gone at once, and its pods follow with their grace."""
        del run
        manifest = self._objects.get((kind, name))
        if manifest is not None and manifest["metadata"]["uid"] == uid:
            self._remove(manifest)

    async def patch_status(self, run: SelfRewardingRun, status: SelfRewardingRunStatus) -> None:
        """See `Cluster.patch_status`."""
        version = self._record.object["metadata"]["resourceVersion"]
        if run.metadata.resource_version != version:
            raise Conflict(
                f"the run has changed: resourceVersion {version}, not {run.metadata.resource_version}"
            )
        record = with_status(self._record, status)
        try:
            save_record(self.state, record)
        except OSError as error:
            raise Unavailable(f"{self.state.run_file} cannot be written: {error.strerror}") from error
        self._record = record
        self.changed.set()

    async def post_events(self, run: SelfRewardingRun, events: Sequence[Event]) -> None:
        """See `Cluster.post_events`."""
        del run
        for event in events:
            key = (event.type, event.reason, event.message)
            self._posted[key] = self._posted.get(key, 0) + 1
            if self._posted[key] > 1:
                continue
            line = {"time": datetime.now(UTC).isoformat(), "type": event.type, "reason": event.reason}
            with contextlib.suppress(OSError), self.state.events.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line | {"message": event.message}, ensure_ascii=False) + "\n")
            if self._on_event is not None:
                self._on_event(event)

    def pods(self) -> list[PodRecord]:
        """All pods, oldest first."""
        return sorted((pod.record for pod in self._pods.values()), key=lambda record: record.created)

    async def stop(self) -> None:
        """Stop all pods with their grace and return when no process is left.

        What has not ended is deleted, as by a suspension: the next start makes it again and no failure is counted.
        What has ended stays, so that its result is read then.
        """
        self._stopping = True
        ended = {m["metadata"]["name"] for m in self._workloads() if m["status"].get("phase") is not None}
        for manifest in list(self._objects.values()):
            if manifest["metadata"]["name"] not in ended:
                self._remove(manifest)
        for pod in list(self._pods.values()):
            if pod.task is not None and not pod.task.done():
                pod.runner.terminate()
        while tasks := [
            pod.task for pod in self._pods.values() if pod.task is not None and not pod.task.done()
        ]:
            await asyncio.wait(tasks)

    def kill(self) -> None:
        """End all processes at once."""
        for pod in self._pods.values():
            pod.runner.kill()

    # Objects

    def _workloads(self) -> list[RawObject]:
        return [manifest for manifest in self._objects.values() if manifest["kind"] in workloads.WORKLOADS]

    def _save(self, manifest: RawObject) -> None:
        name = f"{manifest['kind']}-{manifest['metadata']['name']}.json"
        try:
            write_json(self.state.objects / name, manifest)
        except OSError as error:
            raise Unavailable(f"{self.state.objects / name} cannot be written: {error.strerror}") from error

    def _remove(self, manifest: RawObject) -> None:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        del self._objects[kind, name]
        (self.state.objects / f"{kind}-{name}.json").unlink(missing_ok=True)
        for pod in self._of(manifest):
            self._terminate(pod)
        self.changed.set()

    def _check(self, manifest: RawObject) -> None:
        """Read all of a workload's pods once, so that what cannot run is refused when it is created."""
        for wanted in workloads.look(manifest, ()).start:
            spec = read_pod(wanted.template, restart_policy=wanted.restart_policy)
            if spec.program.gpus > len(self._devices.names):
                raise ValueError(
                    f"a pod asks for {spec.program.gpus} GPUs, this machine has {len(self._devices.names)}"
                )

    def _give_ports(self, manifest: RawObject) -> None:
        """Addresses are fixed before a pod starts, as a Service's name is."""
        taken = {port for other in self._workloads() for port in other["status"].get(workloads.PORTS, [])}
        status = manifest["status"]
        if manifest["kind"] == "Deployment":
            ports: list[int] = status.get(workloads.PORTS, [])
            while len(ports) < workloads.replicas_of(manifest):
                ports = [*ports, free_port(taken | set(ports))]
            status[workloads.PORTS] = ports
        elif manifest["kind"] == "PyTorchJob":
            status[workloads.RENDEZVOUS_PORT] = free_port(taken)

    def _addresses(self, host: str) -> Sequence[str]:
        """Addresses of all pods behind a Service, by the first part of its DNS name."""
        service = self._objects.get(("Service", host.partition(".")[0]))
        return workloads.addresses_behind(service, self._workloads()) if service is not None else ()

    # Pods

    def _of(self, manifest: RawObject) -> list[_Pod]:
        uid = manifest["metadata"]["uid"]
        return [pod for pod in self._pods.values() if pod.record.owner_uid == uid]

    def _records(self, manifest: RawObject) -> list[PodRecord]:
        return [pod.record for pod in self._of(manifest)]

    def _sync(self, manifest: RawObject) -> None:
        """Carry out what a workload wants now."""
        if manifest["kind"] not in workloads.WORKLOADS or self._stopping:
            return
        verdict = workloads.look(manifest, self._records(manifest))
        if verdict.end is not None:
            manifest["status"] |= {"phase": verdict.end.value, "message": verdict.message}
            with contextlib.suppress(Unavailable):  # the same verdict comes again after a restart
                self._save(manifest)
        for uid in verdict.stop:
            self._terminate(self._pods[uid])
        for wanted in verdict.start:
            self._add(manifest, wanted)
        self._schedule()
        self.changed.set()

    def _add(self, manifest: RawObject, wanted: workloads.WantedPod) -> None:
        spec = read_pod(wanted.template, restart_policy=wanted.restart_policy)
        record = PodRecord(
            name=wanted.name,
            uid=str(uuid.uuid4()),
            owner_kind=manifest["kind"],
            owner_name=manifest["metadata"]["name"],
            owner_uid=manifest["metadata"]["uid"],
            labels=dict(spec.labels),
            index=wanted.index,
            gpus=spec.program.gpus,
            created=datetime.now(UTC),
            log=str(self.state.logs / f"{wanted.name}.log"),
            port=wanted.port,
        )
        self._pods[record.uid] = _Pod(PodRunner(record, spec, self._around), spec, wanted)

    def _schedule(self) -> None:
        """Start the pods that wait and for which there are GPUs."""
        for pod in self._pods.values():
            if pod.task is not None or pod.wanted is None or pod.record.deleting_since is not None:
                continue
            devices = self._devices.take(pod.record.uid, pod.record.gpus)
            if devices is None:
                pod.record.scheduling_message = (
                    f"0/1 nodes are available: {pod.record.gpus} GPUs wanted, {len(self._devices.free)} of "
                    f"{len(self._devices.names)} free"
                )
                continue
            pod.task = asyncio.create_task(self._run(pod, pod.wanted, devices), name=pod.record.name)

    async def _run(self, pod: _Pod, wanted: workloads.WantedPod, devices: Sequence[str]) -> None:
        try:
            await pod.runner.run(
                workload_env=wanted.workload_env, devices=devices, processes_in_all=wanted.processes
            )
        except Exception:
            # A fault of ours: the pod counts as failed, and the run tells where to look.
            log.exception("pod %s could not be run", wanted.name)
            pod.record.phase, pod.record.reason, pod.record.exit_code = Phase.FAILED, "Error", 128
            pod.record.waiting_message = "srr itself failed; see the log of srr"
        self._devices.give_back(pod.record.uid)
        if pod.record.phase is Phase.FAILED and pod.record.deleting_since is None:
            self.failed_log = Path(pod.record.log)
        if pod.record.deleting_since is not None:
            self._drop(pod)
        owner = self._objects.get((pod.record.owner_kind, pod.record.owner_name))
        if owner is not None and owner["metadata"]["uid"] == pod.record.owner_uid:
            self._sync(owner)
        self._schedule()
        self.changed.set()

    def _terminate(self, pod: _Pod) -> None:
        """Delete a pod: at once if it has no process, else when its processes have ended."""
        if pod.task is None or pod.task.done():
            self._drop(pod)
        else:
            pod.runner.terminate()

    def _drop(self, pod: _Pod) -> None:
        pod.runner.remove()
        self._pods.pop(pod.record.uid, None)

    def _take_up(self, record: PodRecord) -> None:
        """A pod of an earlier start, whose processes are dead by now."""
        owner = self._objects.get((record.owner_kind, record.owner_name))
        folder = self.state.pods / record.uid
        is_ours = owner is not None and owner["metadata"]["uid"] == record.owner_uid
        if record.scratch is not None:
            shutil.rmtree(record.scratch, ignore_errors=True)
        # A Deployment makes new pods for those that are lost; pods of deleted objects are gone with their node.
        if (
            not is_ours
            or owner is None
            or record.owner_kind == "Deployment"
            or record.deleting_since is not None
        ):
            shutil.rmtree(folder, ignore_errors=True)
            return
        template, policy = workloads.template_of(owner, record.index)
        spec = read_pod(template, restart_policy=policy)
        runner = PodRunner(record, spec, self._around)
        if not record.ended:
            # It may have ended well in the moment in which nobody was there to write it down.
            done = processes.finished_code(exit_file(folder, spec.program.name)) == 0
            record.phase = Phase.SUCCEEDED if done else Phase.FAILED
            record.exit_code, record.reason = (0, "Completed") if done else (None, NODE_LOST)
            record.finished = datetime.now(UTC)
            runner.remove_volumes()
            runner.save()
        self._pods[record.uid] = _Pod(runner, spec, None)
