"""The agent-chat API, `/api/agent/chat`: for administrators' own tools, in three ways.

Streamed, started and polled, or awaited. Session ids are UUIDs. By default a streamed run is interrupted when
its client disconnects or when the route's time limit has passed; two settings change that.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from rejoin_adapters.process.background import run_alongside
from rejoin_adapters.store_types import WhenBusy
from rejoin_gateway.api.shared import message_forms
from rejoin_gateway.api.shared.answers import RUN_STATUS, Acknowledgement, decide_before, require_replay
from rejoin_gateway.api.shared.lookup import directory_of, find_run, session_by_id
from rejoin_gateway.api.shared.message_forms import RunMessage
from rejoin_gateway.api.shared.run_webhook import with_webhook
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core import message_input
from rejoin_gateway.core.answered_calls import AnsweredCall, to_decisions, without_answers
from rejoin_gateway.core.message_input import MessageOptions
from rejoin_gateway.core.session import AgentSession, Session
from rejoin_gateway.http import request_body
from rejoin_gateway.http.disconnect import cancel_on_disconnect, interrupt_run
from rejoin_gateway.http.gateway_service import PRINCIPAL, SERVICE, begin_response
from rejoin_gateway.http.request import decode_body, key_of, session_of, view_of
from rejoin_gateway.http.response import json_response, stream_replay
from rejoin_gateway.http.routes import AGENT_HEADER, IDEMPOTENCY_HEADER, ErrorFormat, Route, RouteDoc
from rejoin_gateway.streaming.collect import CollectedAnswer, collect_answer
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol.errors import Conflict, Invalid, NotFound
from rejoin_protocol.events.fold import PAGE_KEY, MessageDict
from rejoin_protocol.ids import RUN_PREFIX, ApprovalId, CallId, RunId, SessionId
from rejoin_protocol.lifecycle import BUSY, State
from rejoin_protocol.limits import MESSAGES_MAX, CheckedId, FreeObject, Id, PageName, Reason, Text

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)
"""A UUID in its one written form (RFC 9562). Python's `UUID` reads several others."""
_UNKNOWN_TO_SOME = (b'\ndata: {"type":"reset-step"', b'\ndata: {"type":"tool-approval-request"')
"""A client that does not know one of these events closes the connection there, and has not left."""


class ApprovalReply(msgspec.Struct, frozen=True, rename="camel"):
    """A person's decision about a tool call. The call runs with the stored arguments, or with `editedInput`
    if its tool allows that they are changed.
    """

    tool_call_id: Id
    approved: bool
    reason: Reason | None = None
    edited_input: FreeObject | None = None


class StreamRequest(MessageOptions, frozen=True, rename="camel", kw_only=True):
    """The body of a streamed message. `currentPage`: the page that the person looks at; the agent sees it."""

    messages: Annotated[list[RunMessage], Meta(max_length=MESSAGES_MAX)] = msgspec.field(default_factory=list)
    conversation_id: CheckedId | None = None
    current_page: PageName | None = None
    approval_response: ApprovalReply | None = None


class SendRequest(MessageOptions, frozen=True, rename="camel", kw_only=True):
    """The body of a message whose answer is polled or awaited. `history`: earlier turns of a new session."""

    message: Text
    history: Annotated[list[RunMessage], Meta(max_length=MESSAGES_MAX)] = msgspec.field(default_factory=list)
    conversation_id: CheckedId | None = None
    current_page: PageName | None = None


class StartResponse(msgspec.Struct, frozen=True, rename="camel"):
    """A run that was stored."""

    run_id: str
    status: str
    conversation_id: str


