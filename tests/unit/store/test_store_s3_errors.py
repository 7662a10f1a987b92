"""What the libraries below raise, in our own errors."""

import botocore.exceptions
import pytest
import s3transfer.exceptions
import urllib3.exceptions

from selfrewarding.store import Corrupt, Denied, Misconfigured, StoreError, Unavailable, Unsuitable
from selfrewarding.store.s3_errors import Place, to_store_error, translated

PLACE = Place("bucket", "eu-west-1", None)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (botocore.exceptions.NoCredentialsError(), Denied, "AWS_ACCESS_KEY_ID"),
        (
            botocore.exceptions.PartialCredentialsError(provider="env", cred_var="aws_secret_access_key"),
            Denied,
            "no usable credentials",
        ),
        (botocore.exceptions.ProfileNotFound(profile="x"), Denied, "profile"),
        (
            botocore.exceptions.ConnectTimeoutError(endpoint_url="https://u:p@host"),
            Unavailable,
            "ConnectTimeoutError",
        ),
        (botocore.exceptions.ProxyConnectionError(proxy_url="https://u:pw@host"), Unavailable, "proxy"),
        (botocore.exceptions.SSLError(endpoint_url="https://host", error="x"), Unavailable, "AWS_CA_BUNDLE"),
        (botocore.exceptions.ParamValidationError(report="x"), Misconfigured, "ParamValidationError"),
        (s3transfer.exceptions.RetriesExceededError(ValueError()), Unavailable, "no answer"),
        (urllib3.exceptions.ProtocolError("x"), Unavailable, "no answer"),
        (ConnectionResetError(104, "Connection reset by peer"), Unavailable, "no answer"),
    ],
)
def test_errors_of_the_libraries_below(error: Exception, kind: type[StoreError], said: str) -> None:
    with (
        pytest.raises(StoreError, match='object "key" in bucket "bucket" at Amazon S3') as caught,
        translated(PLACE, "read", "key"),
    ):
        raise error
    assert type(caught.value) is kind
    assert said in str(caught.value)
    assert "pw@" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_error_of_ours_passes_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), translated(PLACE, "read", "key"):
        _ = 1 // 0
    with pytest.raises(Corrupt, match="as it was"), translated(PLACE, "read", "key"):
        raise Corrupt("as it was")


def test_the_region_that_a_redirect_names() -> None:
    answer = botocore.exceptions.ClientError(
        {
            "Error": {"Code": "301"},
            "ResponseMetadata": {
                "HTTPStatusCode": 301,
                "HTTPHeaders": {"x-amz-bucket-region": "ap-northeast-2"},
            },
        },
        "HeadObject",
    )
    error = to_store_error(answer, PLACE, "look up", "key")
    assert type(error) is Unsuitable
    assert "set AWS_REGION=ap-northeast-2" in str(error)
