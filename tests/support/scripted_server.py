"""An OpenAI-compatible completion server for tests: it answers by script, notes every request, and fails when told to.

    with ScriptedServer(model="m1") as server:
        server.fail_next(Fault(status=503, headers={"retry-after": "0.1"}))
        ...
        assert len(server.requests) == 12

It runs in a thread of its own, so that a program with an event loop of its own (or in another process) can ask it. What
it answers depends on the request alone (prompt tokens and seed), as a real server's text does in float32.
"""

import asyncio
import hashlib
import json
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from tests.support.tiny_tokenizer import decode

Reply = Callable[["Asked", int], tuple[str, str]]
"""A request and the seed of one of its samples → text and finish reason."""
Choose = Callable[["Asked", int], str]
"""A request that is to choose among texts and the seed of one of its samples → the text."""


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    number: int

    @property
    def prompt(self) -> str:
        """The prompt as text, control tokens in ⟦⟧; the user's turn for chat requests."""
        if "messages" in self.body:
            return str(self.body["messages"][-1]["content"])
        return decode(self.body["prompt"])

    @property
    def kind(self) -> str:
        """answer, judgement, score, comparison or prompts."""
        if "You are comparing" in self.prompt:
            return "comparison"
        if "messages" in self.body:
            return "prompts"
        if self.body.get("allowed_token_ids") or self.body.get("structured_outputs"):
            return "score"
        if "You are grading" in self.prompt:
            return "judgement"
        return "answer" if self.prompt.startswith("⟦") else "prompts"


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request: a status, a body that is no answer, or a connection that breaks."""

    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    disconnect: bool = False
    kinds: tuple[str, ...] = ("answer", "judgement", "score", "prompts", "comparison")


def number_of(*parts: object, below: int) -> int:
    """A number in [0, below) that follows from the parts."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % below


def default_choice(asked: Asked, seed: int) -> str:
    """Any of the texts that are allowed."""
    choices: list[str] = asked.body["structured_outputs"]["choice"]
    return choices[number_of("choice", asked.prompt, seed, below=len(choices))]


def default_reply(asked: Asked, seed: int) -> tuple[str, str]:
    """Answers that end, judgements that are valid in three of four cases, lists of prompts."""
    if asked.kind == "judgement":
        if asked.body["stop"]:
            return f"It deals with the question ({seed}).", "stop"
        score = number_of("score", asked.prompt, seed, below=6)
        forms = [
            f"It is fine.\nScore: {score}",
            f"Good.\n**Score:** {score}/5",
            f"Fair.\nScore: {score}.",
            "No idea.",
        ]
        return forms[number_of("form", asked.prompt, seed, below=4)], "stop"
    if asked.kind == "comparison":
        forms = ["It fits.\nPreference: A", "**Preference:** B", "Alike.\nPreference: Tie.", "I cannot say."]
        return forms[number_of("verdict", asked.prompt, seed, below=4)], "stop"
    if asked.kind == "prompts":
        words = [
            [f"w{number_of(asked.prompt, seed, item, word, below=100_000)}" for word in range(8)]
            for item in range(8)
        ]
        first = int(asked.prompt.rsplit("\n", 1)[-1].rstrip(".") or 9) if "messages" not in asked.body else 9
        lines = [" ".join(item) for item in words]
        lead = "" if "messages" not in asked.body else f"{first}."
        return f"{lead} {lines[0]}\n" + "\n".join(
            f"{first + number}. {line}" for number, line in enumerate(lines[1:], 1)
        ), "stop"
    cut = number_of("cut", asked.prompt, seed, below=5) == 0
    return f"answer {number_of(asked.prompt, seed, below=10**9)}", "length" if cut else "stop"


async def _let_callbacks_run() -> None:
    """Let what the event loop has queued, and what follows from it at once, run."""
    for _ in range(10):
        await asyncio.sleep(0)


