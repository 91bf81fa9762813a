"""Verifies JSON web tokens (RFC 7519) of an external issuer.

The key is a setting, or one of those that the issuer publishes (JWKS, RFC 7517). Only the algorithms of the
settings are accepted, and a token must have an end (`exp`) and a user (`sub`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import aiohttp
import jwt
import msgspec
import structlog

from rejoin_protocol.errors import Unauthenticated, Unavailable

log = structlog.get_logger("rejoin.tokens")

JWKS_TTL_S = 300.0
"""How long the issuer's keys are used before they are fetched again."""
UNKNOWN_KEY_REFETCH_S = 10.0
"""Least time between two fetches for unknown key ids: forged tokens must not make us flood the issuer."""
JWKS_FETCH_TIMEOUT_S = 5.0
LEEWAY_S = 30
"""Accepted difference between the issuer's clock and ours."""
INVALID_JWKS_ERRORS = (AttributeError, KeyError, TypeError)
"""What PyJWT raises for JSON that is no JWKS document."""


class TokenRules(msgspec.Struct, frozen=True):
    """What a token must satisfy. `issuer`, `audience` None: any."""

    algorithms: Sequence[str]
    issuer: str | None = None
    audience: str | None = None


type FetchJwks = Callable[[], Awaitable[Any]]


class JwksCache:
    """The keys that an issuer publishes.

    No TTL cache: the keys are one document; an unknown key id fetches it early; and old keys stay in use
    while the issuer is unavailable.
    """

    def __init__(self, fetch: FetchJwks, clock_s: Callable[[], float]) -> None:
        self._fetch = fetch
        self._clock_s = clock_s
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at_s: float | None = None
        self._lock = asyncio.Lock()

    async def find(self, kid: str | None) -> jwt.PyJWK:
        """The key with an id; without an id the only key.

        Raises `Unauthenticated` for an unknown id, and `Unavailable` if no keys could be fetched yet.
        """
        if self._needs_fetch(kid):
            async with self._lock:
                if self._needs_fetch(kid):  # not fetched by another request meanwhile
                    await self._refresh()
        if not self._keys:
            raise Unavailable("the token issuer's keys cannot be fetched")
        if kid in self._keys:
            return self._keys[kid]
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        raise Unauthenticated("the token is signed with a key that its issuer does not publish")

    def _needs_fetch(self, kid: str | None) -> bool:
        if self._fetched_at_s is None:
            return True
        age_s = self._clock_s() - self._fetched_at_s
        return age_s > JWKS_TTL_S or (age_s > UNKNOWN_KEY_REFETCH_S and kid not in self._keys)

    async def _refresh(self) -> None:
        try:
            document = await self._fetch()
            jwks = jwt.PyJWKSet.from_dict({"keys": [key for key in document["keys"] if _may_verify(key)]})
            self._keys = {key.key_id: key for key in jwks.keys}
        except (aiohttp.ClientError, TimeoutError, ValueError, jwt.PyJWTError, *INVALID_JWKS_ERRORS) as fault:
            log.warning("jwks_fetch_failed", error=str(fault) or type(fault).__name__)
        self._fetched_at_s = self._clock_s()  # after a failure too: the next attempt waits as long


def _may_verify(key: Mapping[str, Any]) -> bool:
    """Whether a published key is for signatures (RFC 7517, sections 4.2 and 4.3): an issuer also publishes
    keys for encryption, and others may hold their private halves.
    """
    return key.get("use", "sig") == "sig" and "verify" in key.get("key_ops", ("verify",))


def jwks_fetcher(session: aiohttp.ClientSession, url: str) -> FetchJwks:
    """Fetches the JWKS document at a URL of the settings.

    The operator sets the URL, so it may be a private address: the rule for URLs of clients, which must be
    public, does not apply.
    """

    async def fetch() -> Any:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=JWKS_FETCH_TIMEOUT_S)) as response:
            response.raise_for_status()
            return await response.json(content_type=None)

    return fetch


class JwtVerifier(msgspec.Struct, frozen=True):
    """Verifies tokens with `key`, or with the issuer's published keys if `key` is None."""

    rules: TokenRules
    key: str | None
    jwks: JwksCache | None

    async def verify(self, token: str) -> dict[str, Any]:
        """The claims of a valid token. Raises `Unauthenticated`, and `Unavailable` as `JwksCache.find`."""
        try:
            return jwt.decode(
                token,
                self.key if self.key is not None else await self._find_key(token),
                algorithms=list(self.rules.algorithms),
                audience=self.rules.audience,
                issuer=self.rules.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "sub"], "verify_aud": self.rules.audience is not None},
            )
        except jwt.ExpiredSignatureError as fault:
            raise Unauthenticated("the token has expired") from fault
        except (jwt.PyJWTError, UnicodeError) as fault:  # UnicodeError: the header need not be UTF-8
            log.info("token_rejected", reason=str(fault))
            raise Unauthenticated("the token is not valid for this gateway") from fault

    async def _find_key(self, token: str) -> jwt.PyJWK:
        if self.jwks is None:
            raise Unauthenticated("this gateway accepts no tokens")
        return await self.jwks.find(jwt.get_unverified_header(token).get("kid"))
