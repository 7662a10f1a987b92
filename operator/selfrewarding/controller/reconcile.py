"""One reconcile pass: bring one run one step closer to its spec.

    run, spec ─► observe ─► decide (pure) ─► actions ─► one status write ─► events

A decision that holds new facts has no actions that follow from them; they come in the pass that has read the facts back
(survival rule 1). So a pass may die anywhere: the next one sees what was written and what exists, and goes on.

Must not: know kopf, Kubernetes' API or the clock; they are handed in. Neighbours: `execute` turns actions into calls;
the local driver and the operator's handlers call `reconcile`.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from pydantic import ValidationError

from selfrewarding.api import labels
from selfrewarding.api.conditions import Condition, ConditionType, get_condition
from selfrewarding.api.presets import effective
from selfrewarding.api.run import SelfRewardingRun, SelfRewardingRunSpec, SelfRewardingRunStatus
from selfrewarding.cluster.protocol import (
    Cluster,
    ClusterError,
    Conflict,
    Forbidden,
    InvalidRun,
    NameTaken,
    Refused,
    RunKey,
    Unavailable,
)
from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.stages import StageKind
from selfrewarding.controller.execute import execute
from selfrewarding.manifests import Images, ManifestError, RunContext
from selfrewarding.plan.actions import Action, Decision, Event, StartStage
from selfrewarding.plan.decide import decide as plan_decide
from selfrewarding.plan.observed import Observed
from selfrewarding.plan.report import MAX_TEXT, conditions_of
from selfrewarding.plan.times import stamp
from selfrewarding.plan.verdict import Mode, State, Verdict
from selfrewarding.plan.waiting import for_quota

log = logging.getLogger(__name__)

NEVER = 300.0
"""Seconds until the next look at a run for which nothing is left to do."""
FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 60.0
"""Seconds until the next pass after one that failed; doubled each time, up to the second number."""


BLOCKED = 20.0
"""Seconds until an action is tried again that rights, a quota or a policy forbade: nobody tells when that has changed."""


class Decide(Protocol):
    """The planner (`plan.decide.decide`)."""

    def __call__(
        self, run: SelfRewardingRun, spec: SelfRewardingRunSpec, observed: Observed, now: datetime
    ) -> Decision:
        """What the run needs next."""


@dataclass(frozen=True)
class FailedPasses:
    """Passes in a row that failed."""

    count: int
    error: Exception

    @property
    def backoff(self) -> float:
        """Seconds until the next try; not before the API server wants to be asked again."""
        asked = self.error.retry_after if isinstance(self.error, Unavailable) else 0.0
        return max(asked, min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(self.count - 1, 10)))


class Reconciler:
    """Passes over runs of one cluster. Passes of one run must not overlap; those of different runs may."""

    def __init__(
        self,
        cluster: Cluster,
        clock: Callable[[], datetime],
        *,
        images: Images | None = None,
        decide: Decide = plan_decide,
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._images = images or Images()
        self._decide = decide
        self._failed: dict[RunKey, FailedPasses] = {}

    def failed_passes(self, key: RunKey) -> FailedPasses | None:
        """The failed passes since the last good one, None if that was the last."""
        return self._failed.get(key)

    async def reconcile(self, key: RunKey) -> float:
        """One pass. Never raises; returns the seconds until the next one, if nothing wakes the run before."""
        try:
            after = await self._pass(key)
        except Conflict as error:
            # Somebody wrote in between: what was read is stale, so look again at once, or soon if that repeats.
            return self._again(key, error, logging.DEBUG)
        except ClusterError as error:
            return self._again(key, error, logging.WARNING)
        except Exception as error:
            # A run must not take the loop, and so all others, down with it.
            log.exception("%s/%s: a reconcile pass failed", key.namespace, key.name)
            return self._again(key, error, logging.DEBUG)
        self._failed.pop(key, None)
        return after

    async def _pass(self, key: RunKey) -> float:
        now = self._clock()
        try:
            run = await self._cluster.get_run(key)
        except InvalidRun as error:
            return await self._refuse(error.run, invalid_spec(error.error), now)
        if run is None or run.metadata.deletion_timestamp is not None:
            return NEVER
        if run.metadata.annotations.get(labels.PAUSE) == "disabled":
            return NEVER

        # The spec as the planner reads it: below what the user wrote, the preset that the run began with.
        try:
            spec = effective_spec(run)
        except (ValidationError, KeyError) as error:
            return await self._refuse(run, invalid_spec(error), now)

        # Look once, decide once. Nothing below this line reads the cluster.
        observed = await self._cluster.observe(run)
        decision = self._decide(run, spec, observed, now)

        # Act, then write once, then tell.
        try:
            for action in decision.actions:
                await execute(self._cluster, run, self._context(run, spec), action)
        except ManifestError as error:
            return await self._refuse(run, f"{error}. Edit the spec, and the run goes on.", now)
        except (Forbidden, Refused, NameTaken) as error:
            if _goes_on_without(action, decision):
                log.info("%s/%s: the report has to wait: %s", key.namespace, key.name, error)
                decision = replace(decision, requeue_after=min(decision.requeue_after, BLOCKED))
            else:
                decision = blocked(run, decision, error, now)
        if decision.status != run.status:
            await self._cluster.patch_status(run, decision.status)
            await self._post(run, decision)
        return decision.requeue_after

    async def _post(self, run: SelfRewardingRun, decision: Decision) -> None:
        """Events are for people: a pass is not repeated for one that was lost."""
        try:
            if decision.events:
                await self._cluster.post_events(run, decision.events)
        except ClusterError as error:
            log.warning("%s/%s: events were lost: %s", run.metadata.namespace, run.metadata.name, error)

    async def _refuse(self, run: SelfRewardingRun, message: str, now: datetime) -> float:
        """A spec that nothing can be made from: the run has failed until it is edited. Children stay as they are."""
        text = message if len(message) <= MAX_TEXT else f"{message[: MAX_TEXT - 1]}…"
        verdict = Verdict(mode=Mode.HOLD, state=State.FAILED, reason="InvalidSpec", message=text)
        told = {
            "observed_generation": run.metadata.generation,
            "conditions": conditions_of(run, verdict, now),
            "waiting_for": "a valid spec",
        }
        status = run.status.model_copy(update=told)
        if status != run.status:
            await self._cluster.patch_status(run, status)
            event = Event(type="Warning", reason=verdict.reason, message=text)
            await self._post(run, Decision(status=status, events=(event,), requeue_after=NEVER))
        return NEVER

    def _context(self, run: SelfRewardingRun, spec: SelfRewardingRunSpec) -> RunContext:
        pinned = run.status.pinned
        return RunContext(
            namespace=run.metadata.namespace or "default",
            name=run.metadata.name,
            uid=run.metadata.uid or "",
            spec=spec,
            results=run.status.results,
            models=run.status.models,
            alarms=run.status.alarms,
            contract=pinned.contract if pinned else CONTRACT_VERSION,
            images=self._images,
        )

    def _again(self, key: RunKey, error: Exception, level: int) -> float:
        before = self._failed.get(key)
        failed = FailedPasses(before.count + 1 if before else 1, error)
        self._failed[key] = failed
        log.log(level, "%s/%s: pass %d failed: %s", key.namespace, key.name, failed.count, error)
        return 0.0 if isinstance(error, Conflict) and failed.count == 1 else failed.backoff


def _goes_on_without(action: Action, decision: Decision) -> bool:
    """Whether the run is at something else than the action that the cluster refused: nothing but its end waits for a report,
    which is the last of a pass's actions."""
    a_report = isinstance(action, StartStage) and action.stage.kind is StageKind.REPORT
    return a_report and decision.status.stage is not None


