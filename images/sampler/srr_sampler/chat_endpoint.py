"""An OpenAI-compatible endpoint that is not ours, asked through `/chat/completions`: a fixed writer of prompts, a referee.

Purpose: the same patience as `client`, for a server of which nothing is known but its address and model name. No token
ids and no special fields: only what every such server takes. So control tokens that a text spells cannot be split here
(as `chat.ChatEncoder` does for our own servers): whether they mean anything is the endpoint's business.

Endpoints differ in the fields that they take: OpenAI's newer models want `max_completion_tokens` in place of `max_tokens` and
fix the temperature, others know no `seed`. One that refuses a field by name is asked again, from then on in its own way, where
that changes nothing that was asked for; a temperature that it does not take is the user's to change.
Must not: log or raise anything that holds the key.
Neighbours: `generate_prompts` uses it where `promptGeneration.writer.endpoint` is given, `referee` where
`evaluation.headToHead.judge.endpoint` is.
"""

import asyncio
import json
import logging
import random
import re
from collections.abc import Mapping
from typing import Any

import aiohttp

from selfrewarding.api.algorithm import EndpointSpec
from selfrewarding.contract.program import BadConfiguration, Retry
from srr_sampler.client import MAX_FAILURES, Completions, Sample, error_text, retry_seconds
from srr_sampler.sampling import Sampling

logger = logging.getLogger(__name__)

INCOMPLETE = "incomplete"
"""Finish reason of an answer that came as half a document."""
_RENAMED = {"max_tokens": "max_completion_tokens"}
"""The name of a field in newer versions of the API (platform.openai.com/docs/api-reference/chat/create)."""
_IN_EFFECT = {"temperature": 1, "top_p": 1}
"""The API's defaults: where one is asked for and the field is refused, it can be left out."""
_TIMEOUT = aiohttp.ClientTimeout(total=900, sock_connect=20)


class EndpointRefused(BadConfiguration):
    """The endpoint does not take this one request (its length, its content, a field): others may be taken."""


class ChatEndpoint:
    """Asks an endpoint with one user turn at a time. Use as an async context manager.

    Args:
        endpoint: address, model name, requests in flight.
        key: bearer token, or "".
        field: where the spec names the endpoint, for advice.
        give_halves: return half a document as an empty answer that ended as INCOMPLETE, for callers that keep account
            of every request; otherwise it is asked for again like any failure.
    """

    def __init__(
        self,
        endpoint: EndpointSpec,
        key: str,
        *,
        field: str = "promptGeneration.writer.endpoint",
        give_halves: bool = False,
    ) -> None:
        self._endpoint = endpoint
        self._field = field
        self._give_halves = give_halves
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._places = asyncio.Semaphore(endpoint.max_concurrency)
        self._session: aiohttp.ClientSession | None = None
        self.capacity = endpoint.max_concurrency
        self.problem: str | None = None
        """Why it did not answer the last time, for people."""
        self.repeated = 0
        """Requests that had to be sent again."""
        self._not_taken: set[str] = set()
        """Fields that the endpoint refused."""

    async def __aenter__(self) -> "ChatEndpoint":
        # trust_env: an endpoint outside the cluster may only be reached through a proxy.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3), timeout=_TIMEOUT, trust_env=True
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def complete(self, text: str, sampling: Sampling, seed: int) -> Completions:
        """One completion of a user turn; sent again until it is answered.

        Raises:
            EndpointRefused: the endpoint refuses this request (400, 413, 422).
            BadConfiguration: it refuses us (key, model name).
            Retry: it failed time and again.
        """
        body = {
            "model": self._endpoint.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": seed,
            "n": 1,
            "stream": False,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        failures = 0
        async with self._places:
            while True:
                answer, self.problem, wait = await self._ask(self._as_taken(body))
                if answer is not None:
                    return answer
                self.repeated += 1
                if wait is None:
                    failures += 1
                    wait = min(30.0, 0.5 * 2**failures) * random.uniform(0.5, 1.0)  # noqa: S311
                if failures >= MAX_FAILURES:
                    raise Retry(
                        f"the endpoint {self._endpoint.url} failed {failures} times on one request: {self.problem}"
                    )
                await asyncio.sleep(wait)

    def _as_taken(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request in the fields that the endpoint takes."""
        taken = {}
        for name, value in body.items():
            if name not in self._not_taken or not _spared(name, value):
                taken[name] = value
            elif name in _RENAMED:
                taken[_RENAMED[name]] = value
        return taken

    async def _ask(self, body: dict[str, Any]) -> tuple[Completions | None, str | None, float | None]:
        """The answer; or the problem, with the time to wait if the endpoint asks for patience."""
        if self._session is None:
            raise RuntimeError("the endpoint is used outside of its context")
        url = f"{self._endpoint.url.rstrip('/')}/chat/completions"
        try:
            async with self._session.post(url, json=body, headers=self._headers) as response:
                content = await response.read()
                status, retry_after = response.status, response.headers.get("retry-after")
        except (aiohttp.ClientError, OSError) as error:
            return None, f"no answer ({type(error).__name__})", None
        if status == 200:
            answer = _read(content)
            if answer is None and self._give_halves:
                answer = Completions((Sample("", INCOMPLETE),), 0, 0)
            return answer, None if answer else f"an answer that is not whole: {content[:80]!r}", None
        said = f"HTTP {status}: {error_text(content)}"
        if status in {429, 503}:
            return None, said, retry_seconds(retry_after)
        if status >= 500 or status in {408, 425}:
            return None, said, None
        field = _refused_field(content, body) if status in {400, 422} else None
        if field is not None:
            if field not in self._not_taken:
                instead = _RENAMED.get(field)
                logger.warning(
                    "the endpoint %s takes no %s (%s): it is asked %s from now on",
                    self._endpoint.url,
                    field,
                    said,
                    f"with {instead}" if instead else "without",
                )
            self._not_taken.add(field)
            return None, said, 0.0
        advice = {
            401: f"check the key in {self._field}.apiKeySecretName",
            403: f"check the key in {self._field}.apiKeySecretName",
            404: f"check {self._field}.url and .model",
        }.get(status, f"check {self._field.partition('.')[0]} and the endpoint's limits")
        kind = EndpointRefused if status in {400, 413, 422} else BadConfiguration
        raise kind(f"the endpoint {self._endpoint.url} refused with {said}; {advice}")


def _read(content: bytes) -> Completions | None:
    try:
        document = json.loads(content)
        choice = document["choices"][0]
        text, reason = choice["message"]["content"], str(choice["finish_reason"])
        usage = document.get("usage") or {}
        tokens = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return Completions((Sample(text or "", reason),), *tokens) if isinstance(text, str | None) else None


def _refused_field(content: bytes, body: Mapping[str, Any]) -> str | None:
    """The field of the request that a refusal names, if the request can do without it."""
    text = content.decode("utf-8", "replace")
    for name, value in body.items():
        if not _spared(name, value) or not re.search(rf"\b{name}\b", text):
            continue
        # A limit that is merely too high is refused by its name too.
        if name not in _RENAMED or _RENAMED[name] in text or "unsupported_parameter" in text:
            return name
    return None


def _spared(name: str, value: Any) -> bool:
    """Whether a request says the same without this field, or with its other name. A seed is a best effort anyway."""
    return name == "seed" or name in _RENAMED or (name in _IN_EFFECT and value == _IN_EFFECT[name])
