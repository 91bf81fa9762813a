"""The AI SDK's default shape: what `useChat` sends without any configuration, and what it reads.

`POST /api/chat` `{id, messages, trigger, messageId?}` and `GET /api/chat/{id}/stream` (npm `ai`,
`http-chat-transport.ts`). The client sends the whole conversation each time; of a session we know, only the
new turn is taken, and of an assistant message only the decisions in it: nobody can forge what is stored.
"""

from typing import Any, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from gateway import positions
from gateway.sessions import Session
from gateway.web import SERVICE, TENANT, agent_of, body, json, stream, view_of
from protocol.adapters.ports import Decision
from protocol.errors import Invalid
from protocol.fold import UIMessage
from protocol.ids import MESSAGE_ID_CHARS_MAX, ApprovalId, MessageId, session_id

MESSAGES_MAX = 10_000
IMPORTS_MAX = 500


class Message(msgspec.Struct, frozen=True):
    """A message as the client holds it."""

    id: str
    role: Literal["system", "user", "assistant"]
    parts: list[dict[str, Any]]
    metadata: Any = UNSET


class ChatRequest(msgspec.Struct, frozen=True, rename="camel"):
    """The body. Fields that an application adds are its own business."""

    id: str
    messages: list[Message]
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    message_id: str | UnsetType | None = UNSET


async def post(request: web.Request) -> web.StreamResponse:
    """Send a message, regenerate an answer, or decide approvals; stream what comes of it."""
    chat = await body(request, ChatRequest)
    session = _session(request, chat.id)
    view = view_of(request)
    named = chat.message_id if isinstance(chat.message_id, str) else None
    if not chat.messages or len(chat.messages) > MESSAGES_MAX:
        raise Invalid(f"messages holds 1 to {MESSAGES_MAX} messages", "/messages")
    if chat.trigger == "regenerate-message":
        replay = await session.regenerate(MessageId(named) if named else None, view)
        return await stream(request, session.id, replay)
    last = chat.messages[-1]
    decisions = _decisions(chat, named)
    if decisions:
        continuation = await session.approve(decisions, view)
        if continuation is None:
            return json({"success": True})
        return await stream(request, session.id, continuation)
    if last.role != "user":
        raise Invalid("the last message is not the user's, and no approval in it is answered", "/messages")
    message = _turn(last, len(chat.messages) - 1)
    imports = [_imported(one) for one in chat.messages[:-1][-IMPORTS_MAX:] if one.role != "system"]
    replay = await session.send(
        message, view, edit=named == last.id, imports=[one for one in imports if one["parts"]]
    )
    return await stream(request, session.id, replay)


async def resume(request: web.Request) -> web.StreamResponse:
    """The stream of a session's run, from wherever the client is."""
    session = _session(request, request.match_info["id"])
    position = positions.parse(request.headers, request.query)
    follow = request.query.get("follow", "").lower() == "true"
    replay = await session.stream(position, view_of(request), follow=follow)
    if replay is None:
        return web.Response(status=204)
    return await stream(request, replay.run.session, replay)


def _session(request: web.Request, id: str) -> Session:
    backend = request.app[SERVICE].backend
    return backend.agent(agent_of(request), TENANT).session(session_id(id))


def _decisions(chat: ChatRequest, named: str | None) -> list[Decision]:
    """The answers in the assistant message that `messageId` names, or else in the last one."""
    message = next((one for one in chat.messages if one.id == named), chat.messages[-1])
    if message.role != "assistant":
        return []
    return [
        decision
        for index, part in enumerate(message.parts)
        if part.get("state") == "approval-responded"
        for decision in [_decision(part.get("approval"), f"/messages/-/parts/{index}/approval")]
    ]


def _decision(approval: Any, pointer: str) -> Decision:
    match approval:
        case {"id": str(id), "approved": bool(approved)}:
            reason = approval.get("reason")
            return Decision(ApprovalId(id), approved, reason if isinstance(reason, str) else None)
        case _:
            raise Invalid("an answered approval needs an id and `approved`", pointer)


def _turn(message: Message, index: int) -> UIMessage:
    """A user's message as it is stored. Raises `Invalid` naming the part: nothing is dropped silently."""
    pointer = f"/messages/{index}"
    if not 0 < len(message.id) <= MESSAGE_ID_CHARS_MAX:
        raise Invalid(f"a message id has 1 to {MESSAGE_ID_CHARS_MAX} characters", f"{pointer}/id")
    if not message.parts:
        raise Invalid("a user's message has at least one part", f"{pointer}/parts")
    parts = []
    for number, part in enumerate(message.parts):
        match part:
            case {"type": "text", "text": str(text)}:
                parts.append({"type": "text", "text": text})
            case _:
                raise Invalid("a user's part is {type: text, text}", f"{pointer}/parts/{number}")
    stored: UIMessage = {"id": message.id, "role": "user"}
    if message.metadata is not UNSET:
        stored["metadata"] = message.metadata
    return stored | {"parts": parts}


def _imported(message: Message) -> UIMessage:
    """An earlier turn for a session that is new: its text alone, for nobody has seen its tools run."""
    parts = [
        {"type": "text", "text": part["text"]}
        for part in message.parts
        if part.get("type") == "text" and isinstance(part.get("text"), str)
    ]
    return {"id": message.id[:MESSAGE_ID_CHARS_MAX], "role": message.role, "parts": parts}
