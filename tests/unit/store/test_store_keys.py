"""The rules for keys and addresses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrewarding.store import Misconfigured, open_store
from selfrewarding.store.folder import FolderStore
from selfrewarding.store.keys import check_key, check_prefix, join
from selfrewarding.store.s3 import S3Store

ROOT = Path("/srv/artifacts/run")


@given(
    st.one_of(
        st.text(), st.lists(st.sampled_from(["a", "..", ".", "", "b c", ".srr-tmp-1", "한"])).map("/".join)
    )
)
def test_a_key_that_is_taken_stays_below_the_root(key: str) -> None:
    try:
        check_key(key)
    except Misconfigured:
        return
    path = ROOT / key
    assert path.is_relative_to(ROOT)
    assert path.relative_to(ROOT).as_posix() == key
    assert os.path.normpath(path) == str(path)


def test_prefixes() -> None:
    assert check_prefix("") == check_prefix("/") == ""
    assert check_prefix("a/b/") == check_prefix("a/b") == "a/b"
    assert join("", "") == ""
    assert (join("a", ""), join("", "b"), join("a", "b")) == ("a", "b", "a/b")
    with pytest.raises(Misconfigured):
        check_prefix("a//")


def test_a_file_address_is_a_folder() -> None:
    store = open_store("file:///srv/with%20space/run/", {})
    assert isinstance(store, FolderStore)
    assert store.root == Path("/srv/with space/run")
    assert store.uri == "file:///srv/with%20space/run"
    assert open_store(Path("/srv/100% sure").as_uri(), {}).root == Path("/srv/100% sure")  # type: ignore[attr-defined]


def test_an_s3_address_is_a_bucket() -> None:
    store = open_store("s3://runs/self-rewarding/", {"AWS_REGION": "eu-central-1"})
    assert isinstance(store, S3Store)
    assert store.uri == "s3://runs/self-rewarding"
    assert open_store("s3://runs", {}).uri == "s3://runs"


def test_an_s3_address_is_a_folder_where_the_endpoint_is_one(tmp_path: Path) -> None:
    """What lets `srr local` run a file that was written for a bucket, unchanged."""
    env = {"SRR_S3_ENDPOINT": tmp_path.as_uri(), "AWS_ENDPOINT_URL": "http://never.example"}
    store = open_store("s3://runs/self-rewarding", env)
    assert isinstance(store, FolderStore)
    assert store.root == tmp_path / "runs/self-rewarding"
    store.write("a", b"x")
    assert (tmp_path / "runs/self-rewarding/a").read_bytes() == b"x"
    assert store.uri == "s3://runs/self-rewarding"
    assert store.sub("stages").uri == "s3://runs/self-rewarding/stages"
    assert open_store("s3://runs", env).read("self-rewarding/a") == b"x"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("", "expected file:///folder or s3://bucket/prefix"),
        ("/srv/artifacts", "expected file:///folder or s3://bucket/prefix"),
        ("s3:/runs/a", "expected file:///folder or s3://bucket/prefix"),
        ("gs://bucket/a", "unknown scheme 'gs'"),
        ("hf://org/name", "unknown scheme 'hf'"),
        ("file://relative/path", "three slashes"),
        ("file:///srv/../etc", "three slashes"),
        ("s3://", "does not name a bucket"),
        ("s3:///prefix", "does not name a bucket"),
        ("s3://bucket/a//b", "bad artifact key"),
        ("s3://bucket/../b", "bad artifact key"),
    ],
)
def test_an_address_that_cannot_be(uri: str, said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        open_store(uri, {})


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"SRR_S3_ENDPOINT": "minio:9000"}, "must start with http://"),
        ({"SRR_S3_ENDPOINT": "file://here"}, "three slashes"),
        ({"SRR_S3_ENDPOINT": "http://user:password@host:port"}, "not a valid address"),
        ({"SRR_S3_ENDPOINT": "http://user:password@"}, "not a valid address"),
        ({"SRR_S3_ENDPOINT": "http://[::1/"}, "not a valid address"),
        (
            {"SRR_S3_ADDRESSING": "paths"},
            "SRR_S3_ADDRESSING is 'paths'; it must be one of auto, path, virtual",
        ),
        ({"SRR_S3_TRANSFER": "fast"}, "SRR_S3_TRANSFER is 'fast'; it must be one of auto, python"),
        ({"AWS_MAX_ATTEMPTS": "many"}, "AWS_MAX_ATTEMPTS is 'many'"),
    ],
)
def test_a_setting_that_cannot_be(env: dict[str, str], said: str) -> None:
    with pytest.raises(Misconfigured, match=said) as caught:
        open_store("s3://bucket/prefix", env)
    assert "password" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_boto3_is_not_loaded_until_a_bucket_is_opened() -> None:
    code = (
        "import sys; import selfrewarding.store as s; s.open_store('file:///srv/a', {});"
        "s.open_store('s3://runs/a', {'SRR_S3_ENDPOINT': 'file:///srv'});"
        "print([m for m in ('boto3', 'botocore', 'huggingface_hub', 'torch') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "[]\n"
