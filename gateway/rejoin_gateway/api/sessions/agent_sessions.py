"""The session API: `/api/agents/{agent}/{session}` and the paths below it."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from rejoin_gateway.api.sessions import send_body
from rejoin_gateway.api.sessions.send_body import Decisions, NewMessage, parse_send_body
from rejoin_gateway.api.shared.answers import (
    Acknowledgement,
    Answer,
    InterruptRequest,
    InterruptResult,
    SteeringAccepted,
    answer_sent,
    decide,
    decide_before,
    interrupt,
    respond,
    store_decisions,
)
from rejoin_gateway.api.shared.client_tools import with_named_tools
from rejoin_gateway.api.shared.lookup import session_in_path
from rejoin_gateway.api.shared.run_webhook import with_webhook
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core import message_input
from rejoin_gateway.core.agent_context import ContextInput
from rejoin_gateway.core.answered_calls import find_requests
from rejoin_gateway.core.backend import Steered
from rejoin_gateway.core.message_input import new_message_id
from rejoin_gateway.core.session import AgentSession
from rejoin_gateway.http.gateway_service import SERVICE, begin_response
from rejoin_gateway.http.request import decode_body, key_of, session_of, view_of
from rejoin_gateway.http.response import abort_on_error, begin_stream, json_response, stream_from_position
from rejoin_gateway.http.routes import IDEMPOTENCY_HEADER, Route, RouteDoc
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import RUN_PREFIX, MessageId, RunId
from rejoin_protocol.limits import PAGE_WRITE_S_MAX, Id, Title
from rejoin_protocol.money import to_usd

MESSAGES = b'"messages":['


class SessionHistory(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A session's messages. `activeRunId`: the run whose answer is not among them yet. `steeringMessages`:
    the messages that wait for its next step; they become parts of its answer, or further messages.
    """

    id: str
    agent: str
    messages: Sequence[MessageDict]
    created_at: datetime
    updated_at: datetime
    active_run_id: str | None = None
    steering_messages: list[MessageDict] = []


class SessionUpdate(msgspec.Struct, frozen=True, rename="camel"):
    """The changes of a session. `lastMessageId`: all messages behind this one are deleted."""

    title: Title | UnsetType | None = UNSET
    metadata: Any = UNSET
    last_message_id: Id | UnsetType = UNSET


class SessionChanged(msgspec.Struct, frozen=True, rename="camel"):
    """A session after a change."""

    id: str
    agent: str
    title: str | None
    metadata: Any
    last_message_id: str | None
    updated_at: datetime


class SessionUsageReport(msgspec.Struct, frozen=True, rename="camel"):
    """Tokens of all runs of a session together, the number of runs, and their cost in US dollars; null if no
    model that answered has a price.
    """

    input_tokens: int
    output_tokens: int
    total_tokens: int
    runs: int
    cost_usd: float | None


async def send_message(request: web.Request) -> web.StreamResponse:
    """Send a message or decide approvals; stream what follows."""
    return await respond(request, await _answer_message(request))


async def _answer_message(request: web.Request) -> Answer:
    body = parse_send_body(await decode_body(request, Any), new_message_id(key_of(request)))
    session = await _session_of_agent(request)
    match body:
        case Decisions():
            return await decide(request, session, await find_requests(session, body.answers, body.outputs))
        case NewMessage():
            return answer_sent(await _send_message(request, session, body))


async def _send_message(request: web.Request, session: AgentSession, body: NewMessage) -> Replay | Steered:
    located = body.located
    session = await with_named_tools(session, body.tools, body.tools_pointer)
    session = msgspec.structs.replace(session, context=ContextInput(request.headers, body.context))
    session = await with_webhook(request, session, body.options)
    with message_input.relocate_errors(located.pointer, located.places):
        message = message_input.build_user_message(located.message, located.pointer)
        given = await find_requests(session, body.decisions.answers, body.decisions.outputs)
        await store_decisions(request, session, given)
        await decide_before(request, session, body.answers, body.outputs)
        return await session.send(
            message,
            view_of(request),
            pointer=located.pointer,
            when_busy=body.options.busy_policy,
            seen=body.options.seen,
            key=key_of(request),
        )


