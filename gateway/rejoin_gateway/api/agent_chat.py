"""The agent-chat family: `/api/agent/chat` for administrators' own tools, in four ways.

Streamed, started and polled, or said whole. Its conversations are UUIDs. Its streams are its client's: who
leaves stops the run, and so does the route's time limit, both by setting.
"""

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web
from rejoin_adapters.records import Decision
from rejoin_adapters.service.background import run_alongside
from rejoin_protocol.errors import Invalid, NotFound
from rejoin_protocol.events.fold import UIMessage
from rejoin_protocol.ids import RUN_PREFIX, CallId, RunId, SessionId
from rejoin_protocol.lifecycle import BUSY, State

from rejoin_gateway.api.agent_sessions import Acknowledgement
from rejoin_gateway.api.run.executions import STATUS
from rejoin_gateway.api.shared import message_forms
from rejoin_gateway.api.shared.lookup import find_run, session_at
from rejoin_gateway.api.shared.message_forms import RunMessage
from rejoin_gateway.core import message_input
from rejoin_gateway.core.message_input import MessageOptions
from rejoin_gateway.core.session import Session
from rejoin_gateway.http import request_body
from rejoin_gateway.http.disconnect import cancel_on_disconnect, interrupt_run
from rejoin_gateway.http.request import decode_body, key_of, session_of, view_of
from rejoin_gateway.http.response import json_response, stream_replay
from rejoin_gateway.http.routes import AGENT_HEADER, IDEMPOTENCY_HEADER, ErrorFormat, Route, RouteDoc, Scope
from rejoin_gateway.http.service import PRINCIPAL, SERVICE
from rejoin_gateway.streaming.collect import CollectedAnswer, collect_answer
from rejoin_gateway.streaming.replay import Replay

PAGE_CHARS_MAX = 2_000


class ApprovalReply(msgspec.Struct, frozen=True, rename="camel"):
    """What a person says about a call. Its arguments are the server's."""

    tool_call_id: str
    approved: bool


class StreamRequest(MessageOptions, frozen=True, rename="camel", kw_only=True):
    """The body of a streamed message. `currentPage`: where the person is, for the agent to know."""

    messages: list[RunMessage] = msgspec.field(default_factory=list)
    conversation_id: str | None = None
    current_page: str | None = None
    approval_response: ApprovalReply | None = None


class SendRequest(MessageOptions, frozen=True, rename="camel", kw_only=True):
    """The body of a message whose answer is fetched later, or waited for. `history`: for a new session."""

    message: str
    history: list[RunMessage] = msgspec.field(default_factory=list)
    conversation_id: str | None = None
    current_page: str | None = None


class StartResponse(msgspec.Struct, frozen=True, rename="camel"):
    """A run that was accepted."""

    run_id: str
    status: str
    conversation_id: str


