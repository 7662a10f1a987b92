"""An S3 server that answers as it is told: errors, and one object whose connections break or that is replaced."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support import s3_servers

Handler = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextmanager
def answering(handle: Handler) -> Iterator[str]:
    """An HTTP server that does with each request what it is told; yields its address."""

    class Requests(http.server.BaseHTTPRequestHandler):
        def do_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if self.headers.get("Expect") != "100-continue":
                self.rfile.read(length)
            handle(self)

        def log_message(self, *anything: object) -> None:
            """Silent."""

    for method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
        setattr(Requests, f"do_{method}", Requests.do_any)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def s3_error(status: int, code: str, extra: str = "") -> Handler:
    body = f"<Error><Code>{code}</Code><Message>{s3_servers.ACCESS} was refused</Message>{extra}</Error>".encode()

    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

    return handle


class OneObject:
    """Serves one object, whole or by ranges, and breaks connections off after so many bytes, as often as told.

    Attributes:
        etag: of the version that is there.
        ranges: what was asked for, None for all of it.
        look: called with the start of each request before it is answered.
        dress: called with the headers of each answer, by lower-case name, before they are sent.
        knows_conditions: whether If-Match is heeded.
        knows_ranges: whether Range is; may be changed by `look`.
    """

    def __init__(self, data: bytes, breaks: int = 0, bytes_each: int = 0) -> None:
        self.data, self.breaks, self.bytes_each = data, breaks, bytes_each
        self.etag = '"one"'
        self.ranges: list[str | None] = []
        self.look: Callable[[int], object] = lambda start: None
        self.dress: Callable[[dict[str, str]], object] = lambda headers: None
        self.knows_conditions = self.knows_ranges = True

    def __call__(self, request: http.server.BaseHTTPRequestHandler) -> None:
        asked, match = request.headers.get("Range"), request.headers.get("If-Match")
        self.ranges.append(asked)
        start, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
        self.look(int(start))
        if self.knows_conditions and match is not None and match != self.etag:
            s3_error(412, "PreconditionFailed")(request)
            return
        if asked is not None and int(start) >= len(self.data):
            s3_error(416, "InvalidRange")(request)
            return
        if not self.knows_ranges:
            asked, start, last = None, "0", ""
        rest = self.data[int(start) : int(last) + 1 if last else None]
        headers = {"content-length": str(len(rest)), "etag": self.etag}
        if asked is not None:
            headers["content-range"] = f"bytes {start}-{int(start) + len(rest) - 1}/{len(self.data)}"
        self.dress(headers)
        request.send_response(206 if asked else 200)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        if self.breaks > 0:
            self.breaks -= 1
            rest = rest[: self.bytes_each]
        request.wfile.write(rest)
