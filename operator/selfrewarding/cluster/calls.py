"""Requests to the API server: one way in, with a time limit, a count and our own errors.

Bodies are plain dicts: the library's models cost memory and refuse objects that lack a field. Must not: retry (the next
pass does) or know what objects mean. Neighbours: `kinds` has the paths, `refusals` the errors' words.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.config import ConfigException

from selfrewarding.cluster.kinds import Resource
from selfrewarding.cluster.protocol import Unavailable
from selfrewarding.cluster.refusals import error_of

TIMEOUT = 10.0
"""Seconds that a request may take in all."""

OnRequest = Callable[[str, str, int, float], None]
"""Told of every request: verb (get, list, create, patch, delete), kind, HTTP status (0: no answer), seconds."""

_METHODS = {"get": "GET", "list": "GET", "create": "POST", "patch": "PATCH", "delete": "DELETE"}
_JSON = "application/json"


@dataclass(frozen=True, kw_only=True)
class Call:
    """What is asked of the API server. `verb` is Kubernetes': get, list, create, patch, delete."""

    verb: str
    resource: Resource
    namespace: str
    name: str = ""
    subresource: str = ""
    query: Mapping[str, str] | None = None
    body: object = None
    content_type: str = _JSON
    timeout: float = TIMEOUT
    """Seconds."""

    @property
    def path(self) -> str:
        """Path and query."""
        path = self.resource.path(self.namespace, self.name, self.subresource)
        return f"{path}?{urlencode(self.query)}" if self.query else path


class Calls:
    """The API server as a function from a call to a dict."""

    def __init__(self, client: ApiClient, on_request: OnRequest | None = None) -> None:
        self._client = client
        self._on_request = on_request

    async def ask(self, call: Call) -> dict[str, Any]:
        """The answer's JSON object.

        Raises ClusterError: see `refusals.error_of`; Unavailable if there is no whole answer in time.
        """
        content = await self.text(call)
        try:
            found = json.loads(content)
        except ValueError as error:
            raise Unavailable(f"the answer to {call.verb} {call.path} is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise Unavailable(f"the answer to {call.verb} {call.path} is no object")
        return found

    async def text(self, call: Call) -> bytes:
        """The answer as it came, e.g. a log. Raises ClusterError as `ask` does."""
        code, headers, content = await self._send(
            _METHODS[call.verb],
            call.path,
            label=(call.verb, call.resource.kind),
            body=call.body,
            content_type=call.content_type,
            timeout=call.timeout,
        )
        if code >= 400:
            raise error_of(
                call.verb,
                call.resource,
                call.namespace,
                call.name,
                subresource=call.subresource,
                code=code,
                body=content,
                headers=headers,
            )
        return content

    async def knows(self, resource: Resource) -> bool:
        """Whether the cluster serves a kind (a discovery request). Raises Unavailable."""
        code, _, content = await self._send("GET", resource.root, label=("get", "APIResourceList"))
        if code == 404:
            return False
        try:
            kinds = {one["kind"] for one in json.loads(content)["resources"]}
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable(f"the answer to get {resource.root} ({code}) is no list of kinds") from error
        return resource.kind in kinds

    async def _send(
        self,
        method: str,
        path: str,
        *,
        label: tuple[str, str],
        body: object = None,
        content_type: str = _JSON,
        timeout: float = TIMEOUT,  # noqa: ASYNC109 - aiohttp's own, which also covers the wait for a connection
    ) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"Accept": "*/*", "Content-Type": content_type, "User-Agent": self._client.user_agent}
        started, code = time.monotonic(), 0
        try:
            await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            response = await self._client.call_api(
                method,
                self._client.configuration.host + path,
                header_params=headers,
                body=body,
                _request_timeout=aiohttp.ClientTimeout(total=timeout),
            )
            content: bytes = await response.response.read()
            code = response.status
        except TimeoutError as error:
            raise Unavailable(
                f"the API server did not answer {method} {path} within {timeout:g} s"
            ) from error
        except (
            aiohttp.ClientError,
            ConfigException,
            OSError,
        ) as error:  # the second: no token to be had just now
            text = str(error) or type(error).__name__
            raise Unavailable(f"the API server cannot be reached ({method} {path}): {text}") from error
        finally:
            if self._on_request is not None:
                self._on_request(*label, code, time.monotonic() - started)
        return code, response.headers, content
