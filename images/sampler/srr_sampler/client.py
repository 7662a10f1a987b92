"""An asynchronous client of vLLM's `/v1/completions`, over all replicas of a server.

Purpose: keep a server's queue full without flooding it, and come through everything that a server may do meanwhile:
refuse, restart, answer half a document, serve the previous model for a while. Requests are repeated with the same seed,
so a repetition changes nothing.
Must not: know what a prompt means; let the key into a message or a log; keep a request beyond the stage's deadline (the
stage's frame cancels it).
Neighbours: `replicas` chooses the server, `sampling` makes the documents.

aiohttp and not httpx or the openai package, by measurement: with 512 requests in flight a request costs 0.23 ms of CPU
against 17 and 19 ms (their connection pool looks at every connection for every request), which would cap a replica at
about 55 requests a second.
"""

import asyncio
import json
import logging
import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from selfrewarding.contract.config import ServedModel
from selfrewarding.contract.program import BadConfiguration, Retry, ServerKeyRefused
from srr_sampler.replicas import Replica, ReplicaSet, Resolve
from srr_sampler.sampling import CompletionRequest

logger = logging.getLogger(__name__)

MAX_FAILURES = 8
"""How often one request may fail on servers that are otherwise fine, before the attempt is given up."""
_SHOWN = 500

REFUSED_SECONDS = 60.0
"""How long every replica must refuse our key before it is taken for good: a server of an earlier attempt, with an older
key, may answer for a moment while the new ones start."""

