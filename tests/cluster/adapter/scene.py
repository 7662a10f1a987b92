"""A run in a namespace of a real API server, and the Kubernetes adapter: what the tests in this folder share.

No kubelet and no operator here: objects are made, changed and taken away by hand. Must not assert what the adapter does.
"""

import asyncio
import copy
import inspect
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.cluster.faults.api_client import PODS, Api, Kind, Raw

from selfrewarding.api.run import SelfRewardingRun, SelfRewardingRunStatus
from selfrewarding.cluster.inventory import Inventory
from selfrewarding.cluster.kubernetes import KubernetesCluster
from selfrewarding.cluster.protocol import RunKey
from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.manifests import RunContext, holder_objects, stage_objects
from selfrewarding.plan.graph import outline
from selfrewarding.plan.observed import Child

QUOTAS = Kind("api/v1", "resourcequotas")
T = TypeVar("T")


async def eventually(look: Callable[[], Awaitable[T]], seconds: float = 20.0) -> T:
    """What `look` finds once that is true. Raises AssertionError."""
    end = time.monotonic() + seconds
    while not (found := await look()):
        assert time.monotonic() < end, f"not within {seconds:g} s: {inspect.getsource(look)}"
        await asyncio.sleep(0.1)
    return found


@dataclass
class Here:
    """A namespace with a run in it, and the adapter."""

    api: Api
    cluster: KubernetesCluster
    inventory: Inventory
    namespace: str
    requests: list[tuple[str, str, int]]
    kubeconfig: Path

    @property
    def key(self) -> RunKey:
        return RunKey(self.namespace, "demo")

    async def run(self) -> SelfRewardingRun:
        found = await self.cluster.get_run(self.key)
        assert found is not None
        return found

    async def child(self, kind: str) -> Child:
        """The run's one child of a kind, as the adapter sees it."""
        [found] = [one for one in (await self.cluster.observe(await self.run())).children if one.kind == kind]
        return found

    async def limit(self, what: str, most: int) -> None:
        """Set a quota, and wait until the API server keeps to it."""
        quota = {"metadata": {"name": "few"}, "spec": {"hard": {what: str(most)}}}
        await self.api.create(QUOTAS, self.namespace, quota)

        async def known() -> bool:  # to the quota controller
            stored = await self.api.get(QUOTAS, self.namespace, "few") or {}
            return bool(stored.get("status", {}).get("hard"))

        await eventually(known)

    async def context(self) -> RunContext:
        run = await self.run()
        graph = outline(run.spec, contract=CONTRACT_VERSION)
        results = {
            stage.short: {"stage": stage.kind, "iteration": stage.iteration, "digest": "ab" * 8}
            for stage in graph.stages
        }
        status = SelfRewardingRunStatus.model_validate({"results": results})
        return RunContext(
            namespace=self.namespace,
            name="demo",
            uid=run.metadata.uid or "",
            spec=run.spec,
            results=status.results,
            contract=CONTRACT_VERSION,
        )

    async def job(self, attempt: int = 1) -> list[Raw]:
        """ConfigMap and Job of Prepare."""
        context = await self.context()
        return list(stage_objects(context, outline(context.spec, contract=CONTRACT_VERSION).prepare, attempt))

    async def pool(self, attempt: int = 1) -> list[Raw]:
        """ConfigMap, Service, NetworkPolicy and Deployment of the policy's pool."""
        context = await self.context()
        graph = outline(context.spec, contract=CONTRACT_VERSION)
        holder = next(stage.holders["policy"] for stage in graph.stages if "policy" in stage.holders)
        return list(holder_objects(context, holder, 1, attempt))

    async def training(self, attempt: int = 1) -> list[Raw]:
        """ConfigMap and PyTorchJob of the first training stage."""
        context = await self.context()
        graph = outline(context.spec, contract=CONTRACT_VERSION)
        stage = next(stage for stage in graph.stages if stage.trains)
        return list(stage_objects(context, stage, attempt))

    async def pod_of(self, deployment: Raw, name: str = "server") -> Raw:
        """A pod as the Deployment's ReplicaSet would make it, running."""
        template = copy.deepcopy(deployment["spec"]["template"])
        made = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": {**template["metadata"]["labels"], "pod-template-hash": "abc"},
                "ownerReferences": [
                    {
                        "apiVersion": "apps/v1",
                        "kind": "ReplicaSet",
                        "name": f"{deployment['metadata']['name']}-abc",
                        "uid": str(uuid.uuid4()),
                        "controller": True,
                    }
                ],
            },
            "spec": {**template["spec"], "nodeName": "nowhere"},
        }
        await self.api.create(PODS, self.namespace, made)
        return await self.api.patch(PODS, self.namespace, name, {"status": {"phase": "Running"}}, "status")
