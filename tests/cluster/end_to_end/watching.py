"""Looking at a run from outside, as users do: its versions as `kubectl get -w` shows them, its conditions, waiting."""

import json
import subprocess
import threading
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

from tests.cluster.testbed import binaries
from tests.cluster.testbed.kubectl import Kubectl

RUN_KIND = "selfrewardingruns.selfrewarding.dev"


class Watch:
    """All versions of a run that a watch sees until it is stopped."""

    def __init__(self, kubectl: Kubectl, name: str) -> None:
        self.versions: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [
                *(str(binaries.path("kubectl")), f"--kubeconfig={kubectl.kubeconfig}"),
                *(f"--namespace={kubectl.namespace}", "get", RUN_KIND, name),
                *("-o", "json", "--watch", "--output-watch-events"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        decoder, text = json.JSONDecoder(), ""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text += line
            if not line.startswith("}"):
                continue
            event, end = decoder.raw_decode(text.lstrip())
            text = text.lstrip()[end:]
            self.versions.append(event["object"])

    def stop(self) -> list[dict[str, Any]]:
        """End the watch; returns what it saw, oldest first."""
        self._process.terminate()
        self._process.wait()
        self._thread.join(timeout=10)
        return self.versions


def wait_for(what: str, happened: Callable[[], Any], *, seconds: float, every: float = 1.0) -> Any:
    """What `happened` returns once it is true; fails with `what` after so many seconds."""
    deadline = monotonic() + seconds
    while not (found := happened()):
        assert monotonic() < deadline, f"after {seconds:.0f} s: {what}"
        sleep(every)
    return found


def condition(run: dict[str, Any], kind: str) -> dict[str, Any]:
    """A condition of a run; empty if it has none of that type."""
    found = (run.get("status") or {}).get("conditions", [])
    return next((one for one in found if one["type"] == kind), {})
