"""Authenticates requests: the `Authorization: Bearer` header, an API key or a JSON web token, becomes a
`Principal`.

What a principal may see is decided by the store, by owner. Which scope a route needs stands beside the route.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import msgspec
import structlog
from cachetools import TTLCache

from rejoin_adapters.limit_settings import LimitSettings
from rejoin_adapters.ports.api_keys import ApiKeys
from rejoin_adapters.store_types import ApiKeyRow, Owner
from rejoin_gateway.auth import api_key
from rejoin_gateway.auth.api_key import ApiKey
from rejoin_gateway.auth.scope import Scope
from rejoin_protocol.errors import Forbidden, Invalid, Unauthenticated
from rejoin_protocol.ids import AgentName, TenantId, UserId, has_controls

if TYPE_CHECKING:
    from rejoin_gateway.auth.jwt import JwtVerifier

log = structlog.get_logger("rejoin.auth")

API_KEY_CACHE_TTL_S = 5.0
"""A revoked key may work for up to this long."""
API_KEY_CACHE_MAX = 10_000
UNKNOWN_KEY_TTL_S = 2.0
"""An id that no key has is not looked up again for this long: a client that repeats a wrong key costs no
query each time. A key that is created meanwhile works after this time.
"""
ALL_SCOPES = frozenset(Scope)
USER_CHARS_MAX = 256
SHARED_KEY_CHARS_MIN = 32
"""256 bits, the minimum for HS256 (RFC 7518, section 3.2)."""


class Principal(msgspec.Struct, frozen=True):
    """An authenticated caller. `name`: what logs, the audit log and rate limits call it. `agent`: the only
    agent it may use; None: all. `expires_at`: the end of its credential; None: it has none.
    """

    owner: Owner
    scopes: frozenset[Scope]
    name: str
    agent: AgentName | None = None
    expires_at: datetime | None = None

    def require_scope(self, scope: Scope) -> None:
        """Raises `Forbidden` if the credential lacks the scope."""
        if scope not in self.scopes:
            raise Forbidden(f"this credential does not have the scope {scope.value!r}")


ANONYMOUS = Principal(Owner(TenantId("default")), ALL_SCOPES, "anybody")
"""The caller of a gateway with `allow_anonymous`, which listens on loopback only."""


class AuthSettings(LimitSettings, frozen=True, kw_only=True):
    """How a gateway authenticates requests, and what their senders may have: settings `REJOIN_…`."""

    allow_anonymous: bool = False
    """Whether requests without a credential are accepted; on loopback only."""
    api_key_pepper: str | None = None
    """Secret that API keys are hashed with, the same for all gateways. Changing it invalidates all keys."""
    jwt_key: str | None = None
    """Key that verifies tokens: a shared secret, or a public key in PEM."""
    jwt_jwks_url: str | None = None
    """URL of the issuer's public keys (JWKS)."""
    jwt_issuer: str | None = None
    """Required issuer (`iss`) of a token; unset, any."""
    jwt_audience: str | None = None
    """Required audience (`aud`) of a token; unset, any."""
    jwt_algorithms: str = "RS256 ES256 EdDSA"
    """Accepted signature algorithms, separated by spaces."""
    jwt_tenant_claim: str | None = None
    """Claim that names the tenant; unset, all tokens belong to the default tenant."""
    jwt_scope_claim: str = "scope"
    """Claim that lists the scopes."""
    jwt_scopes: str = "chat approve"
    """Scopes of a token without that claim."""

    @property
    def accepts_tokens(self) -> bool:
        """Whether a key to verify tokens is set."""
        return self.jwt_key is not None or self.jwt_jwks_url is not None


class ConfigError(NamedTuple):
    """A setting with which no gateway starts, and what to do about it."""

    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.problem}: {self.remedy}"


