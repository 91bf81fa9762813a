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

from gateway import turns
from gateway.context import Brought
from gateway.routing import Route, Says, Scope
from gateway.sessions import Session
from gateway.turns import Message, Options, fresh_id
from gateway.web import approve, body, json, key_of, rejoin, session_of, stream, view_of
from protocol.adapters.ports import Decision
from protocol.errors import Invalid, NotFound
from protocol.fold import UIMessage
from protocol.ids import MessageId

PARTS = frozenset({"text", "file", "image", "image_url"})


class Stored(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A session's messages. `activeRunId`: the run whose answer is not among them yet."""

    id: str
    agent: str
    messages: Sequence[UIMessage]
    created_at: datetime
    updated_at: datetime
    active_run_id: str | None = None


class Stopped(msgspec.Struct, frozen=True):
    """Whether there was something to stop."""

    success: bool
    interrupted: bool


class Done(msgspec.Struct, frozen=True):
    """It is done."""

    success: bool = True


class Changed(msgspec.Struct, frozen=True, rename="camel"):
    """A session as it is now."""

    id: str
    agent: str
    title: str | None
    metadata: Any
    last_message_id: str | None
    updated_at: datetime


async def post(request: web.Request) -> web.StreamResponse:
    """Say something: a message, or answers to questions. Streams what comes of it."""
    said = await body(request, Any)
    items = said if isinstance(said, list) and not _parts(said) else [said]
    key = key_of(request)
    fresh = fresh_id(key)
    decisions, messages, options, context = [], [], Options(), None
    for number, item in enumerate(items):
        pointer = f"/{number}" if items is said else ""
        if isinstance(item, dict) and item.get("type") == "approval":
            decisions.append(turns.decision(item.get("approval"), f"{pointer}/approval"))
        else:
            messages.append(_message(item, pointer, fresh))
            options = _options(item, pointer)
            context = item.get("context") if isinstance(item, dict) else None
    return await _say(request, decisions, messages, options, key, context)


async def _say(
    request: web.Request,
    decisions: list[Decision],
    messages: list[tuple[Message, str]],
    options: Options,
    key: str | None,
    context: Any,
) -> web.StreamResponse:
    session = await _owned(request)
    session = msgspec.structs.replace(session, brought=Brought(request.headers, context))
    if decisions and messages:
        raise Invalid("approvals and messages are different requests: send one after the other")
    if decisions:
        return await approve(request, session, decisions)
    if len(messages) != 1:
        raise Invalid("one message at a time")
    message, pointer = messages[0]
    replay = await session.send(
        turns.user(message, pointer), view_of(request), pointer=pointer, when_busy=options.busy, key=key
    )
    return await stream(request, replay)


def _parts(said: list[Any]) -> bool:
    """Whether a list is a message's parts, and not a list of things to say."""
    return bool(said) and all(isinstance(one, dict) and one.get("type") in PARTS for one in said)


def _message(item: Any, pointer: str, fresh: str) -> tuple[Message, str]:
    """A message, and where it stands."""
    match item:
        case {"messages": [*_, dict(last)]}:
            return _message(last, f"{pointer}/messages/{len(item['messages']) - 1}", fresh)
        case {"message": message}:
            return _message(message, f"{pointer}/message", fresh)
        case str(text):
            return Message(fresh, "user", [{"type": "text", "text": text}]), pointer
        case list(parts) if _parts(parts):
            return Message(fresh, "user", parts), pointer
        case {"parts": list(parts), **rest} if "id" not in rest:
            return Message(fresh, "user", parts), pointer
        case {"role": "user"}:
            try:
                return msgspec.convert(item, Message), pointer
            except msgspec.ValidationError as fault:
                raise Invalid(str(fault), pointer) from fault
        case _:
            raise Invalid("expected a message: a string, parts, or a user's UI message", pointer)


def _options(item: Any, pointer: str) -> Options:
    try:
        return msgspec.convert(item if isinstance(item, dict) else {}, Options)
    except msgspec.ValidationError as fault:
        raise Invalid(str(fault), pointer) from fault


async def history(request: web.Request) -> web.StreamResponse:
    """The stored messages. A busy run's answer is not among them: its stream rebuilds it whole."""
    session = _session(request)
    found = await session.history()
    busy = None if found.busy is None else found.busy.id
    return json(Stored(session.id, found.agent, found.messages, found.created_at, found.updated_at, busy))


async def reconnect(request: web.Request) -> web.StreamResponse:
    """The stream of the session's run, from wherever the client is."""
    return await rejoin(request, await _owned(request))


async def interrupt(request: web.Request) -> web.StreamResponse:
    """Stop the session's run, wherever it is. Doing it twice is doing it once."""
    session = await _owned(request) if "agent" in request.match_info else _session(request)
    return json(Stopped(success=True, interrupted=await session.interrupt()))


class Change(msgspec.Struct, frozen=True, rename="camel"):
    """What may be changed of a session. `lastMessageId`: what was said after it is dropped."""

    title: str | UnsetType | None = UNSET
    metadata: Any = UNSET
    last_message_id: str | UnsetType = UNSET


class Spent(msgspec.Struct, frozen=True, rename="camel"):
    """What a session has cost, in tokens."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    runs: int


async def update(request: web.Request) -> web.StreamResponse:
    """Rename a session, describe it, or go back to one of its messages."""
    change = await body(request, Change)
    session = await _owned(request)
    if change.last_message_id is not UNSET:
        await session.backend.threads.rewind(session.owner, session.id, MessageId(change.last_message_id))
    thread = await session.backend.threads.update(
        session.owner, session.id, title=change.title, metadata=change.metadata
    )
    return json(
        Changed(
            thread.id, thread.agent, thread.title, thread.metadata, thread.last_message, thread.updated_at
        )
    )


async def delete(request: web.Request) -> web.StreamResponse:
    """Delete a session and everything that belongs to it."""
    session = await _owned(request)
    if await session.delete() is None:
        raise NotFound(f"there is no session {session.id!r}")
    return json(Done())


async def usage(request: web.Request) -> web.StreamResponse:
    """What its runs have cost together."""
    session = await _owned(request)
    found = await session.backend.threads.usage(session.owner, session.id)
    total = found.input_tokens + found.output_tokens
    return json(Spent(found.input_tokens, found.output_tokens, total, found.runs))


async def _owned(request: web.Request) -> Session:
    """The session of a path that names its agent. Raises `NotFound` if it is another agent's."""
    session = _session(request)
    await session.check_agent()
    return session


def _session(request: web.Request) -> Session:
    """The session of a path, `/…/{session}` or `/…/{id}`."""
    id = request.match_info.get("session") or request.match_info["id"]
    return session_of(request, id)


_AT = "/api/agents/{agent}/{session}"
ROUTES = tuple(
    Route(method, path, handler, Scope.CHAT, says)
    for method, path, handler, says in (
        (
            "POST",
            "/api/chat/{id}/stop",
            interrupt,
            Says("Stop the session's run", None, {200: Stopped}, tag="chat"),
        ),
        ("GET", _AT, history, Says("The stored messages", None, {200: Stored}, tag="session")),
        ("POST", _AT, post, Says("Say something; stream what follows", Any, {200: bytes}, tag="session")),
        ("PATCH", _AT, update, Says("Change a session", Change, {200: Changed}, tag="session")),
        ("DELETE", _AT, delete, Says("Delete a session", None, {200: Done}, tag="session")),
        ("GET", f"{_AT}/usage", usage, Says("What it has cost", None, {200: Spent}, tag="session")),
        (
            "GET",
            f"{_AT}/reconnect",
            reconnect,
            Says("Rejoin the running answer", None, {200: bytes, 204: None}, tag="session"),
        ),
        (
            "POST",
            f"{_AT}/interrupt",
            interrupt,
            Says("Stop the session's run", None, {200: Stopped}, tag="session"),
        ),
    )
)
