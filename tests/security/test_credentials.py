"""A malformed or hostile credential has no effect on the gateway that checks it."""

import asyncio
from datetime import datetime
from typing import Any

import pytest

from rejoin_adapters.postgres.api_keys import PostgresApiKeys
from rejoin_gateway.auth.authenticator import Authenticator, ClaimRules
from rejoin_gateway.auth.jwt import UNKNOWN_KEY_REFETCH_S, JwksCache, JwtVerifier, TokenRules
from rejoin_protocol.errors import Unauthenticated, Unavailable


class Issuer:
    """An issuer that is away."""

    def __init__(self) -> None:
        self.asked = 0

    async def fetch(self) -> Any:
        self.asked += 1
        raise TimeoutError


async def test_tokens_do_not_drive_an_issuer_that_is_away() -> None:
    """Many tokens cause few requests to the issuer, and no caller waits for the attempt of another one."""
    issuer, now_s = Issuer(), 0.0
    published = JwksCache(issuer.fetch, lambda: now_s)

    async def find(kid: str) -> None:
        with pytest.raises(Unavailable):
            await published.find(kid)

    async with asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(find(f"{number}"))
    assert issuer.asked == 1
    now_s = UNKNOWN_KEY_REFETCH_S + 1
    await find("again")
    assert issuer.asked == 2


@pytest.mark.parametrize("said", [[], "keys", None, {"keys": [7]}, {"keys": {}}])
async def test_what_an_issuer_says_that_is_no_keys_is_as_if_it_were_away(said: Any) -> None:
    """It is not asked again at once either."""
    asked = 0

    async def fetch() -> Any:
        nonlocal asked
        asked += 1
        return said

    published = JwksCache(fetch, lambda: 0.0)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await published.find("one")
    assert asked == 1


@pytest.mark.parametrize("token", ["\udcff.a.b", "a.b.c", "..", "e30.e30.\udcff"])
async def test_a_token_that_is_none_is_refused(token: str) -> None:
    """A header may have bytes that are not UTF-8. aiohttp decodes them to lone surrogates."""
    published = JwksCache(Issuer().fetch, lambda: 0.0)
    for tokens in (
        JwtVerifier(TokenRules(["HS256"]), "x" * 32, None),
        JwtVerifier(TokenRules(["RS256"]), None, published),
    ):
        with pytest.raises((Unauthenticated, Unavailable)):
            await tokens.verify(token)


def _never() -> datetime:
    raise AssertionError("no key is looked up")


@pytest.fixture
def gate() -> Authenticator:
    rows: PostgresApiKeys = None  # type: ignore[assignment]  # no key is shown here
    claims = ClaimRules(tenant_claim="org")
    return Authenticator(
        api_keys=rows, pepper=None, token_verifier=None, claims=claims, allow_anonymous=False, now=_never
    )


@pytest.mark.parametrize("odd", ["", "a\0b", "a\nb", "\ud800", "x" * 257, 7, None, ["ann"]])
@pytest.mark.parametrize("claim", ["sub", "org"])
def test_a_name_that_cannot_be_stored_or_logged_is_nobodys(gate: Authenticator, claim: str, odd: Any) -> None:
    with pytest.raises(Unauthenticated):
        gate.principal_of({"sub": "ann", "org": "acme"} | {claim: odd})


def test_two_people_are_never_counted_as_one(gate: Authenticator) -> None:
    """Names with spaces in them do not run into each other where requests are counted."""
    one = gate.principal_of({"org": "a", "sub": "b c"})
    other = gate.principal_of({"org": "a b", "sub": "c"})
    assert one.name != other.name