def config_errors(settings: AuthSettings) -> Iterator[ConfigError]:
    """What is wrong with the settings; nothing is connected or read."""
    key = settings.jwt_key or ""
    if (
        settings.api_key_pepper is not None
        and len(settings.api_key_pepper.encode()) < api_key.PEPPER_BYTES_MIN
    ):
        yield ConfigError(
            f"REJOIN_API_KEY_PEPPER must have at least {api_key.PEPPER_BYTES_MIN} bytes",
            "generate a random one, as deploy/secrets.sh does",
        )
    algorithms = settings.jwt_algorithms.split() if settings.accepts_tokens else []
    if "none" in (name.lower() for name in algorithms):
        yield ConfigError("REJOIN_JWT_ALGORITHMS must not contain none", "such tokens have no signature")
    for name in algorithms:
        if name.startswith("HS") and len(key) < SHARED_KEY_CHARS_MIN:
            yield ConfigError(
                f"{name} needs a REJOIN_JWT_KEY of at least {SHARED_KEY_CHARS_MIN} characters",
                "an attacker who guesses a shorter key can sign tokens",
            )
        if name.startswith("HS") and "-----BEGIN" in key:
            yield ConfigError(
                f"{name} with a public key would let everyone sign tokens",
                "set REJOIN_JWT_ALGORITHMS to the key's own algorithm",
            )
    if not (settings.allow_anonymous or settings.accepts_tokens or settings.api_key_pepper is not None):
        yield ConfigError(
            "no request could be authenticated",
            "set REJOIN_API_KEY_PEPPER, REJOIN_JWT_KEY or REJOIN_JWT_JWKS_URL",
        )


class ClaimRules(msgspec.Struct, frozen=True):
    """Which claims of a token are read, and what holds for a token without them."""

    tenant_claim: str | None = None
    """None: all tokens belong to the default tenant."""
    scope_claim: str = "scope"
    default_scopes: frozenset[Scope] = frozenset({Scope.CHAT, Scope.APPROVE})
    """Scopes of a token without the scope claim."""


class Authenticator:
    """Turns `Authorization` headers into principals."""

    def __init__(
        self,
        *,
        api_keys: ApiKeys,
        pepper: bytes | None,
        token_verifier: "JwtVerifier | None",
        claims: ClaimRules,
        allow_anonymous: bool,
        now: Callable[[], datetime],
    ) -> None:
        self._api_keys = api_keys
        self._pepper = pepper
        self._token_verifier = token_verifier
        self._claims = claims
        self._allow_anonymous = allow_anonymous
        self._now = now
        self._cached_rows: TTLCache[str, ApiKeyRow] = TTLCache(
            API_KEY_CACHE_MAX, API_KEY_CACHE_TTL_S, timer=lambda: now().timestamp()
        )
        self._unknown_ids: TTLCache[str, bool] = TTLCache(
            API_KEY_CACHE_MAX, UNKNOWN_KEY_TTL_S, timer=lambda: now().timestamp()
        )
        self._used_keys: set[str] = set()

    async def authenticate(self, authorization: str | None) -> Principal:
        """The principal of an `Authorization` header. Raises `Unauthenticated`, and `Unavailable`."""
        # Some client libraries always send a key. Where no credential can be checked, it is ignored.
        checks_nothing = self._pepper is None and self._token_verifier is None
        if self._allow_anonymous and (authorization is None or checks_nothing):
            return ANONYMOUS
        if authorization is None:
            raise Unauthenticated("send a credential in the header Authorization: Bearer …")
        kind, _, credential = authorization.partition(" ")
        credential = credential.strip()
        if kind.lower() != "bearer" or not credential:
            raise Unauthenticated("the Authorization header must be `Bearer`, a space and a credential")
        key = api_key.parse_key(credential)
        if key is not None:
            return await self._authenticate_key(key)
        is_token = credential.count(".") == 2  # noqa: PLR2004 - header, claims, signature
        if self._token_verifier is not None and is_token:
            return self.principal_of(await self._token_verifier.verify(credential))
        raise Unauthenticated("the credential is unknown")

    async def _authenticate_key(self, key: ApiKey) -> Principal:
        row = await self._find_row(key.id)
        # The same error for an unknown id and a wrong secret: an attacker learns no ids.
        if row is None or self._pepper is None or not api_key.matches_hash(self._pepper, key, row.hash):
            raise Unauthenticated("the credential is unknown")
        if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= self._now()):
            raise Unauthenticated("the credential has expired or was revoked")
        self._used_keys.add(row.id)
        scopes = frozenset(scope for scope in Scope if scope.value in row.scopes)
        return Principal(Owner(row.tenant, row.user), scopes, f"key {row.id}", row.agent, row.expires_at)

    async def _find_row(self, id: str) -> ApiKeyRow | None:
        """Unknown ids have a cache of their own: guesses remove no known key."""
        cached: ApiKeyRow | None = self._cached_rows.get(id)
        if cached is not None or id in self._unknown_ids:
            return cached
        row = await self._api_keys.find(id)
        if row is not None:
            self._cached_rows[id] = row
        else:
            self._unknown_ids[id] = True
        return row

    def principal_of(self, claims: Mapping[str, object]) -> Principal:
        """The principal of a verified token. Raises `Unauthenticated` for names that cannot be stored or
        logged.
        """
        user = _valid_name(claims["sub"])
        if user is None:
            raise Unauthenticated(f"the token's `sub` has 1 to {USER_CHARS_MAX} characters, no controls")
        claim = self._claims.tenant_claim
        tenant = _valid_name("default" if claim is None else claims.get(claim))
        if tenant is None:
            raise Unauthenticated(f"the token lacks a valid tenant in its claim `{claim}`")
        owner = Owner(TenantId(tenant), UserId(user))
        name, end = f"user {tenant!r} {user!r}", _time_of(claims.get("exp"))
        return Principal(owner, self._scopes_of(claims), name, expires_at=end)

    def _scopes_of(self, claims: Mapping[str, object]) -> frozenset[Scope]:
        claim = claims.get(self._claims.scope_claim)
        if claim is None:
            return self._claims.default_scopes
        names = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
        return frozenset(scope for scope in Scope if scope.value in names)

    async def record_key_usage(self) -> None:
        """Store which keys were used since the last call. Call it periodically. Raises `Unavailable`."""
        used, self._used_keys = self._used_keys, set()
        if used:
            await self._api_keys.record_use(sorted(used))


