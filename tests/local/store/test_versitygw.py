"""Wrong keys and buckets that cannot be written: moto takes any key and has no read-only mode."""

from pathlib import Path

import pytest
from tests.support import s3_servers

from selfrewarding.store import Denied, open_store


def test_wrong_credentials(versitygw_address: str) -> None:
    s3_servers.make_bucket(versitygw_address, "guarded")
    right = s3_servers.settings(versitygw_address)
    for wrong in ({"AWS_SECRET_ACCESS_KEY": "wrong"}, {"AWS_ACCESS_KEY_ID": "nobody"}):
        with pytest.raises(Denied, match="The access key or the secret is wrong") as caught:
            open_store("s3://guarded/runs", {**right, **wrong}).check_writable()
        assert "AWS_SECRET_ACCESS_KEY" in str(caught.value)


def test_a_read_only_bucket(tmp_path: Path) -> None:
    with s3_servers.versitygw(s3_servers.versitygw_path(), tmp_path) as address:
        s3_servers.make_bucket(address, "frozen")
    with s3_servers.versitygw(s3_servers.versitygw_path(), tmp_path, "--readonly") as address:
        store = open_store("s3://frozen/runs", s3_servers.settings(address))
        with pytest.raises(Denied, match=r"do not allow this.*s3:PutObject"):
            store.check_writable()
        assert list(store.list()) == []
