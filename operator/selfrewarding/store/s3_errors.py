"""What S3 answers, in this project's errors and with what to do about it.

Purpose: turn every exception of botocore, s3transfer and awscrt into a `StoreError`.
Must not: put a credential, a signed URL or a raw response into a message.
Neighbours: `s3` and `s3_stream` run each call inside `translated`.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import boto3.exceptions
import botocore.exceptions
import s3transfer.exceptions
import urllib3.exceptions

from selfrewarding.store.errors import (
    Corrupt,
    Denied,
    Misconfigured,
    NoSpace,
    NotFound,
    StoreError,
    Unavailable,
    Unsuitable,
    from_os_error,
)


@dataclass(frozen=True, slots=True, repr=False)
class Place:
    """Where a bucket is, for messages. `endpoint` None is Amazon's own for the region."""

    bucket: str
    region: str
    endpoint: str | None

    def __str__(self) -> str:
        return f'bucket "{self.bucket}" at {self.address}, region {self.region}'

    __repr__ = __str__

    @property
    def address(self) -> str:
        """The endpoint without user name, password, query or path."""
        if self.endpoint is None:
            return f"Amazon S3 ({self.region})"
        parts = urlsplit(self.endpoint)
        port = f":{parts.port}" if parts.port is not None else ""
        return f"{parts.scheme}://{parts.hostname}{port}"

    @property
    def is_address(self) -> bool:
        """Whether the endpoint has a host, and a number for a port if it has one. Nothing else here works if not."""
        try:
            parts = urlsplit(self.endpoint or "https://s3")
            return bool(parts.hostname) and parts.port != 0
        except ValueError:
            return False


_WHICH_CREDENTIALS = (
    "Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (in a cluster: the Secret named in "
    "spec.artifacts.credentials), a profile, or the pod's role."
)
_RIGHTS = (
    "They need s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload and s3:ListBucket here."
)
_REGION = "Set AWS_REGION (in a run: spec.artifacts.region) to the bucket's region."

_BAD_CREDENTIALS = "The access key or the secret is wrong, or made for another store. " + _WHICH_CREDENTIALS
_EXPIRED = "The session's credentials have expired: get new ones. " + _WHICH_CREDENTIALS
_CLOCK = "This machine's clock differs from the store's by too much: set it right (NTP)."
_FULL = "The store is full or over its quota: delete results that are no longer needed, or enlarge it."
_BUSY = "The store is overloaded or failing; the same call may succeed later."