def _time_of(claim: object) -> datetime | None:
    """A claim in seconds since 1970 as a time; None if there is no such time."""
    try:
        return datetime.fromtimestamp(claim, UTC) if isinstance(claim, int | float) else None
    except (OverflowError, ValueError, OSError):
        return None


def _valid_name(claim: object) -> str | None:
    """The claim, if it can be stored and logged as a name; else None."""
    if isinstance(claim, str) and 0 < len(claim) <= USER_CHARS_MAX and not has_controls(claim):
        return claim
    return None


@asynccontextmanager
async def open_authenticator(
    settings: AuthSettings,
    api_keys: ApiKeys,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    clock_s: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Authenticator]:
    """The authenticator that the settings describe. Raises `Invalid` for the first of `config_errors`.

    `now` decides when keys expire and how long they are cached, `clock_s` how old the issuer's keys are.
    """
    for error in config_errors(settings):
        raise Invalid(str(error))
    async with aiohttp.ClientSession() as session:
        yield Authenticator(
            api_keys=api_keys,
            pepper=None if settings.api_key_pepper is None else settings.api_key_pepper.encode(),
            token_verifier=_build_verifier(settings, session, clock_s) if settings.accepts_tokens else None,
            claims=ClaimRules(
                settings.jwt_tenant_claim,
                settings.jwt_scope_claim,
                frozenset(scope for scope in Scope if scope.value in settings.jwt_scopes.split()),
            ),
            allow_anonymous=settings.allow_anonymous,
            now=now,
        )


def _build_verifier(
    settings: AuthSettings, session: aiohttp.ClientSession, clock_s: Callable[[], float]
) -> "JwtVerifier":
    from rejoin_gateway.auth.jwt import JwksCache, JwtVerifier, TokenRules, jwks_fetcher

    jwks = None
    if settings.jwt_jwks_url is not None:
        jwks = JwksCache(jwks_fetcher(session, settings.jwt_jwks_url), clock_s)
    # A token that the same key signed for another application would be good here, too.
    if settings.jwt_audience is None:
        log.warning("jwt_audience_not_checked", hint="set REJOIN_JWT_AUDIENCE")
    if settings.jwt_issuer is None:
        log.warning("jwt_issuer_not_checked", hint="set REJOIN_JWT_ISSUER")
    rules = TokenRules(settings.jwt_algorithms.split(), settings.jwt_issuer, settings.jwt_audience)
    return JwtVerifier(rules, settings.jwt_key, jwks)
