"""An API server that answers as it is told, and what the adapter's tests tell it. It knows no schema and keeps nothing.

Whether a real API server takes the adapter's requests is for tests/cluster.
"""

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from tests.support.api_objects import RUN_UID
from tests.support.builders import SPEC, make_run

from selfrewarding.cluster.protocol import (
    RunKey,
)

KEY = RunKey("lab", "demo")
RUN = make_run(uid=RUN_UID, resourceVersion="77")
API = "/apis/selfrewarding.dev/v1alpha1/namespaces/lab/selfrewardingruns/demo"
JOBS, DEPLOYMENTS = "/apis/batch/v1/namespaces/lab/jobs", "/apis/apps/v1/namespaces/lab/deployments"
TORCH, PODS, EVENTS = (
    "/apis/kubeflow.org/v1/namespaces/lab/pytorchjobs",
    "/api/v1/namespaces/lab/pods",
    "/api/v1/namespaces/lab/events",
)
NAME = "demo-rollout-1-a1-0a1b2c3d4e"


def refusal(code: int, message: str, reason: str = "", **details: Any) -> dict[str, Any]:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}
    return status | {"reason": reason, "details": details}


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


@dataclass
class Server:
    """Answers by method and path: a dict is an object, a tuple (status, body, headers); lists are used up in turn."""

    answers: dict[tuple[str, str], list[Any]] = field(default_factory=lambda: defaultdict(list))
    asked: list[Asked] = field(default_factory=list)
    hang: set[str] = field(default_factory=set)

    def say(self, method: str, path: str, *answers: Any) -> None:
        self.answers[method, path] = list(answers)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        body = json.loads(text) if text else None
        self.asked.append(
            Asked(request.method, request.path, dict(request.query), body, dict(request.headers))
        )
        if request.path in self.hang:
            await asyncio.sleep(30)
        found = self.answers.get((request.method, request.path))
        if not found:
            return web.Response(status=404, text="404 page not found\n")
        answer = found.pop(0) if len(found) > 1 else found[0]
        code, content, headers = answer if isinstance(answer, tuple) else (200, answer, {})
        if isinstance(content, str):
            return web.Response(status=code, text=content, headers=headers)
        return web.json_response(content, status=code, headers=headers)

    def paths(self, method: str) -> list[str]:
        return [one.path for one in self.asked if one.method == method]


def stored_run(**more):
    metadata = {"name": "demo", "namespace": "lab", "uid": RUN_UID, "resourceVersion": "77", "generation": 1}
    return {
        "apiVersion": "selfrewarding.dev/v1alpha1",
        "kind": "SelfRewardingRun",
        "metadata": metadata,
        "spec": SPEC,
    } | more
