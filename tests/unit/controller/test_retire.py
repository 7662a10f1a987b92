"""A run that is being deleted, until its finalizer may go: `retention.onDelete` and everything that may be in the way."""

import copy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.support.builders import NOW, make_run

from selfrewarding.api import labels
from selfrewarding.api.run import RawObject, SelfRewardingRun, SelfRewardingRunStatus, StageAttempts
from selfrewarding.cluster.protocol import ClusterError, Forbidden, NotFound, Refused, RunKey, Unavailable
from selfrewarding.contract import environment
from selfrewarding.contract.config import RetireConfig
from selfrewarding.contract.result import TerminationMessage
from selfrewarding.controller.retire import Retirer
from selfrewarding.manifests import Images
from selfrewarding.plan.actions import Event
from selfrewarding.plan.observed import Child, ChildKind, Observed, Phase, Pod
from selfrewarding.plan.times import stamp

KEY = RunKey("lab", "demo")
BUSY = SelfRewardingRunStatus(attempts={"a" * 16: StageAttempts(attempt=1)})
IMAGES = Images(sampler="sampler:test")


@dataclass
class Namespace:
    """A namespace with one run on its way out; it does what a cluster does with Jobs, as far as a test says."""

    spec: dict[str, Any] = field(default_factory=lambda: {"retention": {"onDelete": "Delete"}})
    status: SelfRewardingRunStatus = BUSY
    now: datetime = NOW
    deleted: bool = True
    children: dict[str, Child] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    made: list[RawObject] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    refuses: ClusterError | None = None
    looks: int = 0

    async def get_run(self, key: RunKey) -> SelfRewardingRun | None:
        deleted = {"deletion_timestamp": stamp(NOW)} if self.deleted else {}
        return make_run(self.spec, self.status, **deleted)

    async def observe(self, run: SelfRewardingRun) -> Observed:
        self.looks += 1
        return Observed(children=tuple(self.children.values()), pods=tuple(self.pods.values()))

    async def create(self, run: SelfRewardingRun, manifest: RawObject) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.made.append(copy.deepcopy(manifest))
        found = manifest["metadata"]["labels"]
        self.add(
            found[labels.KEY], "Job", attempt=int(found[labels.ATTEMPT]), name=manifest["metadata"]["name"]
        )

    async def scale(self, run: SelfRewardingRun, name: str, replicas: int) -> None:
        raise AssertionError("nothing is scaled")

    async def delete(self, run: SelfRewardingRun, kind: ChildKind, name: str, uid: str) -> None:
        child = self.children.pop(uid)
        for pod in self.pods.values():
            if (pod.key, pod.attempt) == (child.key, child.attempt):
                self.pods[pod.uid] = replace(pod, deleting_since=self.now + timedelta(seconds=30))

    async def patch_status(self, run: SelfRewardingRun, status: SelfRewardingRunStatus) -> None:
        raise AssertionError("nothing is written to a run that goes")

    async def post_events(self, run: SelfRewardingRun, events: Any) -> None:
        self.events += events

    def add(self, key: str, kind: ChildKind, *, attempt: int = 1, name: str = "", **of_pod: Any) -> None:
        """A child with one pod."""
        uid = f"{key}-{attempt}"
        self.children[uid] = Child(
            kind=kind,
            name=name or uid,
            uid=uid,
            key=key,
            stage="Any",
            iteration=0,
            attempt=attempt,
            created=self.now,
        )
        self.pods[uid] = Pod(
            name=f"{uid}-0", uid=uid, key=key, attempt=attempt, stage="Any", created=self.now, **of_pod
        )

    def change(self, uid: str, phase: Phase, **of_pod: Any) -> None:
        """A child and its pod come to a phase."""
        self.children[uid] = replace(self.children[uid], phase=phase)
        self.pods[uid] = replace(self.pods[uid], phase=phase, **of_pod)

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.pods = {
            uid: pod
            for uid, pod in self.pods.items()
            if pod.deleting_since is None or pod.deleting_since > self.now
        }

    async def one_pass(self) -> float | None:
        return await Retirer(self, lambda: self.now, images=IMAGES).retire(KEY)

    async def until_gone(self, seconds: float) -> float | None:
        """Pass after pass for a while; the seconds after which the finalizer went, None if it did not."""
        begun = self.now
        while (self.now - begun).total_seconds() <= seconds:
            after = await self.one_pass()
            if after is None:
                return (self.now - begun).total_seconds()
            self.later(max(after, 1.0))
        return None


