"""`POST /api/chat`, which three families share. The fields of the body say whose request it is.

`parts` belongs to the parts API; `messages` with `id` or `trigger` to the AI SDK; any other `messages` to the
graph API, which takes what the run API takes. A body with both `parts` and `messages` is refused. This module
stands above the families: it is the only one that imports several.
"""

from collections.abc import Set as AbstractSet
from typing import assert_never

import msgspec
from aiohttp import web

from rejoin_gateway.api import aisdk
from rejoin_gateway.api.aisdk import UIChatRequest
from rejoin_gateway.api.parts import parts_chat
from rejoin_gateway.api.parts.parts_chat import PartsRequest
from rejoin_gateway.api.run import run_chat
from rejoin_gateway.api.run.run_chat import ChatRequest, CompletedAnswer, DecisionAck
from rejoin_gateway.api.shared.answers import Acknowledgement, Answer, respond
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http import request_body
from rejoin_gateway.http.request import decode_body_by_fields
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

FIELDS_OF_OTHER_FAMILIES = frozenset({"messages", "id", "trigger", "conversationId"})
"""A body without `parts` and without any of these is one of the parts API, which lacks its parts."""

type ChatBody = UIChatRequest | ChatRequest | PartsRequest


async def send_chat(request: web.Request) -> web.StreamResponse:
    """Send a message, regenerate an answer or decide approvals; stream what follows."""
    return await respond(request, await _answer_chat(request))


async def _answer_chat(request: web.Request) -> Answer:
    body = await _decode_chat(request)
    match body:
        case UIChatRequest():
            return await aisdk.answer_chat(request, body)
        case ChatRequest():
            return await run_chat.answer_chat(request, body)
        case PartsRequest():
            return await parts_chat.answer_chat(request, body)
        case _:
            assert_never(body)


async def _decode_chat(request: web.Request) -> ChatBody:
    """The body as its family's type. Sets the error format and the operations of that family. Raises as
    `decode_body`.
    """

    def choose(fields: AbstractSet[str]) -> type[ChatBody]:
        if "parts" in fields and "messages" in fields:
            request[ERROR_FORMAT] = ErrorFormat.PROBLEM
            raise Invalid("a request has `parts` or `messages`, not both")
        if "parts" in fields or not fields & FIELDS_OF_OTHER_FAMILIES:
            request[ERROR_FORMAT] = ErrorFormat.PLAIN
            if "parts" not in fields:
                raise Invalid(parts_chat.NO_PARTS, "/parts")
            return PartsRequest
        request[ERROR_FORMAT] = ErrorFormat.PROBLEM
        if "messages" in fields and not fields & {"id", "trigger"}:
            request[OPERATION_SET] = OperationSet.PROGRESS
            return ChatRequest
        return UIChatRequest

    try:
        return await decode_body_by_fields(request, choose)
    except Invalid as fault:
        if ERROR_FORMAT not in request:  # it is no JSON object: it has no fields
            request[ERROR_FORMAT] = guess_error_format(await request_body.peek(request))
            is_json_error = isinstance(fault.__cause__, msgspec.DecodeError | UnicodeDecodeError)
            if is_json_error and request[ERROR_FORMAT] is ErrorFormat.PLAIN:
                raise Invalid(parts_chat.NO_PARTS, "/parts") from fault
        if request[ERROR_FORMAT] is ErrorFormat.PLAIN:
            raise parts_chat.explain(fault) from fault
        raise


def guess_error_format(body: bytes) -> ErrorFormat:
    """The error format for a body that cannot be decoded, or of which only the beginning is known.

    The parts API promises an error text for a body that is nothing of the sort, so a body is its own unless
    it has a field of another family. (Within a text of JSON, the quotes around such a word are escaped.)
    """
    if b'"parts"' in body and b'"messages"' not in body:
        return ErrorFormat.PLAIN
    is_other = any(f'"{field}"'.encode() in body for field in FIELDS_OF_OTHER_FAMILIES)
    return ErrorFormat.PROBLEM if is_other else ErrorFormat.PLAIN


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
            "format it returns the whole answer as JSON.",
            body=[UIChatRequest, ChatRequest, PartsRequest],
            responses={200: (bytes, DecisionAck, CompletedAnswer, Acknowledgement)},
            headers={**AGENT_HEADER, **IDEMPOTENCY_HEADER},
            takes_context=True,
            tag="chat",
            error_formats=(ErrorFormat.PLAIN,),
            example={
                "id": "trip-1",
                "trigger": "submit-message",
                "messages": [{"id": "m-1", "role": "user", "parts": [{"type": "text", "text": "hello"}]}],
            },
        ),
        error_format_of_body=guess_error_format,
    ),
)
