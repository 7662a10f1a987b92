"""The little that the test cluster itself says to its API server: one JSON request, one JSON answer. Tests use kubectl."""

import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any

from tests.cluster.testbed.handle import Cluster, TestbedError

_MERGE = "application/merge-patch+json"
_APPLY = "application/apply-patch+yaml"


class Api:
    """The API server of a cluster, as its administrator. Each request has a connection of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self._address = cluster.address
        self._context = ssl.create_default_context(cafile=str(cluster.pki / "ca.crt"))
        self._context.load_cert_chain(cluster.pki / "admin.crt", cluster.pki / "admin.key")

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content: str = "application/json",
    ) -> tuple[int, str]:
        """Status and text of an answer; raises OSError if there is none within 10 seconds."""
        connection = http.client.HTTPSConnection(self._address, 6443, timeout=10, context=self._context)
        try:
            document = None if body is None else json.dumps(body)
            connection.request(method, path, document, {"Content-Type": content})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    def get(self, path: str) -> dict[str, Any] | None:
        """An object or a list; None if it is not there. Raises TestbedError, OSError."""
        status, text = self.request("GET", path)
        if status == 404:
            return None
        return self._checked(status, text, f"GET {path}")

    def patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Merge into an object. Raises TestbedError, OSError."""
        return self._checked(*self.request("PATCH", path, body, content=_MERGE), f"PATCH {path}")

    def apply(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Apply an object server-side, path with its name. Raises TestbedError, OSError."""
        target = f"{path}?fieldManager=testbed&force=true"
        return self._checked(*self.request("PATCH", target, body, content=_APPLY), f"apply {path}")

    def answers(self, path: str) -> bool:
        """Whether a GET of a path is answered with 200."""
        try:
            return self.request("GET", path)[0] == 200
        except OSError:
            return False

    @staticmethod
    def _checked(status: int, text: str, what: str) -> dict[str, Any]:
        if status >= 300:
            raise TestbedError(f"{what}: the API server answered {status}: {text[:500]}")
        document: dict[str, Any] = json.loads(text)
        return document