async def test_with_keep_nothing_is_made_or_even_looked_at() -> None:
    cluster = Namespace(spec={"retention": {"onDelete": "Keep"}})
    cluster.add("a" * 16, "PyTorchJob", phase=Phase.RUNNING)
    assert await cluster.one_pass() is None
    assert (cluster.made, cluster.looks) == ([], 0)


async def test_a_run_that_never_started_anything_goes_at_once() -> None:
    cluster = Namespace(status=SelfRewardingRunStatus())
    assert await cluster.one_pass() is None
    assert cluster.made == []


async def test_a_run_that_is_not_deleted_keeps_its_finalizer() -> None:
    cluster = Namespace(deleted=False)
    assert await cluster.one_pass() is not None
    assert cluster.made == []


async def test_its_pods_end_first_then_the_job_runs_then_the_run_goes() -> None:
    cluster = Namespace()
    cluster.add("a" * 16, "PyTorchJob", phase=Phase.RUNNING)
    cluster.add("b" * 16, "Deployment", phase=Phase.RUNNING)
    assert await cluster.one_pass() is not None
    assert not cluster.children, "nobody may write any more"
    assert not cluster.made, "the pods still end"
    cluster.later(31)
    assert await cluster.one_pass() is not None
    assert len(cluster.made) == 1
    assert await cluster.one_pass() is not None, "it runs"
    assert len(cluster.made) == 1
    cluster.change(
        "retire-1", Phase.SUCCEEDED, termination=TerminationMessage(message="5 stages deleted, 1 kept")
    )
    assert await cluster.one_pass() is None
    assert not cluster.children, "the Job has no owner: it is deleted too"
    (event,) = cluster.events
    assert (event.type, event.reason) == ("Normal", "ArtifactsDeleted")
    assert "5 stages deleted, 1 kept" in event.message


async def test_a_pod_on_a_lost_node_does_not_keep_the_run() -> None:
    cluster = Namespace()
    cluster.pods["lost"] = Pod(
        name="lost", uid="lost", key="a" * 16, attempt=1, stage="Rollout", phase=Phase.RUNNING, created=NOW,
        deleting_since=NOW - timedelta(seconds=61),
    )  # fmt: skip
    await cluster.one_pass()
    assert len(cluster.made) == 1


async def test_what_will_not_go_is_told_and_does_not_keep_the_run_for_ever() -> None:
    """Somebody's finalizer on a Job, a garbage collector that sleeps."""
    cluster = Namespace()
    cluster.add("a" * 16, "Job", name="rollout", phase=Phase.RUNNING)
    cluster.children = {uid: replace(child, deleting=True) for uid, child in cluster.children.items()}
    gone = await cluster.until_gone(1200)
    assert gone is not None
    assert 600 <= gone <= 620
    assert not cluster.made, "nobody deletes what somebody may still write"
    assert cluster.events[-1].reason == "ArtifactsKept"
    assert "Job rollout" in cluster.events[-1].message


async def test_rights_that_are_gone_do_not_keep_the_run_for_ever() -> None:
    cluster = Namespace()

    async def may_not_look(_: SelfRewardingRun) -> Observed:
        raise Forbidden('The operator may not list pods in namespace "lab"')

    cluster.observe = may_not_look  # type: ignore[method-assign]
    gone = await cluster.until_gone(600)
    assert gone is not None
    assert 100 <= gone <= 150
    assert "may not list pods" in cluster.events[-1].message


async def test_the_job_knows_its_run_has_no_owner_and_ends_by_itself() -> None:
    cluster = Namespace(
        spec={"retention": {"onDelete": "Delete"}, "artifacts": {"credentials": {"secretName": "s3"}}}
    )
    await cluster.one_pass()
    (job,) = cluster.made
    assert "ownerReferences" not in job["metadata"], "foreground deletion would delete it at once"
    template = job["spec"]["template"]
    for marks in (job["metadata"]["labels"], template["metadata"]["labels"]):
        assert marks[labels.MANAGED_BY] == labels.FIELD_MANAGER
        assert (marks[labels.RUN], marks[labels.RUN_UID]) == ("demo", "run-uid")
    assert job["spec"]["backoffLimit"] == 0
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
    assert job["spec"]["activeDeadlineSeconds"] > 0
    (program,) = template["spec"]["containers"]
    assert program["command"] == ["python", "-m", "srr_sampler", "retire"]
    assert program["image"] == "sampler:test"
    values = {one["name"]: one for one in program["env"]}
    told = RetireConfig.model_validate_json(values[environment.RETIRE]["value"])
    assert (told.run.namespace, told.run.name, told.run.uid, told.store) == (
        "lab",
        "demo",
        "run-uid",
        "s3://runs/demo",
    )
    assert values["AWS_SECRET_ACCESS_KEY"]["valueFrom"] == {
        "secretKeyRef": {"name": "s3", "key": "AWS_SECRET_ACCESS_KEY"}
    }
    assert not any("gpu" in name for name in program["resources"].get("limits", {}))


