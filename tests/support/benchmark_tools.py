"""The real benchmarks and trackers in their own environment, and an OpenAI-compatible endpoint for them to ask.

The Makefile's target `benchmarks` makes the environment, once for each list of versions, outside the checkout.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def benchmark_tools() -> Path:
    """The folder of their programs; made now if it is not there."""
    made = subprocess.run(
        ["make", "--silent", "benchmarks"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return Path(made.stdout.splitlines()[-1]) / "bin"


def run_tool(command: Sequence[str | Path], *, cwd: Path, **environment: str) -> str:
    """Run one of them far from every hub; what it printed. Fails with that if it fails."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "SRR_CACHE") if name in os.environ}
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(cwd / "hf"),
        "TOKENIZERS_PARALLELISM": "0",
    }
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=kept | offline | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def srr() -> str:
    """The installed command."""
    return str(Path(sys.executable).parent / "srr")


@dataclass
class Endpoint:
    """`/v1/chat/completions` and `/v1/completions` on loopback, answered by functions.

    Attributes:
        chat: the messages of a request → the answer's text.
        logprob: a token id → its log probability, wherever it stands (for `echo`).
    """

    chat: Callable[[list[dict[str, str]]], str] = lambda _: "ok"
    logprob: Callable[[int], float] = lambda _: -1.0
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def __enter__(self) -> "Endpoint":
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.asked.append(body)
                endpoint.headers.append({name.lower(): value for name, value in self.headers.items()})
                answer = endpoint.answer(self.path, body)
                content = json.dumps(answer).encode()
                self.send_response(200 if answer else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The document for a request."""
        base = {"id": "x", "created": 0, "model": body["model"]}
        usage = {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
        if path == "/v1/chat/completions":
            message = {"role": "assistant", "content": self.chat(body["messages"])}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            return base | usage | {"object": "chat.completion", "choices": choices}
        if path == "/v1/completions":
            prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
            choices = [self._scored(index, prompt) for index, prompt in enumerate(prompts)]
            return base | usage | {"object": "text_completion", "choices": choices}
        return {}

    def _scored(self, index: int, prompt: list[int]) -> dict[str, Any]:
        """A completion that echoes its prompt with log probabilities, and one token more."""
        values = [self.logprob(token) for token in prompt]
        logprobs = {
            "tokens": [str(token) for token in [*prompt, 0]],
            "token_logprobs": [None, *values[1:], -0.5],
            "top_logprobs": [None, *({"best": value / 2} for value in values[1:]), {"best": -0.5}],
            "text_offset": [],
        }
        return {"index": index, "text": "", "finish_reason": "length", "logprobs": logprobs}