async def get_history(request: web.Request) -> web.StreamResponse:
    """The stored messages. The answer of an active run is not among them: its stream holds all of it."""
    session = _session(request)
    page = await session.history_page()
    active_run = None if page.active_run is None else page.active_run.id
    history = SessionHistory(
        session.id, page.agent, page.messages, page.created_at, page.updated_at, active_run, [*page.steering]
    )
    if page.next is None:
        return json_response(history)
    return await _write_pages(request, session, history, page.next)


async def _write_pages(
    request: web.Request, session: AgentSession, first: SessionHistory, after: int
) -> web.StreamResponse:
    """Write a long history page by page. A gateway holds few pages at the same time, however many clients
    read, and waits for no client for ever.
    """
    begin_response(request)
    head, _, tail = msgspec.json.encode(msgspec.structs.replace(first, messages=[])).partition(MESSAGES)
    response = web.StreamResponse(headers={"Content-Type": "application/json; charset=utf-8"})
    transport, pages = request.transport, request.app[SERVICE].history_pages
    if transport is None:  # the client is gone already
        return response
    with abort_on_error(request, transport):
        await begin_stream(request, response)
        await response.write(head + MESSAGES + msgspec.json.encode(first.messages)[1:-1])
        position: int | None = after
        while position is not None:
            place = await pages.take(session.owner.tenant)
            try:
                page = await session.history_page(position)
                if page.messages:
                    async with asyncio.timeout(PAGE_WRITE_S_MAX):
                        await response.write(b"," + msgspec.json.encode(page.messages)[1:-1])
            except TimeoutError:
                raise Unavailable("the client does not read the history") from None
            finally:
                place.release()
            position = page.next
        await response.write(tail)
        await response.write_eof()
    return response


async def reconnect(request: web.Request) -> web.StreamResponse:
    """The stream of the session's run from the client's position."""
    return await stream_from_position(request, await _session_of_agent(request))


async def resume_run(request: web.Request) -> web.StreamResponse:
    """Like `reconnect`, at the path where the AI SDK's transports resume by default: they append
    `/{id}/stream`.

    Their id is a run's, or that of a chat, which is the session of the path.
    """
    session, id = await _session_of_agent(request), request.match_info["run"]
    return await stream_from_position(request, session, RunId(id) if id.startswith(RUN_PREFIX) else None)


async def interrupt_session(request: web.Request) -> web.StreamResponse:
    """Interrupt the session's active run, and those that wait for approvals."""
    return await interrupt(request, await _session_of_agent(request))


async def stop_chat(request: web.Request) -> web.StreamResponse:
    """Like `interrupt_session`, for clients that know only the session's id."""
    return await interrupt(request, await session_in_path(request))


async def update_session(request: web.Request) -> web.StreamResponse:
    """Change title or metadata, or go back to an earlier message."""
    change = await decode_body(request, SessionUpdate)
    last = UNSET if change.last_message_id is UNSET else MessageId(change.last_message_id)
    summary = await _session(request).update(title=change.title, metadata=change.metadata, last_message=last)
    return json_response(
        SessionChanged(
            summary.id,
            summary.agent,
            summary.title,
            summary.metadata,
            summary.last_message,
            summary.updated_at,
        )
    )


async def delete_session(request: web.Request) -> web.StreamResponse:
    """Delete the session. A runner ends the stream of its run with `abort`; without one the stream breaks."""
    session = _session(request)
    await session.summary()
    await session.delete()
    return json_response(Acknowledgement())


async def get_usage(request: web.Request) -> web.StreamResponse:
    """The tokens of all runs together."""
    session = _session(request)
    await session.summary()
    usage = await session.usage()
    total = usage.input_tokens + usage.output_tokens
    cost = to_usd(usage.cost_nano_usd)
    return json_response(SessionUsageReport(usage.input_tokens, usage.output_tokens, total, usage.runs, cost))


async def _session_of_agent(request: web.Request) -> AgentSession:
    """The session of the path, which need not exist. Raises `NotFound` if it belongs to another agent."""
    session = _session(request)
    await session.check_agent()
    return session


def _session(request: web.Request) -> AgentSession:
    return session_of(request, request.match_info["session"])


