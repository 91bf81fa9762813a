"""What an MCP endpoint and the SDK's side of it know together: a request on its way through the SDK.

Apart from both, because the SDK takes seconds to import and is imported by the first request that needs it.
"""

import msgspec
from aiohttp import web
from rejoin_protocol.ids import RunId

from rejoin_gateway.core.session import Session

CALLED = "rejoin.called"
"""Where in the ASGI scope a request's `McpCall` is."""


class McpCall(msgspec.Struct):
    """An HTTP request: the session it was made in, or `alone` if there are none in its version of the
    protocol. `unanswered` is what it has begun.
    """

    request: web.Request
    session: Session | None
    alone: bool = False
    unanswered: tuple[Session, RunId] | None = None


def request_name(id: str | int) -> str:
    """What a client calls a request: 1 and "1" are two."""
    return msgspec.json.encode(id).decode()
