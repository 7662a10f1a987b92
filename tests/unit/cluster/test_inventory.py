"""The inventory: events twice, late and in any order; what is kept; what is in doubt."""

import copy

import pytest
from tests.support.api_objects import RUN_UID, at, child, container_status, deployment, ended, pod, running
from tests.support.set_clock import SetClock

from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.protocol import RunKey

KEY = RunKey("lab", "demo")


@pytest.fixture
def clock():
    return SetClock(1000.0)


@pytest.fixture
def inventory(clock):
    return Inventory(clock)


def uids(objects):
    return sorted(one["metadata"]["uid"] for one in objects)


def names_of(inventory, key=KEY):
    held = inventory.of(key)
    return uids(held.children), uids(held.pods)


def test_put_tells_which_run_to_look_at_and_remove_too(inventory):
    assert inventory.put(child("Job")) == KEY
    assert inventory.put(pod()) == KEY
    assert names_of(inventory) == (["job-uid"], ["pod-uid"])
    assert inventory.remove(pod()) == KEY
    assert inventory.remove(pod()) is None, "gone is gone"
    assert names_of(inventory) == (["job-uid"], [])


def test_an_object_without_the_runs_label_is_not_kept(inventory):
    stranger = child("Job")
    del stranger["metadata"]["labels"]["selfrewarding.dev/run"]
    assert inventory.put(stranger) is None
    stranger["metadata"]["labels"] = None
    assert inventory.put(stranger) is None
    assert inventory.remove(stranger) is None
    assert len(inventory) == 0


def test_runs_are_told_apart_by_namespace(inventory):
    inventory.put(child("Job", uid="a"))
    inventory.put(child("Job", uid="b", namespace="team-b"))
    assert names_of(inventory) == (["a"], [])
    assert names_of(inventory, RunKey("team-b", "demo")) == (["b"], [])


def test_the_run_of_a_long_name_is_told_in_full_by_its_children(inventory):
    name = "x" * 70
    from selfrewarding.manifests.names import run_label

    owned = child("Job", run=run_label(name))
    owned["metadata"]["ownerReferences"][0]["name"] = name
    assert inventory.put(owned) == RunKey("lab", name)
    assert inventory.put(pod(owner=owned)) == RunKey("lab", name)
    assert names_of(inventory, RunKey("lab", name)) == (["job-uid"], ["pod-uid"])


def test_an_event_that_changes_nothing_wakes_nobody(inventory):
    raw = child("Job", status={"active": 1})
    assert inventory.put(raw) == KEY
    again = copy.deepcopy(raw)
    again["metadata"] |= {"resourceVersion": "1001", "managedFields": [], "annotations": {"x": "y"}}
    again["status"]["uncountedTerminatedPods"] = {}
    assert inventory.put(again) is None
    again["status"]["ready"] = 1
    assert inventory.put(again) == KEY


def test_a_late_event_does_not_bring_the_past_back(inventory):
    new = pod(container_status("sampler", ended(0)), phase="Succeeded", version=20)
    old = pod(container_status("sampler", running()), version=9)
    inventory.put(new)
    assert inventory.put(old) is None
    assert inventory.of(KEY).pods[0]["status"]["phase"] == "Succeeded"
    inventory.remove(new)
    assert inventory.put(new) is None, "an event that came after its deletion"
    assert names_of(inventory) == ([], [])


def test_an_object_whose_labels_were_gone_for_a_while_comes_back(inventory):
    """The watch, which selects by labels, tells of a deletion then."""
    inventory.put(child("Job", version=10))
    inventory.remove(child("Job", version=12))
    assert inventory.put(child("Job", version=11)) is None
    assert inventory.put(child("Job", version=14)) == KEY
    assert names_of(inventory) == (["job-uid"], [])


def test_versions_are_compared_as_numbers(inventory):
    inventory.put(pod(phase="Pending", version=9))
    assert inventory.put(pod(phase="Running", version=10)) == KEY


