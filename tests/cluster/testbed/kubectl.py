"""kubectl as a user calls it, for one namespace of one cluster. Every call raises with what kubectl said."""

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.cluster.testbed import binaries
from tests.cluster.testbed.handle import TestbedError

Manifest = Mapping[str, Any]
_NO_CONDITIONS_YET = "conditions accessor error: <nil>"


@dataclass(frozen=True)
class Kubectl:
    """Calls of kubectl, the one of the API server's version."""

    kubeconfig: Path
    namespace: str = "default"

    def of(self, namespace: str) -> "Kubectl":
        """The same for another namespace."""
        return replace(self, namespace=namespace)

    def __call__(self, *arguments: str, text: str | None = None, seconds: float = 120.0) -> str:
        """Standard output of a call. Raises TestbedError with its standard error."""
        command = [str(binaries.path("kubectl")), f"--kubeconfig={self.kubeconfig}"]
        result = subprocess.run(
            [*command, f"--namespace={self.namespace}", *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if result.returncode:
            raise TestbedError(f"`kubectl {' '.join(arguments)}`: {result.stderr.strip()}")
        return result.stdout

    def apply(self, manifests: Manifest | Sequence[Manifest] | Path) -> None:
        """Apply objects, or a file, server-side."""
        arguments = ("apply", "--server-side", "--force-conflicts", "--filename")
        if isinstance(manifests, Path):
            self(*arguments, str(manifests))
            return
        items = [manifests] if isinstance(manifests, Mapping) else list(manifests)
        self(*arguments, "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """An object."""
        found: dict[str, Any] = json.loads(self("get", kind, name, "--output=json"))
        return found

    def list(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        """The objects of a kind, those with certain labels only if `selector` says so."""
        found: list[dict[str, Any]] = json.loads(
            self("get", kind, f"--selector={selector}", "--output=json")
        )["items"]
        return found

    def delete(self, kind: str, name: str, *, wait: bool = True) -> None:
        """Delete an object that may be gone."""
        self("delete", kind, name, "--ignore-not-found", f"--wait={str(wait).lower()}")

    def wait(self, what: str, condition: str, seconds: float = 60.0) -> None:
        """Wait for `--for` of an object: `wait("pod/web", "condition=Ready")`, `"jsonpath={.status.phase}=Succeeded"`."""
        end = time.monotonic() + seconds
        while True:
            left = max(end - time.monotonic(), 1.0)
            try:
                self("wait", what, f"--for={condition}", f"--timeout={left:.0f}s", seconds=left + 10)
            except TestbedError as error:
                # What a new CRD's `conditions: null` is to kubectl: not something to wait for.
                if _NO_CONDITIONS_YET not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.1)
            else:
                return

    def logs(self, pod: str, *arguments: str) -> str:
        """A pod's log."""
        return self("logs", pod, *arguments)
