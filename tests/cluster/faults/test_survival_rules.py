"""Survival rules (ARCHITECTURE.md) that need a real API server and the real operator process to be proven.

Rules 1 and 2 are proven by `test_crash_at_every_write`, rule 1 again by `test_api_faults`. Most scenarios wait for most of
their time, so they play side by side; those that look at the operator's own time, or take a kind away, play alone.
"""

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.cluster.faults.api_client import CRDS, JOBS, NAMESPACES, PODS, PYTORCH_JOBS, RUNS, Raw
from tests.cluster.faults.invariants import (
    created_twice,
    everything_wrong,
    side_by_side,
    status_lies,
    workloads,
)
from tests.cluster.faults.kubelet import Failure, Pace
from tests.cluster.faults.operator_process import operating
from tests.cluster.faults.player import Player, playing
from tests.cluster.faults.proxy import Proxy, proxying
from tests.cluster.faults.runs import (
    NAME,
    PYTORCH_JOB_CRD,
    REPORTS,
    STAGES,
    condition,
    create_run,
    fresh,
    install_crds,
    run_in,
    until,
    until_finished,
)
from tests.cluster.faults.scenarios import Place, scenario, scene

from selfrewarding.api import labels

pytestmark = pytest.mark.timeout(300)


def pods_in(player: Player, namespace: str) -> list[Raw]:
    found = player.census.present[PODS.plural].values()
    return [pod for pod in found if pod["metadata"]["namespace"] == namespace]


def stage_of(pod: Raw) -> str | None:
    return pod["metadata"]["labels"].get(labels.STAGE)


def is_rollout(pod: Raw) -> bool:
    return stage_of(pod) == "Rollout"


@scenario
async def test_survival_rule_04_no_holder_starts_beside_another(place: Place) -> None:
    """A server takes seconds to leave; what trains next is created after its last pod is gone, and soon after."""
    namespace = fresh("rule-04")
    place.player.set_pace(namespace, Pace(grace=3.0))
    async with scene(place, namespace) as here:
        await create_run(here.player.api, namespace)
        await until_finished(here.player, namespace)
        census = here.player.census
        assert not side_by_side(census, namespace)
        assert not everything_wrong(census, namespace)
        gone = next(
            change.at
            for change in census.of(namespace, (PODS,))
            if change.type == "DELETED" and change.label(labels.HOLDER)
        )
        dpo = next(
            change
            for change in workloads(census, namespace)
            if change.label(labels.STAGE) == "PreferenceOptimize"
        )
        # Its own part of a hand-over is measured where nothing else runs (tests/bench/operator_numbers.py).
        assert 0 < dpo.at - gone < 10.0, "nobody woke the operator when the pod was gone"


@scenario
async def test_survival_rule_06_an_evicted_pod_costs_no_retry(place: Place) -> None:
    namespace = fresh("rule-06-evicted")
    async with scene(place, namespace) as here:
        here.player.fail_once(
            Failure("Rollout", namespace, exit_code=137, reason="Error", pod_reason="Evicted")
        )
        await create_run(here.player.api, namespace, {"limits": {"retries": 0}})
        run = await until_finished(here.player, namespace, seconds=90)
        assert condition(run, "Succeeded")[0] == "True"
        attempts = Counter(
            (change.label(labels.STAGE), change.label(labels.ATTEMPT))
            for change in workloads(here.player.census, namespace)
            if change.label(labels.STAGE) == "Rollout"
        )
        assert attempts == {("Rollout", "1"): 1, ("Rollout", "2"): 1}
        assert not status_lies(here.player.census, namespace)


