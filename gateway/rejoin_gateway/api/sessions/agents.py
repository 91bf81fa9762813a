"""`GET /api/agents`: the agents that runners have announced."""

from typing import Any

import msgspec
from aiohttp import web

from rejoin_gateway.api.shared.lookup import directory_of
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core.directory import sort_default_first
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc


class AgentInfo(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An agent. `contextSchema`: JSON Schema of the request context; absent if the agent takes none.
    `suggestions`: messages that a chat page may offer to send.
    """

    name: str
    description: str = ""
    context_schema: dict[str, Any] | None = None
    suggestions: list[str] = []


async def list_agents(request: web.Request) -> web.StreamResponse:
    """The agents that the caller may use, the default agent first, then by name."""
    entries = sort_default_first(await directory_of(request).agents(), request.app[SERVICE].default_agent)
    return json_response(
        [
            AgentInfo(entry.name, entry.description, entry.context_schema, [*entry.suggestions])
            for entry in entries
        ]
    )


ROUTES = (
    Route(
        "GET",
        "/api/agents",
        list_agents,
        Scope.CHAT,
        RouteDoc(
            "List agents",
            description="Use it to offer a choice of agents, and to see which request context an agent "
            "wants. Returns the agents that runners serve and the credential may use, the default agent "
            "first.",
            responses={200: list[AgentInfo]},
            tag="session",
        ),
    ),
)
