"""A reverse proxy before the API server: counts every call of the operator, and does to it what a test says.

Plain HTTP on loopback for the operator, TLS to the API server. Transparent for everything, watches included, as long as no
fault is set.

Purpose: faults and counts at the operator's only door. Must not: know what the operator means by a call.
Neighbours: `faults` has the kinds of faults; `kill_points` holds a namespace at its n-th write.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import yaml
from aiohttp import web
from tests.cluster.faults.api_client import Credentials

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "te", "trailer", "upgrade"}
)


@dataclass
class Call:
    """One request, as RBAC would see it."""

    verb: str
    """get, list, watch, create, update, patch, delete, deletecollection."""
    group: str
    resource: str
    """Plural with its subresource, e.g. selfrewardingruns/status; empty for discovery and health."""
    namespace: str | None
    name: str | None
    at: float
    """Seconds of the monotonic clock when it came in."""
    status: int | None = None
    """What the API server said; None while it runs, or if it never got there."""
    answered: float | None = None
    created: str | None = None
    """Name of the object that this call created."""

    @property
    def is_write(self) -> bool:
        """Whether it changes something."""
        return self.verb in WRITES and self.resource != "leases"


def read_call(method: str, path: str, query: Any) -> Call:
    """What a request asks for."""
    parts = path.strip("/").split("/")
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1] if len(parts) > 1 else "", parts[3:])
    if parts[0] not in ("api", "apis") or not rest:
        return Call("get", group, "", None, None, time.monotonic())
    namespace = None
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    name = rest[1] if len(rest) > 1 else None
    resource = "/".join([rest[0], *rest[2:3]])
    verb = {
        "GET": "get" if name else "list",
        "HEAD": "get",
        "POST": "create",
        "PUT": "update",
        "PATCH": "patch",
        "DELETE": "delete" if name else "deletecollection",
    }[method]
    if verb in ("list", "get") and query.get("watch") in ("1", "true"):
        verb = "watch"
    return Call(verb, group, resource, namespace, name, time.monotonic())


class Cut(Exception):
    """Close the client's connection without an answer."""


@dataclass(frozen=True)
class Answer:
    """A response that the proxy makes up."""

    status: int
    body: dict[str, Any] | str
    """A JSON object, or text (a log)."""
    headers: dict[str, str] = field(default_factory=dict)


Forward = Callable[[], "Any"]
Send = Callable[[bytes], Any]


class Fault(Protocol):
    """What may happen to a call. Every hook may raise Cut."""

    async def before(self, call: Call) -> Answer | None:
        """Before the call is forwarded; an answer means that it never is."""

    async def after(self, call: Call) -> Answer | None:
        """After the API server has carried it out; an answer replaces the real one."""

    async def event(self, call: Call, line: bytes) -> list[bytes]:
        """The lines to send in place of one line of a watch."""


class NoFault:
    """All hooks, doing nothing; faults override what they need."""

    async def before(self, call: Call) -> Answer | None:
        """Let it pass."""
        return None

    async def after(self, call: Call) -> Answer | None:
        """Let it pass."""
        return None

    async def event(self, call: Call, line: bytes) -> list[bytes]:
        """Let it pass."""
        return [line]


@dataclass
class Proxy:
    """The proxy, listening."""

    address: str
    """http://127.0.0.1:<port>."""
    calls: list[Call] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    """In force now; each call passes all of them."""

    def kubeconfig(self, folder: Path) -> Path:
        """Write a kubeconfig that leads here."""
        user = {"name": "operator", "user": {"token": "through-the-proxy"}}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": self.address}}],
            "users": [user],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "operator"}}],
            "current-context": "proxy",
        }
        path = folder / "proxy.kubeconfig"
        path.write_text(yaml.safe_dump(document))
        return path

    def writes(self, namespace: str | None = None, since: float = 0.0) -> list[Call]:
        """Calls that change something, leases aside."""
        return [
            call
            for call in self.calls
            if call.is_write and call.at >= since and namespace in (None, call.namespace)
        ]

    def count(self, verb: str, since: float = 0.0) -> int:
        """Calls of a verb that came in since a moment."""
        return sum(call.verb == verb and bool(call.resource) and call.at >= since for call in self.calls)


class _Server:
    def __init__(self, upstream: Credentials, session: aiohttp.ClientSession) -> None:
        self._upstream = upstream
        self._session = session
        self.proxy = Proxy(address="")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request, from its first byte to its last."""
        call = read_call(request.method, request.path, request.query)
        self.proxy.calls.append(call)
        body = await request.read()
        try:
            for fault in tuple(self.proxy.faults):
                if (made_up := await fault.before(call)) is not None:
                    return _respond(made_up)
            return await self._forward(request, call, body)
        except (Cut, aiohttp.ClientError):
            return _cut(request)
        finally:
            call.answered = time.monotonic()

    async def _forward(self, request: web.Request, call: Call, body: bytes) -> web.StreamResponse:
        drop = _HOP_BY_HOP | {"authorization"}
        headers = {name: value for name, value in request.headers.items() if name.lower() not in drop}
        async with self._session.request(
            request.method,
            self._upstream.server + request.raw_path,
            data=body or None,
            headers=headers,
            allow_redirects=False,
        ) as answer:
            call.status = answer.status
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
            if call.verb == "watch" and answer.status == 200:
                return await self._stream(request, call, answer, kept)
            content = await answer.read()
            if call.verb == "create" and answer.status == 201:
                call.created = json.loads(content)["metadata"]["name"]
            for fault in tuple(self.proxy.faults):
                if (made_up := await fault.after(call)) is not None:
                    return _respond(made_up)
            return web.Response(status=answer.status, body=content, headers=kept)

    async def _stream(
        self, request: web.Request, call: Call, answer: aiohttp.ClientResponse, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=200, headers=headers)
        await response.prepare(request)
        rest = b""
        try:
            async for piece in answer.content.iter_any():
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    lines = [line]
                    for fault in tuple(self.proxy.faults):
                        lines = [new for old in lines for new in await fault.event(call, old)]
                    for new in lines:
                        await response.write(new + b"\n")
                        if new.startswith(b'{"type": "ERROR"'):  # ours; a server ends the watch with it
                            return response
        except (ConnectionResetError, aiohttp.ClientPayloadError):
            _cut(request)
            return response
        await response.write_eof()
        return response


def _respond(made_up: Answer) -> web.Response:
    if isinstance(made_up.body, str):
        return web.Response(text=made_up.body, status=made_up.status, headers=made_up.headers)
    return web.json_response(made_up.body, status=made_up.status, headers=made_up.headers)


def _cut(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)


@asynccontextmanager
async def proxying(kubeconfig: Path) -> AsyncIterator[Proxy]:
    """A proxy in front of the API server that a kubeconfig names, for as long as the block lasts."""
    upstream = Credentials.of(kubeconfig)
    async with upstream.session(decompress=False) as session:
        server = _Server(upstream, session)
        application = web.Application(client_max_size=16 * 2**20)
        application.router.add_route("*", "/{path:.*}", server.handle)
        # A client that is gone ends its handler: nothing is forwarded for a dead operator.
        runner = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        server.proxy.address = f"http://{host}:{port}"
        try:
            yield server.proxy
        finally:
            await runner.cleanup()
            await asyncio.sleep(0)
