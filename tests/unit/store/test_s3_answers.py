"""What the store makes of S3's answers: errors, broken connections, silence. A scripted HTTP server gives them."""

import base64
import http.server
import threading
import time
from typing import Any

import botocore.exceptions
import pytest
from tests.support import s3_servers
from tests.support.scripted_s3 import OneObject, answering, s3_error

from selfrewarding.store import (
    ArtifactStore,
    Corrupt,
    Denied,
    NoSpace,
    NotFound,
    StoreError,
    Unavailable,
    Unsuitable,
    open_store,
    s3,
    s3_client,
    s3_stream,
)
from selfrewarding.store.s3 import S3Store


def at(address: str) -> ArtifactStore:
    return open_store("s3://bucket/prefix", {**s3_servers.settings(address), "AWS_MAX_ATTEMPTS": "1"})


@pytest.mark.parametrize(
    ("status", "code", "extra", "kind", "said"),
    [
        (
            404,
            "NoSuchBucket",
            "",
            NotFound,
            "There is no such bucket: create it, or correct the bucket's name",
        ),
        (403, "AccessDenied", "", Denied, "s3:PutObject"),
        (403, "InvalidAccessKeyId", "", Denied, "The access key or the secret is wrong"),
        (403, "SignatureDoesNotMatch", "", Denied, "The access key or the secret is wrong"),
        (400, "ExpiredToken", "", Denied, "have expired"),
        (403, "RequestTimeTooSkewed", "", Denied, "clock"),
        (405, "MethodNotAllowed", "", Denied, "read-only"),
        (
            400,
            "AuthorizationHeaderMalformed",
            "<Region>eu-west-1</Region>",
            Unsuitable,
            "set AWS_REGION=eu-west-1",
        ),
        (400, "IllegalLocationConstraintException", "", Unsuitable, "another region"),
        (501, "NotImplemented", "", Unsuitable, "does not know this request"),
        (507, "XMinioStorageFull", "", NoSpace, "delete results"),
        (507, "Whatever", "", NoSpace, "delete results"),
        (503, "SlowDown", "", Unavailable, "may succeed later"),
        (500, "InternalError", "", Unavailable, "may succeed later"),
        (400, "BadDigest", "", Corrupt, "changed on its way"),
        (418, "Teapot", "", Unsuitable, "SRR_S3_ADDRESSING"),
    ],
)
def test_the_check_before_a_run_says_what_to_do(
    status: int, code: str, extra: str, kind: type[StoreError], said: str
) -> None:
    with answering(s3_error(status, code, extra)) as address, pytest.raises(StoreError) as caught:
        at(address).check_writable()
    message = str(caught.value)
    assert type(caught.value) is kind
    for part in (
        said,
        code,
        "s3://bucket/prefix",
        'bucket "bucket"',
        address,
        "region us-east-1",
        "cannot be used",
    ):
        assert part in message
    assert caught.value.__cause__ is None
    assert s3_servers.ACCESS not in message


def test_nobody_answers() -> None:
    address = f"http://127.0.0.1:{s3_servers.free_port()}"
    with pytest.raises(
        Unavailable, match=r"no answer \(EndpointConnectionError\).*SRR_S3_ENDPOINT"
    ) as caught:
        at(address).check_writable()
    assert address in str(caught.value)
    assert caught.value.retryable


