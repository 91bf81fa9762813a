"""API keys are cached for a bounded time and in a bounded number; unknown keys are not cached."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from rejoin_adapters.store_types import ApiKeyRow
from rejoin_gateway.auth import api_key, authenticator
from rejoin_gateway.auth.api_key import ApiKey
from rejoin_gateway.auth.authenticator import ANONYMOUS, API_KEY_CACHE_TTL_S, Authenticator, ClaimRules
from rejoin_gateway.auth.scope import Scope
from rejoin_protocol.errors import Unauthenticated
from rejoin_protocol.ids import TenantId

PEPPER = b"p" * 16
START = datetime(2026, 1, 1, tzinfo=UTC)


class Rows:
    """The table of API keys. `lookups` holds the ids that were looked up."""

    def __init__(self, *keys: ApiKey) -> None:
        self.rows = {key.id: _row(key) for key in keys}
        self.lookups: list[str] = []
        self.recorded: list[str] = []

    async def find(self, id: str) -> ApiKeyRow | None:
        self.lookups.append(id)
        return self.rows.get(id)

    async def record_use(self, ids: Sequence[str]) -> None:
        self.recorded += ids


def _row(key: ApiKey) -> ApiKeyRow:
    key_hash = api_key.hash_key(PEPPER, key)
    return ApiKeyRow(key.id, TenantId("acme"), key_hash, ["chat"], None, None, None, START)


def _key() -> ApiKey:
    return api_key.generate_key(secrets.token_bytes)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def _authenticator(rows: Rows, clock: Clock, *, allow_anonymous: bool = False) -> Authenticator:
    return Authenticator(
        api_keys=rows,  # type: ignore[arg-type]
        pepper=PEPPER,
        token_verifier=None,
        claims=ClaimRules(),
        allow_anonymous=allow_anonymous,
        now=lambda: clock.now,
    )


async def test_a_key_is_looked_up_again_when_its_time_in_the_cache_is_over() -> None:
    key, clock = _key(), Clock()
    rows = Rows(key)
    gate = _authenticator(rows, clock)
    for _ in range(3):
        assert (await gate.authenticate(f"Bearer {key}")).scopes == {Scope.CHAT}
    clock.advance(API_KEY_CACHE_TTL_S - 0.1)
    await gate.authenticate(f"Bearer {key}")
    assert rows.lookups == [key.id]
    clock.advance(0.1)
    await gate.authenticate(f"Bearer {key}")
    assert rows.lookups == [key.id] * 2


async def test_a_key_that_is_deleted_is_unknown_when_its_time_in_the_cache_is_over() -> None:
    key, clock = _key(), Clock()
    rows = Rows(key)
    gate = _authenticator(rows, clock)
    await gate.authenticate(f"Bearer {key}")
    rows.rows.clear()
    await gate.authenticate(f"Bearer {key}")
    clock.advance(API_KEY_CACHE_TTL_S)
    with pytest.raises(Unauthenticated):
        await gate.authenticate(f"Bearer {key}")


async def test_unknown_keys_are_cached_for_a_moment() -> None:
    """A key that is created after its first use works within seconds."""
    key, clock = _key(), Clock()
    rows = Rows()
    gate = _authenticator(rows, clock)
    with pytest.raises(Unauthenticated):
        await gate.authenticate(f"Bearer {key}")
    rows.rows[key.id] = _row(key)
    clock.advance(authenticator.UNKNOWN_KEY_TTL_S)
    await gate.authenticate(f"Bearer {key}")
    assert rows.lookups == [key.id] * 2


async def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authenticator, "API_KEY_CACHE_MAX", 2)
    keys, clock = [_key() for _ in range(3)], Clock()
    rows = Rows(*keys)
    gate = _authenticator(rows, clock)
    for key in (*keys, keys[0]):
        await gate.authenticate(f"Bearer {key}")
    assert rows.lookups == [*(key.id for key in keys), keys[0].id]


async def test_a_wrong_secret_is_refused_though_the_key_is_cached() -> None:
    key, clock = _key(), Clock()
    gate = _authenticator(Rows(key), clock)
    await gate.authenticate(f"Bearer {key}")
    with pytest.raises(Unauthenticated, match="unknown"):
        await gate.authenticate(f"Bearer {ApiKey(key.id, _key().secret)}")


async def test_used_keys_are_recorded_once() -> None:
    key, clock = _key(), Clock()
    rows = Rows(key)
    gate = _authenticator(rows, clock)
    for _ in range(2):
        await gate.authenticate(f"Bearer {key}")
    await gate.record_key_usage()
    await gate.record_key_usage()
    assert rows.recorded == [key.id]


async def test_a_credential_is_checked_though_anonymous_requests_are_accepted() -> None:
    gate = _authenticator(Rows(), Clock(), allow_anonymous=True)
    assert await gate.authenticate(None) is ANONYMOUS
    with pytest.raises(Unauthenticated):
        await gate.authenticate(f"Bearer {_key()}")