@scenario
async def test_survival_rule_06_running_out_of_memory_is_final_and_says_what_to_change(place: Place) -> None:
    namespace = fresh("rule-06-oom")
    async with scene(place, namespace) as here:
        here.player.fail_once(Failure("SupervisedFineTune", namespace, exit_code=137, reason="OOMKilled"))
        await create_run(here.player.api, namespace)
        run = await until_finished(here.player, namespace)
        assert condition(run, "Failed") == ("True", "OutOfMemory")
        failed = next(one for one in run["status"]["conditions"] if one["type"] == "Failed")
        assert "training.resources" in failed["message"]
        before = len(workloads(here.player.census, namespace))

        # A person changes the spec, and the run goes on from there.
        changes = {"spec": {"training": {"resources": {"memory": "64Gi"}}}}
        await here.player.api.patch(RUNS, namespace, NAME, changes)
        done = lambda: condition(run_in(here.player, namespace), "Succeeded")[0] == "True"  # noqa: E731
        await until(here.player, "the end after the edit", done)
        stages = [change.label(labels.STAGE) for change in workloads(here.player.census, namespace)[before:]]
        assert stages[0] == "SupervisedFineTune"
        assert not created_twice(here.player.census, namespace)


@scenario
async def test_survival_rule_08_of_two_equal_runs_the_second_computes_nothing(place: Place) -> None:
    """Both at once, in one store: one waits and says for whom, then finds the results."""
    names, store = (fresh("rule-08-one"), fresh("rule-08-two")), fresh("rule-08")
    for namespace in names:
        place.player.set_pace(namespace, Pace(run=0.5))
    async with scene(place, *names) as here:
        for namespace in names:
            await create_run(here.player.api, namespace, store=store)
        for namespace in names:
            run = await until_finished(here.player, namespace, seconds=150)
            assert condition(run, "Succeeded")[0] == "True"
        computed = Counter(
            change.label(labels.STAGE)
            for namespace in names
            for change in workloads(here.player.census, namespace)
            if change.kind != "deployments"
            and change.label(labels.STAGE) not in ("Prepare", "Resolve", "Report")
        )
        assert computed == dict.fromkeys(STAGES[2:], 1)
        waited = [
            run["status"].get("waitingFor") or ""
            for namespace in names
            for run in here.player.census.statuses(namespace)
            if "status" in run
        ]
        assert any("which computes the same" in text for text in waited)


@scenario
async def test_survival_rule_08_the_second_takes_over_when_the_first_is_deleted(place: Place) -> None:
    first, second, store = fresh("rule-08-first"), fresh("rule-08-second"), fresh("rule-08")
    async with scene(place, first, second) as here:
        here.player.hold(first, lambda pod: stage_of(pod) == "SupervisedFineTune")
        await create_run(here.player.api, first, store=store)
        running = lambda: any(  # noqa: E731
            stage_of(pod) == "SupervisedFineTune" and pod["status"].get("phase") == "Running"
            for pod in pods_in(here.player, first)
        )
        await until(here.player, "SFT of the first", running)
        await create_run(here.player.api, second, store=store)
        waits = lambda: condition(run_in(here.player, second), "Ready")[1] == "ComputedByAnotherRun"  # noqa: E731
        await until(here.player, "the second waits", waits)
        await here.player.api.delete(RUNS, first, NAME)
        run = await until_finished(here.player, second, seconds=90)
        assert condition(run, "Succeeded")[0] == "True"
        await until(here.player, "the first is gone", lambda: run_in(here.player, first) is None)
        await until(here.player, "its pods are gone", lambda: not pods_in(here.player, first))


