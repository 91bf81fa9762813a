"""The parts API's login and refresh, for clients that expect a pair of tokens.

A gateway issues no tokens of its own: an API key, or a token of the identity provider, is the credential
until it expires. So both routes check the credential that the client has, and return it as access and as
refresh token. Nobody gets more than what was sent.
"""

from datetime import UTC, datetime

import msgspec
from aiohttp import web

from rejoin_gateway.http import request_body
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_gateway.http.request import decode_json
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import ErrorFormat, Route, RouteDoc
from rejoin_protocol.errors import Invalid, Unauthenticated
from rejoin_protocol.limits import Credential

NO_EXPIRY = datetime(9999, 12, 31, tzinfo=UTC)
"""For a credential without an end: clients want a time."""


class CredentialErrors(msgspec.Struct, frozen=True):
    """The texts of errors, some of which clients compare with theirs."""

    missing: str
    wrong: str


LOGIN_ERRORS = CredentialErrors("Password is required", "invalid_credentials")
REFRESH_ERRORS = CredentialErrors("refresh_token_required", "unauthorized")


class LoginRequest(msgspec.Struct, frozen=True):
    """`password`: an API key, or a token of the identity provider."""

    password: Credential = ""


class RefreshRequest(msgspec.Struct, frozen=True, rename="camel"):
    """`refreshToken`: what a login has returned, or any other valid credential."""

    refresh_token: Credential = ""


class TokenPair(msgspec.Struct, frozen=True, rename="camel"):
    """The credential, twice. `expiresAt`: its end; a far time if it has none."""

    token: str
    refresh_token: str
    expires_at: datetime
    refresh_expires_at: datetime


async def log_in(request: web.Request) -> web.StreamResponse:
    """Check a credential that a person typed as the password."""
    login = await _decode_credentials(request, LoginRequest, LOGIN_ERRORS)
    return json_response(await _pair(request, login.password, LOGIN_ERRORS))


async def refresh(request: web.Request) -> web.StreamResponse:
    """Check a credential that a client kept as the refresh token."""
    body = await _decode_credentials(request, RefreshRequest, REFRESH_ERRORS)
    return json_response(await _pair(request, body.refresh_token, REFRESH_ERRORS))


async def _decode_credentials[T](request: web.Request, kind: type[T], texts: CredentialErrors) -> T:
    try:
        return decode_json(request, await request_body.read_small(request), kind)
    except Invalid as fault:
        raise Invalid(texts.missing) from fault


async def _pair(request: web.Request, credential: str, texts: CredentialErrors) -> TokenPair:
    """The credential as a pair. Raises `Invalid` if it is empty, and `Unauthenticated`."""
    if not credential:
        raise Invalid(texts.missing)
    try:
        principal = await request.app[SERVICE].authenticator.authenticate(f"Bearer {credential}")
    except Unauthenticated as fault:
        raise Unauthenticated(texts.wrong) from fault
    end = principal.expires_at or NO_EXPIRY
    return TokenPair(credential, credential, end, end)


ROUTES = (
    Route(
        "POST",
        "/api/auth/login",
        log_in,
        None,
        RouteDoc(
            "Check a credential and get it as a token pair",
            description="For clients of the parts API with a login form: the password is an API key, or a "
            "token of the identity provider. Returns it as access and refresh token; 401 if it is not valid.",
            body=LoginRequest,
            responses={200: TokenPair},
            error_statuses=(401,),
            tag="parts",
            example={"password": "rjn_…"},
        ),
        ErrorFormat.PLAIN,
    ),
    Route(
        "POST",
        "/api/auth/refresh",
        refresh,
        None,
        RouteDoc(
            "Check a refresh token and get a token pair",
            description="Credentials need no refresh: they are valid until they expire. Clients that "
            "exchange a refresh token after a 401 get the credential that they sent, if it is "
            "valid, and else 401.",
            body=RefreshRequest,
            responses={200: TokenPair},
            error_statuses=(401,),
            tag="parts",
            example={"refreshToken": "rjn_…"},
        ),
        ErrorFormat.PLAIN,
    ),
)
