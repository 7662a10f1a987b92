"""Which of two sends a file to a bucket. tests/local/store sends real files both ways."""

from pathlib import Path
from typing import Any

import pytest
from awscrt.exceptions import AwsCrtError
from awscrt.s3 import S3ResponseError
from botocore.awsrequest import AWSResponse
from s3transfer.crt import FakeRawResponse
from tests.support import s3_servers

from selfrewarding.store import Corrupt, Denied, StoreError, Unavailable, open_store
from selfrewarding.store.s3 import S3Store
from selfrewarding.store.s3_errors import Place, translated
from selfrewarding.store.s3_upload import PART_BYTES, Uploads


def uploads(settings: dict[str, str]) -> Uploads:
    store = open_store("s3://bucket/runs", settings)
    assert isinstance(store, S3Store)
    return store._connection.uploads


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("environment", "settings", "by_awscrt"),
    [
        ({}, {}, True),
        ({}, {"AWS_CA_BUNDLE": "/etc/ca.pem", "SRR_S3_ADDRESSING": "virtual"}, True),
        ({}, {"SRR_S3_TRANSFER": "auto"}, True),
        ({}, {"SRR_S3_TRANSFER": "python"}, False),
        ({"http_proxy": "http://proxy:3128"}, {}, False),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "127.0.0.1"}, {}, False),
        ({"https_proxy": "http://proxy:3128"}, {}, True),  # the store's scheme is http
        ({"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required"}, {}, False),
        ({"AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required"}, {}, True),  # downloads are not awscrt's
    ],
)
def test_who_sends_large_files(
    environment: dict[str, str],
    settings: dict[str, str],
    by_awscrt: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    chosen = uploads({**s3_servers.settings("http://127.0.0.1:9000"), **settings})
    assert chosen.by_awscrt is by_awscrt
    assert f"by_awscrt={by_awscrt}" in repr(chosen)
    large = chosen._manager(PART_BYTES + 1)
    assert type(large).__name__ == ("CRTTransferManager" if by_awscrt else "TransferManager")
    assert chosen._manager(PART_BYTES) is chosen._python, "one request: boto3 does it"
    assert chosen._manager(PART_BYTES + 1) is large, "made once"


def test_without_credentials_boto3_is_left_to_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    chosen = uploads({"SRR_S3_ENDPOINT": "http://127.0.0.1:9000"})
    assert chosen.by_awscrt
    assert chosen._manager(PART_BYTES + 1) is chosen._python


@pytest.mark.parametrize(("status", "named"), [(200, "eu-west-1"), (301, "eu-west-1"), (403, None)])
def test_awscrt_signs_for_the_buckets_own_region(status: int, named: str | None) -> None:
    """boto3's client is redirected by Amazon S3; a bucket elsewhere must not work for small files only."""
    settings = s3_servers.settings("http://127.0.0.1:9000")
    del settings["SRR_S3_ENDPOINT"]
    chosen = uploads(settings)

    def answer(request: Any, **named_arguments: object) -> AWSResponse:
        headers = {"x-amz-bucket-region": named} if named else {}
        return AWSResponse(request.url, status, headers, FakeRawResponse())

    client = chosen._means.client
    client.meta.events.register("before-send.s3.HeadBucket", answer)
    client.meta.events.register_first("needs-retry.s3.HeadBucket", lambda **anything: None)
    assert chosen._bucket_region() == (named or "us-east-1")


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("AWS_ERROR_S3_RESPONSE_CHECKSUM_MISMATCH", Corrupt, "its checksum does not fit its content"),
        ("AWS_IO_TLS_ERROR_NEGOTIATION_FAILURE", Unavailable, "TLS failed.*AWS_CA_BUNDLE"),
        ("AWS_AUTH_CREDENTIALS_PROVIDER_DELEGATE_FAILURE", Denied, "no usable credentials"),
        ("AWS_IO_SOCKET_CONNECTION_REFUSED", Unavailable, r"no answer \(AWS_IO_SOCKET_CONNECTION_REFUSED\)"),
    ],
)
def test_what_awscrt_complains_of(name: str, kind: type[StoreError], said: str) -> None:
    with (
        pytest.raises(kind, match=said) as caught,
        translated(Place("bucket", "us-east-1", None), "write", "m"),
    ):
        raise AwsCrtError(1, name, "its own words")
    assert "its own words" not in str(caught.value)


def test_an_error_inside_an_answer_that_began_well() -> None:
    """S3 answers CompleteMultipartUpload with 200 before it knows: an error may follow in the body."""
    with (
        pytest.raises(Unavailable, match="the store failed half-way"),
        translated(Place("bucket", "us-east-1", None), "write", "m"),
    ):
        raise S3ResponseError(
            code=1, name="AWS_ERROR_S3_NON_RECOVERABLE_ASYNC_ERROR", message="", status_code=200
        )
