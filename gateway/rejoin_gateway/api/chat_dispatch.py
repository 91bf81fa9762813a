"""`POST /api/chat` is where three families meet: whose request it is, its body says.

`parts` is the parts family's; `messages` with `id` or `trigger` is the AI SDK's; any other `messages` is the
graph family's, which takes what the run family takes. A body with both is nobody's.
"""

import msgspec
from aiohttp import web
from rejoin_protocol.errors import Invalid

from rejoin_gateway.api import aisdk
from rejoin_gateway.api.agent_sessions import Acknowledgement
from rejoin_gateway.api.parts import parts_chat
from rejoin_gateway.api.run import run_chat
from rejoin_gateway.http.request import decode_body, read_body
from rejoin_gateway.http.routes import (
    AGENT_HEADER,
    ERROR_FORMAT,
    IDEMPOTENCY_HEADER,
    ErrorFormat,
    Route,
    RouteDoc,
    Scope,
)


async def send_chat(request: web.Request) -> web.StreamResponse:
    """Hand the request to its family."""
    said = await _said(request)
    if "parts" in said and "messages" in said:
        raise Invalid("a request has `parts` or `messages`, not both")
    if "parts" in said:
        request[ERROR_FORMAT] = ErrorFormat.PLAIN
        return await parts_chat.send_message(request)
    if "messages" in said and not said & {"id", "trigger"}:
        return await run_chat.send_chat(request)
    return await aisdk.send_chat(request)


async def _said(request: web.Request) -> set[str]:
    """The names in the body; its values may be files. A body that is broken and speaks of `parts` alone is of
    the parts family, which has promised what it then says.
    """
    try:
        return set(await decode_body(request, dict[str, msgspec.Raw]))
    except Invalid as fault:
        if isinstance(fault.__cause__, msgspec.DecodeError):
            raw = await read_body(request)
            if b'"parts"' in raw and b'"messages"' not in raw:
                request[ERROR_FORMAT] = ErrorFormat.PLAIN
                raise Invalid(parts_chat.NO_PARTS, "/parts") from fault
        raise


ROUTES = (
    Route(
        "POST",
        "/api/chat",
        send_chat,
        Scope.CHAT,
        RouteDoc(
            "Send a message and stream its answer",
            [aisdk.UIChatRequest, run_chat.ChatRequest, parts_chat.PartsRequest],
            {200: (bytes, run_chat.DecisionAck, run_chat.CompletedAnswer, Acknowledgement)},
            headers={**AGENT_HEADER, **IDEMPOTENCY_HEADER},
            tag="chat",
            error_formats=(ErrorFormat.PLAIN,),
            example={
                "id": "trip-1",
                "trigger": "submit-message",
                "messages": [{"id": "m-1", "role": "user", "parts": [{"type": "text", "text": "hello"}]}],
            },
        ),
    ),
)
