"""Deletion: what goes with a run, what becomes of its artifacts, and that nothing keeps it for ever.

The stages' artifacts are played into a store in a folder, and the Job that clears them away is played by the real
program's own code (`srr_sampler.retire`) on that folder, with the configuration from the pod that the operator made.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from tests.cluster.faults.api_client import CONFIG_MAPS, EVENTS, JOBS, NAMESPACES, PODS, RUNS, Kind, Raw
from tests.cluster.faults.census import Change
from tests.cluster.faults.kubelet import Pace
from tests.cluster.faults.runs import NAME
from tests.cluster.faults.scenarios import scenario
from tests.cluster.lifecycle.scene import Scene, stage_of

from selfrewarding.api import labels
from selfrewarding.cluster.client import make_client
from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.kubernetes import KubernetesCluster
from selfrewarding.cluster.protocol import RunKey
from selfrewarding.contract import environment
from selfrewarding.contract.artifacts import stage_prefix
from selfrewarding.contract.config import RetireConfig, RunRef, StageConfig
from selfrewarding.contract.result import TerminationMessage
from selfrewarding.contract.stages import StageKind
from selfrewarding.controller.retire import PATIENCE, Retirer
from selfrewarding.plan.retirement import NOT_BEFORE, STAGE, START_SECONDS
from selfrewarding.store.folder import FolderStore
from selfrewarding.store.references import refer
from srr_sampler.retire import retire

pytestmark = pytest.mark.timeout(300)

QUOTAS = Kind("api/v1", "resourcequotas")
CLEARS = {"retention": {"onDelete": "Delete"}}


@dataclass
class Artifacts:
    """The store that runs believe to be S3: a folder."""

    store: FolderStore
    scene: Scene

    async def write(self, namespace: str, name: str = NAME) -> list[str]:
        """What the run's stages would have left: for each, its mark and a file. Returns their folders.

        From the ConfigMaps that stages were given: those are gone by now, the census has them.
        """
        folders = []
        for change in self.scene.census.of(namespace, (CONFIG_MAPS,)):
            stage = change.label(labels.STAGE)
            if change.type != "ADDED" or stage in (None, "Resolve") or change.label(labels.RUN) != name:
                continue
            config = StageConfig.model_validate_json(change.object["data"]["config.json"])
            folder = stage_prefix(StageKind(config.kind), config.key)
            refer(self.store, config.run, folder)
            self.store.write(f"{folder}/attempts/a/rows-0.jsonl", b"row")
            self.store.write(f"{folder}/result.json", b"{}")
            folders.append(folder)
        return folders

    def keys(self) -> list[str]:
        """Everything there is."""
        return sorted(entry.key for entry in self.store.list(""))

    def folders(self) -> set[str]:
        """Stages that have anything but marks."""
        return {key.partition("/attempts/")[0] for key in self.keys() if "/attempts/" in key}

    def clear(self, pod: Raw) -> str:
        """What the retirement's program does and says."""
        (container,) = pod["spec"]["containers"]
        assert container["command"] == ["python", "-m", "srr_sampler", "retire"]
        values = {one["name"]: one.get("value") for one in container["env"]}
        config = RetireConfig.model_validate_json(values[environment.RETIRE] or "")
        kept, gone = retire(self.store, config.run, lambda **_: None)
        message = TerminationMessage(message=f"{gone} stages deleted, {kept} kept")
        return message.model_dump_json(by_alias=True, exclude_defaults=True)


def artifacts_of(scene: Scene, *namespaces: str) -> Artifacts:
    """The store of one scenario, cleared by the retirement pods of its namespaces."""
    made = Artifacts(FolderStore(scene.folder / "artifacts"), scene)
    for namespace in namespaces:
        scene.player.kubelet.retires[namespace] = made.clear
    return made


async def gone(scene: Scene, namespace: str, seconds: float = 30.0, name: str = NAME) -> float:
    """Wait until the run is gone; the seconds that it took from now."""
    began = time.monotonic()
    await scene.until("the run is gone", lambda: scene.look(namespace, name) is None, seconds)
    return time.monotonic() - began