def effective_spec(run: SelfRewardingRun) -> SelfRewardingRunSpec:
    """The spec with its preset filled in. Raises pydantic.ValidationError; KeyError for an unknown preset version."""
    written = run.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return effective(written, run.status.pinned.preset if run.status.pinned else None)


def invalid_spec(error: ValidationError | KeyError) -> str:
    """What is wrong with a spec, as one sentence for people."""
    if isinstance(error, KeyError):
        return (
            f"This release does not know the preset version {error} that the run started with: use the release that "
            "started it, or make a new run."
        )
    first, *others = error.errors(include_url=False)
    place = ".".join(["spec", *(str(part) for part in first["loc"])])
    more = f" ({len(others)} more: `srr validate` lists them)" if others else ""
    return f"{place}: {first['msg'].removeprefix('Value error, ')}{more}. Edit the spec, and the run goes on."


def blocked(
    run: SelfRewardingRun, decision: Decision, error: Forbidden | Refused | NameTaken, now: datetime
) -> Decision:
    """The decision when the cluster does not let us carry it out: people are told what to mend, and it is tried again."""
    reason = error.reason if isinstance(error, Refused) else type(error).__name__
    text = str(error)
    message = text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
    status = decision.status.model_copy(update={"waiting_for": for_quota(text) or message})
    for kind, value in ((ConditionType.STALLED, "True"), (ConditionType.READY, "False")):
        status = with_condition(run, status, kind, reason=reason, message=message, now=now, value=value)
    told = get_condition(run.status.conditions, ConditionType.STALLED)
    events = decision.events
    if told is None or (told.status, told.reason) != ("True", reason):
        events = (*events, Event(type="Warning", reason=reason, message=message))
    return Decision(
        status=status,
        actions=decision.actions,
        events=events,
        requeue_after=min(decision.requeue_after, BLOCKED),
    )


def with_condition(
    run: SelfRewardingRun,
    status: SelfRewardingRunStatus,
    kind: ConditionType,
    *,
    reason: str,
    message: str,
    now: datetime,
    value: str = "True",
) -> SelfRewardingRunStatus:
    """The status with one condition set; if its value is as before, so is the transition time."""
    before = get_condition(run.status.conditions, kind)
    same = before is not None and before.status == value
    condition = Condition.model_validate(
        {
            "type": kind,
            "status": value,
            "observed_generation": run.metadata.generation,
            "last_transition_time": before.last_transition_time
            if before is not None and same
            else stamp(now),
            "reason": reason,
            "message": message,
        }
    )
    conditions = [condition if old.type == kind else old for old in status.conditions]
    if get_condition(status.conditions, kind) is None:
        conditions.append(condition)
    return status.model_copy(update={"conditions": conditions})
