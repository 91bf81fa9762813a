"""A request on its way through the MCP SDK: what the endpoint hands to the tool.

In a module of its own because the SDK takes seconds to import: the endpoint needs these types, and `tool`
with the SDK is imported by the first request.
"""

import msgspec
from aiohttp import web

from rejoin_gateway.core.session import AgentSession, Session
from rejoin_protocol.ids import RunId

SCOPE_KEY = "rejoin.mcp_call"
"""The key of the `McpCall` in the ASGI scope."""


class McpCall(msgspec.Struct):
    """An HTTP request. `alone`: its protocol version has no sessions. `active_run`: the run that it waits
    for.
    """

    request: web.Request
    session: AgentSession | None
    alone: bool = False
    active_run: tuple[Session, RunId] | None = None


def request_name(id: str | int) -> str:
    """The client's id of a request as text; 1 and "1" are different ids."""
    return msgspec.json.encode(id).decode()
