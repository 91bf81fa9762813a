"""API keys: what is shown once, and what is stored."""

import itertools
import secrets

import pytest

from gateway import keys

PEPPER = b"p" * 16


def test_a_key_is_read_back_from_what_its_owner_holds() -> None:
    key = keys.mint(secrets.token_bytes)
    assert keys.parse(str(key)) == key


def test_no_two_keys_are_the_same() -> None:
    made = [keys.mint(secrets.token_bytes) for _ in range(100)]
    assert all(one.id != other.id and one.secret != other.secret for one, other in itertools.pairwise(made))


def test_a_stored_hash_opens_for_its_key_and_pepper_alone() -> None:
    key = keys.mint(secrets.token_bytes)
    stored = keys.digest(PEPPER, key)
    assert keys.same(PEPPER, key, stored)
    assert not keys.same(b"q" * 16, key, stored)
    assert not keys.same(PEPPER, keys.Key(key.id, keys.mint(secrets.token_bytes).secret), stored)
    assert not keys.same(PEPPER, keys.Key("rk_aaaaaaaaaaaa", key.secret), stored), "the id is part of it"
    assert key.secret.encode() not in stored


@pytest.mark.parametrize(
    "text", ["", ".", "rk_.", "rk_abc.def", "Bearer x", "rk_aaaaaaaaaaaa." + "x" * 42, "a" * 10_000]
)
def test_what_cannot_be_a_key_is_none(text: str) -> None:
    assert keys.parse(text) is None