class ScriptedServer:
    """See the module. `delay` is how long a request takes, in seconds; `slots` how many are worked on at once."""

    def __init__(
        self,
        model: str,
        reply: Reply = default_reply,
        *,
        delay: float = 0.0,
        port: int = 0,
        slots: int | None = None,
        key: str | None = None,
    ) -> None:
        self.model = model
        self.key = key
        """Bearer token that /v1 asks for, as vLLM does."""
        self.refused: dict[str, str] = {}
        """Fields that it does not take, with what it says then (HTTP 400)."""
        self.reply = reply
        self.choose: Choose = default_choice
        self.delay = delay
        self.slots = slots
        self.port = port
        self.requests: list[Asked] = []
        self.max_in_flight = 0
        self.max_sequences = 0
        self._in_flight = 0
        self._sequences = 0
        self._faults: deque[Fault] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runner: web.AppRunner | None = None
        self._thread: threading.Thread | None = None
        self._finished = asyncio.Event()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def count(self, kind: str) -> int:
        """Requests of one kind."""
        return sum(asked.kind == kind for asked in self.requests)

    def fail_next(self, *faults: Fault) -> None:
        """Let each of the coming requests run into one of these."""
        self._faults.extend(faults)

    def repeated(self) -> list[str]:
        """Requests that came more than once, as canonical JSON."""
        counts = Counter(json.dumps(asked.body, sort_keys=True) for asked in self.requests)
        return [body for body, count in counts.items() if count > 1]

    def __enter__(self) -> "ScriptedServer":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; on the same port as before, if there was one."""
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10), "the scripted server did not start"

    def stop(self) -> None:
        """Close the port and break every connection."""
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._finished.set)
            self._thread.join(10)

    def _serve(self, ready: threading.Event) -> None:
        asyncio.run(self._main(ready))

    async def _main(self, ready: threading.Event) -> None:
        self._loop, self._finished = asyncio.get_running_loop(), asyncio.Event()
        self._in_flight = self._sequences = 0
        self._slots = asyncio.Semaphore(self.slots or 10_000)
        app = web.Application(client_max_size=2**28)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.05, access_log=None)
        await self._runner.setup()
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        site = web.SockSite(self._runner, listening)
        await site.start()
        ready.set()
        await self._finished.wait()
        # A process that ends closes all its connections. Here one would stay open, unanswered, if it were accepted just
        # before the port is closed (Python 3.11 fails to attach it), or if a handler ended just when aiohttp stops
        # waiting for it. So nothing more is accepted, what was accepted is let in, and then all is closed.
        self._loop.remove_reader(listening.fileno())
        await _let_callbacks_run()
        await site.stop()
        for connection in self._runner.server.connections if self._runner.server is not None else ():
            connection.force_close()
        await _let_callbacks_run()
        await self._runner.cleanup()

    def _is_refused(self, request: web.Request) -> bool:
        return self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}"

    async def _models(self, request: web.Request) -> web.Response:
        if self._is_refused(request):
            return web.json_response({"error": "Unauthorized"}, status=401)
        return web.json_response({"object": "list", "data": [{"id": self.model, "object": "model"}]})

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _metrics(self, request: web.Request) -> web.Response:
        tokens = sum(len(asked.body.get("prompt", ())) for asked in self.requests)
        return web.Response(
            text=f'vllm:prefix_cache_queries_total{{engine="0"}} {tokens}.0\n'
            f'vllm:prefix_cache_hits_total{{engine="0"}} {tokens // 2}.0\n'
        )

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        if self._is_refused(request):
            return web.json_response({"error": "Unauthorized"}, status=401)
        body = await request.json()
        asked = Asked(
            request.path, body, {k.lower(): v for k, v in request.headers.items()}, len(self.requests)
        )
        self.requests.append(asked)
        if self._faults and asked.kind in self._faults[0].kinds:
            fault = self._faults.popleft()
            if fault.disconnect and request.transport is not None:
                request.transport.close()
                return web.Response()
            return web.Response(
                status=fault.status,
                body=fault.body or b'{"error":{"message":"as told"}}',
                headers=fault.headers,
            )
        if body["model"] != self.model:
            return web.json_response(
                {"error": {"message": f"The model `{body['model']}` does not exist."}}, status=404
            )
        for name in self.refused.keys() & body.keys():
            return web.json_response({"error": {"message": self.refused[name]}}, status=400)
        samples = int(body.get("n", 1))
        if body.get("temperature") == 0 and samples > 1:
            return web.json_response(
                {"error": {"message": "n must be 1 when using greedy sampling"}}, status=400
            )
        self._in_flight += 1
        self._sequences += samples
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        self.max_sequences = max(self.max_sequences, self._sequences)
        try:
            async with self._slots:
                await asyncio.sleep(self.delay)
            return web.json_response(self._answer(asked, samples))
        finally:
            self._in_flight -= 1
            self._sequences -= samples

    def _answer(self, asked: Asked, samples: int) -> dict[str, Any]:
        choices = [self._choice(asked, index) for index in range(samples)]
        if "messages" in asked.body:
            for choice in choices:
                choice["message"] = {"role": "assistant", "content": choice.pop("text")}
        prompt = len(asked.body.get("prompt", asked.prompt))
        output = sum(len(choice.get("text", "x")) for choice in choices)
        return {
            "id": f"cmpl-{asked.number}",
            "model": self.model,
            "choices": choices,
            "usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output},
        }

    def _choice(self, asked: Asked, index: int) -> dict[str, Any]:
        seed = asked.body.get("seed", asked.number) + index
        allowed = asked.body.get("allowed_token_ids")
        if allowed:
            token = allowed[number_of("token", asked.prompt, seed, below=len(allowed))]
            logprobs = {
                f"token_id:{one}": -1.0 - number_of(asked.prompt, one, below=300) / 100 for one in allowed
            }
            top = {"tokens": [f"token_id:{token}"], "top_logprobs": [logprobs]}
            return {"index": index, "text": decode([token]), "finish_reason": "length", "logprobs": top}
        choices = (asked.body.get("structured_outputs") or {}).get("choice")
        if choices:
            text = self.choose(asked, seed)
            return {"index": index, "text": text, "finish_reason": "stop", "logprobs": None}
        text, reason = self.reply(asked, seed)
        return {"index": index, "text": text, "finish_reason": reason, "logprobs": None}