@scenario
async def test_survival_rule_09_suspend_frees_everything_and_counts_no_attempt(place: Place) -> None:
    namespace = fresh("rule-09")
    place.player.set_pace(namespace, Pace(grace=1.0))
    async with scene(place, namespace) as here:
        here.player.hold(namespace, is_rollout)
        await create_run(here.player.api, namespace)
        rollout = lambda: any(is_rollout(pod) for pod in pods_in(here.player, namespace))  # noqa: E731
        await until(here.player, "the rollout", rollout)
        await here.player.api.patch(RUNS, namespace, NAME, {"spec": {"suspend": True}})
        suspended = lambda: condition(run_in(here.player, namespace), "Suspended")[0] == "True"  # noqa: E731
        await until(here.player, "Suspended", suspended)

        # Suspended=True was written after the last pod was gone.
        census = here.player.census
        last_pod = max(
            int(change.object["metadata"]["resourceVersion"])
            for change in census.of(namespace, (PODS,))
            if change.type == "DELETED"
        )
        said = next(
            int(run["metadata"]["resourceVersion"])
            for run in census.statuses(namespace)
            if condition(run, "Suspended")[0] == "True"
        )
        # Pods that have ended are the garbage collector's, which knows a new CRD only after half a minute.
        assert {pod["status"]["phase"] for pod in pods_in(here.player, namespace)} <= {"Succeeded"}
        assert said > last_pod

        # A suspended run: no writes, no lists.
        await asyncio.sleep(2.0)
        began = time.monotonic()
        await asyncio.sleep(10.0)
        assert here.proxy.writes(namespace, since=began) == []
        assert here.proxy.count("list", since=began) == 0

        here.player.release(namespace)
        await here.player.api.patch(RUNS, namespace, NAME, {"spec": {"suspend": False}})
        run = await until_finished(here.player, namespace)
        assert condition(run, "Succeeded")[0] == "True"
        entries = [
            entry
            for version in census.statuses(namespace)
            for entry in version.get("status", {}).get("attempts", {}).values()
        ]
        assert all(entry.get("failures", 0) == entry.get("infrastructure", 0) == 0 for entry in entries)
        # The same attempts began again, under the same names, and never beside the old ones.
        assert {change.label(labels.ATTEMPT) for change in workloads(census, namespace)} == {"1"}
        assert not side_by_side(census, namespace)


@scenario
async def test_survival_rule_10_a_standby_takes_over_and_two_never_act(place: Place) -> None:
    """Two replicas; the leader is killed in the middle of a run; the standby ends it, and nothing is created twice."""
    namespace, lease, player = fresh("rule-10"), fresh("rule-10-lease"), place.player
    metadata = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": lease}}
    await player.api.create(NAMESPACES, None, metadata)
    settings = {"NAMESPACES": namespace, "LEADER_ELECTION": "true", "LEASE_NAMESPACE": lease}
    folders = [place.folder / "one", place.folder / "two"]
    for folder in folders:
        folder.mkdir()
    async with (
        proxying(place.kubeconfig) as first_proxy,
        proxying(place.kubeconfig) as second_proxy,
        operating(first_proxy.kubeconfig(folders[0]), folders[0], "replica-one", **settings) as leader,
    ):
        await until(player, "the first leads", lambda: _leases(first_proxy) > 0)
        async with operating(
            second_proxy.kubeconfig(folders[1]), folders[1], "replica-two", **settings
        ) as standby:
            try:
                player.hold(namespace, is_rollout)
                await create_run(player.api, namespace)
                await until(player, "the rollout", lambda: any(map(is_rollout, pods_in(player, namespace))))
                assert not second_proxy.writes(), "a standby acts"
                await leader.kill()
                killed = time.monotonic()
                player.release(namespace)
                run = await until_finished(player, namespace)
                assert condition(run, "Succeeded")[0] == "True"
                assert not everything_wrong(player.census, namespace)
                taken = min(call.at for call in second_proxy.writes(namespace))
                print(f"the standby's first write came {taken - killed:.1f} s after the leader's death")
            except BaseException as error:
                error.add_note(leader.tail(40) + standby.tail(40))
                raise


def _leases(proxy: Proxy) -> int:
    return sum(
        call.resource == "leases" and call.verb in ("create", "update", "patch") for call in proxy.calls
    )


