"""One pass with a recording cluster: what is called, in which order, and what happens when a call fails."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from tests.support.builders import NOW, make_run, make_spec
from tests.support.set_clock import SetClock

from selfrewarding.api.conditions import get_condition
from selfrewarding.api.run import (
    SelfRewardingRun,
    SelfRewardingRunSpec,
    SelfRewardingRunStatus,
    StageSummary,
)
from selfrewarding.cluster.protocol import (
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
from selfrewarding.controller.reconcile import BLOCKED, LONGEST_BACKOFF, NEVER, Reconciler
from selfrewarding.plan.actions import Decision, Delete, Event, ScaleHolder, StartHolder, StartStage
from selfrewarding.plan.aside import report_stage
from selfrewarding.plan.graph import outline
from selfrewarding.plan.observed import Child, Observed, Phase

KEY = RunKey("lab", "demo")
EVENT = Event(type="Normal", reason="StageStarted", message="Rollout starts.")


@dataclass
class RecordingCluster:
    """Writes down every call; raises what `fail` says for a call's name."""

    run: SelfRewardingRun | None = field(default_factory=make_run)
    observed: Observed = field(default_factory=Observed)
    calls: list[str] = field(default_factory=list)
    made: list[dict[str, Any]] = field(default_factory=list)
    written: list[SelfRewardingRunStatus] = field(default_factory=list)
    fail: dict[str, Exception] = field(default_factory=dict)

    def _call(self, name: str, what: str = "") -> None:
        self.calls.append(f"{name} {what}".strip())
        if name in self.fail:
            raise self.fail[name]

    async def get_run(self, key):
        self._call("get_run", f"{key.namespace}/{key.name}")
        return self.run

    async def observe(self, run):
        self._call("observe")
        return self.observed

    async def create(self, run, manifest):
        self._call("create", manifest["kind"])
        self.made.append(manifest)

    async def scale(self, run, name, replicas):
        self._call("scale", f"{name} {replicas}")

    async def delete(self, run, kind, name, uid):
        self._call("delete", f"{kind} {name} {uid}")

    async def patch_status(self, run, status):
        self._call("patch_status")
        self.written.append(status)
        self.run = run.model_copy(update={"status": status})

    async def post_events(self, run, events):
        self._call("post_events", ", ".join(event.reason for event in events))


def deciding(*actions, status=None, events=(), after=30.0, seen=None):
    """A planner that always decides the same."""

    def decide(run, spec, observed, now):
        if seen is not None:
            seen.append((run, spec, observed, now))
        return Decision(status=status or run.status, actions=actions, events=events, requeue_after=after)

    return decide


def conditions(status):
    return {one.type: (one.status, one.reason) for one in status.conditions}


PREPARE = outline(make_spec(), contract=CONTRACT_VERSION).prepare


async def test_a_pass_looks_decides_acts_writes_once_and_tells_in_this_order():
    cluster, seen = RecordingCluster(), []
    status = SelfRewardingRunStatus(stage="Prepare")
    actions = (
        Delete(kind="Job", name="old", uid="u"),
        StartStage(stage=PREPARE, attempt=1),
        ScaleHolder(name="server", replicas=0),
    )
    reconciler = Reconciler(
        cluster, SetClock(NOW), decide=deciding(*actions, status=status, events=(EVENT,), seen=seen)
    )
    assert await reconciler.reconcile(KEY) == 30.0
    assert cluster.calls == [
        "get_run lab/demo", "observe", "delete Job old u", "create ConfigMap", "create Job", "scale server 0",
        "patch_status", "post_events StageStarted",
    ]  # fmt: skip
    [(_, spec, observed, now)] = seen
    assert (spec, observed, now) == (make_spec(), cluster.observed, NOW)
    assert cluster.made[1]["metadata"]["ownerReferences"][0]["uid"] == "run-uid"


