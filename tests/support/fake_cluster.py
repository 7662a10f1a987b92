"""A cluster and a store in memory, in which children end, fail or vanish when a test says so.

It carries out decisions as the controller does, and refuses at once what must never happen: two live attempts of a stage, a
stage that runs again though its result is recorded, two models on the GPUs, a child that is created twice.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, cast

from tests.support.builders import NOW, SPEC, make_run, merged

from selfrewarding.api.presets import effective
from selfrewarding.api.run import SelfRewardingRun, SelfRewardingRunStatus, StageSummary
from selfrewarding.contract.config import ResolveParameters
from selfrewarding.contract.keys import digest, short
from selfrewarding.contract.progress import ProgressLine
from selfrewarding.contract.result import TerminationMessage
from selfrewarding.contract.stages import TRAINING, StageKind
from selfrewarding.plan.actions import Action, Decision, Delete, ScaleHolder, StartHolder, StartStage
from selfrewarding.plan.decide import decide
from selfrewarding.plan.observed import Child, ChildKind, Observed, Phase, Pod, Rival
from selfrewarding.plan.stage import Holder, Stage

GRACE = timedelta(seconds=30)
WORKLOADS = ("Deployment", "Job", "PyTorchJob")
LOST = timedelta(seconds=900)
"""How long a pod on a lost node stays listed."""


@dataclass
class Owned:
    """A child with what it was made from."""

    child: Child
    stage: Stage | None = None
    holder: Holder | None = None
    pods: int = 0
    """How many pods its controller keeps."""


@dataclass
class FakeCluster:
    """One namespace with one run, and the store that outlives everything."""

    spec: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(SPEC))
    annotations: dict[str, str] = field(default_factory=dict)
    now: datetime = NOW
    generation: int = 1
    status: SelfRewardingRunStatus = field(default_factory=SelfRewardingRunStatus)
    owned: dict[str, Owned] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    rivals: tuple[Rival, ...] = ()
    missing_kinds: frozenset[str] = frozenset()
    store: dict[str, StageSummary] = field(default_factory=dict)
    """Results by stage key (64 hex digits)."""
    metrics: dict[str, float] = field(default_factory=lambda: {"pairwiseAccuracy": 0.7})
    """What Evaluate measures."""
    computed: list[str] = field(default_factory=list)
    """Keys in the order in which attempts were started, Prepare, Resolve and Report aside."""
    reported: list[int] = field(default_factory=list)
    """Iterations of the reports whose attempts were started."""
    status_writes: int = 0
    events: list[str] = field(default_factory=list)
    _serial: int = 0

    # ------------------------------------------------------------------ the operator's side

    @property
    def run(self) -> SelfRewardingRun:
        """The object as a fresh operator reads it: status has been through JSON."""
        document = self.status.model_dump(mode="json", by_alias=True, exclude_none=True)
        status = SelfRewardingRunStatus.model_validate(document)
        return make_run(self.spec, status, generation=self.generation, annotations=self.annotations)

    def observed(self) -> Observed:
        """What one look shows."""
        return Observed(
            children=tuple(owned.child for owned in self.owned.values()),
            pods=tuple(self.pods.values()),
            rivals=self.rivals,
            missing_kinds=self.missing_kinds,
        )

    def one_pass(self, *, lose_status: bool = False) -> Decision:
        """Decide and carry out. `lose_status`: the operator dies after acting, before it writes."""
        run = self.run
        pinned = run.status.pinned.preset if run.status.pinned else None
        raw = {name: value for name, value in self.spec.items() if value is not None}
        decision = decide(run, effective(raw, pinned), self.observed(), self.now)
        for action in decision.actions:
            self._carry_out(action)
        if not lose_status and decision.status != self.status:
            self.status = decision.status
            self.status_writes += 1
            self.events += [event.reason for event in decision.events]
        return decision

    def settle(self, *, passes: int = 40) -> Decision:
        """Pass after pass until nothing is left to write or do at this moment."""
        for _ in range(passes):
            writes = self.status_writes
            decision = self.one_pass()
            if decision.requeue_after > 0 and not decision.actions and writes == self.status_writes:
                return decision
        raise AssertionError(f"no rest after {passes} passes: {decision}")

    def _carry_out(self, action: Action) -> None:
        match action:
            case StartStage(stage=stage, attempt=attempt):
                self._start_stage(stage, attempt)
            case StartHolder(holder=holder, iteration=iteration, attempt=attempt):
                self._start_holder(holder, iteration, attempt)
            case ScaleHolder(name=name, replicas=replicas):
                self._scale(name, replicas)
            case Delete(kind=kind, name=name, uid=uid):
                owned = self.owned.get(uid)
                assert owned is None or (owned.child.kind, owned.child.name) == (kind, name)
                self.delete(uid)

    def _start_stage(self, stage: Stage, attempt: int) -> None:
        assert stage.short not in self.status.results, (
            f"{stage.kind} runs again though its result is recorded"
        )
        assert not self.live_pods(stage.short), f"two live attempts of {stage.kind}"
        if stage.kind in TRAINING:
            assert not [pod for pod in self.live_pods() if pod.holder], f"{stage.kind} starts beside a server"
        entry = self.status.attempts.get(stage.short)
        assert entry is not None, "started before the attempt number was durable"
        assert entry.attempt == attempt, "another attempt than the durable one"
        if stage.kind is StageKind.REPORT:
            self.reported.append(stage.iteration)
        elif stage.kind not in (StageKind.PREPARE, StageKind.RESOLVE):
            self.computed.append(stage.key)
        run = self.run
        pods = run.spec.training.nodes if stage.kind in TRAINING else stage.shards
        kind: ChildKind = "PyTorchJob" if stage.kind in TRAINING else "Job"
        self._create("ConfigMap", stage.short, attempt, stage=stage)
        owned = self._create(kind, stage.short, attempt, stage=stage)
        owned.pods = pods
        for index in range(pods):
            self._add_pod(owned, index)

    def _start_holder(self, holder: Holder, iteration: int, attempt: int) -> None:
        training = [pod for pod in self.live_pods() if pod.stage in TRAINING]
        assert not training, f"a server of {holder.model.name} starts beside {training}"
        running = {pod.holder for pod in self.live_pods() if pod.holder}
        needed = {holder.name} | self._wanted_now()
        assert running <= needed, f"a server of {holder.model.name} starts beside {running - needed}"
        entry = self.status.attempts.get(holder.name)
        assert entry is not None, "started before the attempt number was durable"
        assert entry.attempt == attempt, "another attempt than the durable one"
        for kind in ("ConfigMap", "Service", "NetworkPolicy"):
            shared = kind in ("Service", "NetworkPolicy")
            names = {(one.child.kind, one.child.holder) for one in self.owned.values()}
            if not (shared and (kind, holder.name) in names):
                self._create(cast(ChildKind, kind), holder.name, attempt, holder=holder, iteration=iteration)
        if any(
            one.child.holder == holder.name and one.child.attempt == attempt for one in self.deployments()
        ):
            return
        owned = self._create("Deployment", holder.name, attempt, holder=holder, iteration=iteration)
        self._scale(owned.child.name, holder.spec.replicas)

    def _wanted_now(self) -> set[str]:
        return {unit for unit in self.status.attempts if "-" in unit}

    def _create(
        self,
        kind: ChildKind,
        unit: str,
        attempt: int,
        *,
        stage: Stage | None = None,
        holder: Holder | None = None,
        iteration: int = 0,
    ) -> Owned:
        name = f"{kind}-{unit}-a{attempt}".lower()
        there = next((one for one in self.owned.values() if one.child.name == name), None)
        if there is not None:
            assert kind not in WORKLOADS, f"{name} is created twice"
            return there  # ours already: counts as created (survival rule 2)
        child = Child(
            kind=kind,
            name=name,
            uid=self._uid(),
            key=unit.partition("-")[0],
            stage=stage.kind if stage else None,
            holder=unit if holder else None,
            iteration=stage.iteration if stage else iteration,
            attempt=attempt,
            created=self.now,
        )
        owned = Owned(child=child, stage=stage, holder=holder)
        self.owned[child.uid] = owned
        return owned

    def _scale(self, name: str, replicas: int) -> None:
        owned = next(one for one in self.owned.values() if one.child.name == name)
        pods = [pod for pod in self._pods_of(owned) if pod.deleting_since is None]
        for index in range(len(pods), replicas):
            self._add_pod(owned, index)
        for pod in pods[replicas:]:
            self.pods[pod.uid] = replace(pod, deleting_since=self.now + GRACE)
        owned.pods = replicas
        owned.child = replace(owned.child, replicas=replicas)
        self._count_ready(owned)

    def _add_pod(self, owned: Owned, index: int) -> None:
        uid = self._uid()
        gpus = 0
        if owned.stage is not None and owned.stage.gpus:
            gpus = owned.stage.gpus // max(1, owned.pods)
        if owned.holder is not None and owned.holder.gpus:
            gpus = owned.holder.spec.tensor_parallel_size
        self.pods[uid] = Pod(
            name=f"{owned.child.name}-{uid}",
            uid=uid,
            key=owned.child.key,
            attempt=owned.child.attempt,
            stage=owned.child.stage,
            holder=owned.child.holder,
            index=index,
            gpus=gpus,
            created=self.now,
        )

    def _uid(self) -> str:
        self._serial += 1
        return f"u{self._serial}"

    # ------------------------------------------------------------------ the world's side

    def later(self, seconds: float) -> None:
        """Time passes; pods that were being deleted are gone once their grace is over."""
        self.now += timedelta(seconds=seconds)
        for uid, pod in list(self.pods.items()):
            if pod.deleting_since is None:
                continue
            patience = LOST if pod.reason == "NodeLost" else timedelta(0)
            if self.now >= pod.deleting_since + patience:
                del self.pods[uid]

    def delete(self, uid: str) -> None:
        """Delete a child in the background: it is gone at once, its pods end within their grace."""
        owned = self.owned.pop(uid, None)
        controls = owned is not None and owned.child.kind in WORKLOADS
        for pod in self._pods_of(owned) if owned is not None and controls else []:
            self.pods[pod.uid] = replace(pod, deleting_since=pod.deleting_since or self.now + GRACE)

    def run_pods(self) -> None:
        """Every pod finds a node, starts and (servers) becomes ready."""
        for uid, pod in self.pods.items():
            if pod.phase in (Phase.PENDING, Phase.RUNNING) and pod.deleting_since is None:
                started = pod.started or self.now
                self.pods[uid] = replace(
                    pod, phase=Phase.RUNNING, scheduled=True, started=started, ready=pod.holder is not None
                )
        for owned in self.owned.values():
            if owned.child.kind == "Deployment":
                self._count_ready(owned)
            elif owned.pods and owned.child.phase is Phase.PENDING:
                owned.child = replace(owned.child, phase=Phase.RUNNING)

    def jobs(self) -> list[Owned]:
        """Jobs and PyTorchJobs that run."""
        return [
            one
            for one in self.owned.values()
            if one.child.kind in ("Job", "PyTorchJob") and one.child.phase is Phase.RUNNING
        ]

    def workloads(self) -> list[Owned]:
        """Children that have pods."""
        return [one for one in self.owned.values() if self._pods_of(one) and one.child.kind in WORKLOADS]

    def job(self, kind: StageKind, iteration: int | None = None) -> Owned:
        """The running Job of a stage."""
        found = [one for one in self.jobs() if one.stage and one.stage.kind is kind]
        return next(one for one in found if iteration in (None, one.stage.iteration if one.stage else None))

    def succeed(self, owned: Owned, *, message: bool = True, metrics: dict[str, float] | None = None) -> None:
        """A Job's program does its work, commits and tells; without `message` the telling is lost."""
        stage = owned.stage
        assert stage is not None
        told = self._work(stage, metrics)
        for pod in self._pods_of(owned):
            first = pod.index == 0 and message
            self.pods[pod.uid] = replace(
                pod, phase=Phase.SUCCEEDED, exit_code=0, ready=False, termination=told if first else None
            )
        owned.child = replace(owned.child, phase=Phase.SUCCEEDED)

    def fail(self, owned: Owned, **pod_fields: Any) -> None:
        """One pod of a Job fails, its Job with it; the others are ended."""
        pods = self._pods_of(owned)
        for pod in pods:
            if pod is pods[0]:
                fields = {"phase": Phase.FAILED, "exit_code": 1} | pod_fields
                self.pods[pod.uid] = replace(pod, **fields)
            else:
                self.pods[pod.uid] = replace(
                    pod, phase=Phase.FAILED, exit_code=143, deleting_since=self.now + GRACE
                )
        owned.child = replace(owned.child, phase=Phase.FAILED, message="BackoffLimitExceeded: a pod failed")

    def show_progress(self, owned: Owned, done: int, total: int = 100) -> None:
        """A Job's first pod prints a progress line."""
        line = ProgressLine(done=done, total=total, rate=2.0, eta_seconds=1.0)
        for pod in self._pods_of(owned)[:1]:
            self.pods[pod.uid] = replace(pod, progress=line)

    def lose_node(self, owned: Owned) -> None:
        """The node under a child's pods is gone: they stay listed, nothing runs there any more."""
        for pod in self._pods_of(owned):
            self.pods[pod.uid] = replace(pod, deleting_since=self.now, reason="NodeLost", ready=False)
        if owned.child.kind == "Deployment":
            replicas, owned.pods = owned.pods, 0
            for index in range(replicas):
                self._add_pod(owned, index)
            owned.pods = replicas
            self._count_ready(owned)
        else:
            owned.child = replace(owned.child, phase=Phase.FAILED, message="BackoffLimitExceeded")

    def schedule_one(self) -> None:
        """One of the pods that wait finds a node; the others go on waiting."""
        for uid, pod in self.pods.items():
            if pod.phase is Phase.PENDING and not pod.scheduled and pod.deleting_since is None:
                self.pods[uid] = replace(pod, scheduled=True)
                return

    def crash_servers(self) -> None:
        """The servers of every pool restart without becoming ready."""
        for uid, pod in self.pods.items():
            if pod.holder is not None and pod.phase is Phase.RUNNING:
                self.pods[uid] = replace(pod, ready=False, restarts=3, exit_code=1, reason="Error")
        for owned in self.deployments():
            self._count_ready(owned)

    def edit(self, changes: dict[str, Any]) -> None:
        """A person changes the spec."""
        before = copy.deepcopy(self.spec)
        self.spec = merged(self.spec, changes)
        self.generation += self.spec != before

    def live_pods(self, unit: str | None = None) -> list[Pod]:
        """Pods that may still compute."""
        return [
            pod
            for pod in self.pods.values()
            if pod.phase in (Phase.PENDING, Phase.RUNNING)
            and (pod.deleting_since is None or self.now < pod.deleting_since + timedelta(seconds=60))
            and (unit is None or unit == (pod.holder or pod.key))
        ]

    def finish_everything(self, *, rounds: int = 80) -> int:
        """Let all go well until the run rests for good; returns the rounds that this took."""
        for round_ in range(rounds):
            self.settle()
            if not self.jobs() and not self.pods and self.is_finished():
                return round_
            self.run_pods()
            for owned in list(self.jobs()):
                self.succeed(owned)
            self.later(31)
        raise AssertionError(f"not finished after {rounds} rounds: {self.describe()}")

    def describe(self) -> str:
        """What a person wants to see when a test has failed."""
        status = self.status
        lines = [f"{self.now:%H:%M:%S} stage {status.stage}, waiting for {status.waiting_for}"]
        lines += [f"{c.type}={c.status} {c.reason}: {c.message}" for c in status.conditions if c.message]
        lines += [f"attempt {unit}: {entry!r}" for unit, entry in status.attempts.items()]
        for one in self.owned.values():
            child = one.child
            lines.append(f"{child.name} {child.phase} ready {child.ready_replicas}/{child.replicas}")
        lines += [
            f"{p.name} {p.phase} ready={p.ready} restarts={p.restarts} {p.deleting_since}"
            for p in self.pods.values()
        ]
        return "\n".join(lines)

    def is_finished(self) -> bool:
        """Whether status says that the run has succeeded or failed."""
        return any(c.type in ("Succeeded", "Failed") and c.status == "True" for c in self.status.conditions)

    def condition(self, kind: str) -> tuple[str, str]:
        """Status and reason of a condition."""
        found = next(c for c in self.status.conditions if c.type == kind)
        return found.status, found.reason

    def deployments(self) -> Iterator[Owned]:
        """The Deployments that are there."""
        return (one for one in self.owned.values() if one.child.kind == "Deployment")

    def _work(self, stage: Stage, metrics: dict[str, float] | None) -> TerminationMessage:
        if isinstance(stage.parameters, ResolveParameters):
            done = {short(key): self.store[key] for _, key in stage.parameters.stages if key in self.store}
            done = dict(list(done.items())[:7])  # a termination message holds no more
            missing = [short(key) for _, key in stage.parameters.stages if key not in self.store]
            return TerminationMessage(done=done, missing=missing)
        if stage.key not in self.store:
            self.store[stage.key] = self._result(stage, metrics)
        return TerminationMessage(done={stage.short: self.store[stage.key]})

    def _result(self, stage: Stage, metrics: dict[str, float] | None) -> StageSummary:
        data: dict[str, str] = {}
        counts = {"rows": 100, "outputTokens": 5000}
        if stage.kind is StageKind.PREPARE:
            seeds = self.spec["seedData"]
            data = {
                name: digest([name, seeds.get(name), seeds["instructions"]])[:12]
                for name in ("instructions", "ranked")
            }
            data["heldOut"] = digest(["heldOut", seeds.get("heldOut"), seeds.get("ranked")])[:12]
            data["model"] = digest(self.spec["model"]["uri"])[:12]
            counts = {"parameters": 135_000_000, "modelBytes": 270_000_000, "instructions": 80, "ranked": 22}
        measured = self.metrics if stage.kind is StageKind.EVALUATE else {"validRate": 0.9}
        return StageSummary(
            stage=stage.kind,
            iteration=stage.iteration,
            digest=digest([stage.key, len(self.store)])[:16],
            counts=counts,
            metrics=metrics or measured,
            data=data,
            seconds=12.5,
        )

    def _pods_of(self, owned: Owned) -> list[Pod]:
        child = owned.child
        return [
            pod
            for pod in self.pods.values()
            if (pod.holder, pod.key, pod.attempt) == (child.holder, child.key, child.attempt)
        ]

    def _count_ready(self, owned: Owned) -> None:
        ready = [pod for pod in self._pods_of(owned) if pod.ready and pod.deleting_since is None]
        owned.child = replace(owned.child, ready_replicas=len(ready))
