"""Models by URI, from stores and from a hub: a small one on the loopback that speaks the hub's protocol."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from tests.support.sample_tree import FILES

from selfrewarding.store import ArtifactStore, Misconfigured, NotFound, fetch_model

Place = tuple[str, dict[str, str]]
SHA = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": bytes(range(256)) * 4000,
    "tokenizer/tokenizer.json": b"{}",
    "pytorch_model.bin": b"the same weights once more",
    "onnx/model.onnx": b"and again",
}


def test_a_model_in_a_store(place: Place, store: ArtifactStore, tree: Path, tmp_path: Path) -> None:
    uri, env = place
    store.upload_tree(tree, "models/base")
    assert fetch_model(f"{uri}/models/base", tmp_path / "down", env) == f"{uri}/models/base"
    for name, data in FILES.items():
        assert (tmp_path / "down" / name).read_bytes() == data
    with pytest.raises(NotFound, match="nothing below"):
        fetch_model(f"{uri}/models/none", tmp_path / "none", env)


@pytest.mark.parametrize("uri", ["hf://", "hf://name", "hf://a/b/c", "hf://org/name@", "hf://org/name?x=1"])
def test_an_address_of_no_model(uri: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="expected hf://org/name or hf://org/name@revision"):
        fetch_model(uri, tmp_path)


class Hub(http.server.BaseHTTPRequestHandler):
    """GET /api/models/…, its file tree, and files; `asked` collects the files that went out."""

    asked: list[str]
    damage: bool
    refuse: tuple[int, str] | None

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if not path.startswith(("/api/models/org/name", "/org/name/resolve/")):
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif self.refuse is not None:
            self._send(self.refuse[0], b"", {"X-Error-Code": self.refuse[1]})
        elif path.startswith("/api/models/org/name/tree/"):
            self._json([{"type": "file", "path": name, **_facts(name)} for name in REPOSITORY])
        elif path in {
            "/api/models/org/name",
            *(f"/api/models/org/name/revision/{r}" for r in ("main", "v1.0", SHA)),
        }:
            siblings = [{"rfilename": name, "blobId": "0" * 40, **_facts(name)} for name in REPOSITORY]
            self._json(
                {"id": "org/name", "modelId": "org/name", "sha": SHA, "private": False, "siblings": siblings}
            )
        elif path.startswith("/api/models/"):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            self._file(path.removeprefix(f"/org/name/resolve/{SHA}/"))

    def do_HEAD(self) -> None:
        self.do_GET()

    def _file(self, name: str) -> None:
        data = REPOSITORY[name]
        if self.command == "GET":
            self.asked.append(name)
            if self.damage and name.endswith(".safetensors"):
                data = b"\x01" + data[1:]
        sha256 = hashlib.sha256(REPOSITORY[name]).hexdigest()
        self._send(200, data, {"ETag": f'"{sha256}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *anything: object) -> None:
        """Silent."""


def _facts(name: str) -> dict[str, object]:
    size = len(REPOSITORY[name])
    facts: dict[str, object] = {"size": size, "oid": "0" * 40}
    if name.endswith(".safetensors"):
        sha256 = hashlib.sha256(REPOSITORY[name]).hexdigest()
        facts["lfs"] = {"sha256": sha256, "oid": sha256, "size": size, "pointerSize": 130}
    return facts


@pytest.fixture
def hub() -> Iterator[type[Hub]]:
    handler = type("ThisHub", (Hub,), {"asked": [], "damage": False, "refuse": None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    handler.address = f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


FETCH = """
    import sys
    from pathlib import Path
    from selfrewarding.store import StoreError, fetch_model
    for uri in sys.argv[2:]:
        try:
            print(fetch_model(uri, Path(sys.argv[1])))
        except StoreError as error:
            print(type(error).__name__, error)
"""


def fetch(address: str, dest: Path, *uris: str, **env: str) -> list[str]:
    """In a process of its own: huggingface_hub reads its settings when it is imported."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FETCH), dest, *uris],
        env={
            **surroundings,
            "HF_ENDPOINT": address,
            "HF_HOME": str(dest.parent / "hf-home"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_TOKEN": "hf_secret_token",
            "PYTHONPATH": os.pathsep.join(sys.path),
            **env,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "hf_secret_token" not in run.stdout + run.stderr
    return run.stdout.splitlines()


def test_a_model_on_a_hub(hub: type[Hub], tmp_path: Path) -> None:
    address, dest = hub.address, tmp_path / "model"  # type: ignore[attr-defined]
    assert fetch(address, dest, "hf://org/name", "hf://org/name@v1.0") == [f"hf://org/name@{SHA}"] * 2
    wanted = {"config.json", "model.safetensors", "tokenizer/tokenizer.json"}
    found = {
        path.relative_to(dest).as_posix(): path.read_bytes() for path in dest.rglob("*") if path.is_file()
    }
    assert found == {name: REPOSITORY[name] for name in wanted}
    assert hub.asked.count("model.safetensors") == 1, "the second time it was there already"


def test_what_a_hub_refuses(hub: type[Hub], tmp_path: Path) -> None:
    address, dest = hub.address, tmp_path / "model"  # type: ignore[attr-defined]
    lines = fetch(address, dest, "hf://org/name@v9", "hf://org/nothing", "hf://org/mod--el")
    assert [line.split()[0] for line in lines] == ["NotFound", "NotFound", "Misconfigured"]
    assert "no such revision" in lines[0]
    assert "HF_TOKEN" in lines[1]
    hub.refuse = (403, "GatedRepo")
    (gated,) = fetch(address, dest, "hf://org/name")
    assert gated.startswith("Denied cannot fetch hf://org/name: the model is gated")
    hub.refuse = (500, "")
    (failed,) = fetch(address, dest, "hf://org/name")
    assert failed.startswith("Unavailable cannot fetch hf://org/name: the hub answered HTTP 500")
    hub.refuse = None
    hub.damage = True
    (damaged,) = fetch(address, dest, "hf://org/name")
    assert damaged.startswith("Corrupt cannot fetch hf://org/name: model.safetensors is damaged")


def test_a_hub_that_is_out_of_reach(tmp_path: Path) -> None:
    for env in ({}, {"HF_HUB_OFFLINE": "1"}):
        (line,) = fetch("http://127.0.0.1:9", tmp_path / "model", "hf://org/name", **env)
        assert line.startswith("Unavailable cannot fetch hf://org/name: no answer")
        assert "use its s3:// or file:// address" in line
