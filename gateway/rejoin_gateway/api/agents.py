"""`GET /api/agents`: whom one can talk to, as the runners announce them."""

from typing import Any

import msgspec
from aiohttp import web

from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc, Scope
from rejoin_gateway.http.service import PRINCIPAL, SERVICE


class AgentInfo(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An agent. `contextSchema`: what it wants to know beside the message, as JSON Schema."""

    name: str
    description: str = ""
    context_schema: dict[str, Any] | None = None


async def list_agents(request: web.Request) -> web.StreamResponse:
    """The agents that the caller's credential may talk to, the default one first, then by name."""
    bound, service = request[PRINCIPAL].agent, request.app[SERVICE]
    entries = [one for one in await service.backend.agents.list() if bound in (None, one.name)]
    entries.sort(key=lambda one: (one.name != (bound or service.default_agent), one.name))
    return json_response([AgentInfo(one.name, one.description, one.context_schema) for one in entries])


ROUTES = (
    Route(
        "GET",
        "/api/agents",
        list_agents,
        Scope.CHAT,
        RouteDoc("The agents that runners serve", None, {200: list[AgentInfo]}, tag="session"),
    ),
)
