"""The session API: `/api/agents/{agent}/{session}` and what hangs below it.

A body is one thing to say or a list of them: a message (a string, its parts, or a whole UI message), the
client's `messages` (of which the last one counts), or an approval.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType
from rejoin_adapters.records import Decision, SessionSummary, WhenBusy
from rejoin_protocol.errors import Invalid, NotFound
from rejoin_protocol.events.fold import UIMessage
from rejoin_protocol.ids import MessageId

from rejoin_gateway.api.shared.lookup import session_in_path
from rejoin_gateway.core import message_input
from rejoin_gateway.core.agent_context import ContextInput
from rejoin_gateway.core.message_input import ClientMessage, MessageOptions, new_message_id
from rejoin_gateway.core.session import Session
from rejoin_gateway.http.request import decode_body, key_of, session_of, view_of
from rejoin_gateway.http.response import (
    approve_and_stream,
    json_response,
    stream_from_position,
    stream_replay,
)
from rejoin_gateway.http.routes import IDEMPOTENCY_HEADER, Route, RouteDoc, Scope
from rejoin_gateway.streaming.replay import Replay

PARTS = ("text", "file", "image", "image_url")
TITLE_CHARS_MAX = 500
METADATA_BYTES_MAX = 64 * 1024


class SessionHistory(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A session's messages. `activeRunId`: the run whose answer is not among them yet."""

    id: str
    agent: str
    messages: Sequence[UIMessage]
    created_at: datetime
    updated_at: datetime
    active_run_id: str | None = None


class InterruptResult(msgspec.Struct, frozen=True):
    """Whether there was something to stop."""

    success: bool
    interrupted: bool


class Acknowledgement(msgspec.Struct, frozen=True):
    """It is done."""

    success: bool = True


class SessionChanged(msgspec.Struct, frozen=True, rename="camel"):
    """A session as it is now."""

    id: str
    agent: str
    title: str | None
    metadata: Any
    last_message_id: str | None
    updated_at: datetime


class LocatedMessage(msgspec.Struct, frozen=True):
    """A message, where it stands in the body, and where each of its parts does."""

    message: ClientMessage
    pointer: str
    places: Sequence[str] = ()


class SendBody(msgspec.Struct, frozen=True):
    """Everything that a body says. `context` is for its run only."""

    decisions: Sequence[Decision]
    messages: Sequence[LocatedMessage]
    options: MessageOptions
    context: Any


async def send_message(request: web.Request) -> web.StreamResponse:
    """Say something: a message, or answers to questions. Streams what comes of it."""
    wish = await _wish(request)
    session = await _owned(request)
    if wish.decisions and wish.messages:
        raise Invalid("approvals and messages are different requests: send one after the other")
    if wish.decisions:
        return await approve_and_stream(request, session, wish.decisions)
    if len(wish.messages) != 1:
        raise Invalid("one message at a time")
    replay = await _send(request, session, wish)
    del wish  # files must not be held for as long as an answer takes
    return await stream_replay(request, replay)


async def _wish(request: web.Request) -> SendBody:
    said = await decode_body(request, Any)
    items = said if isinstance(said, list) and not _parts(said) else [said]
    fresh = new_message_id(key_of(request))
    decisions: list[Decision] = []
    messages: list[LocatedMessage] = []
    options, context = MessageOptions(), None
    for number, item in enumerate(items):
        pointer = f"/{number}" if items is said else ""
        if isinstance(item, dict) and item.get("type") == "approval":
            decisions.append(message_input.parse_decision(item.get("approval"), f"{pointer}/approval"))
        else:
            messages.append(_message(item, pointer, fresh))
            options = _options(item, pointer)
            context = item.get("context") if isinstance(item, dict) else None
    return SendBody(decisions, messages, options, context)


async def _send(request: web.Request, session: Session, wish: SendBody) -> Replay:
    [one] = wish.messages
    session = msgspec.structs.replace(session, brought=ContextInput(request.headers, wish.context))
    with message_input.relocate_errors(one.pointer, one.places):
        return await session.send(
            message_input.build_user_message(one.message, one.pointer),
            view_of(request),
            pointer=one.pointer,
            when_busy=wish.options.busy,
            key=key_of(request),
        )


def _parts(said: list[Any]) -> bool:
    """Whether a list is a message's parts, and not a list of things to say."""
    return bool(said) and all(isinstance(one, dict) and one.get("type") in PARTS for one in said)


