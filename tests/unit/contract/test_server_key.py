"""The key that pods derive from the secret that they share."""

import re
from itertools import combinations

import pytest

from selfrewarding.contract.server_key import server_key

SECRET = {"AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}


def test_pods_that_share_the_secret_derive_the_same_key() -> None:
    here, there = (
        server_key({**SECRET, "HOME": home}, run_uid="u", served_name="m1") for home in ("/a", "/b")
    )
    assert here == there
    assert here is not None
    assert re.fullmatch(r"[0-9a-f]{64}", here)
    assert SECRET["AWS_SECRET_ACCESS_KEY"] not in here


def test_the_key_is_frozen_since_a_server_outlives_an_upgrade_of_the_sampler() -> None:
    assert server_key(SECRET, run_uid="run-uid", served_name="m1-0123456789abcdef-policy") == (
        "12ab580a5ff515acbe9ee1d4c04dbd8d31e2caeff3991b029c27959a93a30a92"
    )


def test_runs_pools_and_secrets_have_keys_of_their_own() -> None:
    keys = [
        server_key(SECRET, run_uid="u1", served_name="m1-policy"),
        server_key(SECRET, run_uid="u2", served_name="m1-policy"),
        server_key(SECRET, run_uid="u1", served_name="m1-judge"),
        server_key({"AWS_SECRET_ACCESS_KEY": "another"}, run_uid="u1", served_name="m1-policy"),
        server_key(SECRET, run_uid="u1\x1fm1", served_name="policy"),
    ]
    assert all(one != other for one, other in combinations(keys, 2))


@pytest.mark.parametrize(
    "env", [{}, {"AWS_SECRET_ACCESS_KEY": ""}, {"AWS_ROLE_ARN": "arn:aws:iam::1:role/runs"}]
)
def test_without_a_shared_secret_there_is_no_key(env: dict[str, str]) -> None:
    assert server_key(env, run_uid="u", served_name="m1") is None