class PollResponse(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A run's status; text and messages once it has ended or waits for an approval."""

    run_id: str
    status: str
    conversation_id: str
    text: str | None = None
    messages: list[MessageDict] = []
    error: str | None = None


class AnswerResponse(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A whole answer."""

    run_id: str
    conversation_id: str
    text: str
    messages: list[MessageDict]
    tool_calls: list[dict[str, Any]]
    finish_reason: str
    error: str | None = None


async def stream_message(request: web.Request) -> web.StreamResponse:
    """Send a message or decide an approval; stream what follows."""
    session, replay = await _admit_streamed(request)
    if replay is None:
        return json_response(Acknowledgement())
    return await _stream_until_disconnect(request, session, replay)


async def _admit_streamed(request: web.Request) -> tuple[Session, Replay | None]:
    """The stream of the answer; None while the run waits for further decisions."""
    chat = await decode_body(request, StreamRequest)
    if chat.approval_response is not None:
        return await _decide_approval(request, chat, chat.approval_response)
    answers = message_forms.last_answers(chat.messages)
    if answers and not message_forms.has_message(chat.messages[-1]):
        return await _decide_answers(request, chat, answers)
    agent_session = session_of(request, _parse_conversation_id(request, chat.conversation_id))
    agent_session = await with_webhook(request, agent_session, chat)
    message, number = message_forms.last_user_message(
        chat.messages, message_input.new_message_id(key_of(request))
    )
    earlier = message_forms.earlier_messages(chat.messages, number)
    answers = answers or message_forms.earlier_answers(chat.messages)
    return agent_session, await _send_message(
        request, agent_session, without_answers(message), earlier, chat, answers
    )


async def start_run(request: web.Request) -> web.StreamResponse:
    """Store a message and return its run; the answer is polled."""
    session, replay = await _admit_message(request)
    return json_response(StartResponse(replay.run.id, "queued", session.id))


async def send_and_wait(request: web.Request) -> web.StreamResponse:
    """Send a message and return the whole answer."""
    session, replay = await _admit_message(request)
    request_body.release_body(request)
    begin_response(request)
    answer = await collect_answer(replay)
    return json_response(
        AnswerResponse(
            replay.run.id,
            session.id,
            answer.text,
            [answer.message],
            [_to_tool_call(part) for part in answer.calls],
            answer.finish_reason,
            answer.error,
        )
    )


async def get_run(request: web.Request) -> web.StreamResponse:
    """A run's status, and its answer unless the run is active."""
    id = request.match_info["run"]
    if not id.startswith(RUN_PREFIX):
        raise Invalid("runId must be a run's id (run_…)")
    summary, session = await find_run(request, RunId(id), f"run {id[:64]!r}")
    run = summary.run
    status = run.state.value if run.state is State.QUEUED else RUN_STATUS[run.state]
    if run.state in BUSY:
        return json_response(PollResponse(run.id, status, run.session))
    answer = await session.message(run.answer)
    messages = [] if answer is None else [answer.message]
    text = "".join(CollectedAnswer(message, "stop").text for message in messages)
    return json_response(PollResponse(run.id, status, run.session, text, messages, run.error))


def _parse_conversation_id(request: web.Request, id: str | None) -> SessionId:
    """The session's id, a new one if the body has none. Raises `Invalid` for an id that is no UUID."""
    if id is None:
        return SessionId(message_input.new_session_id(key_of(request), request[PRINCIPAL].owner))
    if not _UUID.fullmatch(id):
        raise Invalid("conversationId must be a UUID")
    return SessionId(id.lower())


async def _admit_message(request: web.Request) -> tuple[Session, Replay]:
    chat = await decode_body(request, SendRequest)
    session = session_of(request, _parse_conversation_id(request, chat.conversation_id))
    session = await with_webhook(request, session, chat)
    if not chat.message:
        raise Invalid("message is required")
    message = message_input.ClientMessage(
        message_input.new_message_id(key_of(request)), "user", [{"type": "text", "text": chat.message}]
    )
    earlier = message_forms.earlier_messages(chat.history, len(chat.history))
    return session, await _send_message(request, session, message, earlier, chat)


async def _send_message(
    request: web.Request,
    session: AgentSession,
    message: message_input.ClientMessage,
    earlier: Sequence[message_input.ClientMessage],
    chat: StreamRequest | SendRequest,
    answers: Sequence[AnsweredCall] = (),
) -> Replay:
    """Raises as `AgentSession.send`. Pointers are empty: this API's errors have no field for a place."""
    stored, page = message_input.build_user_message(message, ""), chat.current_page
    if page is not None:
        stored = stored | {PAGE_KEY: page}
    if chat.busy_policy is WhenBusy.STEER:
        raise Invalid("this API cannot steer a run: use the session API")
    await decide_before(request, session, answers)
    sent = await session.send(
        stored,
        view_of(request),
        imports=message_input.build_imported_turns(earlier, lambda number: [""] * len(earlier[number].parts)),
        when_busy=chat.busy_policy,
        seen=chat.seen,
        key=key_of(request),
    )
    return await require_replay(session, sent, view_of(request))


async def _decide_approval(
    request: web.Request, chat: StreamRequest, reply: ApprovalReply
) -> tuple[Session, Replay | None]:
    request[PRINCIPAL].require_scope(Scope.APPROVE)
    call = CallId(reply.tool_call_id)
    session, approval = await _find_call(request, chat, call)
    answer = AnsweredCall(approval, call, reply.approved, reply.reason, reply.edited_input)
    return session, await session.approve(await to_decisions(session, [answer]), view_of(request))


async def _decide_answers(
    request: web.Request, chat: StreamRequest, answers: Sequence[AnsweredCall]
) -> tuple[Session, Replay | None]:
    """Decide by the parts of the last message. Without a conversation's id its first call tells which."""
    request[PRINCIPAL].require_scope(Scope.APPROVE)
    if chat.conversation_id is None:
        session, _ = await _find_call(request, chat, answers[0].call or CallId(""))
    else:
        session = await session_by_id(request, _parse_conversation_id(request, chat.conversation_id))
    return session, await session.approve(await to_decisions(session, answers), view_of(request))


async def _find_call(request: web.Request, chat: StreamRequest, call: CallId) -> tuple[Session, ApprovalId]:
    """The approval of a call in the named conversation, or else among all conversations of the caller.

    Raises `NotFound`, and `Conflict` if the call waits in several conversations and no message tells which.
    """
    if chat.conversation_id is not None:
        session = await session_by_id(request, _parse_conversation_id(request, chat.conversation_id))
        approval = await session.find_call(call)
        if approval is not None:
            return session, approval.request.id
        raise NotFound(f"call {call[:64]!r} does not wait for an approval")
    calls = await directory_of(request).calls(call)
    named = {message.id for message in chat.messages}
    found = [asked for asked in calls if asked.run.answer in named] or calls
    if not found:
        raise NotFound(f"call {call[:64]!r} does not wait for an approval")
    if len(found) > 1 and found[1].approval.decision is None:
        raise Conflict(f"call {call[:64]!r} waits in several conversations: name one by conversationId")
    return await session_by_id(request, found[0].run.session), found[0].approval.request.id


async def _stream_until_disconnect(
    request: web.Request, session: Session, replay: Replay
) -> web.StreamResponse:
    """Stream; interrupt the run when its client disconnects or its time is over, as the settings say."""
    policy, run = request.app[SERVICE].disconnect_policy, replay.run.id
    may_have_failed = False

    async def watch(frames: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        nonlocal may_have_failed
        async with aclosing(frames):
            async for data in frames:
                may_have_failed = may_have_failed or any(event in data for event in _UNKNOWN_TO_SOME)
                yield data

    def run_to_interrupt() -> tuple[Session, RunId] | None:
        return (session, run) if policy.cancel_on_disconnect and not may_have_failed else None

    async with (
        cancel_on_disconnect(request, run_to_interrupt),
        run_alongside(_interrupt_after(policy.timeout_s, session, run)),
    ):
        return await stream_replay(request, msgspec.structs.replace(replay, shows_answers=True), watch)


async def _interrupt_after(timeout_s: float | None, session: Session, run: RunId) -> None:
    await asyncio.sleep(timeout_s if timeout_s is not None else float("inf"))
    await interrupt_run(session, run)


def _to_tool_call(part: dict[str, Any]) -> dict[str, Any]:
    name = part.get("toolName") or part["type"].removeprefix("tool-")
    fields: dict[str, Any] = {
        key: part[key] for key in ("input", "output", "errorText", "state") if key in part
    }
    if "input" in fields:
        fields["args"] = fields["input"]  # the name in the clients of this API's first server
    return {"toolCallId": part["toolCallId"], "toolName": name, **fields}


ROUTES = tuple(
    Route(method, path, handler, Scope.ADMIN, doc, ErrorFormat.PLAIN)
    for method, path, handler, doc in (
        (
            "POST",
            "/api/agent/chat/stream",
            stream_message,
            RouteDoc(
                "Send a message and stream its answer",
                description="For tools of administrators. Takes the conversation as `messages`; the last "
                "user message is answered. `approvalResponse` decides a tool call that waits instead. By "
                "default the run is interrupted when the client disconnects, or after two minutes.",
                body=StreamRequest,
                responses={200: (bytes, Acknowledgement)},
                headers={**AGENT_HEADER, **IDEMPOTENCY_HEADER},
                takes_context=True,
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
                description="Stores one message and returns at once. Use it when nobody waits for the "
                "answer: poll it by `GET /api/agent/chat/{run}`.",
                body=SendRequest,
                responses={200: StartResponse},
                headers={**AGENT_HEADER, **IDEMPOTENCY_HEADER},
                takes_context=True,
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
                description="Stores one message and returns the whole answer with its tool calls once the "
                "run has ended or waits for an approval. Use it in scripts.",
                body=SendRequest,
                responses={200: AnswerResponse},
                headers={**AGENT_HEADER, **IDEMPOTENCY_HEADER},
                takes_context=True,
                tag="agent chat",
                example={"message": "hello"},
            ),
        ),
        (
            "GET",
            "/api/agent/chat/{run}",
            get_run,
            RouteDoc(
                "Poll a run",
                description="Returns the status of a run that was started here: `queued`, `running`, "
                "`suspended`, `completed` or `failed`; with text and messages unless it is active.",
                responses={200: PollResponse},
                tag="agent chat",
            ),
        ),
    )
)
