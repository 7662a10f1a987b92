"""A run's family: what is its own among objects that carry its labels, and what a lost node does to it."""

from datetime import timedelta

from tests.support.api_objects import (
    CREATED,
    RUN_UID,
    at,
    child,
    container_status,
    deployment,
    ended,
    pod,
    running,
)

from selfrewarding.cluster.complaints import Complaint, does_not_start, lacks_pods
from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.observing import complained, family_of
from selfrewarding.cluster.protocol import RunKey
from selfrewarding.contract.progress import ProgressLine
from selfrewarding.plan.observed import Phase
from selfrewarding.plan.retries import FailureClass, classify

KEY = RunKey("lab", "demo")


def seen(*objects, gone=(), after=10.0):
    """The family after these events, so many seconds after the children were created."""
    inventory = Inventory()
    for raw in (*objects, *gone):
        inventory.put(raw)
    for raw in gone:
        inventory.remove(raw)
    return family_of(inventory.of(KEY), RUN_UID, "nvidia.com/gpu", CREATED + timedelta(seconds=after))


def names(family):
    return [one.child.uid for one in family.children], [one.pod.uid for one in family.pods]


def test_children_and_pods_of_another_runs_uid_are_left_out():
    """An object that an earlier run of this name left, or that somebody gave our labels."""
    earlier = child("Job", uid="earlier", run_uid="another")
    objects = (
        child("Job"),
        pod(),
        earlier,
        pod(owner=earlier, uid="its-pod"),
        pod(uid="bare", ownerReferences=[]),
    )
    assert names(seen(*objects)) == (["job-uid"], ["pod-uid"])


def test_pods_of_a_deleted_child_are_the_runs_until_they_are_gone():
    job = child("Job", name="gone", uid="gone")
    ending = pod(owner=job, uid="ending", deletionTimestamp=at(40))
    assert names(seen(ending, pod(owner=job, uid="not-yet-told"), gone=[job])) == (
        [],
        ["ending", "not-yet-told"],
    )


def test_after_a_restart_pods_of_a_child_that_is_gone_count_on_their_way_out():
    job = child("Job", name="gone", uid="gone")
    assert names(seen(pod(owner=job, uid="ending", deletionTimestamp=at(40)), pod(owner=job, uid="x"))) == (
        [],
        ["ending"],
    )


def test_survival_rule_6_a_job_whose_pod_is_on_a_lost_node_has_failed():
    """Its controller waits for the pod's end, which nobody will ever tell."""
    stuck = pod(container_status("sampler", running()), deletionTimestamp=at(30))
    before, after = seen(child("Job"), stuck, after=89), seen(child("Job"), stuck, after=90)
    assert (before.children[0].child.phase, before.pods[0].pod.reason) == (Phase.PENDING, None)
    lost = after.children[0].child
    assert (lost.phase, after.pods[0].pod.reason) == (Phase.FAILED, "NodeLost")
    assert 'pod "demo-rollout-1-a1-0a1b2c3d4e-x7k2p"' in lost.message
    failure = classify([one.pod for one in after.pods], multi_pod=False, said=lost.message)
    assert (failure.kind, failure.message) == (FailureClass.INFRASTRUCTURE, lost.message)


def test_a_pools_lost_pod_leaves_the_deployment_alone():
    """Its ReplicaSet has made another pod."""
    server = deployment()
    lost = pod(container_status("vllm", running()), owner=server, deletionTimestamp=at(30))
    found = seen(server, lost, after=600)
    assert (found.children[0].child.phase, found.pods[0].pod.reason) == (Phase.PENDING, "NodeLost")


def test_a_job_that_ended_well_has_not_failed_for_a_pod_that_hangs():
    done = child("Job", status={"conditions": [{"type": "SuccessCriteriaMet", "status": "True"}]})
    found = seen(done, pod(container_status("sampler", running()), deletionTimestamp=at(30)), after=600)
    assert found.children[0].child.phase is Phase.SUCCEEDED


def test_what_was_asked_for_besides_stands_with_its_object():
    family = seen(child("Job"), pod(phase="Pending"))
    complaints = {
        "job-uid": Complaint("FailedCreate", "exceeded quota"),
        "pod-uid": Complaint("FailedMount", 'secret "ca"'),
    }
    line = ProgressLine(done=1, total=2)
    [job], [its] = complained(family, complaints, {"pod-uid": line})
    assert job.message == "FailedCreate: exceeded quota"
    assert (its.waiting_reason, its.waiting_message, its.progress) == ("FailedMount", 'secret "ca"', line)
    [job], [its] = complained(family, {}, {})
    assert (job.message, its.waiting_reason, its.progress) == (None, None, None)


def asks(family, after):
    now = CREATED + timedelta(seconds=after)
    children = [lacks_pods(one.raw, one.child, [p.pod for p in one.pods], now) for one in family.children]
    return children, [does_not_start(one.pod, now) for one in family.pods]


def test_events_are_asked_for_only_where_something_is_stuck():
    two = child("Job", spec={"parallelism": 2})
    assert asks(seen(two, pod(phase="Pending")), 7) == ([False], [False]), "nothing is late yet"
    assert asks(seen(two, pod(phase="Pending")), 10) == ([True], [True])
    assert asks(seen(child("Job"), pod(container_status("sampler", running()))), 10) == ([False], [False])
    assert asks(seen(child("Job"), pod(phase="Pending", node=None)), 10) == ([False], [False]), (
        "the scheduler tells"
    )
    assert asks(seen(child("Job", deletionTimestamp=at(5))), 10) == ([False], [])
    half = child("Job", spec={"parallelism": 2}, status={"active": 1, "ready": 1})
    assert asks(seen(half, pod(container_status("sampler", running()))), 10) == ([True], [False]), (
        "one runs, another was refused"
    )
    assert asks(seen(deployment(replicas=4)), 60) == ([False], []), "a condition tells"
    over = child("Job", status={"conditions": [{"type": "Complete", "status": "True"}]})
    assert asks(seen(over, pod(container_status("sampler", ended(0)), phase="Succeeded")), 60) == (
        [False],
        [False],
    )