def retirements(scene: Scene, namespace: str) -> list[Raw]:
    """Jobs that clear artifacts away, as they were made."""
    changes = scene.census.of(namespace, (JOBS,))
    return [one.object for one in changes if one.type == "ADDED" and stage_of(one.object) == STAGE]


async def events(scene: Scene, namespace: str) -> list[tuple[str, str]]:
    """Reason and message of our events."""
    found = await scene.api.list(EVENTS, namespace)
    ours = [one for one in found if one.get("reportingComponent") == labels.FIELD_MANAGER]
    return [(one["reason"], one["message"]) for one in ours]


@scenario
async def test_deleted_under_way_with_retention_keep_its_children_go_and_its_artifacts_stay(
    scene: Scene,
) -> None:
    await delete_under_way(scene, {"onDelete": "Keep"}, cleared=False)


@scenario
async def test_deleted_under_way_without_a_word_on_retention_its_artifacts_stay(scene: Scene) -> None:
    await delete_under_way(scene, {}, cleared=False)


@scenario
async def test_deleted_under_way_with_retention_delete_its_artifacts_go_after_its_last_pod(
    scene: Scene,
) -> None:
    await delete_under_way(scene, {"onDelete": "Delete"}, cleared=True)


async def delete_under_way(scene: Scene, retention: dict[str, str], *, cleared: bool) -> None:
    namespace = await scene.namespace("delete")
    artifacts = artifacts_of(scene, namespace)
    scene.player.set_pace(namespace, Pace(grace=0.3))
    with scene.holding(namespace, "Rollout"):
        await scene.run(namespace, {"retention": retention})
        await scene.until_running(namespace, "Rollout")
        run = scene.look(namespace)
        assert run is not None
        assert run["metadata"]["finalizers"] == [labels.FINALIZER]
        folders = await artifacts.write(namespace)
        # Prepare, M1's training and report, GeneratePrompts, Rollout.
        assert len(folders) == 5
        artifacts.store.write("models/base/config.json", b"somebody else's")
        await scene.api.delete(RUNS, namespace, NAME)
        await gone(scene, namespace)
    await scene.until("all children are gone", lambda: not scene.census.left(namespace))

    jobs = retirements(scene, namespace)
    if not cleared:
        assert jobs == []
        assert len(artifacts.keys()) > len(folders)
        return
    (job,) = jobs
    assert artifacts.keys() == ["models/base/config.json"]
    assert ("ArtifactsDeleted", "The run's artifacts are deleted: 5 stages deleted, 0 kept.") in await events(
        scene, namespace
    )
    # It began when the last pod of the run had gone: nobody wrote any more.
    version = int(job["metadata"]["resourceVersion"])
    others = [change for change in scene.census.of(namespace, (PODS,)) if stage_of(change.object) != STAGE]
    alive = {change.uid for change in others} - {
        change.uid
        for change in others
        if int(change.object["metadata"]["resourceVersion"]) < version
        and (change.type == "DELETED" or change.object["status"].get("phase") in ("Succeeded", "Failed"))
    }
    assert alive == set()


@scenario
async def test_what_another_run_uses_is_kept(scene: Scene) -> None:
    """Two runs with a prefix in common: the first takes only its own training along."""
    first, second = await scene.namespace("one"), await scene.namespace("other")
    artifacts, store = artifacts_of(scene, first, second), first
    await scene.run(first, {**CLEARS, "dpo": {"beta": 0.1}}, store=store)
    await scene.until_succeeded(first)
    await artifacts.write(first)
    await scene.run(second, {**CLEARS, "dpo": {"beta": 0.2}}, store=store)
    run = await scene.until_succeeded(second)
    written = await artifacts.write(second)
    # What the second found in the store, Resolve marks; here by hand.
    ref = RunRef(namespace=second, name=NAME, uid=run["metadata"]["uid"])
    results = run["status"]["results"].items()
    of_its_own = ("Prepare", "PreferenceOptimize", "Report")
    shared = {
        folder
        for key, summary in results
        if summary["stage"] not in of_its_own and (folder := _folder(artifacts, key))
    }
    assert len(shared) == 4
    own = {*written, *(_folder(artifacts, key) for key, one in results if one["stage"] in of_its_own)}
    assert len(own) == 4, "Prepare, its training, and a report of each iteration"
    assert not own & shared
    for folder in shared:
        refer(artifacts.store, ref, folder)

    await scene.api.delete(RUNS, first, NAME)
    await gone(scene, first)
    assert artifacts.folders() == shared | own
    await scene.api.delete(RUNS, second, NAME)
    await gone(scene, second)
    assert artifacts.keys() == []


