"""The contract at `/openapi.json`, and the same for people at `/docs`, with no network but this gateway."""

from typing import Any

import msgspec
from aiohttp import web

from gateway.families.pages import shown
from gateway.routing import Route, Says

CONTRACT: web.AppKey[bytes] = web.AppKey("contract", bytes)
HEADERS = {"Cache-Control": "no-cache"}
encode = msgspec.json.Encoder().encode


async def contract(request: web.Request) -> web.StreamResponse:
    """OpenAPI 3.1 of everything that this gateway serves."""
    return web.Response(body=request.app[CONTRACT], content_type="application/json", headers=HEADERS)


async def docs(request: web.Request) -> web.StreamResponse:
    """The same, to be read."""
    return shown(request, "docs.html")


ROUTES = (
    Route("GET", "/openapi.json", contract, None, Says("This contract", None, {200: dict[str, Any]})),
    Route("GET", "/docs", docs, None, Says("This contract, to be read", None, {200: "text/html"})),
)