# Error code → class, what to do. From the S3 API's list of error responses, and what MinIO and versitygw add.
_BY_CODE: dict[str, tuple[type[StoreError], str]] = {
    "NoSuchBucket": (
        NotFound,
        "There is no such bucket: create it, or correct the bucket's name, endpoint or region.",
    ),
    "NoSuchKey": (NotFound, ""),
    "NotFound": (NotFound, ""),
    "404": (NotFound, ""),
    "AccessDenied": (Denied, f"The credentials do not allow this. {_RIGHTS}"),
    "AllAccessDisabled": (Denied, "All access to this bucket is switched off."),
    "AccountProblem": (Denied, "The account behind these credentials has a problem: ask its owner."),
    "Forbidden": (Denied, f"The credentials do not allow this. {_RIGHTS}"),
    "403": (Denied, f"The credentials are wrong or do not allow this. {_WHICH_CREDENTIALS} {_RIGHTS}"),
    "MethodNotAllowed": (Denied, "The store is read-only, or the object is locked against changes."),
    "ObjectLocked": (Denied, "The object is locked against changes."),
    "InvalidAccessKeyId": (Denied, _BAD_CREDENTIALS),
    "SignatureDoesNotMatch": (Denied, _BAD_CREDENTIALS),
    "XAdminUserNotFound": (Denied, _BAD_CREDENTIALS),
    "InvalidToken": (Denied, _BAD_CREDENTIALS),
    "ExpiredToken": (Denied, _EXPIRED),
    "TokenRefreshRequired": (Denied, _EXPIRED),
    "RequestTimeTooSkewed": (Denied, _CLOCK),
    "PermanentRedirect": (Unsuitable, f"The bucket is in another region. {_REGION}"),
    "301": (Unsuitable, f"The bucket is in another region. {_REGION}"),
    "AuthorizationHeaderMalformed": (
        Unsuitable,
        f"The request was signed for the wrong region. {_REGION}",
    ),
    "IllegalLocationConstraintException": (Unsuitable, f"The bucket is in another region. {_REGION}"),
    "InvalidBucketName": (Unsuitable, "The bucket's name is not valid."),
    "NotImplemented": (Unsuitable, "The store does not know this request; see the list of tested stores."),
    "XNotImplemented": (
        Unsuitable,
        "The store does not know this request; see the list of tested stores.",
    ),
    "KeyTooLongError": (Unsuitable, "The key is too long."),
    "EntityTooLarge": (Unsuitable, "The object is larger than the store allows."),
    "InvalidRange": (Corrupt, "The object is shorter than it was written: it was replaced, or damaged."),
    "BadDigest": (Corrupt, "The data changed on its way to the store."),
    "InvalidDigest": (Corrupt, "The data changed on its way to the store."),
    "XAmzContentChecksumMismatch": (Corrupt, "The data changed on its way to the store."),
    "QuotaExceeded": (NoSpace, _FULL),
    "XMinioStorageFull": (NoSpace, _FULL),
    "XMinioAdminBucketQuotaExceeded": (NoSpace, _FULL),
    "InsufficientStorage": (NoSpace, _FULL),
    "507": (NoSpace, _FULL),
    "SlowDown": (Unavailable, _BUSY),
    "RequestTimeout": (Unavailable, _BUSY),
    "OperationAborted": (Unavailable, "Another request is changing the same object."),
    "ConditionalRequestConflict": (Unavailable, "Another request is changing the same object."),
}

_NO_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.NoAuthTokenError,
    botocore.exceptions.TokenRetrievalError,
    botocore.exceptions.ProfileNotFound,
    botocore.exceptions.SSOError,
)
_DAMAGED = (botocore.exceptions.ChecksumError, botocore.exceptions.FlexibleChecksumError)
_NOT_SERVING = (
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.IncompleteReadError,
    s3transfer.exceptions.RetriesExceededError,
    boto3.exceptions.RetriesExceededError,
    urllib3.exceptions.HTTPError,
)
_FROM_BELOW = (
    botocore.exceptions.BotoCoreError,
    botocore.exceptions.ClientError,
    boto3.exceptions.Boto3Error,
    s3transfer.exceptions.TransferNotDoneError,
    s3transfer.exceptions.S3UploadFailedError,
    s3transfer.exceptions.S3DownloadFailedError,
    s3transfer.exceptions.RetriesExceededError,
    s3transfer.exceptions.InvalidSubscriberMethodError,
    urllib3.exceptions.HTTPError,
)


@contextlib.contextmanager
def translated(place: Place, action: str, key: str, local: Path | None = None) -> Iterator[None]:
    """Run S3 calls that do `action` ("read", …) on `key`; whatever they raise leaves as a StoreError.

    `local` is the file on this side of a transfer, to blame for its own errors. The original exception is not kept as
    a cause: it holds the request with its headers.
    """
    try:
        yield
    except _FROM_BELOW as error:
        # Before OSError: botocore's errors of TLS are both.
        raise to_store_error(error, place, action, key) from None
    except OSError as error:
        if local is not None and error.errno is not None:
            raise from_os_error(error, "transfer", local) from error
        raise _connection(place, action, key, error) from None
    except Exception as error:
        if not type(error).__module__.startswith("awscrt"):
            raise
        raise _of_awscrt(error, place, action, key) from None