async def test_a_pool_is_made_of_four_objects():
    # The first stage after Prepare that asks a server, and the results that it reads.
    graph = outline(make_spec(), contract=CONTRACT_VERSION)
    stage = next(stage for stage in graph.stages if stage.holders)
    results = {
        one.short: StageSummary(stage=one.kind, iteration=one.iteration, digest="ab" * 8)
        for one in graph.stages
    }
    cluster = RecordingCluster(run=make_run(status=SelfRewardingRunStatus(results=results)))
    action = StartHolder(holder=stage.holders["policy"], iteration=1, attempt=2)
    await Reconciler(cluster, SetClock(NOW), decide=deciding(action)).reconcile(KEY)
    assert [manifest["kind"] for manifest in cluster.made] == [
        "ConfigMap",
        "Service",
        "NetworkPolicy",
        "Deployment",
    ]
    assert cluster.calls[-1] == "create Deployment", "an equal status must not be written"


async def test_facts_are_written_in_a_pass_before_what_follows_from_them():
    """With the real planner: a pass that pins versions or opens an attempt creates nothing."""
    cluster = RecordingCluster()
    reconciler = Reconciler(cluster, SetClock(NOW))
    while not cluster.made:
        written = len(cluster.written)
        await reconciler.reconcile(KEY)
        assert len(cluster.written) > written or cluster.made, "a pass without facts and without actions"
        if not cluster.made:
            assert not [call for call in cluster.calls if call.startswith("create")]
    attempts = cluster.written[-1].attempts
    assert [entry.attempt for entry in attempts.values()] == [1]
    assert cluster.made[-1]["metadata"]["labels"]["selfrewarding.dev/attempt"] == "1"


async def test_a_conflict_looks_again_at_once_and_then_backs_off():
    cluster = RecordingCluster(fail={"patch_status": Conflict("resourceVersion")})
    reconciler = Reconciler(
        cluster, SetClock(NOW), decide=deciding(status=SelfRewardingRunStatus(stage="x"), events=(EVENT,))
    )
    delays = [await reconciler.reconcile(KEY) for _ in range(3)]
    assert delays[0] == 0.0
    assert 0 < delays[1] < delays[2]
    assert "post_events StageStarted" not in cluster.calls
    cluster.fail.clear()
    assert await reconciler.reconcile(KEY) == 30.0
    assert reconciler.failed_passes(KEY) is None


async def test_an_unavailable_api_backs_off_up_to_a_minute_and_nothing_is_written():
    cluster = RecordingCluster(fail={"observe": Unavailable("no answer")})
    reconciler = Reconciler(cluster, SetClock(NOW), decide=deciding())
    delays = [await reconciler.reconcile(KEY) for _ in range(9)]
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (1.0, LONGEST_BACKOFF)
    assert reconciler.failed_passes(KEY).count == 9
    assert cluster.written == []
    assert reconciler.failed_passes(RunKey("lab", "other")) is None


async def test_missing_rights_are_told_in_status_and_do_not_flicker():
    cluster, clock = RecordingCluster(fail={"create": Forbidden("cannot create Jobs")}), SetClock(NOW)
    reconciler = Reconciler(cluster, clock, decide=deciding(StartStage(stage=PREPARE, attempt=1)))
    assert await reconciler.reconcile(KEY) == BLOCKED, "nobody tells when rights have been granted"
    told = {"Stalled": ("True", "Forbidden"), "Ready": ("False", "Forbidden")}
    assert conditions(cluster.written[-1]) == told
    assert cluster.written[-1].waiting_for == "cannot create Jobs"
    assert cluster.calls[-1] == "post_events Forbidden"
    clock.now += timedelta(hours=1)
    await reconciler.reconcile(KEY)
    assert len(cluster.written) == 1, "the same condition must not be written again"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Refused("A ResourceQuota refuses it.", reason="QuotaExceeded"), "QuotaExceeded"),
        (Refused("An admission policy refuses it.", reason="NotAdmitted"), "NotAdmitted"),
        (NameTaken("it exists and does not belong to this run"), "NameTaken"),
    ],
)
async def test_what_the_cluster_does_not_take_is_told_and_goes_on_by_itself(error, reason):
    cluster = RecordingCluster(fail={"create": error})
    reconciler = Reconciler(cluster, SetClock(NOW), decide=deciding(StartStage(stage=PREPARE, attempt=1)))
    assert await reconciler.reconcile(KEY) == BLOCKED
    [status] = cluster.written
    assert conditions(status) == {"Stalled": ("True", reason), "Ready": ("False", reason)}
    assert get_condition(status.conditions, "Ready").message == str(error)
    assert reconciler.failed_passes(KEY) is None, "the pass itself went well"
    cluster.fail.clear()
    await reconciler.reconcile(KEY)
    assert [one["kind"] for one in cluster.made][-2:] == ["ConfigMap", "Job"]


