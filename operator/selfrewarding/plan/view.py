"""What one pass knows: the run, what was seen of it, its stages, and the questions that every check asks.

Purpose: the gathered input of a pass, in one frozen object. Must not: decide or change anything.
Neighbours: `facts` builds it and adds the pass's facts to `status`; `checks`, `holders`, `starts`, `report` read it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property

from selfrewarding.api.run import (
    AlarmStatus,
    ModelStatus,
    SelfRewardingRun,
    SelfRewardingRunSpec,
    SelfRewardingRunStatus,
    StageAttempts,
    StageSummary,
)
from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.artifacts import stage_prefix
from selfrewarding.contract.keys import artifact_label, digest
from selfrewarding.contract.stages import TRAINING, StageKind
from selfrewarding.plan.aside import report_stage, resolve_stage
from selfrewarding.plan.calibration import NO_HELD_OUT, why_not_calibrated
from selfrewarding.plan.graph import GateOutcome, build_graph
from selfrewarding.plan.observed import Child, Observed, Phase, Pod, Rival
from selfrewarding.plan.retries import FailureClass
from selfrewarding.plan.stage import Graph, Holder, Iteration, Stage
from selfrewarding.plan.times import moment_of

MAX_RESOLVED_AT_ONCE = 64
GONE_AFTER = timedelta(seconds=60)
"""A pod this long past its deletionTimestamp no longer blocks: its node is lost (survival rule 4)."""
JOB_KINDS = frozenset({"Job", "PyTorchJob"})
REPORT_TRIES = 3
REPORT_TIME = timedelta(hours=1)
"""A report that fails so often by itself, or is not there after so long, is given up: no run waits longer for its end."""


@dataclass(frozen=True, kw_only=True)
class Pending:
    """What is left to do in the graph, in order: a stage, a gate that holds, or nothing."""

    stage: Stage | None = None
    """The first stage without a result."""
    held: ModelStatus | None = None
    """A model whose gate holds before the next iteration."""
    stopped: ModelStatus | None = None
    """A model whose gate ended the run."""
    alarm: AlarmStatus | None = None
    """An alarm that ended the run."""
    uncalibrated: str | None = None
    """Why the first judge is not good enough to go on with (`judge.calibration`)."""

    @property
    def iteration(self) -> int | None:
        """The iteration that the run is in; None where it is through with all."""
        where = self.stage or self.held or self.stopped or self.alarm
        return 1 if self.uncalibrated is not None else where.iteration if where is not None else None


@dataclass(frozen=True, kw_only=True)
class View:
    """The input of all checks. `status` is the one that was read, with this pass's facts in it."""

    run: SelfRewardingRun
    spec: SelfRewardingRunSpec
    """The effective spec."""
    observed: Observed
    now: datetime
    status: SelfRewardingRunStatus

    def having(self, **facts: object) -> "View":
        """The same view with changed fields of status; the graph is made again only if what it rests on changed."""
        view = replace(self, status=self.status.model_copy(update=facts))
        view.__dict__["prepare"] = self.prepare
        if view.prepare_summary == self.prepare_summary and view.gates == self.gates:
            view.__dict__["graph"] = self.graph
        return view

    @property
    def uid(self) -> str:
        """UID of the run."""
        return self.run.metadata.uid or ""

    @cached_property
    def contract(self) -> int:
        """Contract version that the run is pinned to."""
        return self.status.pinned.contract if self.status.pinned else CONTRACT_VERSION

    # ------------------------------------------------------------------ the stages

    @cached_property
    def graph(self) -> Graph:
        """The stages; while Prepare of an edited spec has not run, by the digests that the last one found."""
        return build_graph(
            self.spec,
            run_uid=self.uid,
            contract=self.contract,
            prepare=self.prepare_summary,
            gates=self.gates,
        )

    @cached_property
    def prepare(self) -> Stage:
        """Prepare of this very spec."""
        return build_graph(self.spec, run_uid=self.uid, contract=self.contract).prepare

    @property
    def prepared(self) -> bool:
        """Whether Prepare of this very spec is done, so that all keys are certain."""
        return self.is_done(self.prepare)

    @cached_property
    def prepare_summary(self) -> StageSummary | None:
        """What Prepare found out; the last one's word until that of an edited spec is done."""
        last = (one for one in self.status.results.values() if one.stage == StageKind.PREPARE)
        return self.status.results.get(self.prepare.short) or next(last, None)

    @cached_property
    def gates(self) -> Mapping[str, GateOutcome]:
        """What gates decided for good, by key of the training stage."""
        decided: dict[str, GateOutcome] = {}
        for model in self.status.models:
            if model.gate in ("Promoted", "RolledBack"):
                decided[model.uri.rpartition("/")[2]] = model.gate
        return decided

    def is_done(self, stage: Stage) -> bool:
        """Whether the stage's result is recorded."""
        return stage.short in self.status.results

    def model_uri(self, trained: Stage) -> str:
        """Folder of the stage that made a model; its result.json names the model's files."""
        return f"{self.spec.artifacts.uri.rstrip('/')}/{stage_prefix(trained.kind, trained.key)}"

    def model_of(self, trained: Stage | None) -> ModelStatus | None:
        """What status says of the model that a training stage made."""
        if trained is None:
            return None
        uri = self.model_uri(trained)
        return next((model for model in self.status.models if model.uri == uri), None)

    @cached_property
    def pending(self) -> Pending:
        """The first thing in the graph that is not done, gates included, whatever Prepare and Resolve may still say."""
        if (
            self._calibrates
            and self.prepare_summary is not None
            and not self.prepare_summary.data.get("heldOut")
        ):
            return Pending(uncalibrated=NO_HELD_OUT)
        stopping = {alarm.iteration: alarm for alarm in self.status.alarms if alarm.action == "Stop"}
        for iteration in self.graph.iterations:
            if iteration.number in stopping:
                return Pending(alarm=stopping[iteration.number])
            for stage in iteration.stages:
                if not self.is_done(stage):
                    return Pending(stage=stage)
            model = self.model_of(iteration.trained)
            if model is not None and model.gate == "Stopped":
                return Pending(stopped=model)
            if model is not None and model.gate == "Held" and iteration.number < len(self.graph.iterations):
                return Pending(held=model)
            if iteration.number == 1 and self._calibrates and model is not None:
                why = self._why_not_calibrated(iteration, model)
                if why is not None:
                    return Pending(uncalibrated=why)
        return Pending()

    @property
    def _calibrates(self) -> bool:
        """Whether the judge must still show what it can do: it has a bar to reach, and no rollout is done."""
        rollouts = (stage for stage in self.graph.stages if stage.kind is StageKind.ROLLOUT)
        first = next(rollouts, None)
        return self.spec.judge.calibration is not None and first is not None and not self.is_done(first)

    def _why_not_calibrated(self, iteration: Iteration, model: ModelStatus) -> str | None:
        calibration = self.spec.judge.calibration
        evaluated = next(
            (
                self.status.results.get(stage.short)
                for stage in iteration.stages
                if stage.kind is StageKind.EVALUATE and stage.parents.get("model") == iteration.trained
            ),
            None,
        )
        return why_not_calibrated(calibration, model.metrics, evaluated) if calibration is not None else None

    @property
    def answers_are_old(self) -> bool:
        """Whether nothing that the store lacked once can be relied on: nobody knows of the stage that is next.

        So it is after another run has computed that stage: it may have gone on since the store was asked about the rest
        (survival rule 8).
        """
        stage = self.pending.stage
        if stage is None or stage.kind is StageKind.PREPARE:
            return False
        return stage.short not in self.status.resolved and self.rival_of(stage) is None

    @cached_property
    def unresolved(self) -> tuple[Stage, ...]:
        """Stages of which nobody knows whether the store has them. What another run computes now comes later."""
        known = () if self.answers_are_old else self.status.resolved
        return tuple(
            stage
            for stage in self.graph.stages
            if stage.kind is not StageKind.PREPARE
            and not self.is_done(stage)
            and stage.short not in known
            and self.rival_of(stage) is None
        )

    @cached_property
    def step(self) -> Stage | None:
        """The stage that the run is at: Prepare, Resolve where something is unknown, the first without a result."""
        if not self.prepared:
            return self.prepare
        if self.unresolved:
            asked = self.unresolved[:MAX_RESOLVED_AT_ONCE]
            return resolve_stage(asked, spec=self.spec, contract=self.contract)
        return self.pending.stage

    @cached_property
    def active(self) -> tuple[Stage, ...]:
        """Stages whose children may live: the step, and the stage under way while Prepare or Resolve looks again."""
        found = [] if self.step is None else [self.step]
        under_way = self.pending.stage
        if under_way is not None and under_way not in found and under_way.short in self.status.attempts:
            found.append(under_way)
        return tuple(found)

    @cached_property
    def reported(self) -> Stage | None:
        """The newest report that the run should have: of the last iteration whose gate has spoken, or of its end.

        What the store has of iterations after that end is no part of the run.
        """
        pending = self.pending
        end = pending.stopped or pending.alarm
        last = pending.iteration if end is not None or pending.uncalibrated is not None else None
        finished: list[Stage] = []
        due = 0
        for iteration in self.graph.iterations:
            done = [stage for stage in iteration.stages if self.is_done(stage)]
            finished += done
            model = self.model_of(iteration.trained)
            whole = len(done) == len(iteration.stages) and model is not None and model.gate is not None
            ends = iteration.number == last
            if whole or (ends and end is not None):
                due = len(finished)
            if ends or not whole:
                break
        if due == 0:
            return None
        at = finished[due - 1].iteration
        return report_stage(
            self.graph,
            finished[:due],
            run_uid=self.uid,
            decided=self._decided(at),
            uncalibrated=pending.uncalibrated,
            spec=self.spec,
            contract=self.contract,
        )

    def _decided(self, iteration: int) -> str:
        """Digest of what gates and alarms said up to an iteration, which a person who approves changes, and of where the
        numbers go: a tracker that is named later gets them all the same."""
        models = (model for model in self.status.models if model.iteration <= iteration)
        alarms = (alarm for alarm in self.status.alarms if alarm.iteration <= iteration)
        return digest(
            {
                "gates": [[model.name, model.gate, model.gate_message] for model in models],
                "alarms": [[alarm.name, alarm.iteration, alarm.action, alarm.threshold] for alarm in alarms],
                "tracking": self.spec.tracking.model_dump(mode="json"),
            }
        )[:12]

    @property
    def report(self) -> Stage | None:
        """The report that is to be written: a Job beside the run, which nothing waits for but its end.

        One that has begun goes on while Prepare or Resolve looks again; none begins before all is certain.
        """
        stage = self.reported
        if stage is None or self.is_done(stage):
            return None
        entry = self.entry(stage.short)
        if entry is None:
            return stage if self.is_certain else None
        late = entry.started is not None and self.now >= moment_of(entry.started) + REPORT_TIME
        outside = entry.failure in (FailureClass.STORE_UNAVAILABLE, FailureClass.INFRASTRUCTURE)
        own = entry.failures + (0 if outside else entry.infrastructure)
        return None if late or own >= REPORT_TRIES else stage

    @property
    def is_certain(self) -> bool:
        """Whether all keys are, and of every stage it is known whether it is done."""
        return self.prepared and not self.unresolved

    @property
    def living(self) -> tuple[Stage, ...]:
        """Stages whose children may live: those under way, and the report beside them."""
        return self.active if self.report is None else (*self.active, self.report)

    @cached_property
    def next_iteration(self) -> Iteration | None:
        """The iteration that a gate which holds keeps from starting."""
        if self.pending.held is None:
            return None
        number = self.pending.held.iteration + 1
        return next((one for one in self.graph.iterations if one.number == number), None)

    @cached_property
    def wanted_holders(self) -> Mapping[str, Holder]:
        """Serving pools by name that the stage under way asks, or the first stage behind a gate that holds."""
        stage = self.pending.stage
        if stage is None and self.next_iteration is not None:
            stage = self.next_iteration.stages[0]
        return {} if stage is None else {holder.name: holder for holder in stage.holders.values()}

    # ------------------------------------------------------------------ attempts

    def entry(self, unit: str) -> StageAttempts | None:
        """Attempts of a stage (by short key) or of a serving pool (by name)."""
        return self.status.attempts.get(unit)

    def waits(self, unit: str) -> bool:
        """Whether the next attempt is not due yet."""
        entry = self.entry(unit)
        return entry is not None and entry.not_before is not None and self.now < moment_of(entry.not_before)

    # ------------------------------------------------------------------ children and pods

    def job_of(self, stage: Stage) -> Child | None:
        """The Job or PyTorchJob of the stage's current attempt."""
        entry = self.entry(stage.short)
        return next(
            (child for child in self.jobs(stage.short) if entry and child.attempt == entry.attempt), None
        )

    def jobs(self, short_key: str) -> Iterator[Child]:
        """The Jobs and PyTorchJobs of all attempts of a stage."""
        for child in self.observed.children:
            if child.kind in JOB_KINDS and child.holder is None and child.key == short_key:
                yield child

    def deployment_of(self, holder: Holder) -> Child | None:
        """The Deployment of the pool's current attempt."""
        entry = self.entry(holder.name)
        for child in self.observed.children:
            of_pool = child.kind == "Deployment" and child.holder == holder.name and not child.deleting
            if of_pool and entry is not None and child.attempt == entry.attempt:
                return child
        return None

    def pods_of(self, unit: str, attempt: int | None = None) -> tuple[Pod, ...]:
        """Pods of a stage (by short key) or of a serving pool (by name), of one attempt or of all."""
        return tuple(
            pod
            for pod in self.observed.pods
            if unit_of(pod) == unit and (attempt is None or pod.attempt == attempt)
        )

    def is_live(self, pod: Pod) -> bool:
        """Whether a pod may still compute or hold a GPU."""
        if pod.phase in (Phase.SUCCEEDED, Phase.FAILED):
            return False
        return pod.deleting_since is None or self.now < pod.deleting_since + GONE_AFTER

    @cached_property
    def live_pods(self) -> tuple[Pod, ...]:
        """All pods of the run that live."""
        return tuple(pod for pod in self.observed.pods if self.is_live(pod))

    def rival_of(self, stage: Stage) -> Rival | None:
        """Another run that computes this stage now (survival rule 8); a child of our own goes before it."""
        if any(not child.deleting for child in self.jobs(stage.short)):
            return None
        artifact = artifact_label(self.spec.artifacts.uri, stage.key)
        return next((rival for rival in self.observed.rivals if rival.artifact == artifact), None)


def unit_of(thing: Child | Pod) -> str:
    """What a child or pod belongs to: the name of a serving pool, or the short key of a stage."""
    return thing.holder if thing.holder is not None else thing.key


def holds_accelerators(pod: Pod) -> bool:
    """Whether a pod serves or trains (on CPU too: two models at once are one too many there as well)."""
    return pod.holder is not None or (pod.stage is not None and pod.stage in TRAINING)
