"""The session API: `/api/agents/{agent}/{session}` and what hangs below it.

A body is one thing to say or a list of them: a message (a string, its parts, or a whole UI message), the
client's `messages` (of which the last one counts), or an approval.
"""

import hashlib
import secrets
from typing import Any

import msgspec
from aiohttp import web

from gateway import turns
from gateway.sessions import Session
from gateway.turns import Message, Options
from gateway.web import approve, body, json, key_of, rejoin, session_of, stream, view_of
from protocol.adapters.ports import Decision
from protocol.errors import Invalid


async def post(request: web.Request) -> web.StreamResponse:
    """Say something: a message, or answers to questions. Streams what comes of it."""
    said = await body(request, Any)
    items = said if isinstance(said, list) and not _parts(said) else [said]
    key = key_of(request)
    # A message without an id gets one; the same key must get the same, or it would be another message.
    fresh = f"msg_{hashlib.sha256(key.encode()).hexdigest()[:24] if key else secrets.token_hex(12)}"
    decisions, messages, options = [], [], Options()
    for number, item in enumerate(items):
        pointer = f"/{number}" if items is said else ""
        if isinstance(item, dict) and item.get("type") == "approval":
            decisions.append(turns.decision(item.get("approval"), f"{pointer}/approval"))
        else:
            messages.append(_message(item, pointer, fresh))
            options = _options(item, pointer)
    return await _say(request, decisions, messages, options, key)


async def _say(
    request: web.Request,
    decisions: list[Decision],
    messages: list[Message],
    options: Options,
    key: str | None,
) -> web.StreamResponse:
    session = await _owned(request)
    if decisions and messages:
        raise Invalid("approvals and messages are different requests: send one after the other")
    if decisions:
        return await approve(request, session, decisions)
    if len(messages) != 1:
        raise Invalid("one message at a time")
    replay = await session.send(
        turns.user(messages[0], ""), view_of(request), when_busy=options.busy, key=key
    )
    return await stream(request, replay)


def _parts(said: list[Any]) -> bool:
    """Whether a list is a message's parts, and not a list of things to say."""
    return all(isinstance(one, dict) and one.get("type") in ("text", "file") for one in said) and bool(said)


def _message(item: Any, pointer: str, fresh: str) -> Message:
    match item:
        case {"messages": [*_, dict(last)]}:
            return _message(last, f"{pointer}/messages/{len(item['messages']) - 1}", fresh)
        case {"message": message}:
            return _message(message, f"{pointer}/message", fresh)
        case str(text):
            return Message(fresh, "user", [{"type": "text", "text": text}])
        case list(parts) if _parts(parts):
            return Message(fresh, "user", parts)
        case {"parts": list(parts), **rest} if "id" not in rest:
            return Message(fresh, "user", parts)
        case {"role": "user"}:
            try:
                return msgspec.convert(item, Message)
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
    answer: dict[str, object] = {
        "id": session.id,
        "agent": found.agent,
        "messages": found.messages,
        "createdAt": found.created_at,
        "updatedAt": found.updated_at,
    }
    if found.busy is not None:
        answer["activeRunId"] = found.busy.id
    return json(answer)


async def reconnect(request: web.Request) -> web.StreamResponse:
    """The stream of the session's run, from wherever the client is."""
    return await rejoin(request, await _owned(request))


async def interrupt(request: web.Request) -> web.StreamResponse:
    """Stop the session's run, wherever it is. Doing it twice is doing it once."""
    session = await _owned(request) if "agent" in request.match_info else _session(request)
    return json({"success": True, "interrupted": await session.interrupt()})


async def _owned(request: web.Request) -> Session:
    """The session of a path that names its agent. Raises `NotFound` if it is another agent's."""
    session = _session(request)
    await session.check_agent()
    return session


def _session(request: web.Request) -> Session:
    """The session of a path, `/…/{session}` or `/…/{id}`."""
    id = request.match_info.get("session") or request.match_info["id"]
    return session_of(request, id)
