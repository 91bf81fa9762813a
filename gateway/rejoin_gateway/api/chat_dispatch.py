"""`POST /api/chat`, which three families share. The fields of the body say whose request it is.

`parts` belongs to the parts API; `messages` with `id` or `trigger` to the AI SDK; any other `messages` to the
graph API, which takes what the run API takes. A body with both `parts` and `messages` is refused. This module
stands above the families: it is the only one that imports several.
"""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from rejoin_gateway.api import aisdk
from rejoin_gateway.api.aisdk import UIChatRequest
from rejoin_gateway.api.parts import parts_chat
from rejoin_gateway.api.parts.parts_chat import PartsRequest
from rejoin_gateway.api.run import run_chat
from rejoin_gateway.api.run.run_chat import ChatRequest, CompletedAnswer, DecisionAck
from rejoin_gateway.api.shared.answers import Acknowledgement, Answer, SteeringAccepted, respond
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http.request import NotJson, convert_body, decode_body
from rejoin_gateway.http.routes import (
    AGENT_HEADER,
    ERROR_FORMAT,
    IDEMPOTENCY_HEADER,
    OPERATION_SET,
    ErrorFormat,
    Route,
    RouteDoc,
)
from rejoin_protocol.errors import Invalid
from rejoin_protocol.log.record import OperationSet

FIELDS_OF_OTHER_FAMILIES = frozenset({"id", "trigger", "conversationId"})
"""Fields of the AI SDK's and the run API's bodies, besides `messages`."""


async def send_chat(request: web.Request) -> web.StreamResponse:
    """Send a message, regenerate an answer or decide approvals; stream what follows."""
    return await respond(request, await _answer_chat(request))


async def _answer_chat(request: web.Request) -> Answer:
    fields = await _decode_fields(request)
    request[ERROR_FORMAT] = error_format_of_fields(fields)
    if request[ERROR_FORMAT] is ErrorFormat.PLAIN:
        return await parts_chat.answer_chat(request, parts_chat.parse_request(fields))
    if "parts" in fields:
        raise Invalid("a request has `parts` or `messages`, not both")
    if "messages" in fields and not fields.keys() & {"id", "trigger"}:
        request[OPERATION_SET] = OperationSet.PROGRESS
        return await run_chat.answer_chat(request, convert_body(fields, ChatRequest))
    return await aisdk.answer_chat(request, convert_body(fields, UIChatRequest))


async def _decode_fields(request: web.Request) -> dict[str, Any]:
    """The fields of the body; none if it is not a JSON object. Raises as `decode_body`."""
    try:
        body = await decode_body(request, object)
    except NotJson:
        return {}
    return body if isinstance(body, dict) else {}


def error_format_of_fields(fields: Mapping[str, Any]) -> ErrorFormat:
    """The error format of the family whose request has these fields. A body of no other family is one of the
    parts API without its parts: that API promises an error text for it.
    """
    is_parts = "messages" not in fields and (
        "parts" in fields or not fields.keys() & FIELDS_OF_OTHER_FAMILIES
    )
    return ErrorFormat.PLAIN if is_parts else ErrorFormat.PROBLEM


ROUTES = (
    Route(
        "POST",
        "/api/chat",
        send_chat,
        Scope.CHAT,
        RouteDoc(
            "Send a chat message and stream its answer",
            description="The endpoint for `useChat` of the AI SDK, and for two further body formats. The "
            "fields of the body decide: `messages` with `id` or `trigger` is the AI SDK's format, other "
            "`messages` are the graph API's, `parts` is the parts API's. Takes a new user message, decided "
            "approvals in the last assistant message, or (`trigger: regenerate-message`) a request for "
            "another answer. Returns the run's events as a stream. With `stream: false` in the graph API's "
            "format it returns the whole answer as JSON. A body that is not a JSON object is refused "
            "in the words of the parts API.",
            body=[UIChatRequest, ChatRequest, PartsRequest],
            responses={200: (bytes, DecisionAck, CompletedAnswer, Acknowledgement, SteeringAccepted)},
            headers={**AGENT_HEADER, **IDEMPOTENCY_HEADER},
            takes_context=True,
            tag="chat",
            error_formats=(ErrorFormat.PROBLEM, ErrorFormat.PLAIN),
            example={
                "id": "trip-1",
                "trigger": "submit-message",
                "messages": [{"id": "m-1", "role": "user", "parts": [{"type": "text", "text": "hello"}]}],
            },
        ),
        ErrorFormat.PROBLEM_WITH_TEXT,
        error_format_of_fields=error_format_of_fields,
    ),
)
