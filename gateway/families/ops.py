"""What operators and load balancers ask, and the page at `/`."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from importlib.resources import files

import structlog
from aiohttp import web

from gateway.routing import Route, Says
from gateway.web import SERVICE, json
from protocol.errors import RejoinError

log = structlog.get_logger("rejoin.ops")

type Check = Callable[[], Awaitable[None]]
CHECKS: web.AppKey[dict[str, Check]] = web.AppKey("checks", dict)

PAGE = {
    "index.html": "text/html",
    "chat.js": "text/javascript",
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
}
PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    # Nothing but its own files and its own gateway, and no text ever becomes markup.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
}


async def live(request: web.Request) -> web.StreamResponse:
    """The process answers."""
    del request
    return json({"status": "ok"})


async def ready(request: web.Request) -> web.StreamResponse:
    """Everything that a chat needs answers, and nobody has asked this gateway to stop."""
    found = {name: await _result(check) for name, check in request.app[CHECKS].items()}
    if request.app[SERVICE].stopping.is_set():
        found["gateway"] = "stopping"
    ok = all(result == "ok" for result in found.values())
    status = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
    return json({"status": "ok" if ok else "unavailable", "checks": found}, status)


async def _result(check: Check) -> str:
    try:
        await check()
    except RejoinError as fault:
        return str(fault)
    return "ok"


async def page(request: web.Request) -> web.StreamResponse:
    """A small chat: send, watch it stream, reload in the middle. And the files that belong to it."""
    name = request.match_info.get("file", "index.html")
    if name not in PAGE:
        raise web.HTTPNotFound
    text = (files("gateway") / "page" / name).read_text(encoding="utf-8")
    return web.Response(text=text, content_type=PAGE[name], headers=PAGE_HEADERS)


ROUTES = (
    Route("GET", "/health/live", live, None, Says("Whether the process answers")),
    Route("GET", "/health/ready", ready, None, Says("Whether everything a chat needs answers")),
    Route("GET", "/", page, None, Says("The playground")),
    Route("GET", "/page/{file}", page, None, Says("A file of the playground")),
)
