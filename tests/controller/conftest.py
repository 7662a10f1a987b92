"""The kopf shell against an API server in memory: real kopf, real watches, a planner that a test writes in a few lines.

kmock has no schemas, no resource versions, no garbage collection and no server-side apply: what needs those is tested
against the real API server in tests/cluster.
"""

import asyncio
import contextlib
import copy
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import kmock as kmock_library
import kopf
import pytest
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from selfrewarding.api import labels
from selfrewarding.cluster.calls import Call, Calls
from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.kinds import CHILDREN, POD, RUN
from selfrewarding.cluster.protocol import RunKey
from selfrewarding.cluster.session import open_session
from selfrewarding.controller.health import Passes
from selfrewarding.controller.loop import Controller
from selfrewarding.controller.metrics import Metrics
from selfrewarding.controller.reconcile import FailedPasses
from selfrewarding.controller.starts import Starts
from selfrewarding.controller.wake import Wakes
from selfrewarding.controller.watches import Watches

Pass = Callable[[RunKey], Awaitable[float]]
RUNS = f"{RUN.api_version}/{RUN.plural}"
JOBS = "batch/v1/jobs"
KINDS = (RUN, POD, *CHILDREN.values())
_uids = itertools.count(1)


def a_run(name: str = "demo", **metadata: Any) -> dict[str, Any]:
    """A run as the API server has it."""
    identity = {"name": name, "namespace": "lab", "uid": f"uid-{next(_uids)}", "resourceVersion": "1"}
    return {"apiVersion": RUN.api_version, "kind": RUN.kind, "metadata": identity | metadata, "spec": {}}


def a_job(name: str = "prepare", run: str = "demo", **status: Any) -> dict[str, Any]:
    """A Job of that run."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name, "namespace": "lab", "uid": f"uid-{next(_uids)}",
            "labels": {labels.MANAGED_BY: labels.FIELD_MANAGER, labels.RUN: run},
            "ownerReferences": [{"kind": labels.KIND, "name": run, "uid": "run-uid", "controller": True}],
        },
        "status": status,
    }  # fmt: skip


@dataclass
class Scripted:
    """A reconciler whose passes a test writes."""

    do: Pass
    passes: list[RunKey] = field(default_factory=list)
    failed: FailedPasses | None = None

    async def reconcile(self, key: RunKey) -> float:
        self.passes.append(key)
        return await self.do(key)

    def failed_passes(self, key: RunKey) -> FailedPasses | None:
        return self.failed


class Shell:
    """One operator process, as `app` wires it, but for its passes."""

    def __init__(self, host: str, do: Pass, *, look_for_kinds: float = 60.0, retirer: Any = None) -> None:
        configuration = Configuration()
        configuration.host = host.rstrip("/")
        self.client = ApiClient(configuration)
        self.inventory, self.wakes, self.metrics, self.passes = Inventory(), Wakes(), Metrics(), Passes()
        self.watches = Watches(self.inventory, self.wakes, self.metrics)
        self.reconciler = Scripted(do)
        self.calls = Calls(self.client)
        self.controller = Controller(
            self.reconciler, self.wakes, passes=self.passes, metrics=self.metrics, concurrency=8, retirer=retirer,
            uniform=lambda low, high: (low + high) / 2,
        )  # fmt: skip
        self.sessions: list[Any] = []
        self.starts = Starts(
            calls=self.calls, inventory=self.inventory, wakes=self.wakes, controller=self.controller,
            passes=self.passes, watches=self.watches, login=self._login, look_for_kinds=look_for_kinds,
        )  # fmt: skip
        self.stop = asyncio.Event()

    async def _login(self, **_: Any) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(
            server=self.client.configuration.host, aiohttp_session=open_session(self.client, self.watches)
        )

    async def create(self, manifest: dict[str, Any]) -> None:
        """Create an object, as a pass or a user would."""
        await self._ask("create", manifest, body=copy.deepcopy(manifest))

    async def patch(self, manifest: dict[str, Any], **changes: Any) -> None:
        """Change an object by a merge patch."""
        await self._ask("patch", manifest, body=changes, content_type="application/merge-patch+json")

    async def delete(self, manifest: dict[str, Any]) -> None:
        """Delete an object."""
        await self._ask("delete", manifest)

    async def _ask(self, verb: str, manifest: dict[str, Any], **options: Any) -> None:
        resource = next(one for one in KINDS if one.kind == manifest["kind"])
        name = "" if verb == "create" else manifest["metadata"]["name"]
        await self.calls.ask(Call(verb=verb, resource=resource, namespace="lab", name=name, **options))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The process, from its start to its orderly end."""
        task = asyncio.create_task(self.starts.until(self.stop))
        try:
            yield
        finally:
            self.stop.set()
            await asyncio.wait_for(task, 20)
            await self.client.close()

    async def until(self, condition: Callable[[], object], seconds: float = 8.0) -> None:
        """Wait for a condition."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - kopf tells nobody
                await asyncio.sleep(0.01)


@pytest.fixture
def api(kmock: kmock_library.KubernetesEmulator) -> kmock_library.KubernetesEmulator:
    """An API server that knows our kinds, PyTorchJob not among them."""
    kmock.resources.load_bundled()
    for resource in KINDS:
        if resource.kind != "PyTorchJob":
            know(kmock, resource.kind)
    return kmock


def know(api: kmock_library.KubernetesEmulator, kind: str) -> None:
    """Let the API server know a kind of ours."""
    resource = next(one for one in KINDS if one.kind == kind)
    path = resource.api_version + "/" + resource.plural
    api.resources[path] = kmock_library.ResourceInfo(
        namespaced=True,
        kind=kind,
        singular=kind.lower(),
        verbs={"get", "list", "watch", "patch", "create", "delete"},
        subresources={"status"} if kind == RUN.kind else set(),
    )


@pytest.fixture
def shells(api: kmock_library.KubernetesEmulator) -> Callable[..., Shell]:
    """Makes operator processes against the API server in memory."""

    def make(do: Pass, **options: Any) -> Shell:
        return Shell(str(api.url), do, **options)

    return make
