"""Files to one bucket.

Purpose: pick for each file the one of two ways that fits it.
Must not: translate errors; know about keys' prefixes or trees.
Neighbours: `s3_client.connect` makes one for each connection, `s3.S3Store` sends every file with it.

Two things send bytes here, behind one interface (s3transfer's): whatever takes more than one request goes by awscrt (the
AWS Common Runtime, what makes the AWS command line fast), the rest by boto3 and Python threads. awscrt keeps the settings
of boto3's client: address and path style, credentials of any source, CA bundle, a CRC with each part. Where it could not,
all goes by Python threads:
- a proxy is set for the store's scheme, since awscrt reads NO_PROXY in its own way;
- botocore is told to send fewer checksums (AWS_REQUEST_CHECKSUM_CALCULATION and its like), since awscrt always does what
  it can;
- SRR_S3_TRANSFER=python, for a store that takes offence at awscrt.
"""

import os
import threading
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import urlsplit

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.httpsession import get_cert_path

if TYPE_CHECKING:
    from s3transfer.futures import TransferFuture
    from s3transfer.manager import TransferManager
    from types_boto3_s3 import S3Client

_MIB = 1024 * 1024
PART_BYTES = 8 * _MIB
"""S3's guidance is parts of 8 to 16 MiB on many connections; larger objects get larger parts (10,000 at most)."""

PARTS_AT_ONCE = 24
_BUFFERED_BYTES = min(512, max(256, 64 * (os.cpu_count() or 1))) * _MIB
"""What awscrt may hold in memory; its default is gigabytes. A trainer's pod is full of its
model, and only machines with many cores have networks that need many parts at once."""

_RETRIES = 10
"""Of one part, at least: awscrt gives up attempts that are slow beside others, and tries again, so a store that is busy
for a while needs more than the attempts that boto3 makes. Waits from 0.5 to 20 s lie between them."""

_CHECKSUM = {"ChecksumAlgorithm": "CRC32C"}
"""awscrt computes this one six times as fast as its default, CRC32; a store that knows one knows both."""

_SUPPORTED = "when_supported"
"""What botocore does about checksums unless it is told otherwise."""


@dataclass(frozen=True)
class Means:
    """What uploads are made from."""

    bucket: str
    client: "S3Client"
    session: boto3.Session
    config: Config
    endpoint: str | None
    region: str
    ca_bundle: str | None
    attempts: int
    only_python: bool


class Uploads:
    """Sends files to one bucket. Safe to use from several threads; nothing is started before it is needed."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._starting = threading.Lock()

    def __repr__(self) -> str:
        return f"Uploads({self._means.bucket!r}, by_awscrt={self.by_awscrt})"

    @cached_property
    def by_awscrt(self) -> bool:
        """Whether files of more than one part go by awscrt. The rule is above."""
        means = self._means
        config: Any = means.client.meta.config
        return not (
            means.only_python
            or urlsplit(means.client.meta.endpoint_url).scheme in urllib.request.getproxies()
            or config.request_checksum_calculation != _SUPPORTED
        )

    def upload(self, source: Path | BinaryIO, size: int, path: str) -> "TransferFuture":
        """Begin to send `size` bytes to the object at `path`."""
        manager = self._manager(size)
        return manager.upload(
            str(source) if isinstance(source, Path) else source,
            self._means.bucket,
            path,
            extra_args=None if manager is self._python else dict(_CHECKSUM),
        )

    def _manager(self, size: int) -> "TransferManager":
        fast = size > PART_BYTES and self.by_awscrt
        if fast:
            # Asked for once here: what is wrong with credentials is said as boto3 says it, by boto3 if there are none.
            credentials = self._means.session.get_credentials()
            fast = credentials is not None and bool(credentials.get_frozen_credentials())
        with self._starting:
            return self._common_runtime if fast else self._python

    @cached_property
    def _python(self) -> "TransferManager":
        config = TransferConfig(
            multipart_threshold=PART_BYTES,
            multipart_chunksize=PART_BYTES,
            max_concurrency=PARTS_AT_ONCE,
            preferred_transfer_client="classic",
        )
        return create_transfer_manager(self._means.client, config)

    @cached_property
    def _common_runtime(self) -> "TransferManager":
        """Put together from s3transfer's parts, as the AWS command line does.

        boto3's own switch (`preferred_transfer_client="crt"`) would ignore the endpoint and insist on TLS, and
        s3transfer's `create_s3_crt_client` knows no limit on memory.
        """
        from awscrt.s3 import S3Client as CrtClient
        from awscrt.s3 import (
            S3FileIoOptions,
            S3RequestTlsMode,
            S3RetryConfig,
            get_recommended_throughput_target_gbps,
        )
        from s3transfer.crt import (
            BotocoreCRTCredentialsWrapper,
            BotocoreCRTRequestSerializer,
            CRTTransferManager,
        )

        means = self._means
        config: Any = means.client.meta.config
        encrypted = urlsplit(means.client.meta.endpoint_url).scheme == "https"
        credentials = BotocoreCRTCredentialsWrapper(means.session.get_credentials())
        crt_client = CrtClient(
            region=self._bucket_region(),
            tls_mode=S3RequestTlsMode.ENABLED if encrypted else S3RequestTlsMode.DISABLED,
            tls_connection_options=self._trust() if encrypted else None,
            credential_provider=credentials.to_crt_credentials_provider(),
            part_size=PART_BYTES,
            memory_limit=_BUFFERED_BYTES,
            throughput_target_gbps=get_recommended_throughput_target_gbps(),
            retry_config=S3RetryConfig(max_retries=max(_RETRIES, means.attempts - 1)),
            connect_timeout_ms=int(1000 * config.connect_timeout),
            # Never without a buffer, as it does with very large files by default: then it forgets a last part of less
            # than 5 kB (0.38.0: the object's size that it ends the upload with is too small, and the store refuses).
            fio_options=S3FileIoOptions(should_stream=False),
            enable_s3express=True,
        )
        arguments: dict[str, Any] = {
            "region_name": means.region,
            "endpoint_url": means.endpoint,
            "config": means.config,
        }
        serializer = BotocoreCRTRequestSerializer(means.session._session, arguments)  # noqa: SLF001 (as boto3 does)
        return cast("TransferManager", CRTTransferManager(crt_client, serializer))

    def _trust(self) -> Any:
        """The certificate authorities that boto3's client trusts, no others."""
        from awscrt.io import ClientTlsContext, TlsContextOptions

        named = self._means.ca_bundle or self._means.session._session.get_config_variable("ca_bundle")  # noqa: SLF001
        options = TlsContextOptions()
        options.override_default_trust_store_from_path(ca_filepath=named or get_cert_path(True))
        return ClientTlsContext(options).new_connection_options()

    def _bucket_region(self) -> str:
        """The region to sign for. boto3's client follows Amazon S3 to a bucket's own region; awscrt has to be told."""
        if self._means.endpoint is not None:
            return self._means.region
        try:
            answer: Any = self._means.client.head_bucket(Bucket=self._means.bucket)
        except ClientError as error:
            answer = error.response
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return str(headers.get("x-amz-bucket-region") or self._means.region)
