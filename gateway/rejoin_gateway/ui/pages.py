"""The pages: the playground at `/playground`, the inspector at `/inspect`, the lists of the console, and the
files of all pages.

The pages hold no data: they call the APIs with the visitor's own key. Their content security policy allows
only files and requests of this gateway.
"""

import re
from importlib.resources import files
from pathlib import Path

from aiohttp import web

from rejoin_adapters.extras import is_installed
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_gateway.ui.kill_switch import KILL

TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
SWAGGER_FILES = frozenset({"swagger-ui.css", "swagger-ui-bundle.js"})
"""Files of the package `swagger-ui-bundle-v2`, which are Swagger UI's own."""
SWAGGER_PACKAGE = "swagger_ui_bundle"
PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    # Only own files, only own requests, and text never becomes markup. Attachments are shown from memory: as
    # a data URL before they are sent, as a blob after they were fetched with a key.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'",
}
NAVIGATION = {
    "overview.html": ("/overview", "Overview"),
    "runs.html": ("/runs", "Runs"),
    "approvals.html": ("/approvals", "Approvals"),
    "sessions.html": ("/sessions", "Sessions"),
    "index.html": ("/playground", "Playground"),
    "docs.html": ("/docs", "API docs"),
}
"""The pages that every page leads to, in this order: file, path and name."""
_HEAD = """<meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1, interactive-widget=resizes-content">
  <meta name="color-scheme" content="light dark">
  <link rel="icon" href="/page/icon.svg">
  <link rel="stylesheet" href="/page/style.css">
  <script src="/page/theme.js"></script>"""
_BRAND = """<a class="brand" href="/"><img src="/page/icon.svg" alt="" width="24" height="24">\
<strong>Rejoin</strong></a>"""
_COMMENT = re.compile(r"^[ \t]*(?://[^\n]*|/\*\*.*?\*/)$", re.MULTILINE | re.DOTALL)
"""Lines of a script that are a comment: they are for whoever reads the source. Browsers get empty lines
instead, so that the numbers of lines stay.
"""
_HTML = '<html lang="en">'
_HTML_WITH_KILL_SWITCH = '<html lang="en" data-dev>'
"""Tells the page that there is a runner to kill."""


async def playground(request: web.Request) -> web.StreamResponse:
    """A page to chat: send messages, watch the stream, kill a runner."""
    return page_response(request, "index.html")


async def inspector(request: web.Request) -> web.StreamResponse:
    """A page with a run's log as a timeline."""
    return page_response(request, "inspect.html")


async def runs(request: web.Request) -> web.StreamResponse:
    """A page with the tenant's runs."""
    return page_response(request, "runs.html")


async def approvals(request: web.Request) -> web.StreamResponse:
    """A page with all calls that wait for somebody."""
    return page_response(request, "approvals.html")


async def overview(request: web.Request) -> web.StreamResponse:
    """A page with what runs, what fails, and the processes."""
    return page_response(request, "overview.html")


async def sessions(request: web.Request) -> web.StreamResponse:
    """A page with the tenant's sessions."""
    return page_response(request, "sessions.html")


async def home(request: web.Request) -> web.StreamResponse:
    """The page at `/`: in `rejoin dev` the playground, else the overview."""
    return await (playground if KILL in request.app else overview)(request)


async def static_file(request: web.Request) -> web.StreamResponse:
    """A script, style or icon. Raises HTTP 404."""
    name = request.match_info["file"]
    if name in SWAGGER_FILES and is_installed(SWAGGER_PACKAGE):
        import swagger_ui_bundle  # an extra

        return web.FileResponse(Path(str(swagger_ui_bundle.swagger_ui_path)) / name, headers=PAGE_HEADERS)
    names = {file.name for file in (files("rejoin_gateway.ui") / "static").iterdir()}
    if name not in names or name.endswith(".html"):
        raise web.HTTPNotFound
    return page_response(request, name)


def page_response(request: web.Request, name: str) -> web.StreamResponse:
    """One of the own files."""
    text = (files("rejoin_gateway.ui") / "static" / name).read_text(encoding="utf-8")
    if KILL in request.app:
        text = text.replace(_HTML, _HTML_WITH_KILL_SWITCH, 1)
    if name.endswith(".html"):
        for marker, shared in (("head", _HEAD), ("brand", _BRAND), ("pages", _links(name))):
            text = text.replace(f"<!-- {marker} -->", shared, 1)
    if name.endswith(".js"):
        text = _COMMENT.sub(_empty_lines, text)
    return web.Response(text=text, content_type=TYPES[name[name.rindex(".") :]], headers=PAGE_HEADERS)


def _empty_lines(comment: re.Match[str]) -> str:
    return "\n" * comment[0].count("\n")


def _links(shown: str) -> str:
    """The links to all pages, that to the shown one marked as such."""
    links = (
        f'<a href="{path}"{' aria-current="page"' if file == shown else ""}>{name}</a>'
        for file, (path, name) in NAVIGATION.items()
    )
    return f'<nav class="pages" aria-label="Pages">{"".join(links)}</nav>'


_PAGE = {200: "text/html"}
ROUTES = (
    Route(
        "GET",
        "/playground",
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
        "/runs",
        runs,
        None,
        RouteDoc(
            "Open the list of runs",
            description="A page with the runs of a tenant, to filter. It asks `/api/runs` with the visitor's "
            "key.",
            responses=_PAGE,
        ),
    ),
    Route(
        "GET",
        "/overview",
        overview,
        None,
        RouteDoc(
            "Open the overview",
            description="A page with the runs of a tenant by state and time, tokens, errors, takeovers, and "
            "the processes. It asks `/api/overview` with the visitor's key.",
            responses=_PAGE,
        ),
    ),
    Route(
        "GET",
        "/approvals",
        approvals,
        None,
        RouteDoc(
            "Open the inbox of approvals",
            description="A page with the tool calls of all sessions that wait for somebody, to decide them. "
            "It asks `/api/approvals` with the visitor's key.",
            responses=_PAGE,
        ),
    ),
    Route(
        "GET",
        "/sessions",
        sessions,
        None,
        RouteDoc(
            "Open the list of sessions",
            description="A page with the sessions of a tenant, to search, read, rename, fork and delete. It "
            "asks `/api/sessions` with the visitor's key.",
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
