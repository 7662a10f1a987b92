"""The connection to one bucket: boto3's client, what sends files and what fetches them.

Purpose: turn the environment's settings into a client, its uploads and downloads, and a `Place` for messages.
Must not: log or keep a credential.
Neighbours: `locate.open_store` makes one per S3 URI, `s3.S3Store` uses it.

Settings, all from the environment: SRR_S3_ENDPOINT (or AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL), AWS_REGION (or
AWS_DEFAULT_REGION), SRR_S3_ADDRESSING=auto|path|virtual, SRR_S3_TRANSFER=auto|python (uploads), AWS_CA_BUNDLE,
AWS_MAX_ATTEMPTS, and boto3's chain of credentials (variables, profile, web identity, instance role).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, cast

import boto3
from botocore.config import Config

from selfrewarding.store.errors import Misconfigured
from selfrewarding.store.local_tree import FILES_AT_ONCE
from selfrewarding.store.s3_download import RANGES_AT_ONCE, Downloads
from selfrewarding.store.s3_errors import Place, translated
from selfrewarding.store.s3_stream import Source
from selfrewarding.store.s3_upload import PARTS_AT_ONCE, Means, Uploads

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_ATTEMPTS = 6
HASTY = {"connect_timeout": 5, "read_timeout": 7}
"""Seconds; with two attempts at most, a store that does not answer is known after 25 s."""

_ADDRESSING = ("auto", "path", "virtual")
_TRANSFER = ("auto", "python")


@dataclass(frozen=True)
class Connection:
    """A client for one bucket. Shared by all stores of that bucket; safe to use from several threads."""

    client: "S3Client" = field(repr=False)
    place: Place
    source: Source
    uploads: Uploads
    downloads: Downloads
    _make_hasty: "Callable[[], S3Client]" = field(repr=False)

    def hasty(self) -> "Connection":
        """The same place, asked with little patience: a store that does not answer is known after 25 s at most."""
        client = self._make_hasty()
        return replace(self, client=client, source=replace(self.source, whole=client))


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
        max_pool_connections=max(PARTS_AT_ONCE, RANGES_AT_ONCE) + FILES_AT_ONCE,
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
            ranged = make(config.merge(Config(response_checksum_validation="when_required")))
        except ValueError:
            # botocore's answer to an address that is none; its text repeats the address, which may hold a password.
            raise Misconfigured(f"cannot use {place}: the endpoint is not a valid address.") from None
    means = Means(
        bucket=bucket,
        client=client,
        session=session,
        config=config,
        endpoint=endpoint,
        region=region,
        ca_bundle=env.get("AWS_CA_BUNDLE") or None,
        attempts=_attempts(env),
        only_python=transfer == "python",
    )
    source = Source(place, client, ranged)
    return Connection(client, place, source, Uploads(means), Downloads(source), lambda: make(hasty))


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
