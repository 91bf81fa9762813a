"""The playground at `/`, the inspector at `/inspect`: files, and the policy that binds them to this gateway.

Owns no data: what the pages show, they ask of the other families with the visitor's own key.
"""

from importlib.resources import files

from aiohttp import web

from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_gateway.ui.kill_switch import KILL

TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
HEADERS = {
    "Cache-Control": "no-cache",
    # Nothing but its own files and its own gateway, and no text ever becomes markup. Attachments are shown
    # from memory: one that is being sent as a data URL, one that was fetched with a key as a blob.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'",
}
_PLAIN = '<html lang="en">'
_DEV = '<html lang="en" data-dev>'
"""Whether there is a runner to kill."""


async def playground(request: web.Request) -> web.StreamResponse:
    """A chat: send, watch it stream, pull a plug."""
    return page_response(request, "index.html")


async def inspector(request: web.Request) -> web.StreamResponse:
    """A run's log as a timeline."""
    return page_response(request, "inspect.html")


async def static_file(request: web.Request) -> web.StreamResponse:
    """A file of theirs."""
    name = request.match_info["file"]
    known = {one.name for one in (files("rejoin_gateway.ui") / "static").iterdir()}
    if name not in known or name.endswith(".html"):
        raise web.HTTPNotFound
    return page_response(request, name)


def page_response(request: web.Request, name: str) -> web.StreamResponse:
    """One of the files, as a response."""
    text = (files("rejoin_gateway.ui") / "static" / name).read_text(encoding="utf-8")
    if KILL in request.app:
        text = text.replace(_PLAIN, _DEV, 1)
    return web.Response(text=text, content_type=TYPES[name[name.rindex(".") :]], headers=HEADERS)


_PAGE = {200: "text/html"}
ROUTES = (
    Route(
        "GET",
        "/",
        playground,
        None,
        RouteDoc(
            "Open the playground",
            description="A page to chat with the agents of this gateway: streams, approvals, attachments.",
            responses=_PAGE,
        ),
    ),
    Route(
        "GET",
        "/playground",
        playground,
        None,
        RouteDoc("Open the playground", description="The same page as `/`.", responses=_PAGE),
    ),
    Route(
        "GET",
        "/inspect",
        inspector,
        None,
        RouteDoc(
            "Open the inspector",
            description="A page that shows a run's log as a timeline: events, attempts, turns, times.",
            responses=_PAGE,
        ),
    ),
    Route(
        "GET",
        "/page/{file}",
        static_file,
        None,
        RouteDoc(
            "Read a file of the pages",
            description="Scripts, styles and icons of the gateway's own pages.",
            responses={200: ("text/javascript", "text/css", "image/svg+xml")},
        ),
    ),
)
