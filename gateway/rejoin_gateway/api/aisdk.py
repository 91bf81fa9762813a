"""The AI SDK's default shape: what `useChat` sends without any configuration, and what it reads.

`POST /api/chat` `{id, messages, trigger, messageId?}` and `GET /api/chat/{id}/stream` (npm `ai`,
`http-chat-transport.ts`). The client sends the whole conversation each time; of a session we know, only the
new turn is taken, and of an assistant message only the decisions in it: nobody can forge what is stored.
"""

from typing import Literal

from aiohttp import web
from msgspec import UNSET, UnsetType
from rejoin_adapters.records import Decision
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import MessageId, session_id

from rejoin_gateway.api.shared.lookup import session_at, session_in_path
from rejoin_gateway.core import message_input
from rejoin_gateway.core.message_input import MESSAGES_MAX, ClientMessage, SessionBody, new_session_id
from rejoin_gateway.http.request import decode_body, key_of, session_of, view_of
from rejoin_gateway.http.response import approve_and_stream, stream_from_position, stream_replay
from rejoin_gateway.http.routes import Route, RouteDoc, Scope
from rejoin_gateway.http.service import PRINCIPAL


class UIChatRequest(SessionBody, frozen=True, rename="camel", kw_only=True):
    """The body. Fields that an application adds are its own business."""

    messages: list[ClientMessage]
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    message_id: str | UnsetType | None = UNSET


async def send_chat(request: web.Request) -> web.StreamResponse:
    """Send a message, regenerate an answer, or decide approvals; stream what comes of it."""
    chat = await decode_body(request, UIChatRequest)
    view, key = view_of(request), key_of(request)
    named = chat.message_id if isinstance(chat.message_id, str) else None
    if not chat.messages or len(chat.messages) > MESSAGES_MAX:
        raise Invalid(f"messages holds 1 to {MESSAGES_MAX} messages", "/messages")
    answered = _answered(chat, named) if chat.trigger == "submit-message" else []
    if answered:
        chat.messages.clear()  # here and below: files must not be held for as long as an answer takes
        session = await session_at(request, session_id(chat.named or new_session_id()))
        return await approve_and_stream(request, session, answered)
    session = session_of(request, chat.named or new_session_id(key, request[PRINCIPAL].owner))
    if chat.trigger == "regenerate-message":
        target = MessageId(named) if named else None
        chat.messages.clear()
        replay = await session.regenerate(target, view, when_busy=chat.busy, key=key)
        return await stream_replay(request, replay)
    *earlier, last = chat.messages
    if last.role != "user":
        raise Invalid("the last message is not the user's, and no approval in it is answered", "/messages")
    replay = await session.send(
        message_input.build_user_message(last, f"/messages/{len(earlier)}"),
        view,
        pointer=f"/messages/{len(earlier)}",
        edit=named == last.id,
        imports=message_input.build_imported_turns(
            earlier, lambda number: _places(chat.messages[number], number)
        ),
        when_busy=chat.busy,
        key=key,
    )
    chat.messages.clear()
    del earlier, last
    return await stream_replay(request, replay)


async def resume_stream(request: web.Request) -> web.StreamResponse:
    """The stream of a session's run, from wherever the client is."""
    return await stream_from_position(request, await session_in_path(request))


def _places(message: ClientMessage, number: int) -> list[str]:
    return [f"/messages/{number}/parts/{part}" for part in range(len(message.parts))]


def _answered(chat: UIChatRequest, named: str | None) -> list[Decision]:
    """The answers in the assistant message that `messageId` names, or else in the last one."""
    found = [number for number, message in enumerate(chat.messages) if message.id == named]
    number = found[-1] if found else len(chat.messages) - 1
    return message_input.parse_decisions(chat.messages[number], f"/messages/{number}")


ROUTES = (
    Route(
        "GET",
        "/api/chat/{id}/stream",
        resume_stream,
        Scope.CHAT,
        RouteDoc("Rejoin the running answer", None, {200: bytes, 204: None}, tag="chat"),
    ),
)