def _message(item: Any, pointer: str, fresh: str) -> LocatedMessage:
    match item:
        case {"messages": [*_, dict(last)]}:
            return _one(last, f"{pointer}/messages/{len(item['messages']) - 1}", fresh)
        case {"message": message}:
            return _one(message, f"{pointer}/message", fresh)
        case _:
            return _one(item, pointer, fresh)


def _one(item: Any, pointer: str, fresh: str) -> LocatedMessage:
    match item:
        case str(text):
            return LocatedMessage(
                ClientMessage(fresh, "user", [{"type": "text", "text": text}]), pointer, [pointer]
            )
        case list(parts) if _parts(parts):
            places = [f"{pointer}/{number}" for number in range(len(parts))]
            return LocatedMessage(ClientMessage(fresh, "user", parts), pointer, places)
        case {"parts": list(parts), **rest} if "id" not in rest and rest.get("role", "user") == "user":
            return LocatedMessage(_converted({"id": fresh, "role": "user", **item}, pointer), pointer)
        case {"role": "user"}:
            return LocatedMessage(_converted(item, pointer), pointer)
        case _:
            raise Invalid("expected a message: a string, parts, or a user's UI message", pointer)


def _converted(item: Any, pointer: str) -> ClientMessage:
    try:
        return msgspec.convert(item, ClientMessage)
    except msgspec.ValidationError as fault:
        raise Invalid(str(fault), pointer) from fault


def _options(item: Any, pointer: str) -> MessageOptions:
    try:
        return msgspec.convert(item if isinstance(item, dict) else {}, MessageOptions)
    except msgspec.ValidationError as fault:
        raise Invalid(str(fault), pointer) from fault


async def get_history(request: web.Request) -> web.StreamResponse:
    """The stored messages. A busy run's answer is not among them: its stream rebuilds it whole."""
    session = _session(request)
    found = await session.history()
    busy = None if found.busy is None else found.busy.id
    return json_response(
        SessionHistory(session.id, found.agent, found.messages, found.created_at, found.updated_at, busy)
    )


async def reconnect(request: web.Request) -> web.StreamResponse:
    """The stream of the session's run, from wherever the client is."""
    return await stream_from_position(request, await _owned(request))


async def interrupt_session(request: web.Request) -> web.StreamResponse:
    """Stop the session's run, wherever it is. Doing it twice is doing it once."""
    session = await _owned(request) if "agent" in request.match_info else await session_in_path(request)
    return json_response(InterruptResult(success=True, interrupted=await session.interrupt()))


class SessionUpdate(msgspec.Struct, frozen=True, rename="camel"):
    """What may be changed of a session. `lastMessageId`: what was said after it is dropped."""

    title: str | UnsetType | None = UNSET
    metadata: Any = UNSET
    last_message_id: str | UnsetType = UNSET


class SessionUsageReport(msgspec.Struct, frozen=True, rename="camel"):
    """What a session has cost, in tokens."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    runs: int


async def update_session(request: web.Request) -> web.StreamResponse:
    """Rename a session, describe it, or go back to one of its messages."""
    change = await decode_body(request, SessionUpdate)
    thread = await changed(_session(request), change)
    return json_response(
        SessionChanged(
            thread.id, thread.agent, thread.title, thread.metadata, thread.last_message, thread.updated_at
        )
    )


async def changed(session: Session, change: SessionUpdate) -> SessionSummary:
    """Change what is given. Raises `NotFound`, `Invalid`, and as `Threads.rewind`."""
    await existing(session)
    check(change)  # or it would have gone back already when it is refused to rename
    threads = session.backend.threads
    if change.last_message_id is not UNSET:
        await threads.rewind(session.owner, session.id, MessageId(change.last_message_id))
    return await threads.update(session.owner, session.id, title=change.title, metadata=change.metadata)


def check(change: SessionUpdate) -> None:
    """Whether it may be stored. Raises `Invalid`."""
    title = change.title if isinstance(change.title, str) else ""
    if len(title) > TITLE_CHARS_MAX or "\0" in title:
        raise Invalid(f"a title has at most {TITLE_CHARS_MAX} characters, none of them NUL", "/title")
    if change.metadata is not UNSET and len(msgspec.json.encode(change.metadata)) > METADATA_BYTES_MAX:
        raise Invalid(f"metadata has at most {METADATA_BYTES_MAX} bytes", "/metadata")


async def delete_session(request: web.Request) -> web.StreamResponse:
    """Delete a session and everything that belongs to it. The stream of its run ends with `abort`; it breaks
    where there is no runner to end it.
    """
    session = _session(request)
    await existing(session)
    await session.delete()
    return json_response(Acknowledgement())


async def get_usage(request: web.Request) -> web.StreamResponse:
    """What its runs have cost together."""
    session = _session(request)
    await existing(session)
    found = await session.backend.threads.usage(session.owner, session.id)
    total = found.input_tokens + found.output_tokens
    return json_response(SessionUsageReport(found.input_tokens, found.output_tokens, total, found.runs))


async def _owned(request: web.Request) -> Session:
    """The session of a path, which need not exist yet. Raises `NotFound` if it is another agent's."""
    session = _session(request)
    await session.check_agent()
    return session


