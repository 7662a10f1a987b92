"""Files of several parts on a real server: TLS with one's own authority, credentials of other sources, refusals, checksums."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import s3_servers

from selfrewarding.store import Denied, NotFound, open_store
from selfrewarding.store.digests import digest_bytes
from selfrewarding.store.s3 import S3Store
from selfrewarding.store.s3_download import RANGE_BYTES
from selfrewarding.store.s3_upload import PART_BYTES

SIZE = 2 * PART_BYTES + 1
"""The smallest last part that there is: awscrt has lost such parts (see `s3_upload`)."""

WITH_TLS = pytest.mark.skipif(
    "versitygw" not in s3_servers.names(), reason="no versitygw (needs Go; once: `make versitygw`)"
)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of three parts."""
    path = tmp_path / "model.safetensors"
    path.write_bytes((bytes(range(251)) * (SIZE // 251 + 1))[:SIZE])
    return path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that is its own authority; its key lies beside it."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-days", "2", "-subj", "/CN=store", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "ca.pem")),
        ],
        check=True,
        capture_output=True,
    )
    return folder / "ca.pem"


@pytest.fixture(scope="module")
def tls_address(authority: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """versitygw that speaks TLS, with an empty bucket "large"."""
    options = ("--cert", str(authority), "--key", str(authority.with_name("key.pem")))
    folder = tmp_path_factory.mktemp("versitygw-tls")
    with s3_servers.versitygw(s3_servers.versitygw_path(), folder) as address:
        s3_servers.make_bucket(address, "large")
    with s3_servers.versitygw(s3_servers.versitygw_path(), folder, *options) as address:
        yield address.replace("http:", "https:")


def opened(uri: str, settings: dict[str, str]) -> S3Store:
    store = open_store(uri, settings)
    assert isinstance(store, S3Store)
    return store


@WITH_TLS
@pytest.mark.parametrize("transfer", ["auto", "python"])
def test_a_private_authority(
    transfer: str, tls_address: str, authority: Path, large: Path, tmp_path: Path
) -> None:
    settings = {**s3_servers.settings(tls_address), "SRR_S3_TRANSFER": transfer}
    trusting = opened("s3://large/m", {**settings, "AWS_CA_BUNDLE": str(authority)})
    assert trusting._connection.uploads.by_awscrt is (transfer == "auto")
    digest = trusting.upload_file(large, "model.safetensors")
    trusting.download_tree("", tmp_path / "down", {"model.safetensors": digest})
    assert (tmp_path / "down" / "model.safetensors").read_bytes() == large.read_bytes()


def test_credentials_of_a_pods_role(
    s3_settings: dict[str, str],
    s3_uri: str,
    large: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever boto3's chain finds: here a program that gives keys which expire, as a web identity's do."""
    keys = f'{{"Version": 1, "AccessKeyId": "{s3_servers.ACCESS}", "SecretAccessKey": "{s3_servers.SECRET}", "Expiration": "2999-01-01T00:00:00Z"}}'
    (tmp_path / "give").write_text(f"#!/bin/sh\necho '{keys}'\n")
    (tmp_path / "give").chmod(0o755)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {tmp_path / 'give'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
        s3_settings.pop(name)
    store = opened(s3_uri, s3_settings)
    digest = store.upload_file(large, "m")
    assert store.stat("m").size == SIZE  # type: ignore[union-attr]
    assert store.download_tree("", tmp_path / "down", {"m": digest}) == {"m": digest}


def test_a_bucket_that_is_not_there(s3_settings: dict[str, str], large: Path, tmp_path: Path) -> None:
    store = opened("s3://no-such-bucket-at-all/runs", s3_settings)
    with pytest.raises(NotFound, match="no such bucket"):
        store.upload_file(large, "m")


def test_an_object_that_is_not_there(
    s3_settings: dict[str, str], s3_uri: str, large: Path, tmp_path: Path
) -> None:
    store = opened(s3_uri, s3_settings)
    digest = store.upload_file(large, "here")
    with pytest.raises(NotFound, match='read object "runs/self-rewarding/gone"'):
        store.download_tree("", tmp_path / "down", {"gone": digest})
    assert list((tmp_path / "down").iterdir()) == []


@WITH_TLS
def test_credentials_that_are_refused(versitygw_address: str, large: Path) -> None:
    s3_servers.make_bucket(versitygw_address, "closed")
    settings = {**s3_servers.settings(versitygw_address), "AWS_SECRET_ACCESS_KEY": "wrong"}
    with pytest.raises(Denied, match="The access key or the secret is wrong"):
        opened("s3://closed/runs", settings).upload_file(large, "m")


@WITH_TLS
@pytest.mark.parametrize(("transfer", "kind"), [("auto", "ChecksumCRC32C"), ("python", "ChecksumCRC32")])
def test_the_store_has_a_checksum_of_every_part(
    transfer: str, kind: str, versitygw_address: str, large: Path
) -> None:
    bucket = f"checked-{transfer}"
    s3_servers.make_bucket(versitygw_address, bucket)
    settings = {**s3_servers.settings(versitygw_address), "SRR_S3_TRANSFER": transfer}
    opened(f"s3://{bucket}/runs", settings).upload_file(large, "m")
    found = s3_servers.client(versitygw_address).get_object_attributes(
        Bucket=bucket, Key="runs/m", ObjectAttributes=["Checksum", "ObjectSize"]
    )
    assert found["ObjectSize"] == SIZE
    assert kind in found["Checksum"]


@WITH_TLS
@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "SHA256"])
def test_ranges_of_what_other_programs_put_there(
    algorithm: Any, versitygw_address: str, tmp_path: Path
) -> None:
    """A model that somebody uploaded in one request: the checksum of all of it is not taken for one of a range."""
    data = (bytes(range(251)) * (2 * RANGE_BYTES // 251 + 1))[: 2 * RANGE_BYTES + 1]
    bucket = f"theirs-{algorithm.lower()}"
    s3_servers.make_bucket(versitygw_address, bucket)
    s3_servers.client(versitygw_address).put_object(
        Bucket=bucket, Key="base/model.safetensors", Body=data, ChecksumAlgorithm=algorithm
    )
    store = opened(f"s3://{bucket}/base", s3_servers.settings(versitygw_address))
    assert store.download_tree("", tmp_path / "down") == {"model.safetensors": digest_bytes(data)}
    assert (tmp_path / "down" / "model.safetensors").read_bytes() == data


def test_a_file_that_is_gone_or_closed_is_blamed_itself(
    s3_settings: dict[str, str], s3_uri: str, tmp_path: Path
) -> None:
    with pytest.raises(NotFound) as caught:
        opened(s3_uri, s3_settings).upload_file(tmp_path / "gone", "m")
    assert str(tmp_path / "gone") in str(caught.value)
