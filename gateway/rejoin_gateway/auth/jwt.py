"""JSON web tokens: somebody else says who a caller is, and signs it.

Owns the keys that a token may be signed with: one of the settings, or those that an issuer publishes, read
again when they are old or when a token names one that is not there. Only listed algorithms are tried, and
a token without an end is refused.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp
import jwt
import msgspec
import structlog
from rejoin_protocol.errors import Unauthenticated, Unavailable

log = structlog.get_logger("rejoin.tokens")

JWKS_TTL_S = 300.0
"""How long published keys are believed without looking again."""
UNKNOWN_KEY_REFETCH_S = 10.0
"""How soon at the earliest an unknown key makes us look again: a forged token must not drive the issuer."""
FETCH_TIMEOUT_S = 5.0
LEEWAY_S = 30
NO_JWKS = (AttributeError, TypeError)
"""What a document that is none leads to in PyJWT."""


class TokenRules(msgspec.Struct, frozen=True):
    """What a token must say."""

    algorithms: Sequence[str]
    issuer: str | None = None
    audience: str | None = None


type FetchJwks = Callable[[], Awaitable[Any]]


class JwksCache:
    """The keys at an issuer's address."""

    def __init__(self, fetch: FetchJwks, clock: Callable[[], float]) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._looked_s: float | None = None
        self._lock = asyncio.Lock()

    async def find(self, kid: str | None) -> jwt.PyJWK:
        """The key of an id. Raises `Unauthenticated`, and `Unavailable` if none was ever read."""
        if self._stale(kid):
            async with self._lock:
                if self._stale(kid):
                    await self._look()
        if not self._keys:
            raise Unavailable("the keys that tokens are signed with cannot be read")
        if kid in self._keys:
            return self._keys[kid]
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        raise Unauthenticated("the token is signed with a key that its issuer does not publish")

    def _stale(self, kid: str | None) -> bool:
        if self._looked_s is None:
            return True
        age_s = self._clock() - self._looked_s
        return age_s > JWKS_TTL_S or (age_s > UNKNOWN_KEY_REFETCH_S and kid not in self._keys)

    async def _look(self) -> None:
        try:
            found = jwt.PyJWKSet.from_dict(await self._fetch())
            self._keys = {key.key_id: key for key in found.keys}
        except (aiohttp.ClientError, TimeoutError, ValueError, jwt.PyJWTError, *NO_JWKS) as fault:
            log.warning("jwks_fetch_failed", error=str(fault) or type(fault).__name__)
        self._looked_s = self._clock()


def jwks_fetcher(session: aiohttp.ClientSession, url: str) -> FetchJwks:
    """Reads a JWKS document."""

    async def fetch() -> Any:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)) as response:
            response.raise_for_status()
            return await response.json(content_type=None)

    return fetch


class JwtVerifier(msgspec.Struct, frozen=True):
    """Reads tokens. `key`: the setting; None: those of `published`."""

    checks: TokenRules
    key: str | None
    published: JwksCache | None

    async def claims(self, token: str) -> dict[str, Any]:
        """What a token says. Raises `Unauthenticated`."""
        try:
            return jwt.decode(
                token,
                self.key if self.key is not None else await self._published(token),
                algorithms=list(self.checks.algorithms),
                audience=self.checks.audience,
                issuer=self.checks.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "sub"], "verify_aud": self.checks.audience is not None},
            )
        except jwt.ExpiredSignatureError as fault:
            raise Unauthenticated("the token has expired") from fault
        except (jwt.PyJWTError, UnicodeError) as fault:  # a header need not be UTF-8
            log.info("token_rejected", why=str(fault))
            raise Unauthenticated("the token is not valid here") from fault

    async def _published(self, token: str) -> jwt.PyJWK:
        if self.published is None:
            raise Unauthenticated("tokens are not read here")
        kid = jwt.get_unverified_header(token).get("kid")
        return await self.published.find(kid)