# The server closes idle connections after 5 s (VLLM_HTTP_TIMEOUT_KEEP_ALIVE); ours must be quicker, or a request goes
# out on a connection that is just being closed.
_KEEP_ALIVE = 3.0
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=6 * 3600)
_PROBE_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=5)


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion.

    Attributes:
        text: what was generated, without stop text and control tokens.
        finish_reason: `stop` or `length`.
        token: the one token that was chosen, where the request said `among`.
        logprobs: log probabilities by token id at that token, where the request said `among`.
    """

    text: str
    finish_reason: str
    token: int | None = None
    logprobs: Mapping[int, float] | None = None


@dataclass(frozen=True, slots=True)
class Completions:
    """The answer to one request: its samples, and tokens over all of them."""

    samples: tuple[Sample, ...]
    prompt_tokens: int
    output_tokens: int


class _Lost(Exception):
    """The replica cannot be used now. `sent`: it may have worked on the request."""

    def __init__(self, problem: str, *, sent: bool) -> None:
        super().__init__(problem)
        self.sent = sent


class _Busy(Exception):
    """The replica asks for patience."""

    def __init__(self, problem: str, seconds: float) -> None:
        super().__init__(problem)
        self.seconds = seconds


class _Failed(Exception):
    """The replica failed on this request."""


class CompletionClient:
    """Asks one served model. Use as an async context manager.

    Args:
        role: policy, judge or writer, for messages.
        served: the model and its limits.
        urls: the value of the environment variable for the role.
        pods: that ask the same server at the same time; each fills its share of the queue.
        key: bearer token that the server asks for, None if it asks for none.
        resolve: for tests; DNS otherwise.
    """

    def __init__(
        self,
        role: str,
        served: ServedModel,
        urls: str,
        *,
        pods: int = 1,
        key: str | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        if not urls.strip(" ,"):
            raise BadConfiguration(
                f"no address for the {role} server: set the environment variable that names it (SRR_{role.upper()}_URL)"
            )
        self.role = role
        self.served = served
        limit = -(-2 * served.max_num_seqs // max(1, pods))
        self.capacity = limit * max(1, served.replicas)
        """Sequences in flight that, with the other pods', keep each replica's batch full with as many again queued."""
        self._replicas = ReplicaSet(
            f"{role} server {served.name}",
            urls,
            limit=limit,
            probe=self._probe,
            resolve=resolve,
        )
        self._session: aiohttp.ClientSession | None = None
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._refused_since: float | None = None
        self.repeated = 0
        """Requests that had to be sent again."""

    async def __aenter__(self) -> "CompletionClient":
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE, socket_factory=_socket)
        self._session = aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT, headers=self._headers)
        await self._replicas.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._replicas.__aexit__(*exception)
        if self._session is not None:
            await self._session.close()

    @property
    def problem(self) -> str | None:
        """Why the server cannot be asked now, for people; None if it can."""
        problem = self._replicas.problem
        return None if problem is None else f"{self._replicas.name}: {problem}"

    async def ready(self) -> None:
        """Wait until a replica answers for our model."""
        async with self._replicas.place(1, first=True):
            pass

    async def complete(
        self, request: CompletionRequest, *, prefer: str | None = None, first: bool = False
    ) -> Completions:
        """Send a request until it is answered; `prefer` and `first` as in `ReplicaSet.place`.

        Raises:
            BadConfiguration: the server refuses the request itself (HTTP 400 and the like).
            Retry: the request failed time and again on a server that is there.
            ServerKeyRefused: no server took our key for a while.
        """
        body = json.dumps(request.body(self.served.name), separators=(",", ":")).encode()
        failures = 0
        while True:
            async with self._replicas.place(request.n, prefer=prefer, first=first) as replica:
                try:
                    return await self._post(replica, body, request)
                except _Busy as busy:
                    problem = str(busy)
                    self._replicas.hold(replica, busy.seconds)
                except _Lost as lost:
                    problem = str(lost)
                    self._replicas.lost(replica, problem)
                    failures += lost.sent
                except _Failed as failed:
                    problem = str(failed)
                    failures += 1
            self.repeated += 1
            if failures >= MAX_FAILURES:
                raise Retry(
                    f"the {self.role} server at {replica.address} failed {failures} times on one request: {problem}"
                )
            if failures:
                await asyncio.sleep(min(10.0, 0.2 * 2**failures) * random.uniform(0.5, 1.0))  # noqa: S311
            # What was begun goes first: a request that comes back must not queue behind all others again.
            first = True

    async def counters(self) -> dict[str, float]:
        """Sums over the replicas of vLLM's counters (`/metrics`), by name; what cannot be read is left out."""
        sums: dict[str, float] = {}
        for replica in self._replicas.replicas:
            try:
                async with self._http.get(f"{replica.address}/metrics", timeout=_PROBE_TIMEOUT) as response:
                    text = await response.text() if response.status == 200 else ""
            except (aiohttp.ClientError, TimeoutError, OSError):
                continue
            for line in text.splitlines():
                name, _, value = line.partition(" ")
                name = name.partition("{")[0]
                if line.startswith("vllm:") and name.endswith("_total"):
                    sums[name] = sums.get(name, 0.0) + _number(line.rpartition(" ")[2] or value)
        return sums

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the client is used outside of its context")
        return self._session

    async def _probe(self, address: str) -> str | None:
        try:
            async with self._http.get(f"{address}/v1/models", timeout=_PROBE_TIMEOUT) as response:
                content = await response.read()
                if response.status == 401:
                    return self._refused()
                if response.status != 200:
                    return f"HTTP {response.status} from /v1/models"
        except (aiohttp.ClientError, OSError) as error:
            return _reason(error)
        try:
            names = [str(model["id"]) for model in json.loads(content)["data"]]
        except (ValueError, KeyError, TypeError):
            return "no list of models from /v1/models"
        if self.served.name in names:
            self._refused_since = None
            return None
        return f"it serves {', '.join(names) or 'no model'}, not {self.served.name}"

    def _refused(self) -> str:
        """A replica refuses our key: what is wrong. Where all have done so for long, nothing is waited for any more."""
        now = asyncio.get_running_loop().time()
        problem = "it refuses this pod's key"
        if any(replica.ready for replica in self._replicas.replicas):
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        elif now - self._refused_since >= REFUSED_SECONDS:
            self._replicas.fail(
                ServerKeyRefused(
                    f"every {self.role} server refuses the key that this pod derives from its store credentials: the "
                    "Secret was changed after the servers had started. They are started again."
                )
            )
        return problem

    async def _post(self, replica: Replica, body: bytes, request: CompletionRequest) -> Completions:
        try:
            async with self._http.post(
                f"{replica.address}/v1/completions", data=body, headers={"content-type": "application/json"}
            ) as response:
                content = await response.read()
                status, retry_after = response.status, response.headers.get("retry-after")
        except aiohttp.ClientConnectorError as error:
            raise _Lost(_reason(error), sent=False) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _Lost(_reason(error), sent=True) from error
        if status == 200:
            return _read(content, request)
        if status == 401:
            raise _Lost(self._refused(), sent=False)
        said = error_text(content)
        if status in {429, 503}:
            raise _Busy(f"HTTP {status}: {said}", retry_seconds(retry_after))
        if status == 404:
            # It listed our model a moment ago: it is being replaced. Counted, since an address that never takes the
            # request must not be asked until the deadline.
            raise _Lost(f"it does not serve {self.served.name} ({said})", sent=True)
        if status >= 500 or status in {408, 425}:
            raise _Failed(f"HTTP {status}: {said}")
        raise BadConfiguration(
            f"the {self.role} server at {replica.address} refused a request with HTTP {status}: {said}"
        )


