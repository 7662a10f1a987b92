"""One pass, as a pure function: what was seen in, what to write and do out.

Purpose: the order of things. Must not: read a clock or a cluster, or hold a rule of its own; those are in `facts`,
`checks` and `starts`. Neighbours: the controller observes before and acts after.
"""

from datetime import datetime

from selfrewarding.api import labels
from selfrewarding.api.run import SelfRewardingRun, SelfRewardingRunSpec
from selfrewarding.plan.actions import Decision
from selfrewarding.plan.checks import first_verdict, next_times
from selfrewarding.plan.facts import gather_facts, open_attempts
from selfrewarding.plan.observed import Observed
from selfrewarding.plan.report import events, report
from selfrewarding.plan.starts import actions

LONGEST = 300.0
"""Seconds until the next pass at the latest: a watch may have gone deaf."""
_AFTER_ACTIONS = 5.0
_SHORTEST = 0.1


def decide(run: SelfRewardingRun, spec: SelfRewardingRunSpec, observed: Observed, now: datetime) -> Decision:
    """What this pass writes and does. `spec` is the effective spec: `run.spec` with its preset filled in."""
    # 1. A person or a deletion says that the run is not ours to touch.
    if is_left_alone(run):
        return Decision(status=run.status, requeue_after=LONGEST)

    # 2. Facts: results, failures, gates; then the first check that has something to say.
    view = gather_facts(run, spec, observed, now)
    verdict = first_verdict(view)
    view = open_attempts(view, verdict.mode)
    status = report(view, verdict)

    # 3. New facts become durable before anything follows from them (survival rule 1).
    if view.status != run.status:
        return Decision(status=status, events=events(view, verdict), requeue_after=0)

    # 4. What follows from durable facts.
    chosen = actions(view, verdict)
    due = [LONGEST, verdict.look_again, *next_times(view), *([_AFTER_ACTIONS] if chosen else [])]
    return Decision(
        status=status,
        actions=chosen,
        events=events(view, verdict),
        requeue_after=max(_SHORTEST, min(due)),
    )


def is_left_alone(run: SelfRewardingRun) -> bool:
    """Whether the run is being deleted (its children go with it) or the operator was told to keep its hands off."""
    paused = run.metadata.annotations.get(labels.PAUSE) == "disabled"
    return paused or run.metadata.deletion_timestamp is not None