async def existing(session: Session) -> SessionSummary:
    """What is known of a session. Raises `NotFound`, also if it is another agent's."""
    thread = await session.backend.threads.get(session.owner, session.id)
    if thread is None or thread.agent != session.agent:
        raise NotFound(f"there is no session {session.id!r} with agent {session.agent!r}")
    return thread


def _session(request: web.Request) -> Session:
    return session_of(request, request.match_info["session"])


_ONE = {
    "anyOf": [
        {"type": "string", "description": "What a person says."},
        {
            "type": "object",
            "properties": {
                "message": {"description": "A string, its parts, or a UI message."},
                "messages": {"type": "array", "description": "The client's messages: the last one counts."},
                "context": {"type": "object", "description": "What this run's agent is to know."},
                "whenBusy": {"enum": [one.value for one in WhenBusy]},
                "interruptIfStreaming": {"type": "boolean"},
            },
            "anyOf": [{"required": ["message"]}, {"required": ["messages"]}],
        },
        {
            "type": "object",
            "properties": {
                "type": {"const": "approval"},
                "approval": {
                    "type": "object",
                    "properties": {
                        "approvalId": {"type": "string"},
                        "approved": {"type": "boolean"},
                        "reason": {"type": "string"},
                    },
                    "required": ["approvalId", "approved"],
                },
            },
            "required": ["type", "approval"],
        },
        {"type": "object", "description": "A user's UI message.", "required": ["parts"]},
    ]
}
SAID = {"anyOf": [*_ONE["anyOf"], {"type": "array", "items": _ONE, "minItems": 1}]}
"""The schema of what `_wish` reads."""
_AT = "/api/agents/{agent}/{session}"
ROUTES = tuple(
    Route(method, path, handler, Scope.CHAT, says)
    for method, path, handler, says in (
        (
            "POST",
            "/api/chat/{id}/stop",
            interrupt_session,
            RouteDoc("Stop the session's run", None, {200: InterruptResult}, tag="chat"),
        ),
        (
            "GET",
            _AT,
            get_history,
            RouteDoc("The stored messages", None, {200: SessionHistory}, tag="session"),
        ),
        (
            "POST",
            _AT,
            send_message,
            RouteDoc(
                "Say something; stream what follows",
                SAID,
                {200: (bytes, Acknowledgement)},
                headers=IDEMPOTENCY_HEADER,
                tag="session",
                example={"message": "hello"},
            ),
        ),
        (
            "PATCH",
            _AT,
            update_session,
            RouteDoc(
                "Change a session",
                SessionUpdate,
                {200: SessionChanged},
                tag="session",
                example={"title": "A trip"},
            ),
        ),
        (
            "DELETE",
            _AT,
            delete_session,
            RouteDoc("Delete a session", None, {200: Acknowledgement}, tag="session"),
        ),
        (
            "GET",
            f"{_AT}/usage",
            get_usage,
            RouteDoc("What it has cost", None, {200: SessionUsageReport}, tag="session"),
        ),
        (
            "GET",
            f"{_AT}/reconnect",
            reconnect,
            RouteDoc("Rejoin the running answer", None, {200: bytes, 204: None}, tag="session"),
        ),
        (
            "POST",
            f"{_AT}/interrupt",
            interrupt_session,
            RouteDoc("Stop the session's run", None, {200: InterruptResult}, tag="session"),
        ),
    )
)