def retry_seconds(header: str | None) -> float:
    """How long to wait after 429 or 503: what the server says within reason, else about a second."""
    try:
        wanted = float(header) if header is not None else 1.0
    except ValueError:
        wanted = 1.0
    return min(60.0, max(0.1, wanted)) * random.uniform(1.0, 1.25)  # noqa: S311


def error_text(content: bytes) -> str:
    """The message in an OpenAI-style error document, else the beginning of whatever was sent."""
    text = content.decode("utf-8", "replace")
    try:
        document = json.loads(text)
        error = document.get("error", document)
        text = str(error.get("message", text) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        pass
    return " ".join(text.split())[:_SHOWN] or "no text"


def _read(content: bytes, request: CompletionRequest) -> Completions:
    try:
        document = json.loads(content)
        choices = sorted(document["choices"], key=lambda choice: int(choice["index"]))
        samples = tuple(_sample(choice, request) for choice in choices)
        usage = document["usage"]
        answer = Completions(samples, int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _Failed(f"an answer that is not whole ({type(error).__name__}): {content[:80]!r}") from error
    if len(answer.samples) != request.n:
        raise _Failed(f"{len(answer.samples)} samples instead of {request.n}")
    for sample in answer.samples:
        # A server that shuts down ends its requests with `abort`: such a text is no answer.
        if sample.finish_reason not in {"stop", "length"}:
            raise _Failed(f"a generation ended with {sample.finish_reason!r}")
    return answer


def _sample(choice: dict[str, Any], request: CompletionRequest) -> Sample:
    text, reason = choice["text"], choice["finish_reason"]
    if not isinstance(text, str):
        raise TypeError("text")
    if not request.among:
        return Sample(text, str(reason))
    logprobs = {
        _token_id(token): float(value) for token, value in choice["logprobs"]["top_logprobs"][0].items()
    }
    return Sample(text, str(reason), _token_id(choice["logprobs"]["tokens"][0]), logprobs)


def _token_id(token: str) -> int:
    return int(token.removeprefix("token_id:"))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection ({error.os_error.strerror or error.os_error})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"the connection broke ({str(error) or type(error).__name__})"


def _socket(address: Any) -> socket.socket:
    """A socket that notices when the other machine is gone: a long generation is silent, so TCP itself must ask."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 30),
        ("TCP_KEEPINTVL", 10),
        ("TCP_KEEPCNT", 6),
        ("TCP_USER_TIMEOUT", 90_000),
    ):
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made