def to_store_error(error: Exception, place: Place, action: str, key: str) -> StoreError:
    """The StoreError for one exception from the libraries below."""
    if isinstance(error, botocore.exceptions.ClientError):
        return _answer(error, place, action, key)
    if isinstance(error, _NO_CREDENTIALS):
        return _no_credentials(place, action, key)
    if isinstance(error, _DAMAGED):
        return _damaged(place, action, key)
    if isinstance(error, botocore.exceptions.SSLError):
        return _tls(place, action, key)
    if isinstance(error, _NOT_SERVING):
        return _connection(place, action, key, error)
    kind = type(error).__name__
    return Misconfigured(
        f"cannot {action} {_what(key)} in {place}: {kind}. Check the endpoint, the region and the name."
    )


def code_of(error: botocore.exceptions.ClientError) -> str:
    """The S3 error code of an answer, for example NoSuchKey, or the HTTP status where there is no body (HEAD)."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: botocore.exceptions.ClientError) -> int:
    """The HTTP status of an answer, 0 if unknown."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _answer(error: botocore.exceptions.ClientError, place: Place, action: str, key: str) -> StoreError:
    code, status = code_of(error), status_of(error)
    found = f"cannot {action} {_what(key)} in {place}: the store answered {code or status}"
    if code.isdigit() is False and status:
        found += f" (HTTP {status})"
    kind, remedy = _BY_CODE.get(code) or _by_status(status)
    actual = _actual_region(error)
    if kind is Unsuitable and actual is not None:
        remedy = (
            f"The bucket is in region {actual}: set AWS_REGION={actual} (in a run: spec.artifacts.region)."
        )
    return kind(f"{found}. {remedy}".rstrip())


def _by_status(status: int) -> tuple[type[StoreError], str]:
    if status in {500, 502, 503, 504, 429, 408, 409}:
        return Unavailable, _BUSY
    for known in ("404", "403", "301", "507"):
        if status == int(known):
            return _BY_CODE[known]
    return (
        Unsuitable,
        "Check the endpoint, the region and the addressing style (SRR_S3_ADDRESSING=path or virtual).",
    )


def _actual_region(error: botocore.exceptions.ClientError) -> str | None:
    named = error.response.get("Error", {}).get("Region")
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = named or headers.get("x-amz-bucket-region")
    return str(region) if region else None


def _of_awscrt(error: Exception, place: Place, action: str, key: str) -> StoreError:
    """awscrt has one class with names of errors. Answers of the store come as botocore's, but for errors inside a 200."""
    name = str(getattr(error, "name", ""))
    if "CHECKSUM" in name:
        return _damaged(place, action, key)
    if name.startswith("AWS_IO_TLS_"):
        return _tls(place, action, key)
    if name.startswith("AWS_AUTH_"):
        return _no_credentials(place, action, key)
    if getattr(error, "status_code", None):
        return Unavailable(f"cannot {action} {_what(key)} in {place}: the store failed half-way. {_BUSY}")
    return _connection(place, action, key, error, name)


def _damaged(place: Place, action: str, key: str) -> Corrupt:
    return Corrupt(f"cannot {action} {_what(key)} in {place}: its checksum does not fit its content.")


def _tls(place: Place, action: str, key: str) -> Unavailable:
    return Unavailable(
        f"cannot {action} {_what(key)} in {place}: TLS failed. If the store has a private certificate authority, "
        "put its certificate into the file that AWS_CA_BUNDLE names (spec.artifacts.caBundle)."
    )


def _no_credentials(place: Place, action: str, key: str) -> Denied:
    return Denied(f"cannot {action} {_what(key)} in {place}: no usable credentials. {_WHICH_CREDENTIALS}")


def _connection(place: Place, action: str, key: str, error: Exception, name: str = "") -> Unavailable:
    return Unavailable(
        f"cannot {action} {_what(key)} in {place}: no answer ({name or type(error).__name__}). Check that SRR_S3_ENDPOINT is "
        "right and that this machine or pod may reach it (DNS, NetworkPolicy, proxy)."
    )


def _what(key: str) -> str:
    return f'object "{key}"' if key else "objects"
