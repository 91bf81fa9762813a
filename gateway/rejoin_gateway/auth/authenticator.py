"""Who asks, and what they may do.

Owns the reading of `Authorization: Bearer`: an API key or a token becomes a `Principal`, or the request is
refused before anything happens. What a principal may see is the store's rule, by its owner; which scope a
route asks for stands beside the route.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import msgspec
import structlog
from rejoin_adapters.postgres.api_keys import ApiKeyRow, PostgresApiKeys
from rejoin_adapters.records import Owner
from rejoin_protocol.errors import Forbidden, Invalid, Unauthenticated
from rejoin_protocol.ids import AgentName, TenantId, UserId

from rejoin_gateway.auth import api_key
from rejoin_gateway.auth.api_key import ApiKey
from rejoin_gateway.http.routes import Scope

if TYPE_CHECKING:
    from rejoin_gateway.auth.jwt import JwtVerifier

log = structlog.get_logger("rejoin.auth")

API_KEY_CACHE_TTL_S = 5.0
"""How long a key is believed without asking the database: how late a revocation is."""
API_KEY_CACHE_MAX = 10_000
ALL_SCOPES = frozenset(Scope)
USER_CHARS_MAX = 256
SHARED_KEY_CHARS_MIN = 32


class Principal(msgspec.Struct, frozen=True):
    """Who asks. `name` is what limits count by. `agent`: the only one that this credential may talk to."""

    owner: Owner
    scopes: frozenset[Scope]
    name: str
    agent: AgentName | None = None

    def require_scope(self, scope: Scope) -> None:
        """Raises `Forbidden`."""
        if scope not in self.scopes:
            raise Forbidden(f"this credential does not have the scope {scope.value!r}")


ANONYMOUS = Principal(Owner(TenantId("default")), ALL_SCOPES, "anybody")
"""On one's own machine nobody needs a key."""


class AuthSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How callers are known, `REJOIN_…` each."""

    allow_anonymous: bool = False
    """Whether who shows no credential is let in; on loopback only."""
    api_key_pepper: str | None = None
    """What API keys are hashed with. The same for all gateways; who changes it makes all keys invalid."""
    jwt_key: str | None = None
    """What tokens are signed with: a secret, or a public key in PEM."""
    jwt_jwks_url: str | None = None
    """Where their issuer publishes the keys."""
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    jwt_algorithms: str = "RS256 ES256 EdDSA"
    jwt_tenant_claim: str | None = None
    """None: all tokens are of the default tenant."""
    jwt_scope_claim: str = "scope"
    jwt_scopes: str = "chat approve"
    """Of a token that does not say."""

    @property
    def takes_tokens(self) -> bool:
        """Whether there is something to check one with."""
        return self.jwt_key is not None or self.jwt_jwks_url is not None


class ConfigError(NamedTuple):
    """Settings with which no gateway starts."""

    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.problem}: {self.remedy}"


def config_errors(settings: AuthSettings) -> Iterator[ConfigError]:
    """What is wrong with how callers would be known, by the settings alone."""
    key = settings.jwt_key or ""
    if (
        settings.api_key_pepper is not None
        and len(settings.api_key_pepper.encode()) < api_key.PEPPER_BYTES_MIN
    ):
        yield ConfigError(
            f"REJOIN_API_KEY_PEPPER must have at least {api_key.PEPPER_BYTES_MIN} bytes",
            "make one of random ones, as deploy/secrets.sh does",
        )
    algorithms = settings.jwt_algorithms.split() if settings.takes_tokens else []
    if "none" in (name.lower() for name in algorithms):
        yield ConfigError("REJOIN_JWT_ALGORITHMS cannot hold none", "such tokens are signed by nobody")
    for name in algorithms:
        if name.startswith("HS") and len(key) < SHARED_KEY_CHARS_MIN:
            yield ConfigError(
                f"{name} needs a REJOIN_JWT_KEY of at least {SHARED_KEY_CHARS_MIN} characters",
                "whoever guesses it signs tokens",
            )
        if name.startswith("HS") and "-----BEGIN" in key:
            yield ConfigError(
                f"{name} with a public key would let anybody sign",
                "name the key's own algorithm in REJOIN_JWT_ALGORITHMS",
            )
    if not (settings.allow_anonymous or settings.takes_tokens or settings.api_key_pepper is not None):
        yield ConfigError(
            "nobody could come in", "set REJOIN_API_KEY_PEPPER, REJOIN_JWT_KEY or REJOIN_JWT_JWKS_URL"
        )


class ClaimNames(msgspec.Struct, frozen=True):
    """Where a token says what we need. `tenant` None: all tokens are of the default tenant."""

    tenant: str | None = None
    scope: str = "scope"
    scopes: frozenset[Scope] = frozenset({Scope.CHAT, Scope.APPROVE})
    """Of a token that does not say."""


class _CachedKey(msgspec.Struct, frozen=True):
    row: ApiKeyRow
    until: datetime


class Authenticator:
    """Turns the `Authorization` header into a principal."""

    def __init__(
        self,
        *,
        rows: PostgresApiKeys,
        pepper: bytes | None,
        tokens: "JwtVerifier | None",
        claims: ClaimNames,
        allow_anonymous: bool,
        now: Callable[[], datetime],
    ) -> None:
        self._rows = rows
        self._pepper = pepper
        self._tokens = tokens
        self._claims = claims
        self._allow_anonymous = allow_anonymous
        self._now = now
        self._believed: dict[str, _CachedKey] = {}
        self._used: set[str] = set()

    async def authenticate(self, authorization: str | None) -> Principal:
        """Raises `Unauthenticated`, `Unavailable`."""
        # A client library that must send a key may send any where none could be checked.
        unkeyed = self._pepper is None and self._tokens is None
        if self._allow_anonymous and (authorization is None or unkeyed):
            return ANONYMOUS
        if authorization is None:
            raise Unauthenticated("a credential is needed: Authorization: Bearer …")
        kind, _, credential = authorization.partition(" ")
        credential = credential.strip()
        if kind.lower() != "bearer" or not credential:
            raise Unauthenticated("the Authorization header must be Bearer and a credential")
        key = api_key.parse_key(credential)
        if key is not None:
            return await self._of_key(key)
        if self._tokens is not None and credential.count(".") == 2:  # noqa: PLR2004 - header, claims, signature
            return self._of_claims(await self._tokens.claims(credential))
        raise Unauthenticated("the credential is not known")

    async def _of_key(self, key: ApiKey) -> Principal:
        row = await self._row(key.id)
        # One answer for every reason: who guesses learns nothing.
        if row is None or self._pepper is None or not api_key.matches_hash(self._pepper, key, row.hash):
            raise Unauthenticated("the credential is not known")
        if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= self._now()):
            raise Unauthenticated("the credential is not valid any more")
        self._used.add(row.id)
        scopes = frozenset(scope for scope in Scope if scope.value in row.scopes)
        return Principal(Owner(row.tenant, row.user), scopes, f"key {row.id}", row.agent)

    async def _row(self, id: str) -> ApiKeyRow | None:
        known = self._believed.get(id)
        if known is not None and known.until > self._now():
            return known.row
        row = await self._rows.find(id)
        self._believed.pop(id, None)
        if row is not None:
            if len(self._believed) >= API_KEY_CACHE_MAX:
                self._believed.pop(next(iter(self._believed)))
            self._believed[id] = _CachedKey(row, self._now() + timedelta(seconds=API_KEY_CACHE_TTL_S))
        return row

    def _of_claims(self, claims: dict[str, object]) -> Principal:
        user = _name(claims["sub"])
        if user is None:
            raise Unauthenticated(f"the token's `sub` must be 1 to {USER_CHARS_MAX} printable characters")
        tenant = _name("default" if self._claims.tenant is None else claims.get(self._claims.tenant))
        if tenant is None:
            raise Unauthenticated(f"the token does not say its tenant ({self._claims.tenant})")
        owner = Owner(TenantId(tenant), UserId(user))
        return Principal(owner, self._scopes(claims), f"user {tenant!r} {user!r}")

    def _scopes(self, claims: dict[str, object]) -> frozenset[Scope]:
        said = claims.get(self._claims.scope)
        if said is None:
            return self._claims.scopes
        words = said.split() if isinstance(said, str) else said if isinstance(said, list) else []
        return frozenset(scope for scope in Scope if scope.value in words)

    async def record_key_usage(self) -> None:
        """Write down which keys were used since the last time. Call it now and then. Raises `Unavailable`."""
        used, self._used = self._used, set()
        if used:
            await self._rows.used(sorted(used))


def _name(claim: object) -> str | None:
    """A claim that can be stored and logged as somebody's name; None if it cannot."""
    known = isinstance(claim, str) and 0 < len(claim) <= USER_CHARS_MAX and claim.isprintable()
    return claim if known and isinstance(claim, str) else None


@asynccontextmanager
async def open_authenticator(settings: AuthSettings, rows: PostgresApiKeys) -> AsyncIterator[Authenticator]:
    """The gate that the settings describe. Raises `Invalid` for settings that are refused."""
    for refusal in config_errors(settings):
        raise Invalid(str(refusal))
    async with aiohttp.ClientSession() as session:
        yield Authenticator(
            rows=rows,
            pepper=None if settings.api_key_pepper is None else settings.api_key_pepper.encode(),
            tokens=_tokens(settings, session) if settings.takes_tokens else None,
            claims=ClaimNames(
                settings.jwt_tenant_claim,
                settings.jwt_scope_claim,
                frozenset(scope for scope in Scope if scope.value in settings.jwt_scopes.split()),
            ),
            allow_anonymous=settings.allow_anonymous,
            now=lambda: datetime.now(UTC),
        )


def _tokens(settings: AuthSettings, session: aiohttp.ClientSession) -> "JwtVerifier":
    from rejoin_gateway.auth.jwt import JwksCache, JwtVerifier, TokenRules, jwks_fetcher

    published = None
    if settings.jwt_jwks_url is not None:
        published = JwksCache(jwks_fetcher(session, settings.jwt_jwks_url), time.monotonic)
        if settings.jwt_audience is None:
            log.warning("tokens_of_any_audience", hint="set REJOIN_JWT_AUDIENCE")
    checks = TokenRules(settings.jwt_algorithms.split(), settings.jwt_issuer, settings.jwt_audience)
    return JwtVerifier(checks, settings.jwt_key, published)
