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
    """All versions of a run, or of other objects, that a watch sees until it is stopped."""

    def __init__(
        self,
        kubectl: Kubectl,
        name: str,
        *,
        kind: str = RUN_KIND,
        tell: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """`name`: of one object, or `--all-namespaces`. `tell` is called with each version as it comes."""
        self.versions: list[dict[str, Any]] = []
        self._tell = tell or self.versions.append
        self._process = subprocess.Popen(
            [
                *(str(binaries.path("kubectl")), f"--kubeconfig={kubectl.kubeconfig}"),
                *(f"--namespace={kubectl.namespace}", "get", kind, name),
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
            text = (text + line).lstrip()
            try:  # one version is a line, or many
                event, end = decoder.raw_decode(text)
            except ValueError:
                continue
            text = text[end:]
            self._tell(event["object"])

    def stop(self) -> list[dict[str, Any]]:
        """End the watch; returns what it saw, oldest first, unless somebody else was told."""
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
