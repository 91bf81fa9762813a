"""What every response says to browsers: which pages may read it, and that it is nothing but what it says.

Added where a response is prepared, so that streams and refusals carry it too.
"""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web
from yarl import URL

EXPOSED_HEADERS = (
    "x-workflow-run-id, x-workflow-stream-tail-index, x-thread-id, x-conversation-id, x-request-id, "
    "retry-after, mcp-session-id"
)
ALLOWED_HEADERS = (
    "authorization, content-type, last-event-id, x-agent-id, x-emit-operations, x-stream-start-index, "
    "idempotency-key, x-request-id, mcp-session-id, mcp-protocol-version"
)
METHODS = "GET, POST, PATCH, DELETE"
PREFLIGHT_MAX_AGE_S = 3600

type Prepare = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


class Cors(msgspec.Struct, frozen=True):
    """`origins` whose pages may call, `*` for all. No cookie is ever used, so none is allowed."""

    origins: frozenset[str] = frozenset()

    def allows(self, origin: str | None) -> bool:
        """Whether a page of this origin may call."""
        return origin is not None and (origin in self.origins or "*" in self.origins)


def security_headers(cors: Cors) -> Prepare:
    """A hook for `on_response_prepare`."""

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers.setdefault("X-Content-Type-Options", "nosniff")
        headers.setdefault("Referrer-Policy", "no-referrer")
        if cors.origins:
            headers.add("Vary", "Origin")
        origin = request.headers.get("Origin")
        if origin is not None and cors.allows(origin):
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS

    return prepare


def preflight_response(request: web.Request, cors: Cors) -> web.Response | None:
    """The answer to a browser's question before the request; None if this is not one, or not of a friend."""
    asked = request.headers.get("Access-Control-Request-Method")
    if request.method != "OPTIONS" or asked is None or not cors.allows(request.headers.get("Origin")):
        return None
    wanted = request.headers.get("Access-Control-Request-Headers")
    headers = {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": wanted or ALLOWED_HEADERS,
        "Access-Control-Max-Age": str(PREFLIGHT_MAX_AGE_S),
    }
    return web.Response(status=204, headers=headers)


def is_from_trusted_page(request: web.Request, cors: Cors) -> bool:
    """Whether a page, if it is one that asks, may: one that we know, or one of this machine at this machine.
    A name that leads here today is nobody's proof.
    """
    origin = request.headers.get("Origin")
    if origin is None or cors.allows(origin):
        return True
    return _is_local(origin) and is_to_loopback(request)


def is_to_loopback(request: web.Request) -> bool:
    """Whether it was this machine that the caller wanted, by a name that cannot lead elsewhere."""
    return _is_local(f"http://{request.host}")


def _is_local(url: str) -> bool:
    try:
        return URL(url).host in {"localhost", "127.0.0.1", "::1"}
    except ValueError:
        return False