_SESSION = "/api/agents/{agent}/{session}"
ROUTES = tuple(
    Route(method, path, handler, Scope.CHAT, doc)
    for method, path, handler, doc in (
        (
            "GET",
            _SESSION,
            get_history,
            RouteDoc(
                "Read a session's messages",
                description="Use it to show a conversation when a page loads. Returns all stored messages. "
                "While a run is active, `activeRunId` names it: its answer is not in the list, and the "
                "session's stream (`…/reconnect`) delivers all of it. `steeringMessages` has the messages "
                "that wait for its next step.",
                responses={200: SessionHistory},
                tag="session",
            ),
        ),
        (
            "POST",
            _SESSION,
            send_message,
            RouteDoc(
                "Send a message and stream its answer",
                description="Sends a user's message to the agent. The session is created if it does not "
                "exist. The same message id again, or the same `Idempotency-Key`, is the same request and "
                "returns the same stream. A body with approvals decides tool calls that wait for a person, "
                "and returns the stream that follows; `{success: true}` while other decisions are missing. "
                "In a list with a message the approvals are decided first, and the message is answered. "
                "With `whenBusy: steer` a message that finds a run at work reaches its model at the next "
                "step, and the response is JSON: the run's own stream has the message. "
                "The agent keeps working if the client disconnects.",
                body=send_body.SCHEMA,
                responses={200: (bytes, Acknowledgement, SteeringAccepted)},
                headers=IDEMPOTENCY_HEADER,
                takes_context=True,
                tag="session",
                example={"message": "hello"},
            ),
        ),
        (
            "PATCH",
            _SESSION,
            update_session,
            RouteDoc(
                "Rename a session or go back to a message",
                description="Sets `title` and `metadata`. With `lastMessageId`, deletes all messages behind "
                "that one; not possible while a run is active. Fields that are absent stay as they are. "
                "Returns the changed session.",
                body=SessionUpdate,
                responses={200: SessionChanged},
                tag="session",
                example={"title": "A trip"},
            ),
        ),
        (
            "DELETE",
            _SESSION,
            delete_session,
            RouteDoc(
                "Delete a session",
                description="Deletes the session with its messages, runs, logs and files, and stops its "
                "active run. It cannot be undone.",
                responses={200: Acknowledgement},
                tag="session",
            ),
        ),
        (
            "GET",
            f"{_SESSION}/usage",
            get_usage,
            RouteDoc(
                "Read a session's token usage",
                description="Returns the input and output tokens of all runs of the session together, and "
                "the number of runs. An active run counts as of its last suspension.",
                responses={200: SessionUsageReport},
                tag="session",
            ),
        ),
        (
            "GET",
            f"{_SESSION}/reconnect",
            reconnect,
            RouteDoc(
                "Resume the stream of the active run",
                description="Use it after a reload or a lost connection. Without a position it returns the "
                "active run's stream from its beginning, or 204 if no run is active. With a position, in "
                "the header `Last-Event-ID` or one of the other parameters, it returns the events behind "
                "that position, also of a run that has ended.",
                responses={200: bytes, 204: None},
                tag="session",
            ),
        ),
        (
            "GET",
            f"{_SESSION}/{{run}}/stream",
            resume_run,
            RouteDoc(
                "Resume the stream of a run",
                description="As `/reconnect`, at the path to which the transports of the AI SDK and of "
                "`@workflow/ai` send a resume if their `api` is the session's path. `{run}` is a run of the "
                "session; any other id stands for the session's current run.",
                responses={200: bytes, 204: None},
                tag="session",
            ),
        ),
        (
            "POST",
            f"{_SESSION}/interrupt",
            interrupt_session,
            RouteDoc(
                "Interrupt the active run",
                description="Stops the session's run, whether it is queued, running or waiting for "
                "approvals. `interrupted` tells whether there was such a run. A repeated request has the "
                "same result.",
                body=InterruptRequest,
                body_required=False,
                example={"lastPart": {"type": "text", "text": "1 2 3"}},
                responses={200: InterruptResult},
                tag="session",
            ),
        ),
        (
            "POST",
            "/api/chat/{id}/stop",
            stop_chat,
            RouteDoc(
                "Interrupt the active run of a chat",
                description="As `POST /api/agents/{agent}/{session}/interrupt`, for clients that know the "
                "session's id and not its agent, for example the stop button of `useChat`.",
                body=InterruptRequest,
                body_required=False,
                example={"lastPart": {"type": "text", "text": "1 2 3"}},
                responses={200: InterruptResult},
                tag="chat",
            ),
        ),
    )
)
