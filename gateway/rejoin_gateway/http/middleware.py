"""The middleware of all routes: request id, log line, metrics, authentication, rate limits, error responses.

Nothing of a request is executed before the caller is authenticated, has the route's scope and is within the
rate limits.
"""

import asyncio
import math
import secrets
import time

import structlog
from aiohttp import web

from rejoin_adapters.actor import Actor, act_as
from rejoin_adapters.store_types import Owner
from rejoin_gateway.auth import api_key
from rejoin_gateway.auth.authenticator import ANONYMOUS, Principal
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http import errors, instrumentation, request_body
from rejoin_gateway.http.cors import is_from_trusted_page, is_to_loopback, preflight_response
from rejoin_gateway.http.gateway_service import (
    PRINCIPAL,
    SERVICE,
    GatewayService,
    refuse_if_overloaded,
    refuse_if_stopping,
)
from rejoin_gateway.http.routes import ERROR_FORMAT, ErrorFormat, Handler, Route, error_format_of, route_of
from rejoin_gateway.listener.connections import connection_of
from rejoin_protocol.errors import Forbidden, Limited, Unauthenticated, Unavailable

log = structlog.get_logger("rejoin.http")

REQUEST_ID_CHARS_MAX = 128
PATH_CHARS_MAX = 256
"""A longer path is cut in the log."""
QUIET_PATHS = (*instrumentation.UNTRACED_PATHS, "/page/")
"""Logged at debug: probes, and the files of the gateway's own pages."""


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, answer it, log one line, and turn errors into responses."""
    id = _request_id(request)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request=id, peer=request.remote)
    connection = connection_of(request)
    if connection is not None:
        connection.begin(request)
    response, metrics = None, request.app[SERVICE].backend.metrics
    with instrumentation.request_span(request) as span:
        try:
            response = await _respond_or_refuse(request, handler, id)
        finally:
            request_body.release_body(request)
            rest_follows = not request.content.is_eof()
            if connection is not None:
                connection.end(rest_follows=rest_follows)
            instrumentation.record_end(request, response, span, metrics)
        if not response.prepared:
            response.headers["x-request-id"] = id
            if rest_follows and connection is not None:
                response.force_close()
        level = log.debug if request.path.startswith(QUIET_PATHS) else log.info
        level(
            "request",
            method=request.method,
            path=request.path[:PATH_CHARS_MAX],
            status=response.status,
            took_ms=round((time.monotonic() - request[instrumentation.STARTED_S]) * 1000, 1),
        )
        return response


def _request_id(request: web.Request) -> str:
    """The client's own id, if it can be sent back in a header."""
    given = request.headers.get("x-request-id", "")[:REQUEST_ID_CHARS_MAX]
    return given if given.isascii() and given.isprintable() and given else f"req_{secrets.token_hex(8)}"


async def _respond_or_refuse(request: web.Request, handler: Handler, id: str) -> web.StreamResponse:
    try:
        refuse_if_stopping(request)
        refuse_if_overloaded(request)
        preflight = preflight_response(request, request.app[SERVICE].cors)
        if preflight is not None:
            return preflight
        await _authenticate(request)
        return await handler(request)
    except errors.MAPPED_ERRORS as fault:
        if isinstance(fault, Unavailable):
            log.warning("service_unavailable", error=str(fault))
        return errors.error_response(fault, await _error_format(request))
    except web.HTTPException as fault:
        path = request.path[:PATH_CHARS_MAX]
        return errors.http_error_response(fault, await _error_format(request), path)
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception:
        log.exception("unhandled_exception", path=request.path[:PATH_CHARS_MAX])
        return errors.internal_error_response(id, await _error_format(request))


async def _error_format(request: web.Request) -> ErrorFormat:
    """The format of an error response. On a route that several families share, the body says whose request it
    is, if it is short.
    """
    route = route_of(request)
    if ERROR_FORMAT not in request and route is not None and route.error_format_of_fields is not None:
        fields = await request_body.peek_fields(request)
        if fields is not None:
            return route.error_format_of_fields(fields)
    return error_format_of(request)


async def identify(request: web.Request) -> Principal:
    """The caller, whatever its scopes. Raises `Unauthenticated` and `Forbidden`."""
    service = request.app[SERVICE]
    principal = await _check_credential(request)
    # Without this a page of any web site could call a developer's gateway from the developer's browser.
    if principal is ANONYMOUS and not (
        is_to_loopback(request) and is_from_trusted_page(request, service.cors)
    ):
        raise Forbidden("without a credential only this machine's own pages may call")
    return principal


async def _check_credential(request: web.Request) -> Principal:
    service, credentials = request.app[SERVICE], request.headers.getall("Authorization", [None])
    if len(credentials) > 1:  # a proxy and this gateway could take different ones
        raise Unauthenticated("send one Authorization header, not several")
    [authorization] = credentials
    key = api_key.parse_key((authorization or "").rpartition(" ")[2])
    if key is None:
        return await service.authenticator.authenticate(authorization)
    peer, now_s, logins = request.remote or "", time.monotonic(), service.failed_logins
    logins.check(peer, key.id, now_s)
    try:
        principal = await service.authenticator.authenticate(authorization)
    except Unauthenticated:
        logins.record(peer, key.id, now_s, succeeded=False)
        raise
    logins.record(peer, key.id, now_s, succeeded=True)
    return principal


async def _authenticate(request: web.Request) -> None:
    """Set `request[PRINCIPAL]`. Routes without a scope are public and get none.

    Raises `Unauthenticated`, `Forbidden` and `Limited`.
    """
    route, service = route_of(request), request.app[SERVICE]
    if route is None or route.scope is None:
        return
    principal = _signed_principal(request, route) or await identify(request)
    structlog.contextvars.bind_contextvars(tenant=principal.owner.tenant, principal=principal.name)
    act_as(Actor(principal.name, request.remote))
    principal.require_scope(route.scope)
    await _enforce_rates(service, principal)
    if route.streams:  # before it does anything: what is refused leaves nothing behind
        service.open_streams.check(principal.owner)
    request[PRINCIPAL] = principal


def _signed_principal(request: web.Request, route: Route) -> Principal | None:
    """Whom the signature in a file's URL stands for; None if a credential has to. Raises `Unauthenticated`.

    A credential wins over a signature: with one, a URL is good for longer than its signature.
    """
    is_signed = "signature" in request.query and "Authorization" not in request.headers
    if not (route.takes_signed_url and is_signed):
        return None
    id = request.match_info["id"]
    access = request.app[SERVICE].backend.file_access(id, request.query)
    if access is None:
        raise Unauthenticated("this URL of a file has expired, or it is not signed by this gateway")
    return Principal(Owner(access.tenant), frozenset({Scope.CHAT}), f"file {id}")


async def _enforce_rates(service: GatewayService, principal: Principal) -> None:
    """Raises `Limited` if the credential, its user or its tenant sends too many requests."""
    now_s, tenant = time.monotonic(), principal.owner.tenant
    rates = {
        principal.name: service.rate,
        f"user {tenant} {principal.owner.user}": service.user_rate if principal.owner.user else None,
        f"tenant {tenant}": await service.tenant_rates.rate_of(tenant, now_s),
    }
    for name, rate in rates.items():
        wait_s = service.rate_limiter.take(name, rate, now_s) if rate is not None else 0
        if rate is not None and wait_s > 0:
            raise Limited(f"too many requests: at most {rate.count} a minute", math.ceil(wait_s))
