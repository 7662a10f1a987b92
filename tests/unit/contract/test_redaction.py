"""What is told of a run holds no password of an address and no key among options."""

import pytest

from selfrewarding.contract.redaction import names_a_secret, without_user_info


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://user:secret@host/v1", "https://host/v1"),
        ("https://user:p@ss@host/v1 and s3://key@bucket", "https://host/v1 and s3://bucket"),
        ("'https://user@host', \"http://a:b@c\"", "'https://host', \"http://c\""),
        ("https://host/teams/@us write to me@host", "https://host/teams/@us write to me@host"),
        ("no address: // me @ home", "no address: // me @ home"),
    ],
)
def test_addresses_lose_all_before_the_last_at_sign_of_their_host(text: str, told: str) -> None:
    assert without_user_info(text) == told


@pytest.mark.parametrize(
    "option", ["hf-token", "HF_TOKEN", "api-key", "apikey", "lora.s3_secret", "password"]
)
def test_options_that_ask_for_a_secret_are_known(option: str) -> None:
    assert names_a_secret(option)


@pytest.mark.parametrize(
    "option", ["max-num-batched-tokens", "tokenizer", "skip-tokenizer-init", "keyed", "dtype"]
)
def test_other_options_are_told(option: str) -> None:
    assert not names_a_secret(option)
