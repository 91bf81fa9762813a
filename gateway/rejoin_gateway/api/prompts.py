"""Single prompts: what `useCompletion` and `experimental_useObject` of the AI SDK send and read.

Each prompt is a new session, unless the request names one. `POST /api/completion` answers with the run's
events, which `useCompletion` reads by default, or with plain text for a client that accepts nothing else.
`POST /api/object` answers with the text of the JSON as it grows: `useObject` reads nothing else.
"""

from typing import Any

import msgspec
from aiohttp import web

from rejoin_gateway.api.shared.answers import require_replay
from rejoin_gateway.api.shared.run_webhook import with_webhook
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core import message_input
from rejoin_gateway.core.message_input import ClientMessage, SessionBody, new_message_id, new_session_id
from rejoin_gateway.http.gateway_service import PRINCIPAL
from rejoin_gateway.http.request import convert_body, decode_body, key_of, session_of, view_of
from rejoin_gateway.http.response import stream_replay, stream_text
from rejoin_gateway.http.routes import AGENT_HEADER, IDEMPOTENCY_HEADER, PLAIN_TEXT, Route, RouteDoc
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol.errors import Invalid
from rejoin_protocol.limits import RepeatedText


class PromptRequest(SessionBody, frozen=True, rename="camel", kw_only=True):
    """The body of `useCompletion`. Other fields, which applications add, are ignored."""

    prompt: RepeatedText


async def complete_prompt(request: web.Request) -> web.StreamResponse:
    """Send a prompt, and stream its answer: events, or plain text as the client accepts."""
    return await stream_replay(request, await _send(request, await decode_body(request, PromptRequest)))


async def generate_object(request: web.Request) -> web.StreamResponse:
    """Send a prompt, and stream its answer as text."""
    return await stream_text(request, await _send(request, await _read_input(request)))


async def _read_input(request: web.Request) -> PromptRequest:
    """The argument of `submit`: a text, an object with a `prompt`, or any other value, which the model reads
    as JSON.
    """
    match await decode_body(request, object):
        case str(text):
            return PromptRequest(prompt=text)
        case dict(fields) if "prompt" in fields:
            return convert_body(fields, PromptRequest)
        case None:
            raise Invalid("what to make an object of? the body is a text, or an object with a `prompt`")
        case value:
            return PromptRequest(prompt=msgspec.json.encode(value).decode())


async def _send(request: web.Request, body: PromptRequest) -> Replay:
    key = key_of(request)
    if not body.prompt.strip():
        raise Invalid("the prompt is empty", "/prompt")
    session = session_of(request, body.session_id or new_session_id(key, request[PRINCIPAL].owner))
    session = await with_webhook(request, session, body)
    parts: list[dict[str, Any]] = [{"type": "text", "text": body.prompt}]
    with message_input.relocate_errors("", ["/prompt"]):
        message = message_input.build_user_message(ClientMessage(new_message_id(key), "user", parts), "")
        sent = await session.send(
            message, view_of(request), when_busy=body.busy_policy, seen=body.seen, key=key
        )
    return await require_replay(session, sent, view_of(request))


ROUTES = (
    Route(
        "POST",
        "/api/completion",
        complete_prompt,
        Scope.CHAT,
        RouteDoc(
            "Send a prompt and stream its answer",
            description="The endpoint for `useCompletion` of the AI SDK. Returns the run's events; with "
            "`Accept: text/plain` (`streamProtocol: 'text'`) the text alone, as it grows. Each prompt is a "
            "session of its own, unless `id` names one.",
            body=PromptRequest,
            responses={200: bytes},
            headers={**AGENT_HEADER, **IDEMPOTENCY_HEADER},
            takes_context=True,
            tag="chat",
            example={"prompt": "hello"},
        ),
    ),
    Route(
        "POST",
        "/api/object",
        generate_object,
        Scope.CHAT,
        RouteDoc(
            "Send a prompt and stream its typed answer",
            description="The endpoint for `experimental_useObject` of the AI SDK, for agents with an "
            "`output`. Takes what `submit` is called with: a text, an object with a `prompt` (and `id`, the "
            "session), or any other value, which the model reads as JSON. Returns the JSON of the answer as "
            "it grows. A run that fails before its first text is a 500 with the reason as text; one that "
            "fails later, or takes back what it has written, breaks the connection.",
            body={"type": ["string", "object", "array", "number", "boolean"]},
            responses={200: PLAIN_TEXT},
            headers={**AGENT_HEADER, **IDEMPOTENCY_HEADER},
            takes_context=True,
            tag="chat",
            example="hello",
        ),
    ),
)
