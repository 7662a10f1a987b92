"""The connection to one bucket: boto3's client, and what moves large files.

Purpose: turn the environment's settings into a client, a transfer manager and a `Place` for messages.
Must not: log or keep a credential.
Neighbours: `locate.open_store` makes one per S3 URI, `s3.S3Store` uses it.

Settings, all from the environment: SRR_S3_ENDPOINT (or AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL), AWS_REGION (or
AWS_DEFAULT_REGION), SRR_S3_ADDRESSING=auto|path|virtual, SRR_S3_TRANSFER=python|crt, AWS_CA_BUNDLE,
AWS_MAX_ATTEMPTS, and boto3's chain of credentials (variables, profile, web identity, instance role).
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, cast

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config

from selfrewarding.store.errors import Misconfigured
from selfrewarding.store.s3_errors import Place, translated

if TYPE_CHECKING:
    from s3transfer.crt import CRTTransferManager
    from s3transfer.manager import TransferManager
    from types_boto3_s3 import S3Client

MIB = 1024 * 1024
PART_BYTES = 16 * MIB
"""S3's guidance is ranges of 8 to 16 MiB on many connections; larger objects get larger parts (10,000 at most)."""

PARTS_AT_ONCE = 24
_ATTEMPTS = 6
HASTY = {"connect_timeout": 5, "read_timeout": 7}
"""Seconds; with two attempts at most, a store that does not answer is known after 25 s."""

_ADDRESSING = ("auto", "path", "virtual")
_TRANSFER = ("python", "crt")


@dataclass(frozen=True)
class Connection:
    """A client for one bucket. Shared by all stores of that bucket; safe to use from several threads."""

    client: "S3Client" = field(repr=False)
    place: Place
    _crt: "CRTTransferManager | None" = field(repr=False)
    _python: "TransferManager" = field(repr=False)
    _make_hasty: "Callable[[], S3Client]" = field(repr=False)

    def hasty(self) -> "Connection":
        """The same place, asked with little patience: a store that does not answer is known after 25 s at most."""
        return replace(self, client=self._make_hasty())

    @property
    def fast(self) -> bool:
        """Whether transfers go through the AWS Common Runtime (awscrt) instead of Python threads."""
        return self._crt is not None

    @property
    def manager(self) -> "TransferManager":
        """What uploads and downloads files. Both kinds have the methods that are used here."""
        return cast("TransferManager", self._crt) if self._crt is not None else self._python


def connect(bucket: str, env: Mapping[str, str]) -> Connection:
    """Make a `Connection`; asks nothing of the store yet. Raises Misconfigured for a setting that cannot be."""
    endpoint = (
        env.get("SRR_S3_ENDPOINT") or env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or None
    )
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or "us-east-1"
    addressing = _choice(env, "SRR_S3_ADDRESSING", _ADDRESSING)
    transfer = _choice(env, "SRR_S3_TRANSFER", _TRANSFER)
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise Misconfigured(
            "SRR_S3_ENDPOINT must start with http://, https:// or file://, for example https://minio.example:9000."
        )
    place = Place(bucket, region, endpoint)
    if not place.is_address:
        raise Misconfigured(
            "SRR_S3_ENDPOINT is not a valid address: expected for example https://minio.example:9000."
        )
    config = Config(
        s3={"addressing_style": cast("Literal['auto', 'path', 'virtual']", addressing)},
        retries={"mode": "standard", "total_max_attempts": _attempts(env)},
        max_pool_connections=PARTS_AT_ONCE + 16,
        connect_timeout=10,
        read_timeout=60,
        tcp_keepalive=True,
    )
    hasty = config.merge(
        Config(
            retries={"mode": "standard", "total_max_attempts": min(2, _attempts(env))},
            connect_timeout=HASTY["connect_timeout"],
            read_timeout=HASTY["read_timeout"],
        )
    )
    with translated(place, "use", ""):
        try:
            session = _session(env, region)

            def make(settings: Config) -> "S3Client":
                return session.client(
                    "s3", endpoint_url=endpoint, config=settings, verify=env.get("AWS_CA_BUNDLE") or None
                )

            client = make(config)
        except ValueError:
            # botocore's answer to an address that is none; its text repeats the address, which may hold a password.
            raise Misconfigured(f"cannot use {place}: the endpoint is not a valid address.") from None
    crt = None
    if transfer == "crt":
        crt = _crt_manager(session, client=client, config=config, endpoint=endpoint, region=region, env=env)
    python = create_transfer_manager(
        client,
        TransferConfig(
            multipart_threshold=PART_BYTES,
            multipart_chunksize=PART_BYTES,
            max_concurrency=PARTS_AT_ONCE,
            num_download_attempts=_ATTEMPTS,
            io_chunksize=MIB,
            preferred_transfer_client="classic",
        ),
    )
    return Connection(client, place, crt, python, lambda: make(hasty))


def _choice(env: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    value = env.get(name) or allowed[0]
    if value not in allowed:
        raise Misconfigured(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")
    return value


def _attempts(env: Mapping[str, str]) -> int:
    value = env.get("AWS_MAX_ATTEMPTS") or str(_ATTEMPTS)
    if not value.isdecimal() or int(value) < 1:
        raise Misconfigured(f"AWS_MAX_ATTEMPTS is {value!r}; it must be a whole number of at least 1.")
    return int(value)


def _session(env: Mapping[str, str], region: str) -> boto3.Session:
    key, secret = env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")
    if key and secret:
        return boto3.Session(key, secret, env.get("AWS_SESSION_TOKEN") or None, region_name=region)
    return boto3.Session(region_name=region, profile_name=env.get("AWS_PROFILE") or None)


_crt_guard = threading.Lock()


def _crt_manager(
    session: boto3.Session,
    *,
    client: "S3Client",
    config: Config,
    endpoint: str | None,
    region: str,
    env: Mapping[str, str],
) -> "CRTTransferManager | None":
    """The AWS Common Runtime's manager, or None if another process of ours on this host has it.

    More bytes per CPU second on very fast networks, for gigabytes of memory and threads of its own: so only on demand.
    boto3's own switch (`preferred_transfer_client="crt"`) would ignore the endpoint and insist on TLS: it builds its
    client from the default session. So it is put together here from the same parts, as the AWS command line does.
    """
    if find_spec("awscrt") is None:
        raise Misconfigured(
            'SRR_S3_TRANSFER is "crt", but awscrt is not installed: install boto3[crt], or unset it.'
        )
    from s3transfer.crt import (
        BotocoreCRTCredentialsWrapper,
        BotocoreCRTRequestSerializer,
        CRTTransferManager,
        acquire_crt_s3_process_lock,
        create_s3_crt_client,
    )

    credentials = session.get_credentials()
    with _crt_guard:
        if credentials is None or acquire_crt_s3_process_lock("selfrewarding") is None:
            return None
        wrapped = BotocoreCRTCredentialsWrapper(cast("Any", credentials))  # its stub names another class
        crt_client = create_s3_crt_client(
            region,
            crt_credentials_provider=wrapped.to_crt_credentials_provider(),
            part_size=PART_BYTES,
            use_ssl=not client.meta.endpoint_url.startswith("http://"),
            verify=env.get("AWS_CA_BUNDLE") or None,
        )
        arguments: dict[str, Any] = {"region_name": region, "endpoint_url": endpoint, "config": config}
        serializer = BotocoreCRTRequestSerializer(session._session, arguments)  # noqa: SLF001 (as boto3 does)
        return CRTTransferManager(crt_client, serializer)
