"""The HTTP session that kopf watches with: the same credentials as the client's, and every request is reported.

Must not: make requests. Neighbours: `client` makes clients, `controller.watches` listens.
"""

import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import aiohttp
from aiohttp.tracing import TraceRequestEndParams, TraceRequestExceptionParams, TraceRequestStartParams
from kubernetes.aio.client.api_client import ApiClient

from selfrewarding.cluster.kinds import CHILDREN, POD, RUN
from selfrewarding.cluster.slim import lighten

_KINDS = {resource.plural: resource.kind for resource in (RUN, POD, *CHILDREN.values())}
_VERBS = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}


@dataclass(frozen=True)
class Asked:
    """What a request asks for."""

    verb: str
    """get, list, watch, create, patch, update, delete."""
    kind: str
    """The kind, the plural for one that is not ours, APIResourceList for what the server serves."""
    namespace: str
    """"" for all namespaces."""
    continued: bool
    """A further page of a list."""


class Listener(Protocol):
    """Told of every request."""

    def asks(self, asked: Asked) -> None:
        """Before it is sent."""

    def answered(self, asked: Asked, code: int, seconds: float) -> None:
        """When the answer's head is there; code 0: it will not come."""


class LightLists(aiohttp.ClientResponse):
    """Answers whose lists hold of each object what is needed of it.

    kopf keeps every listed object until it has read all lists, and Python seldom gives such a heap back: with a few
    hundred runs whole objects would make half of the operator's memory.
    """

    async def json(self, **options: Any) -> Any:
        """The decoded body."""
        found = await super().json(**options)
        if isinstance(found, dict) and isinstance(found.get("items"), list):
            kind = str(found.get("kind", "")).removesuffix("List")
            found["items"] = [lighten(item, kind) for item in found["items"]]
        return found


def open_session(client: ApiClient, listener: Listener) -> aiohttp.ClientSession:
    """A session with the client's credentials, read anew for each request. The caller closes it."""

    async def start(
        _: aiohttp.ClientSession, context: SimpleNamespace, params: TraceRequestStartParams
    ) -> None:
        await client.update_params_for_auth(
            params.headers, [], ["BearerToken"], params.url.path, params.method, None
        )
        context.asked, context.started = what_is_asked(params.method, str(params.url)), time.monotonic()
        listener.asks(context.asked)

    async def end(_: aiohttp.ClientSession, context: SimpleNamespace, params: TraceRequestEndParams) -> None:
        listener.answered(context.asked, params.response.status, time.monotonic() - context.started)

    async def fail(
        _: aiohttp.ClientSession, context: SimpleNamespace, __: TraceRequestExceptionParams
    ) -> None:
        if hasattr(context, "asked"):
            listener.answered(context.asked, 0, time.monotonic() - context.started)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(start)
    trace.on_request_end.append(end)
    trace.on_request_exception.append(fail)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=client.rest_client.ssl_context),
        headers={"User-Agent": client.user_agent},
        trace_configs=[trace],
        response_class=LightLists,
        proxy=client.rest_client.proxy,
    )


def what_is_asked(method: str, url: str) -> Asked:
    """A request by Kubernetes' names (API concepts, "Resource URIs")."""
    split = urlsplit(url)
    query, parts = parse_qs(split.query), [part for part in split.path.split("/") if part]
    place = parts[2:] if parts[:1] == ["api"] else parts[3:]
    namespace = ""
    if place[:1] == ["namespaces"] and len(place) > 2:
        namespace, place = place[1], place[2:]
    word = place[0] if place else "APIResourceList"
    verb = _VERBS.get(method.upper(), "get")
    if verb == "get" and len(place) == 1:
        verb = "watch" if query.get("watch") in (["true"], ["1"]) else "list"
    return Asked(verb, _KINDS.get(word, word), namespace, "continue" in query)
