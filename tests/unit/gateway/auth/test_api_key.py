"""API keys: the text that is shown once, and the hash that is stored."""

import itertools
import secrets

import pytest

from rejoin_gateway.auth import api_key

PEPPER = b"p" * 16


def test_a_key_is_read_back_from_what_its_owner_holds() -> None:
    key = api_key.generate_key(secrets.token_bytes)
    assert api_key.parse_key(str(key)) == key


def test_no_two_keys_are_the_same() -> None:
    made = [api_key.generate_key(secrets.token_bytes) for _ in range(100)]
    assert all(one.id != other.id and one.secret != other.secret for one, other in itertools.pairwise(made))


def test_a_stored_hash_opens_for_its_key_and_pepper_alone() -> None:
    key = api_key.generate_key(secrets.token_bytes)
    stored = api_key.hash_key(PEPPER, key)
    assert api_key.matches_hash(PEPPER, key, stored)
    assert not api_key.matches_hash(b"q" * 16, key, stored)
    assert not api_key.matches_hash(
        PEPPER, api_key.ApiKey(key.id, api_key.generate_key(secrets.token_bytes).secret), stored
    )
    assert not api_key.matches_hash(PEPPER, api_key.ApiKey("rk_aaaaaaaaaaaa", key.secret), stored), (
        "the id is part of it"
    )
    assert key.secret.encode() not in stored


@pytest.mark.parametrize(
    "text", ["", ".", "rk_.", "rk_abc.def", "Bearer x", "rk_aaaaaaaaaaaa." + "x" * 42, "a" * 10_000]
)
def test_what_cannot_be_a_key_is_none(text: str) -> None:
    assert api_key.parse_key(text) is None
