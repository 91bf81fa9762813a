"""`/openapi.json`, the description of all routes, and `/docs`, which shows it with Swagger UI.

Swagger UI comes from a package that ships its files, so the page needs no network but this gateway. The
package is an extra: without it the page says what to install.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any

import msgspec
from aiohttp import web

from rejoin_adapters.extras import is_installed
from rejoin_gateway.core.context_names import header_name
from rejoin_gateway.core.directory import Directory
from rejoin_gateway.http.context_headers import ContextHeader, with_context_headers
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_gateway.http.middleware import identify
from rejoin_gateway.http.openapi import openapi_document
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_gateway.ui.pages import SWAGGER_PACKAGE, page_response
from rejoin_protocol.errors import RejoinError
from rejoin_protocol.run_request import AgentEntry

DOCS_HEADERS = {"Cache-Control": "no-cache", "Vary": "Authorization"}


class ApiDescription:
    """The OpenAPI document of some routes. The first request builds it: the start does not wait for it."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes

    @cached_property
    def _document(self) -> dict[str, Any]:
        return openapi_document(self._routes, version=version("rejoin"))

    def render(self, agents: Sequence[AgentEntry]) -> bytes:
        """The document as JSON, with the context headers of these agents."""
        headers = context_headers(agents)
        return msgspec.json.encode(with_context_headers(self._document, self._routes, headers))


API_DESCRIPTION: web.AppKey[ApiDescription] = web.AppKey("api_description", ApiDescription)


def context_headers(agents: Sequence[AgentEntry]) -> list[ContextHeader]:
    """The headers in which clients send the request context that these agents want."""
    headers = []
    for agent in agents:
        schema: Mapping[str, Any] = agent.context_schema or {}
        required = schema.get("required", ())
        for field, field_schema in schema.get("properties", {}).items():
            headers.append(ContextHeader(header_name(field), agent.name, field in required, field_schema))
    return headers


async def get_openapi(request: web.Request) -> web.StreamResponse:
    """The document. Callers who may list agents also see the agents' context headers."""
    description = request.app[API_DESCRIPTION]
    body = await asyncio.to_thread(description.render, await _visible_agents(request))
    return web.Response(body=body, content_type="application/json", headers=DOCS_HEADERS)


async def _visible_agents(request: web.Request) -> Sequence[AgentEntry]:
    """The agents that the caller may use; none without a credential, or while the broker is unreachable."""
    try:
        principal = await identify(request)
        return await Directory(request.app[SERVICE].backend, principal.owner, principal.agent).agents()
    except RejoinError:
        return ()


async def docs_page(request: web.Request) -> web.StreamResponse:
    """Swagger UI, or what to install for it."""
    return page_response(request, "docs.html" if is_installed(SWAGGER_PACKAGE) else "no_docs.html")


ROUTES = (
    Route(
        "GET",
        "/openapi.json",
        get_openapi,
        None,
        RouteDoc(
            "Read the API description",
            description="OpenAPI 3.1 of all routes of this gateway, for client generators and tools. With a "
            "credential it includes the context headers of the agents that the credential may use.",
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