def _folder(artifacts: Artifacts, short: str) -> str | None:
    """The folder of a stage by its short key."""
    return next(
        (folder for folder in artifacts.folders() if folder.rpartition("/")[2].startswith(short)), None
    )


@scenario
async def test_a_run_that_never_began_goes_at_once_and_clears_nothing(scene: Scene) -> None:
    namespace = await scene.namespace("never-began")
    await scene.run(namespace, {**CLEARS, "suspend": True})
    await scene.until("Suspended", lambda: scene.says(namespace, "Suspended", "True"))
    await scene.api.delete(RUNS, namespace, NAME)
    assert await gone(scene, namespace) < 5
    assert retirements(scene, namespace) == []


@scenario
async def test_a_run_whose_spec_cannot_work_is_cleared_away_as_any(scene: Scene) -> None:
    """Only what the Job needs is read of it."""
    namespace = await scene.namespace("delete-invalid")
    artifacts = artifacts_of(scene, namespace)
    await scene.run(namespace, CLEARS)
    await scene.until_succeeded(namespace)
    await artifacts.write(namespace)
    await scene.edit(namespace, {"dpo": {"batchSize": 6}, "training": {"gpusPerNode": 4}})
    await scene.until("InvalidSpec", lambda: scene.says(namespace, "Failed", "True", "InvalidSpec"))
    await scene.api.delete(RUNS, namespace, NAME)
    await gone(scene, namespace)
    assert len(retirements(scene, namespace)) == 1
    assert artifacts.keys() == []


@scenario
async def test_with_its_namespace_a_run_goes_at_once_whatever_its_retention(scene: Scene) -> None:
    """A namespace that is being deleted takes no Job any more: the run does not hold it up."""
    namespace = await scene.namespace("whole-namespace")
    with scene.holding(namespace, "Rollout"):
        await scene.run(namespace, CLEARS)
        await scene.until_running(namespace, "Rollout")
        await scene.api.delete(NAMESPACES, None, namespace)
        await gone(scene, namespace, 60)
    await scene.until("all children are gone", lambda: not scene.census.left(namespace))
    assert retirements(scene, namespace) == []
    began = time.monotonic()
    while await scene.api.get(NAMESPACES, None, namespace) is not None:
        assert time.monotonic() - began < 60, "the namespace does not go"


@dataclass
class Retiring:
    """A Retirer of the test's own beside the operator's, on the real API server, with a clock that the test moves.

    What both make is the same by name, so neither minds the other.
    """

    scene: Scene
    key: RunKey
    retirer: Retirer
    ahead: timedelta

    async def after(self, seconds: float) -> float | None:
        """A pass so long after the deletion; None: the finalizer may go."""
        self.ahead = timedelta(seconds=seconds)
        return await self.retirer.retire(self.key)

    async def until_made(self, attempt: int) -> None:
        """Wait until the Job of an attempt has its pod."""
        number = str(attempt)
        there = lambda: [  # noqa: E731
            pod
            for pod in self.scene.pods(self.key.namespace, STAGE)
            if pod["metadata"]["labels"][labels.ATTEMPT] == number
        ]
        await self.scene.until(f"attempt {attempt}", there)
        (pod,) = there()
        await _wants_its_secret(self.scene, pod)


@asynccontextmanager
async def retiring(scene: Scene, namespace: str) -> AsyncIterator[Retiring]:
    """See `Retiring`."""
    inventory = Inventory()
    kinds = {JOBS.plural: "Job", PODS.plural: "Pod"}

    def feed(change: Change) -> None:
        if change.kind in kinds and change.namespace == namespace:
            body = {**change.object, "kind": kinds[change.kind]}
            inventory.remove(body) if change.type == "DELETED" else inventory.put(body)

    async with await make_client(scene.kubeconfig) as client:
        cluster = KubernetesCluster(client, inventory)
        made = Retiring(
            scene,
            RunKey(namespace, NAME),
            Retirer(cluster, lambda: datetime.now(UTC) + made.ahead),
            timedelta(0),
        )
        scene.census.listeners.append(feed)
        try:
            yield made
        finally:
            scene.census.listeners.remove(feed)
            await cluster.aclose()


