"""Cross-origin rules (CORS, Fetch standard) and the security headers of every response.

The headers are added when a response is prepared, so streams and errors carry them too.
"""

import re
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web, web_response
from yarl import URL

EXPOSED_HEADERS = (
    "x-workflow-run-id, x-workflow-stream-tail-index, x-thread-id, x-conversation-id, x-request-id, "
    "retry-after, mcp-session-id, rejoin-ignored"
)
ALLOWED_HEADERS = (
    "authorization, content-type, last-event-id, x-agent-id, x-emit-operations, x-stream-start-index, "
    "idempotency-key, x-request-id, mcp-session-id, mcp-protocol-version"
)
CORS_METHODS = "GET, POST, PATCH, DELETE"
PREFLIGHT_MAX_AGE_S = 3600
SERVER = "rejoin"
"""Without versions: they would tell an attacker which errors to try."""
# Of aiohttp's own answers to malformed requests, too, which pass no hook.
web_response.SERVER_SOFTWARE = SERVER  # type: ignore[attr-defined]  # it has no setting
_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9a-fA-F:.]+\](:[0-9]{1,5})?")

type Prepare = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


class Cors(msgspec.Struct, frozen=True):
    """`origins` whose pages may call; `*` for all. The gateway uses no cookies, so none are allowed."""

    origins: frozenset[str] = frozenset()

    def allows(self, origin: str | None) -> bool:
        """Whether pages of this origin may call."""
        return origin is not None and (origin in self.origins or "*" in self.origins)


def security_headers(cors: Cors) -> Prepare:
    """A hook for `on_response_prepare` that adds the headers."""

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers.setdefault("X-Content-Type-Options", "nosniff")
        headers.setdefault("Referrer-Policy", "no-referrer")
        headers["Server"] = SERVER
        if (response.content_type or "").endswith("json"):  # of one user, and of this moment
            headers.setdefault("Cache-Control", "no-store")
        if cors.origins:
            headers.add("Vary", "Origin")
        origin = request.headers.get("Origin")
        if origin is not None and cors.allows(origin):
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS

    return prepare


def preflight_response(request: web.Request, cors: Cors) -> web.Response | None:
    """The response to a preflight request; None if this is no preflight, or its origin is not allowed."""
    method = request.headers.get("Access-Control-Request-Method")
    if request.method != "OPTIONS" or method is None or not cors.allows(request.headers.get("Origin")):
        return None
    requested = request.headers.get("Access-Control-Request-Headers")
    headers = {
        "Access-Control-Allow-Methods": CORS_METHODS,
        "Access-Control-Allow-Headers": requested or ALLOWED_HEADERS,
        "Access-Control-Max-Age": str(PREFLIGHT_MAX_AGE_S),
    }
    return web.Response(status=204, headers=headers)


def is_from_trusted_page(request: web.Request, cors: Cors) -> bool:
    """Whether the request comes from no page, from an allowed origin, or from a loopback page to loopback.

    The request's host is checked too: with DNS rebinding a foreign name resolves to this machine, and its
    pages would have the same origin.
    """
    origin = request.headers.get("Origin")
    if origin is None or cors.allows(origin):
        return True
    return _is_loopback_url(origin) and is_to_loopback(request)


def address_for_page(request: web.Request) -> str | None:
    """Where the page that sent the request reaches this gateway; None if its origin is the gateway's, or if
    no page sent it.

    It is the `Host` of the request, which a page cannot choose. A page from an https address can only have
    called an https address, although a proxy may have passed the request on as http.
    """
    origin = request.headers.get("Origin")
    if origin is None or not _HOST.fullmatch(request.host) or origin.partition("://")[2] == request.host:
        return None
    is_https = request.secure or (origin.startswith("https://") and not is_to_loopback(request))
    return f"http{'s' * is_https}://{request.host}"


def is_to_loopback(request: web.Request) -> bool:
    """Whether the `Host` header names this machine by a name that cannot resolve to another one."""
    return _is_loopback_url(f"http://{request.host}")


def _is_loopback_url(url: str) -> bool:
    try:
        return URL(url).host in {"localhost", "127.0.0.1", "::1"}
    except ValueError:
        return False