def test_a_store_that_is_silent_is_known_within_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A NetworkPolicy that drops packets, a wrong address: Prepare says so before somebody wonders."""
    settings = s3_servers.settings("http://192.0.2.1:9000")
    store = open_store("s3://bucket/prefix", settings)
    assert isinstance(store, S3Store)
    config = store._connection.hasty().client.meta.config
    attempts = config.retries["total_max_attempts"]
    between = 1.0  # botocore's standard mode: at most 1 s before the second try
    assert attempts * max(config.connect_timeout, config.read_timeout) + (attempts - 1) * between <= 25
    assert store._client.meta.config.read_timeout == 60, "transfers are patient"

    over = threading.Event()
    requests = []

    def say_nothing(request: http.server.BaseHTTPRequestHandler) -> None:
        requests.append(request.command)
        over.wait(30)

    monkeypatch.setitem(s3_client.HASTY, "read_timeout", 0.3)
    begun = time.monotonic()
    with answering(say_nothing) as address:
        with pytest.raises(Unavailable, match="no answer"):
            at(address).check_writable()
        assert time.monotonic() - begun < 10, "the check was patient"
        over.set()
    assert len(requests) == 1, "one attempt was asked for, and nothing is tidied up where nobody answers"


def test_a_server_that_speaks_no_tls() -> None:
    with (
        answering(s3_error(500, "InternalError")) as address,
        pytest.raises(Unavailable, match="AWS_CA_BUNDLE"),
    ):
        at(address.replace("http:", "https:")).check_writable()


def test_create_comes_again_when_two_writers_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_CONFLICT_PAUSES", (0.01,) * len(s3._CONFLICT_PAUSES))
    tries = []

    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        tries.append(request.headers["If-None-Match"])
        if len(tries) < 3:
            s3_error(409, "ConditionalRequestConflict")(request)
            return
        request.send_response(200)
        request.send_header("ETag", '"one"')
        request.send_header("Content-Length", "0")
        request.end_headers()

    with answering(handle) as address:
        assert at(address).create("key", b"") is True
    assert tries == ["*", "*", "*"]
    with (
        answering(s3_error(409, "ConditionalRequestConflict")) as address,
        pytest.raises(Unavailable, match="other writers"),
    ):
        at(address).create("key", b"")


def test_a_broken_connection_is_opened_again_where_it_broke() -> None:
    server = OneObject(bytes(range(256)) * 40_000, breaks=9, bytes_each=1_000_000)
    with answering(server) as address:
        assert at(address).read("key") == server.data
    assert server.ranges[:2] == [None, "bytes=1000000-10239999"]
    assert len(server.ranges) == 10


def test_a_connection_that_never_gets_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_stream, "_PAUSES", (0.0, 0.01, 0.01))
    server = OneObject(b"x" * 5000, breaks=1000, bytes_each=0)
    with answering(server) as address, pytest.raises(Unavailable, match='object "prefix/key"'):
        at(address).read("key")
    assert len(server.ranges) == 4


def test_an_object_that_is_replaced_while_it_is_read() -> None:
    server = OneObject(b"x" * 5_000_000, breaks=1, bytes_each=2_000_000)
    with answering(server) as address, at(address).read_stream("key") as stream:
        assert stream.read(1_000_000) == b"x" * 1_000_000
        server.etag = '"two"'
        with pytest.raises(Corrupt, match="was replaced while it was read"):
            stream.read()


def test_bytes_that_change_on_the_way_are_noticed() -> None:
    crc_of_other_bytes = base64.b64encode(b"\x01\x02\x03\x04").decode()

    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "4")
        request.send_header("ETag", '"one"')
        request.send_header("x-amz-checksum-crc32", crc_of_other_bytes)
        request.end_headers()
        request.wfile.write(b"data")

    with answering(handle) as address, pytest.raises(Corrupt, match="checksum does not fit"):
        at(address).read("key")


def test_no_secret_is_shown_anywhere() -> None:
    settings = s3_servers.settings("http://someone:their-password@127.0.0.1:9000")
    store = open_store("s3://bucket/runs", {**settings, "AWS_SESSION_TOKEN": "session-token"})
    assert isinstance(store, S3Store)
    shown = [repr(store), repr(store._connection), str(store._place), store.uri]
    with pytest.raises(StoreError) as caught:
        open_store("https://someone:their-password@host/x", {})
    shown.append(str(caught.value))
    for secret in (s3_servers.SECRET, s3_servers.ACCESS, "session-token", "their-password"):
        assert not any(secret in text for text in shown)


@pytest.mark.parametrize(
    ("addressing", "asked"),
    [("path", "http://s3.example:9000/runs/p/key"), ("virtual", "http://runs.s3.example:9000/p/key")],
)
def test_addressing(addressing: str, asked: str) -> None:
    store = open_store(
        "s3://runs/p", {**s3_servers.settings("http://s3.example:9000"), "SRR_S3_ADDRESSING": addressing}
    )
    assert isinstance(store, S3Store)
    seen = []

    def look(request: Any, **named: object) -> None:
        seen.append(request.url)
        raise botocore.exceptions.EndpointConnectionError(endpoint_url=request.url)

    store._client.meta.events.register("before-send.s3.GetObject", look)
    with pytest.raises(Unavailable):
        store.read("key")
    assert seen[0] == asked