async def _wants_its_secret(scene: Scene, pod: Raw) -> None:
    """What a kubelet writes of a pod whose Secret is not there."""
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "s3" not found'}
    (container,) = pod["spec"]["containers"]
    of_container = {
        "name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0, "ready": False,
        "state": {"waiting": waiting},
    }  # fmt: skip
    metadata, status = pod["metadata"], {"phase": "Pending", "containerStatuses": [of_container]}
    await scene.api.patch(PODS, metadata["namespace"], metadata["name"], {"status": status}, "status")
    stuck = lambda: any(  # noqa: E731
        one["metadata"]["uid"] == metadata["uid"] and one["status"].get("containerStatuses")
        for one in scene.pods(metadata["namespace"])
    )
    await scene.until("the pod waits", stuck)


@scenario
async def test_a_job_that_a_quota_refuses_keeps_the_run_two_minutes_and_no_more(scene: Scene) -> None:
    namespace = await scene.namespace("delete-quota")
    await scene.run(namespace, CLEARS)
    await scene.until_succeeded(namespace)
    await scene.until("its children are gone", lambda: not scene.census.left(namespace))
    hard = lambda jobs: {"spec": {"hard": {"count/jobs.batch": jobs}}}  # noqa: E731
    await scene.api.create(QUOTAS, namespace, {"metadata": {"name": "no-jobs"}, **hard("0")})
    while not (await scene.api.get(QUOTAS, namespace, "no-jobs") or {}).get("status", {}).get("used"):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    async with retiring(scene, namespace) as here:
        await scene.api.delete(RUNS, namespace, NAME)
        assert await here.after(0) is not None
        assert await here.after(PATIENCE.total_seconds() - 30) is not None
        assert await here.after(PATIENCE.total_seconds() + 1) is None
    kept = [message for reason, message in await events(scene, namespace) if reason == "ArtifactsKept"]
    assert len(kept) == 1
    assert "no-jobs" in kept[0]
    assert retirements(scene, namespace) == []
    # To the operator two minutes are two minutes. The quota is raised in time: it clears away as if nothing had been.
    await scene.api.patch(QUOTAS, namespace, "no-jobs", hard("5"))
    await gone(scene, namespace)
    assert len(retirements(scene, namespace)) == 1


@scenario
async def test_a_secret_that_is_gone_ends_in_three_attempts_and_the_run_goes(scene: Scene) -> None:
    """The Job's pod waits for it and never fails: each attempt has its time, and then the run goes without."""
    namespace = await scene.namespace("delete-secret")
    await scene.run(namespace, {**CLEARS, "artifacts": {"credentials": {"secretName": "s3"}}})
    await scene.until_succeeded(namespace)
    await scene.until("its children are gone", lambda: not scene.census.left(namespace))
    async with retiring(scene, namespace) as here:
        scene.player.set_pace(namespace, Pace(start=3600))  # no node: the test writes what a kubelet would
        await scene.api.delete(RUNS, namespace, NAME)
        # Kubernetes writes the Jobs' times by its own clock: to the moved one, each has had its time when the next is due.
        for attempt, begins in enumerate((0, START_SECONDS + 1, NOT_BEFORE[2].total_seconds() + 1), start=1):
            assert await here.after(begins) is not None
            await here.until_made(attempt)
        limit = begins + START_SECONDS
        scene.player.set_pace(namespace, Pace())
        assert await here.after(limit) is None
        assert limit < 10 * 60
    kept = [message for reason, message in await events(scene, namespace) if reason == "ArtifactsKept"]
    assert len(kept) == 1
    assert 'secret "s3" not found' in kept[0]
    # The operator, for which no minute has passed, begins anew with pods that run.
    await gone(scene, namespace)