async def test_survival_rule_10_the_training_operators_kind_may_come_later(
    api_server_kubeconfig: Path, repository: Path, tmp_path: Path
) -> None:
    """Without the kind PyTorchJob the run says so and burns no GPU; once it is installed, the run goes on by itself."""
    namespace = fresh("rule-10-kind")
    async with playing(api_server_kubeconfig) as player, proxying(api_server_kubeconfig) as proxy:
        await install_crds(player.api, repository)
        await player.api.delete(CRDS, None, "pytorchjobs.kubeflow.org")
        try:
            while await player.api.get(CRDS, None, "pytorchjobs.kubeflow.org") is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            async with operating(proxy.kubeconfig(tmp_path), tmp_path) as operator:
                await create_run(player.api, namespace)
                missing = lambda: condition(run_in(player, namespace), "Stalled") == ("True", "KindMissing")  # noqa: E731
                try:
                    await until(player, "KindMissing", missing)
                    assert not [
                        pod
                        for pod in pods_in(player, namespace)
                        if labels.HOLDER in pod["metadata"]["labels"]
                    ]
                    await player.api.create(CRDS, None, PYTORCH_JOB_CRD)
                    run = await until_finished(player, namespace, seconds=150)
                except BaseException:
                    print(operator.tail(80))
                    raise
                assert condition(run, "Succeeded")[0] == "True"
        finally:
            await install_crds(player.api, repository)


@scenario
async def test_survival_rule_11_few_writes_and_none_when_idle(place: Place) -> None:
    """At most five writes per stage beyond the children; after the end neither a write nor a list."""
    namespace = fresh("rule-11")
    async with scene(place, namespace) as here:
        await create_run(here.player.api, namespace)
        await until_finished(here.player, namespace)
        await asyncio.sleep(2.0)
        # Children: what is created, and what is deleted when a stage is over. The finalizer is one write per run.
        beyond = [
            call
            for call in here.proxy.writes(namespace)
            if call.resource.startswith("selfrewardingruns") or call.resource == "events"
        ]
        counts = Counter(f"{call.verb} {call.resource}" for call in beyond)
        assert len(beyond) <= 5 * (len(STAGES) + REPORTS), counts
        began = time.monotonic()
        await asyncio.sleep(10.0)
        assert here.proxy.writes(since=began) == []
        assert here.proxy.count("list", since=began) == 0


@scenario
async def test_survival_rule_02_a_child_that_somebody_deletes_is_made_again_under_the_same_name(
    place: Place,
) -> None:
    """A Job deleted under way comes back once its pods are gone: the same attempt, and never two at once."""
    namespace = fresh("rule-02")
    place.player.set_pace(namespace, Pace(grace=0.5))
    async with scene(place, namespace) as here:
        here.player.hold(namespace, is_rollout)
        await create_run(here.player.api, namespace)
        rollout = lambda: [p for p in pods_in(here.player, namespace) if is_rollout(p)]  # noqa: E731
        await until(here.player, "the rollout", rollout)
        jobs = here.player.census.present[JOBS.plural].values()
        job = next(
            one
            for one in jobs
            if one["metadata"]["namespace"] == namespace
            and one["metadata"]["labels"].get(labels.STAGE) == "Rollout"
        )
        await here.player.api.delete(JOBS, namespace, job["metadata"]["name"])
        here.player.release(namespace)
        run = await until_finished(here.player, namespace, seconds=120)
        assert condition(run, "Succeeded")[0] == "True"
        twice = created_twice(here.player.census, namespace)
        assert set(twice) <= {("jobs", job["metadata"]["name"])}
        assert not side_by_side(here.player.census, namespace)


@scenario
async def test_deleting_a_run_leaves_nothing_behind(place: Place) -> None:
    namespace = fresh("deleted")
    async with scene(place, namespace) as here:
        here.player.hold(namespace, is_rollout)
        await create_run(here.player.api, namespace)
        rollout = lambda: any(is_rollout(pod) for pod in pods_in(here.player, namespace))  # noqa: E731
        await until(here.player, "the rollout", rollout)
        await here.player.api.delete(RUNS, namespace, NAME)
        await until(here.player, "the run is gone", lambda: run_in(here.player, namespace) is None)
        await until(here.player, "all children are gone", lambda: not here.player.census.left(namespace))
        assert PYTORCH_JOBS.plural in {change.kind for change in here.player.census.of(namespace)}
