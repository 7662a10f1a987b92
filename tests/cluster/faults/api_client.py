"""A small REST client for an API server: raw objects in and out, watches that never end.

Purpose: the hands of the player and of the tests. Must not: know anything of the operator.
Neighbours: `player` and `runs` call it; the operator itself never goes through here.
"""

import asyncio
import base64
import contextlib
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml

Raw = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
BACKGROUND: Raw = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}


class ApiError(Exception):
    """The API server refused; `code` is the HTTP status."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


@dataclass(frozen=True)
class Kind:
    """A kind of objects by its place in the API."""

    prefix: str
    """api/v1, apis/batch/v1, …"""
    plural: str

    def path(self, namespace: str | None, name: str | None = None, sub: str | None = None) -> str:
        """Path of the collection, of an object, or of a subresource."""
        parts = [self.prefix]
        parts += ["namespaces", namespace] if namespace else []
        parts += [part for part in (self.plural, name, sub) if part]
        return "/" + "/".join(parts)


PODS = Kind("api/v1", "pods")
CONFIG_MAPS = Kind("api/v1", "configmaps")
SERVICES = Kind("api/v1", "services")
NAMESPACES = Kind("api/v1", "namespaces")
NODES = Kind("api/v1", "nodes")
EVENTS = Kind("api/v1", "events")
JOBS = Kind("apis/batch/v1", "jobs")
DEPLOYMENTS = Kind("apis/apps/v1", "deployments")
NETWORK_POLICIES = Kind("apis/networking.k8s.io/v1", "networkpolicies")
LEASES = Kind("apis/coordination.k8s.io/v1", "leases")
CRDS = Kind("apis/apiextensions.k8s.io/v1", "customresourcedefinitions")
PYTORCH_JOBS = Kind("apis/kubeflow.org/v1", "pytorchjobs")
RUNS = Kind("apis/selfrewarding.dev/v1alpha1", "selfrewardingruns")


@dataclass(frozen=True)
class Credentials:
    """How an API server is reached, as a kubeconfig says it."""

    server: str
    tls: ssl.SSLContext | None
    token: str | None = None

    @classmethod
    def of(cls, kubeconfig: Path) -> "Credentials":
        """From the current context of a kubeconfig."""
        document = yaml.safe_load(kubeconfig.read_text())
        context = _named(document["contexts"], document["current-context"])["context"]
        cluster = _named(document["clusters"], context["cluster"])["cluster"]
        user = _named(document["users"], context["user"])["user"]
        server = cluster["server"].rstrip("/")
        if not server.startswith("https:"):
            return cls(server, None, user.get("token"))
        authority = _pem(cluster, "certificate-authority")
        tls = ssl.create_default_context(cadata=authority) if authority else ssl.create_default_context()
        if cluster.get("insecure-skip-tls-verify"):
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        certificate, key = _pem(user, "client-certificate"), _pem(user, "client-key")
        if certificate and key:
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as both:
                both.write(certificate + "\n" + key)
                both.flush()
                tls.load_cert_chain(both.name)
        return cls(server, tls, user.get("token"))

    def session(self, *, decompress: bool = True) -> aiohttp.ClientSession:
        """A session with these credentials; connections are unlimited, as watches hold theirs for long."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        connector = aiohttp.TCPConnector(ssl=self.tls or False, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        return aiohttp.ClientSession(
            connector=connector,
            headers=headers,
            timeout=timeout,
            auto_decompress=decompress,
            read_bufsize=2**20,
        )


def _named(entries: list[Raw], name: str) -> Raw:
    return next(entry for entry in entries if entry["name"] == name)


def _pem(entry: Mapping[str, Any], name: str) -> str | None:
    if f"{name}-data" in entry:
        return base64.b64decode(entry[f"{name}-data"]).decode()
    return Path(entry[name]).read_text() if name in entry else None


class Api:
    """Calls and watches. Use it as a context manager."""

    def __init__(self, kubeconfig: Path) -> None:
        self._credentials = Credentials.of(kubeconfig)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = self._credentials.session()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Raw | None = None,
        *,
        content: str = "application/json",
        **query: str,
    ) -> Raw:
        """One request. Raises ApiError."""
        assert self._session is not None
        async with self._session.request(
            method,
            self._credentials.server + path,
            data=None if body is None else json.dumps(body),
            params=query,
            headers={"Content-Type": content, "Accept": "application/json"},
        ) as response:
            text = await response.text()
            if response.status >= 400:
                raise ApiError(response.status, text)
            return json.loads(text) if text.startswith("{") else {}

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Raw | None:
        """An object, None if there is none."""
        try:
            return await self.call("GET", kind.path(namespace, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def create(self, kind: Kind, namespace: str | None, body: Raw) -> Raw:
        """Create an object."""
        return await self.call("POST", kind.path(namespace), body)

    async def ensure(self, kind: Kind, namespace: str | None, body: Raw) -> None:
        """Create an object unless it exists."""
        try:
            await self.create(kind, namespace, body)
        except ApiError as error:
            if error.code != 409:
                raise

    async def patch(
        self, kind: Kind, namespace: str | None, name: str, body: Raw, sub: str | None = None
    ) -> Raw:
        """A JSON merge patch."""
        return await self.call("PATCH", kind.path(namespace, name, sub), body, content=MERGE_PATCH)

    async def delete(self, kind: Kind, namespace: str | None, name: str, **options: Any) -> None:
        """Delete an object in the background; an absent one is fine."""
        try:
            await self.call("DELETE", kind.path(namespace, name), BACKGROUND | options)
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    async def list(self, kind: Kind, namespace: str | None = None, **query: str) -> list[Raw]:
        """The objects of a kind."""
        return list((await self.call("GET", kind.path(namespace), **query))["items"])

    async def watch(
        self, kind: Kind, *, selector: str | None = None, listed: asyncio.Event | None = None
    ) -> AsyncIterator[tuple[str, Raw]]:
        """What there is as ADDED, then every change, for ever; `listed` is set after the first.

        A kind that the API server does not know has no objects; it is looked for again and again.
        """
        query = {"labelSelector": selector} if selector else {}
        while True:
            try:
                found = await self.call("GET", kind.path(None), **query)
            except ApiError as error:
                if error.code not in (404, 429):  # unknown, or being set up
                    raise
                if listed is not None:
                    listed.set()
                await asyncio.sleep(0.2)
                continue
            for item in found["items"]:
                yield "ADDED", item
            if listed is not None:
                listed.set()
            version = found["metadata"]["resourceVersion"]
            with contextlib.suppress(_Gone):
                async for change, item in self._stream(kind, query, version):
                    yield change, item

    async def _stream(self, kind: Kind, query: Raw, version: str) -> AsyncIterator[tuple[str, Raw]]:
        assert self._session is not None
        while True:
            wanted = {**query, "watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true"}
            url = self._credentials.server + kind.path(None)
            with contextlib.suppress(aiohttp.ClientPayloadError):
                async with self._session.get(url, params=wanted) as response:
                    if response.status != 200:  # the kind is gone, or the version
                        raise _Gone
                    async for line in _lines(response.content):
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            raise _Gone
                        version = event["object"]["metadata"]["resourceVersion"]
                        if event["type"] != "BOOKMARK":
                            yield event["type"], event["object"]


class _Gone(Exception):
    """The watch cannot go on: list again."""


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length; aiohttp's own reader gives up at its buffer's size."""
    rest = b""
    async for piece in stream.iter_any():
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if line:
                yield line
