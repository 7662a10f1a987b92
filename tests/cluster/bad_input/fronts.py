"""Servers on the host's end of the cluster's link that stand before the S3 server: one that never answers, and one that
minds the region, which the cluster's own does not.

Must not: understand S3 beyond the region in a signature. Neighbour: `cases` leads runs here.
"""

import re
import socket
import threading
from abc import ABC, abstractmethod

_SCOPE = re.compile(rb"Credential=[^/]+/\d{8}/([\w-]+)/s3/aws4_request")
_WRONG_REGION = (
    b'<?xml version="1.0"?><Error><Code>AuthorizationHeaderMalformed</Code><Message>The authorization header is '
    b"malformed; the region is wrong</Message></Error>"
)
_HEAD_BYTES = 65536


class Front(ABC):
    """A listener in threads of this process. It lives as long as the process: pods may still hold connections."""

    def __init__(self, address: str, server: tuple[str, int]) -> None:
        self._listener = socket.create_server((address, 0), backlog=64)
        self._server = server
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        address, port = self._listener.getsockname()
        return f"http://{address}:{port}"

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    @abstractmethod
    def _serve(self, client: socket.socket) -> None:
        """Answer, or refuse to."""

    def _hand_on(self, client: socket.socket, head: bytes = b"") -> None:
        with client, socket.create_connection(self._server) as server:
            server.sendall(head)
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join()


class Silent(Front):
    """Takes connections and never says a word, until it is told to hand them on."""

    def __init__(self, address: str, server: tuple[str, int]) -> None:
        self._kept: list[socket.socket] = []
        self._speaks = threading.Event()
        super().__init__(address, server)

    def speak(self) -> None:
        """From now on, hand new connections on to the S3 server."""
        self._speaks.set()

    def _serve(self, client: socket.socket) -> None:
        if self._speaks.is_set():
            self._hand_on(client)
        else:
            self._kept.append(client)


class Regional(Front):
    """Hands connections on to an S3 server if their first request is signed for the right region.

    A wrong one is refused as Amazon refuses it, but without naming the right one: clients correct themselves by that.
    """

    def __init__(self, address: str, region: str, server: tuple[str, int]) -> None:
        self._region = region.encode()
        super().__init__(address, server)

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES:
            received = client.recv(4096)
            if not received:
                client.close()
                return
            head += received
        scope = _SCOPE.search(head)
        if scope is not None and scope[1] == self._region:
            self._hand_on(client, head)
            return
        status = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/xml\r\nConnection: close\r\n"
        with client:
            client.sendall(status + b"Content-Length: %d\r\n\r\n" % len(_WRONG_REGION) + _WRONG_REGION)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while received := source.recv(65536):
            target.sendall(received)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return