@pytest.mark.parametrize(("stage", "stalls"), [("Rollout", False), (None, True)])
async def test_a_report_that_the_cluster_does_not_take_stalls_a_run_only_at_its_end(stage, stalls):
    done = SelfRewardingRunStatus(
        results={PREPARE.short: StageSummary(stage="Prepare", iteration=0, digest="0123456789abcdef")}
    )
    cluster = RecordingCluster(
        run=make_run(status=done),
        fail={"create": Refused("A ResourceQuota refuses it.", reason="QuotaExceeded")},
    )
    graph = outline(make_spec(), contract=CONTRACT_VERSION)
    report = report_stage(
        graph, [graph.prepare], run_uid="run-uid", decided="", spec=make_spec(), contract=CONTRACT_VERSION
    )
    start = StartStage(stage=report, attempt=1)
    status = SelfRewardingRunStatus(stage=stage)
    reconciler = Reconciler(cluster, SetClock(NOW), decide=deciding(start, status=status))
    assert await reconciler.reconcile(KEY) == BLOCKED, "it is tried again"
    assert reconciler.failed_passes(KEY) is None
    assert any(conditions(one).get("Stalled") for one in cluster.written) == stalls


async def test_the_api_servers_wish_to_be_left_alone_is_heeded():
    cluster = RecordingCluster(fail={"get_run": Unavailable("too many requests", retry_after=17)})
    reconciler = Reconciler(cluster, SetClock(NOW), decide=deciding())
    assert await reconciler.reconcile(KEY) == 17
    cluster.fail["get_run"] = Unavailable("too many requests")
    assert await reconciler.reconcile(KEY) == 2.0


async def test_a_spec_that_this_release_cannot_read_is_a_failed_run():
    run = make_run(generation=4)
    with pytest.raises(ValidationError) as caught:
        SelfRewardingRunSpec.model_validate({"iterations": 0})
    cluster = RecordingCluster(fail={"get_run": InvalidRun(run, caught.value)})
    assert await Reconciler(cluster, SetClock(NOW), decide=deciding()).reconcile(KEY) == NEVER
    [status] = cluster.written
    assert conditions(status)["Failed"] == ("True", "InvalidSpec")
    assert get_condition(status.conditions, "Failed").message.startswith("spec.")


async def test_a_spec_that_cannot_be_is_a_failed_run_until_it_is_edited(monkeypatch):
    # As when a newer release reads a spec that an older one took.
    monkeypatch.setattr(
        "selfrewarding.controller.reconcile.effective_spec",
        lambda run: make_spec({"sft": {"learningRate": 2}}),
    )
    cluster = RecordingCluster(run=make_run(generation=4))
    reconciler = Reconciler(cluster, SetClock(NOW), decide=deciding())
    assert await reconciler.reconcile(KEY) == NEVER
    assert await reconciler.reconcile(KEY) == NEVER
    [status] = cluster.written
    failed = get_condition(status.conditions, "Failed")
    assert (failed.status, failed.reason, status.observed_generation) == ("True", "InvalidSpec", 4)
    assert re.match(r"spec\.sft\.learningRate: .*Edit the spec", failed.message)
    assert conditions(status)["Ready"] == ("False", "InvalidSpec")
    # kstatus takes it for failed, not for under way; and no condition is left from an older spec.
    assert conditions(status)["Stalled"] == ("True", "Failed")
    assert {one.observed_generation for one in status.conditions} == {4}
    assert status.waiting_for == "a valid spec"
    assert "observe" not in cluster.calls