class PollResponse(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How it stands."""

    run_id: str
    status: str
    conversation_id: str
    text: str | None = None
    messages: list[UIMessage] = []
    error: str | None = None


class AnswerResponse(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A whole answer."""

    run_id: str
    conversation_id: str
    text: str
    messages: list[UIMessage]
    tool_calls: list[dict[str, Any]]
    finish_reason: str
    error: str | None = None


async def stream_message(request: web.Request) -> web.StreamResponse:
    """Send a message, or answer a question; stream what follows."""
    session, replay = await _asked(request)
    return json_response(Acknowledgement()) if replay is None else await _attended(request, session, replay)


async def _asked(request: web.Request) -> tuple[Session, Replay | None]:
    """What a streamed request leads to. Nothing of its body is left when this has returned."""
    chat = await decode_body(request, StreamRequest)
    id = _conversation(request, chat.conversation_id)
    if chat.approval_response is not None:
        session = await session_at(request, id)
        return session, await _decide(request, session, chat.approval_response)
    session = session_of(request, id)
    if len(chat.messages) > message_input.MESSAGES_MAX:
        raise Invalid(f"messages holds 1 to {message_input.MESSAGES_MAX} messages")
    message, number = message_forms.last_user_message(
        chat.messages, message_input.new_message_id(key_of(request))
    )
    return session, await _send(
        request, session, message, message_forms.earlier_messages(chat.messages, number), chat
    )


async def start_run(request: web.Request) -> web.StreamResponse:
    """Accept a message; its answer is fetched later."""
    session, replay = await _say(request)
    return json_response(StartResponse(replay.run.id, "queued", session.id))


async def send_and_wait(request: web.Request) -> web.StreamResponse:
    """The whole answer, once it is there."""
    session, replay = await _say(request)
    request_body.release_body(request)
    answer = await collect_answer(replay)
    return json_response(
        AnswerResponse(
            replay.run.id,
            session.id,
            answer.text,
            [answer.message],
            [_call(part) for part in answer.calls],
            answer.finish_reason,
            answer.error,
        )
    )


async def get_run(request: web.Request) -> web.StreamResponse:
    """How a run stands, and its answer once it is over."""
    id = request.match_info["run"]
    if not id.startswith(RUN_PREFIX):
        raise Invalid("runId must be a run's id (run_…)")
    one, session = await find_run(request, RunId(id), f"run {id[:64]!r}")
    run = one.run
    status = run.state.value if run.state is State.QUEUED else STATUS[run.state]
    if run.state in BUSY:
        return json_response(PollResponse(run.id, status, run.session))
    answer = await session.backend.store.find_message(session.owner, session.id, run.answer)
    found = [] if answer is None else [answer.message]
    text = "".join(CollectedAnswer(one, "stop").text for one in found)
    return json_response(PollResponse(run.id, status, run.session, text, found, run.error))


def _conversation(request: web.Request, id: str | None) -> SessionId:
    """Raises `Invalid` for an id that is no UUID."""
    if id is None:
        return SessionId(message_input.new_session_id(key_of(request), request[PRINCIPAL].owner))
    try:
        return SessionId(str(uuid.UUID(id)))
    except ValueError:
        raise Invalid("conversationId must be a UUID") from None


async def _say(request: web.Request) -> tuple[Session, Replay]:
    """As `_asked`."""
    chat = await decode_body(request, SendRequest)
    session = session_of(request, _conversation(request, chat.conversation_id))
    if not chat.message:
        raise Invalid("message is required")
    message = message_input.ClientMessage(
        message_input.new_message_id(key_of(request)), "user", [{"type": "text", "text": chat.message}]
    )
    earlier = message_forms.earlier_messages(chat.history, len(chat.history))
    return session, await _send(request, session, message, earlier, chat)


async def _send(
    request: web.Request,
    session: Session,
    message: message_input.ClientMessage,
    earlier: Sequence[message_input.ClientMessage],
    chat: StreamRequest | SendRequest,
) -> Replay:
    """What is wrong is said without its place: this family's errors have none."""
    stored, page = message_input.build_user_message(message, ""), chat.current_page
    if page is not None:
        if len(page) > PAGE_CHARS_MAX:
            raise Invalid(f"currentPage has at most {PAGE_CHARS_MAX} characters")
        stored = stored | {"metadata": {"currentPage": page}}
    return await session.send(
        stored,
        view_of(request),
        imports=message_input.build_imported_turns(earlier, lambda number: [""] * len(earlier[number].parts)),
        when_busy=chat.busy,
        key=key_of(request),
    )


async def _decide(request: web.Request, session: Session, reply: ApprovalReply) -> Replay | None:
    """Only which call and yes or no is taken from the client: what runs is what was asked about. A reply that
    was given before, and whose answer was lost, is given again.
    """
    request[PRINCIPAL].require_scope(Scope.APPROVE)
    store, call = session.backend.store, CallId(reply.tool_call_id)
    pending = await store.pending_approvals(session.owner, session.id)
    asked = next((one for one in reversed(pending) if one.request.call == call), None)
    if asked is None:
        run = await store.current_run(session.owner, session.id)
        asked = None if run is None else await store.find_approval(session.owner, run.id, call)
    if asked is None:
        raise NotFound(f"call {call[:64]!r} waits for no answer")
    return await session.approve([Decision(asked.request.id, reply.approved)], view_of(request))


async def _attended(request: web.Request, session: Session, replay: Replay) -> web.StreamResponse:
    """The stream, and the run's end if its client leaves or the time is over."""
    policy, run = request.app[SERVICE].disconnect_policy, replay.run.id
    async with (
        cancel_on_disconnect(request, lambda: (session, run) if policy.cancel_on_disconnect else None),
        run_alongside(_stop_after(policy.timeout_s, session, run)),
    ):
        return await stream_replay(request, replay)


async def _stop_after(limit_s: float | None, session: Session, run: RunId) -> None:
    await asyncio.sleep(limit_s if limit_s is not None else float("inf"))
    await interrupt_run(session, run)


def _call(part: dict[str, Any]) -> dict[str, Any]:
    name = part.get("toolName") or part["type"].removeprefix("tool-")
    kept: dict[str, Any] = {
        key: part[key] for key in ("input", "output", "errorText", "state") if key in part
    }
    return {"toolCallId": part["toolCallId"], "toolName": name} | kept


ROUTES = tuple(
    Route(method, path, handler, Scope.ADMIN, says, ErrorFormat.PLAIN)
    for method, path, handler, says in (
        (
            "POST",
            "/api/agent/chat/stream",
            stream_message,
            RouteDoc(
                "Send a message and stream its answer",
                StreamRequest,
                {200: (bytes, Acknowledgement)},
                headers={**AGENT_HEADER, **IDEMPOTENCY_HEADER},
                tag="agent chat",
                example={"messages": [{"role": "user", "content": "hello"}]},
            ),
        ),
        (
            "POST",
            "/api/agent/chat",
            start_run,
            RouteDoc(
                "Start a run",
                SendRequest,
                {200: StartResponse},
                headers={**AGENT_HEADER, **IDEMPOTENCY_HEADER},
                tag="agent chat",
                example={"message": "hello"},
            ),
        ),
        (
            "POST",
            "/api/agent/chat/sync",
            send_and_wait,
            RouteDoc(
                "Send a message and wait for its answer",
                SendRequest,
                {200: AnswerResponse},
                headers={**AGENT_HEADER, **IDEMPOTENCY_HEADER},
                tag="agent chat",
                example={"message": "hello"},
            ),
        ),
        (
            "GET",
            "/api/agent/chat/{run}",
            get_run,
            RouteDoc("How a run stands", None, {200: PollResponse}, tag="agent chat"),
        ),
    )
)
