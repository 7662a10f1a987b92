"""A Weights & Biases server for tests, on loopback: the few answers that its client needs, and what it was told.

It knows one run: GraphQL's UpsertBucket and RunResumeStatus, the file stream with the history, uploads of files. The
shapes are those that wandb 0.31 asks for.
"""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer:
    """See the module.

    Attributes:
        history: rows as they were streamed, by line number.
        summary: as it was streamed last.
        uploaded: names of files that were sent.
        calls: operations and paths, in order.
        variables: of the last UpsertBucket that named a project.
    """

    def __init__(self) -> None:
        self.history: dict[int, dict[str, Any]] = {}
        self.summary: dict[str, Any] = {}
        self.uploaded: set[str] = set()
        self.calls: list[str] = []
        self.keys: set[str] = set()
        self.variables: dict[str, Any] = {}
        self.silent = False
        """Take requests and never answer."""
        self._exists = False

    def __enter__(self) -> "WandbServer":
        server = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if server.silent:
                    threading.Event().wait(60)
                server.keys.add(self.headers.get("Authorization", ""))
                content = json.dumps(server.answer(self.path, body)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self) -> None:
                self._any()

            def do_POST(self) -> None:
                self._any()

            def do_PUT(self) -> None:
                self._any()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """The document for a request."""
        if path.endswith("/file_stream"):
            self.calls.append("file_stream")
            self._stream(json.loads(body))
            return {}
        if not path.startswith("/graphql"):
            self.calls.append(path)
            return {}
        asked = json.loads(body)
        self.calls.append(asked["operationName"])
        return {"data": self._graphql(asked["operationName"], asked["variables"])}

    def _stream(self, told: dict[str, Any]) -> None:
        lines = told.get("files", {}).get("wandb-history.jsonl")
        for number, line in enumerate(lines["content"] if lines else []):
            self.history[lines["offset"] + number] = json.loads(line)
        for line in told.get("files", {}).get("wandb-summary.json", {}).get("content", []):
            self.summary = json.loads(line)

    def _graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        owner = {"id": "e", "name": "team"}
        project = {"id": "p", "name": "loops", "entity": owner}
        match operation:
            case "UpsertBucket":
                inserted, self._exists = not self._exists, True
                if variables.get("project"):
                    self.variables = variables
                bucket = {
                    "id": "b", "name": variables.get("name"), "displayName": variables.get("displayName"),
                    "description": "", "config": variables.get("config") or "{}", "sweepName": None, "project": project,
                    "historyLineCount": len(self.history),
                }  # fmt: skip
                return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}
            case "RunResumeStatus":
                return {
                    "model": {"id": "p", "name": "loops", "entity": owner, "bucket": self._bucket(variables)}
                }
            case "CreateRunFiles":
                self.uploaded.update(variables["files"])
                files = [
                    {"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]
                ]
                return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
            case _:
                return {}

    def _bucket(self, variables: dict[str, Any]) -> dict[str, Any] | None:
        if not self._exists:
            return None
        tail = [json.dumps(self.history[number]) for number in sorted(self.history)[-1:]]
        return {
            "id": "b", "name": variables["name"], "summaryMetrics": json.dumps(self.summary),
            "displayName": "lab/demo", "logLineCount": 0, "historyLineCount": len(self.history), "eventsLineCount": 0,
            "historyTail": json.dumps(tail), "eventsTail": "[]", "config": "{}", "tags": [], "notes": "",
            "wandbConfig": json.dumps({"t": 1}),
        }  # fmt: skip