def test_another_object_of_the_same_name_is_another_object(inventory):
    inventory.put(child("Job", uid="old"))
    inventory.put(child("Job", uid="new"))
    inventory.remove(child("Job", uid="old"))
    assert inventory.find("Job", KEY, "demo-rollout-1-a1-0a1b2c3d4e")["metadata"]["uid"] == "new"
    assert inventory.find("Job", KEY, "other") is None


def test_a_child_that_is_gone_is_remembered_while_its_pods_end(inventory):
    inventory.put(child("Job"))
    inventory.put(pod())
    inventory.remove(child("Job"))
    assert uids(inventory.of(KEY).past) == ["job-uid"]
    inventory.remove(pod())
    assert inventory.of(KEY).past == ()


def test_what_shares_artifacts_over_all_runs(inventory):
    inventory.put(child("Job", uid="a"))
    inventory.put(child("PyTorchJob", uid="b", namespace="team-b", run="other"))
    inventory.put(child("ConfigMap", uid="c"))
    inventory.put(deployment(uid="d"))
    inventory.put(pod())
    assert uids(inventory.shared()) == ["a", "b"]
    inventory.remove(child("Job", uid="a"))
    assert uids(inventory.shared()) == ["b"]


def test_a_listing_puts_in_doubt_what_it_does_not_show(inventory, clock):
    inventory.put(child("Job", uid="a"), listed=True)
    inventory.put(child("Job", uid="b"), listed=True)
    inventory.put(deployment(uid="d"), listed=True)
    clock.now += 3
    assert [inventory.unheard(uid) for uid in "abd"] == [3, 3, 3]
    clock.now += 100
    inventory.put(child("Job", uid="a"), listed=True)
    clock.now += 1
    inventory.put(child("Job", uid="c"), listed=True)
    assert [inventory.unheard(uid) for uid in "abcd"] == [1, float("inf"), 0, 104]
    inventory.doubt("Deployment")
    assert inventory.unheard("d") == float("inf")
    assert inventory.unheard("never seen") == float("inf")


def test_a_kind_is_missing_until_it_is_found_or_seen(inventory):
    inventory.kind_missing("PyTorchJob")
    assert inventory.missing_kinds == {"PyTorchJob"}
    inventory.put(child("PyTorchJob"))
    assert inventory.missing_kinds == frozenset()
    inventory.kind_missing("PyTorchJob")
    inventory.kind_found("PyTorchJob")
    assert inventory.missing_kinds == frozenset()


def test_little_is_kept_of_an_object(inventory):
    inventory.put(pod(container_status("sampler", running())))
    [kept] = inventory.of(KEY).pods
    assert set(kept) == {"kind", "metadata", "spec", "status"}
    assert "env" not in str(kept)
    assert "image" not in str(kept)
    assert set(kept["spec"]) == {"nodeName", "containers"}


def test_memory_of_two_hundred_runs(inventory):
    """Three pods, a Deployment, its parts and two Jobs each: what is kept takes a small part of the operator's 150 MiB."""
    import tracemalloc

    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(200):
        run, uid = f"run-{number}", f"{RUN_UID}-{number}"
        pool = deployment(uid=f"d{number}", run=run, run_uid=uid)
        job = child("Job", uid=f"j{number}", run=run, run_uid=uid)
        for kind in ("ConfigMap", "Service", "NetworkPolicy", "PyTorchJob"):
            inventory.put(child(kind, uid=f"{kind}{number}", run=run, run_uid=uid, name=f"{run}-{kind}"))
        inventory.put(pool)
        inventory.put(job)
        for index, owner in enumerate((pool, pool, job)):
            raw = pod(
                container_status("vllm", running()),
                owner=owner,
                uid=f"p{number}-{index}",
                name=f"{run}-{index}",
            )
            inventory.put(raw)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(inventory) == 1800
    assert used < 20 * 2**20


def test_what_is_being_deleted_is_a_change(inventory):
    inventory.put(pod())
    assert inventory.put(pod(version=2001, deletionTimestamp=at(60))) == KEY
