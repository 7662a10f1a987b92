"""A local cluster on a temporary folder, and small manifests whose containers are `python -c` scripts."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selfrewarding.api import labels
from selfrewarding.cluster.protocol import RunKey
from selfrewarding.local import processes
from selfrewarding.local.cluster import LocalCluster
from selfrewarding.local.pod_environment import Machine
from selfrewarding.local.run_record import open_record
from selfrewarding.local.state import StateFolder
from selfrewarding.plan.observed import Child, Observed, Pod

KEY = "0123456789abcdef"

RAW = {
    "apiVersion": labels.API_VERSION,
    "kind": labels.KIND,
    "metadata": {"name": "demo"},
    "spec": {
        "model": {"uri": "s3://models/tiny"},
        "artifacts": {"uri": "s3://runs/demo"},
        "seedData": {
            "instructions": {"uri": "s3://seeds/instructions.jsonl", "format": "PromptResponse"},
            "ranked": {"uri": "s3://seeds/ranked.jsonl", "format": "Ranked"},
        },
        "serving": {"device": "Cpu"},
        "training": {"device": "Cpu"},
    },
}


class Objects:
    """Makers of manifests as `manifests/` shapes them."""

    def template(self, script: str, *, container: str = "sampler", **more: Any) -> dict[str, Any]:
        env = [
            {"name": "SRR_SCRATCH", "value": "/scratch"},
            {"name": "SRR_STAGE_CONFIG", "value": "/etc/selfrewarding/config.json"},
            {"name": "SRR_TERMINATION_LOG", "value": "/dev/termination-log"},
            {"name": "SRR_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
            *more.pop("env", []),
        ]
        program = {
            "name": container,
            "image": "none",
            "command": ["python", "-c", script],
            "env": env,
            "volumeMounts": [
                {"name": "scratch", "mountPath": "/scratch"},
                {"name": "config", "mountPath": "/etc/selfrewarding"},
            ],
            "terminationMessagePath": "/dev/termination-log",
            **more.pop("container_fields", {}),
        }
        pod_labels = {labels.KEY: KEY, labels.STAGE: "Rollout", labels.ITERATION: "2", labels.ATTEMPT: "1"}
        return {
            "metadata": {"labels": more.pop("labels", pod_labels)},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 5,
                "containers": [program],
                "volumes": [
                    {"name": "scratch", "emptyDir": {}},
                    {"name": "config", "configMap": {"name": "demo-config"}},
                ],
                **more,
            },
        }

    def config_map(self, text: str = '{"hello": 1}') -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "demo-config", "labels": {labels.KEY: KEY}},
            "data": {"config.json": text},
        }

    def job(self, script: str, *, name: str = "demo-job", shards: int = 1, **more: Any) -> dict[str, Any]:
        spec = {
            "backoffLimit": 0,
            "completionMode": "Indexed" if shards > 1 else "NonIndexed",
            "completions": shards,
            "parallelism": shards,
        }
        template = self.template(script, **more)
        return self._workload("batch/v1", "Job", name, template, {**spec, "template": template})

    def pytorch_job(
        self, script: str, *, workers: int = 1, name: str = "demo-train", **more: Any
    ) -> dict[str, Any]:
        template = self.template(script, container="pytorch", **more)
        del template["spec"]["restartPolicy"]
        # As `manifests.training` has them: a Service's name and a label, which are not there on one machine.
        rank = "metadata.labels['training.kubeflow.org/replica-index']"
        template["spec"]["containers"][0].setdefault("env", []).extend(
            [
                {"name": "PET_MASTER_ADDR", "value": f"{name}-worker-0"},
                {"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": rank}}},
            ]
        )
        spec = {
            "nprocPerNode": "2",
            "runPolicy": {"cleanPodPolicy": "Running"},
            "pytorchReplicaSpecs": {
                "Worker": {"replicas": workers, "restartPolicy": "Never", "template": template}
            },
        }
        return self._workload("kubeflow.org/v1", "PyTorchJob", name, template, spec)

    def deployment(
        self, script: str, *, replicas: int = 1, name: str = "demo-server", **more: Any
    ) -> dict[str, Any]:
        own = {labels.KEY: KEY, labels.HOLDER: f"{KEY}-policy", labels.ITERATION: "2", labels.ATTEMPT: "1"}
        probe = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1, "failureThreshold": 20}
        fields = {
            "ports": [{"name": "http", "containerPort": 8000}],
            "startupProbe": probe,
            "readinessProbe": {**probe, "failureThreshold": 1},
            **more.pop("container_fields", {}),
        }
        template = self.template(
            script,
            container="vllm",
            labels=own,
            env=[
                {"name": "SRR_PORT", "value": "8000"},
                {"name": "SRR_HOST", "value": "0.0.0.0"},
                *more.pop("env", []),
            ],
            container_fields=fields,
            **{"restartPolicy": "Always", **more},
        )
        selector = {"matchLabels": {labels.HOLDER: f"{KEY}-policy"}}
        return self._workload(
            "apps/v1",
            "Deployment",
            name,
            template,
            {"replicas": replicas, "selector": selector, "template": template},
        )

    def service(self, name: str = "demo-policy") -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "labels": {labels.KEY: KEY, labels.HOLDER: f"{KEY}-policy"}},
            "spec": {
                "clusterIP": "None",
                "selector": {labels.HOLDER: f"{KEY}-policy"},
                "ports": [{"port": 8000}],
            },
        }

    def _workload(
        self, version: str, kind: str, name: str, template: dict[str, Any], spec: dict[str, Any]
    ) -> dict[str, Any]:
        metadata = {"name": name, "namespace": "default", "labels": template["metadata"]["labels"]}
        return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


SERVER = """
import http.server, os, pathlib, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404); self.end_headers(); self.wfile.write(b"ok")
http.server.HTTPServer((os.environ["SRR_HOST"], int(os.environ["SRR_PORT"])), Handler).serve_forever()
"""


class Local:
    """A LocalCluster with what tests ask it."""

    def __init__(self, root: Path, user_env: dict[str, str] | None = None, *, s3: bool = False) -> None:
        self.root = root
        self.state = StateFolder.of(root / "artifacts", "default", "demo")
        self.state.make()
        env = {"PATH": os.environ["PATH"], **(user_env or {})}
        self.machine = Machine(env, None if s3 else root / "artifacts")
        record = open_record(self.state, RAW, "default", datetime.now(UTC))
        self.cluster = LocalCluster(self.state, record, self.machine)

    async def start(self) -> "Local":
        await self.cluster.start()
        return self

    async def create(self, *manifests: dict[str, Any]) -> None:
        run = await self.cluster.get_run(RunKey("default", "demo"))
        assert run is not None
        for manifest in manifests:
            await self.cluster.create(run, manifest)

    async def observe(self) -> Observed:
        run = await self.cluster.get_run(RunKey("default", "demo"))
        assert run is not None
        return await self.cluster.observe(run)

    async def delete(self, child: Child) -> None:
        run = await self.cluster.get_run(RunKey("default", "demo"))
        assert run is not None
        await self.cluster.delete(run, child.kind, child.name, child.uid)

    async def child(self, kind: str) -> Child:
        return next(child for child in (await self.observe()).children if child.kind == kind)

    async def until(self, condition: Callable[[Observed], Any], within: float = 60.0) -> Observed:
        """Wait for a condition on what is observed, woken by the cluster's own event."""
        deadline = time.monotonic() + within
        while True:
            self.cluster.changed.clear()
            seen = await self.observe()
            if condition(seen):
                return seen
            assert time.monotonic() < deadline, f"timed out; last seen: {seen}\n{self.logs()}"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.cluster.changed.wait(), 0.2)

    async def ended(self) -> Pod:
        """The pod once it has ended."""
        seen = await self.until(
            lambda seen: seen.pods and all(pod.phase in ("Succeeded", "Failed") for pod in seen.pods)
        )
        return seen.pods[0]

    def log(self, name: str) -> str:
        return (self.state.logs / f"{name}.log").read_text()

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in self.state.logs.glob("*.log"))

    def living(self) -> dict[int, str | None]:
        sessions = [session for record in self.cluster.pods() for session in record.sessions]
        return processes.survivors(self.state.root, sessions)