async def test_an_attempt_that_fails_is_repeated_twice_and_then_the_run_goes_with_a_warning() -> None:
    cluster = Namespace()
    for attempt in (1, 2, 3):
        while len(cluster.made) < attempt:
            after = await cluster.one_pass()
            assert after is not None
            cluster.later(after)
        said = TerminationMessage(failure="StoreUnavailable", message=f"No answer {attempt}.")
        cluster.change(f"retire-{attempt}", Phase.FAILED, termination=said)
    assert cluster.now >= NOW + timedelta(minutes=5), "a store that is away for minutes is waited for"
    assert await cluster.one_pass() is None
    assert len({one["metadata"]["name"] for one in cluster.made}) == 3
    assert not cluster.children
    (event,) = cluster.events
    assert (event.type, event.reason) == ("Warning", "ArtifactsKept")
    assert "No answer 3" in event.message
    assert "s3://runs/demo" in event.message
    assert "runs/lab/demo/run-uid" in event.message


async def test_an_attempt_that_succeeds_after_failures_is_all_that_counts() -> None:
    cluster = Namespace()
    await cluster.one_pass()
    cluster.change("retire-1", Phase.FAILED)
    cluster.later(61)
    await cluster.one_pass()
    cluster.change("retire-2", Phase.SUCCEEDED)
    assert await cluster.one_pass() is None
    assert [event.reason for event in cluster.events] == ["ArtifactsDeleted"]


async def test_a_secret_that_is_gone_does_not_keep_the_run_for_ever() -> None:
    """The pod waits for it and never fails."""
    cluster = Namespace()
    original = cluster.add

    def without_secret(key: str, kind: ChildKind, **fields: Any) -> None:
        original(
            key, kind, **fields, scheduled=True, waiting_reason="CreateContainerConfigError",
            waiting_message='secret "s3" not found',
        )  # fmt: skip

    cluster.add = without_secret  # type: ignore[method-assign]
    gone = await cluster.until_gone(1200)
    assert gone is not None
    assert gone <= 900
    assert len(cluster.made) == 3
    assert 'secret "s3" not found' in cluster.events[-1].message


async def test_a_namespace_that_is_being_deleted_takes_no_job_and_lets_the_run_go_at_once() -> None:
    cluster = Namespace(refuses=Refused('Namespace "lab" is being deleted.', reason="NamespaceTerminating"))
    assert await cluster.one_pass() is None
    assert cluster.events[0].reason == "ArtifactsKept"


@pytest.mark.parametrize(
    "error",
    [
        Forbidden('The operator may not create jobs in namespace "lab"'),
        Refused("exceeded quota: pods", reason="QuotaExceeded"),
        NotFound("the namespace does not exist"),
    ],
)
async def test_a_job_that_is_refused_is_tried_for_two_minutes(error: ClusterError) -> None:
    cluster = Namespace(refuses=error)
    gone = await cluster.until_gone(600)
    assert gone is not None
    assert 100 <= gone <= 150
    assert str(error) in cluster.events[-1].message


async def test_an_api_server_that_does_not_answer_is_waited_for() -> None:
    cluster = Namespace(refuses=Unavailable("no answer"))
    assert await cluster.until_gone(300) is None
    cluster.refuses = None
    assert await cluster.one_pass() is not None
    assert len(cluster.made) == 1


async def test_an_operator_that_starts_anew_goes_on_with_the_jobs_that_are_there() -> None:
    cluster = Namespace()
    await cluster.one_pass()
    for _ in range(5):
        assert await cluster.one_pass() is not None  # each pass is by a new Retirer
    assert len(cluster.made) == 1
