"""The contract at `/openapi.json`, and the same for people at `/docs`, with no network but this gateway."""

import asyncio
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec
from aiohttp import web

from rejoin_gateway.http import openapi as contract
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_gateway.ui.pages import page_response

type Made = Callable[[], bytes]

CONTRACT: web.AppKey[Made] = web.AppKey("contract", object)  # type: ignore[arg-type]
HEADERS = {"Cache-Control": "no-cache"}


def lazy_contract(routes: Sequence[Route]) -> Made:
    """The contract of these routes, made when somebody first wants it: no start has to wait for that."""
    return cache(lambda: msgspec.json.encode(contract.openapi_document(routes, version=version("rejoin"))))


async def get_openapi(request: web.Request) -> web.StreamResponse:
    """OpenAPI 3.1 of everything that this gateway serves."""
    made = await asyncio.to_thread(request.app[CONTRACT])
    return web.Response(body=made, content_type="application/json", headers=HEADERS)


async def docs_page(request: web.Request) -> web.StreamResponse:
    """The same, to be read."""
    return page_response(request, "docs.html")


ROUTES = (
    Route(
        "GET",
        "/openapi.json",
        get_openapi,
        None,
        RouteDoc(
            "Read the API description",
            description="OpenAPI 3.1 of all routes of this gateway, for client generators and tools.",
            responses={200: dict[str, Any]},
        ),
    ),
    Route(
        "GET",
        "/docs",
        docs_page,
        None,
        RouteDoc(
            "Open the API documentation",
            description="This page: all routes with their parameters, and a form to try each of them.",
            responses={200: "text/html"},
        ),
    ),
)
