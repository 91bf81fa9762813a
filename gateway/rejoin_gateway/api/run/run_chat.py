"""The run API's chat: `/run/api/chat` and, for the same bytes, `/run/api/executions`; the graph family's too.

The body holds `messages`; of a session that is known only the new user turn counts, so nobody can forge what
was said, run or decided. Parts in `approval-responded` are decisions and nothing else is.
"""

from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypedDict

from aiohttp import web
from rejoin_adapters.records import Decision
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import session_id

from rejoin_gateway.api.shared import message_forms
from rejoin_gateway.api.shared.lookup import session_at
from rejoin_gateway.api.shared.message_forms import RunMessage
from rejoin_gateway.core import message_input
from rejoin_gateway.core.message_input import MESSAGES_MAX, SessionBody, new_message_id, new_session_id
from rejoin_gateway.core.session import Session
from rejoin_gateway.http import request_body
from rejoin_gateway.http.request import decode_body, key_of, session_of, view_of
from rejoin_gateway.http.response import approve_and_stream, json_response, stream_replay
from rejoin_gateway.http.routes import AGENT_HEADER, IDEMPOTENCY_HEADER, Route, RouteDoc, Scope
from rejoin_gateway.http.service import PRINCIPAL
from rejoin_gateway.streaming.collect import CollectedAnswer, collect_answer
from rejoin_gateway.streaming.replay import Replay

FINISH_REASONS = {"tool-calls": "tool_calls", "content-filter": "content_filter", "length": "length"}


class ChatRequest(SessionBody, frozen=True, rename="camel", kw_only=True):
    """The body. `executionMode` is taken and changes nothing: every run is durable. `headers` and
    `userProperties` are taken and not looked at: what an agent wants to know comes in the request's headers.
    """

    messages: list[RunMessage]
    message_id: str | None = None
    stream: bool = True
    headers: dict[str, Any] | None = None
    execution_mode: Literal["classic", "durable"] | None = None
    user_properties: dict[str, Any] | None = None


class DecidedCall(TypedDict):
    """A decision that was taken."""

    toolCallId: str | None
    approvalId: str
    approved: bool


class DecisionAck(TypedDict):
    """What is said about decisions after which the run still waits, or goes on unwatched."""

    success: bool
    results: list[DecidedCall]


class CompletedAnswer(TypedDict):
    """A whole answer, as OpenAI's chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, int]
    error: NotRequired[dict[str, str]]


async def send_chat(request: web.Request) -> web.StreamResponse:
    """Send a message, or answer questions; stream what follows, or say it whole."""
    chat = await decode_body(request, ChatRequest)
    if not chat.messages or len(chat.messages) > MESSAGES_MAX:
        raise Invalid(f"messages holds 1 to {MESSAGES_MAX} messages", "/messages")
    if message_forms.has_decisions(chat.messages):
        return await _decide(request, chat)
    key = key_of(request)
    session = session_of(request, chat.named or new_session_id(key, request[PRINCIPAL].owner))
    replay = await _send(request, session, chat, key)
    chat.messages.clear()  # files must not be held for as long as an answer takes
    if chat.stream:
        return await stream_replay(request, replay)
    request_body.release_body(request)
    created_s = int(session.backend.now().timestamp())
    return json_response(_completed(replay, await collect_answer(replay), created_s))


async def _send(request: web.Request, session: Session, chat: ChatRequest, key: str | None) -> Replay:
    message, number = message_forms.last_user_message(chat.messages, chat.message_id or new_message_id(key))
    pointer = f"/messages/{number}"
    with message_input.relocate_errors(pointer, message_forms.part_pointers(chat.messages[number], pointer)):
        return await session.send(
            message_input.build_user_message(message, pointer),
            view_of(request),
            pointer=pointer,
            imports=message_input.build_imported_turns(
                message_forms.earlier_messages(chat.messages, number),
                lambda earlier: message_forms.part_pointers(chat.messages[earlier], f"/messages/{earlier}"),
            ),
            when_busy=chat.busy,
            key=key,
        )


async def _decide(request: web.Request, chat: ChatRequest) -> web.StreamResponse:
    """Who asks for no stream gets none: the run goes on, for those who follow it."""
    session = await session_at(request, session_id(chat.named or new_session_id()))
    decisions, told = _decided(chat.messages)
    chat.messages.clear()
    if chat.stream:
        return await approve_and_stream(request, session, decisions, told)
    request[PRINCIPAL].require_scope(Scope.APPROVE)
    await session.approve(decisions, view_of(request))
    return json_response(told)


def _decided(messages: Sequence[RunMessage]) -> tuple[list[Decision], DecisionAck]:
    """The decisions in the last message, and what is said about them."""
    last, number = message_forms.to_client_message(messages[-1], "answered"), len(messages) - 1
    pointer = f"/messages/{number}"
    with message_input.relocate_errors(pointer, message_forms.part_pointers(messages[-1], pointer)):
        decisions = message_input.parse_decisions(last, pointer)
    return decisions, _acknowledged(last.parts, decisions)


def _acknowledged(parts: Sequence[dict[str, Any]], decisions: Sequence[Decision]) -> DecisionAck:
    calls = [part.get("toolCallId") for part in parts if part.get("state") == "approval-responded"]
    results: list[DecidedCall] = [
        {"toolCallId": call, "approvalId": decision.approval, "approved": decision.approved}
        for call, decision in zip(calls, decisions, strict=True)
    ]
    return {"success": True, "results": results}


def _completed(replay: Replay, answer: CollectedAnswer, created_s: int) -> CompletedAnswer:
    usage = answer.usage
    said: CompletedAnswer = {
        "id": replay.run.id,
        "object": "chat.completion",
        "created": created_s,
        "model": replay.run.agent,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.text},
                "finish_reason": FINISH_REASONS.get(answer.finish_reason, "stop"),
            }
        ],
        "usage": {
            "prompt_tokens": usage.input,
            "completion_tokens": usage.output,
            "total_tokens": usage.total,
        },
    }
    if answer.error is not None:
        said["error"] = {"message": answer.error}
    return said


def _says(summary: str) -> RouteDoc:
    return RouteDoc(
        summary,
        ChatRequest,
        {200: (bytes, DecisionAck, CompletedAnswer)},
        headers={**AGENT_HEADER, **IDEMPOTENCY_HEADER},
        tag="run",
        example={"messages": [{"role": "user", "content": "hello"}]},
    )


ROUTES = (
    Route(
        "POST",
        "/run/api/chat",
        send_chat,
        Scope.CHAT,
        _says("Send a message"),
    ),
    Route(
        "POST",
        "/run/api/executions",
        send_chat,
        Scope.CHAT,
        _says("Start an execution; the same bytes as the chat's"),
    ),
)