async def test_an_unknown_preset_version_is_told():
    run = make_run(
        {"preset": "small"},
        SelfRewardingRunStatus.model_validate({"pinned": {"preset": "small/99", "contract": 1}}),
    )
    cluster = RecordingCluster(run=run)
    await Reconciler(cluster, SetClock(NOW), decide=deciding()).reconcile(KEY)
    assert "preset version 99" in get_condition(cluster.written[0].conditions, "Failed").message


async def test_a_pod_template_that_cannot_be_merged_is_an_invalid_spec():
    spec = {"sampler": {"podTemplate": {"spec": {"restartPolicy": "Always"}}}}
    cluster = RecordingCluster(run=make_run(spec))
    stage = outline(make_spec(spec), contract=CONTRACT_VERSION).prepare
    assert (
        await Reconciler(
            cluster, SetClock(NOW), decide=deciding(StartStage(stage=stage, attempt=1))
        ).reconcile(KEY)
        == NEVER
    )
    failed = get_condition(cluster.written[0].conditions, "Failed")
    assert (failed.reason, "sampler.podTemplate.spec.restartPolicy" in failed.message) == (
        "InvalidSpec",
        True,
    )


async def test_the_condition_of_an_invalid_spec_goes_when_the_spec_is_mended():
    cluster = RecordingCluster(
        run=make_run({"sampler": {"podTemplate": {"spec": {"restartPolicy": "Always"}}}})
    )
    reconciler = Reconciler(cluster, SetClock(NOW))
    for _ in range(6):
        await reconciler.reconcile(KEY)
    assert conditions(cluster.run.status)["Failed"] == ("True", "InvalidSpec")
    cluster.run = make_run(status=cluster.run.status, generation=2)
    for _ in range(3):
        await reconciler.reconcile(KEY)
    assert conditions(cluster.run.status)["Failed"][0] == "False"
    assert [manifest["kind"] for manifest in cluster.made[:2]] == ["ConfigMap", "Job"]


async def test_lost_events_do_not_repeat_a_pass():
    cluster = RecordingCluster(fail={"post_events": ClusterError("no")})
    reconciler = Reconciler(
        cluster, SetClock(NOW), decide=deciding(status=SelfRewardingRunStatus(stage="x"), events=(EVENT,))
    )
    assert await reconciler.reconcile(KEY) == 30.0
    assert reconciler.failed_passes(KEY) is None


@pytest.mark.parametrize("run", [None, make_run(deletion_timestamp="2026-01-31T12:00:00Z")])
async def test_a_run_that_is_gone_or_going_is_left_alone(run):
    cluster = RecordingCluster(run=run)
    assert await Reconciler(cluster, SetClock(NOW), decide=deciding()).reconcile(KEY) == NEVER
    assert cluster.calls == ["get_run lab/demo"]


async def test_a_fault_of_ours_never_gets_out_of_the_pass(caplog):
    def decide(run, spec, observed, now):
        raise ZeroDivisionError("ours")

    reconciler = Reconciler(RecordingCluster(), SetClock(NOW), decide=decide)
    assert await reconciler.reconcile(KEY) == 1.0
    assert "a reconcile pass failed" in caplog.text
    assert isinstance(reconciler.failed_passes(KEY).error, ZeroDivisionError)


async def test_a_child_that_is_observed_reaches_the_planner():
    child = Child(
        kind="Job", name="j", uid="u", key="k", stage="Prepare", iteration=0, attempt=1, phase=Phase.RUNNING,
        created=datetime(2026, 1, 31, tzinfo=UTC),
    )  # fmt: skip
    cluster, seen = RecordingCluster(observed=Observed(children=(child,))), []
    await Reconciler(cluster, SetClock(NOW), decide=deciding(seen=seen)).reconcile(KEY)
    assert seen[0][2].children == (child,)
