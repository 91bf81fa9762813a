"""The AI SDK's API: what `useChat` sends without configuration, and what it reads.

`POST /api/chat` takes `{id, messages, trigger, messageId?}`; its route is in `chat_dispatch`, because three
families share it. `GET /api/chat/{id}/stream` resumes (npm package `ai`, `http-chat-transport.ts`). The
client sends the whole conversation each time. From a session that exists only the new turn is taken, and
from an assistant message only the decisions and the outputs of client tools in it, so that a client cannot
change what is stored.
"""

from typing import Annotated, Literal

from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from rejoin_adapters.store_types import Decision
from rejoin_gateway.api.shared.answers import Answer, StreamAnswer, answer_sent, decide, decide_before
from rejoin_gateway.api.shared.client_tools import parse_named_tools, takes_tools, with_tools
from rejoin_gateway.api.shared.lookup import session_by_id, session_in_path
from rejoin_gateway.api.shared.run_webhook import with_webhook
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core import message_input
from rejoin_gateway.core.answered_calls import answers_before, outputs_before, parse_answers, to_decisions
from rejoin_gateway.core.backend import Steered
from rejoin_gateway.core.message_input import ClientMessage, SessionBody, new_session_id
from rejoin_gateway.core.session import AgentSession, Session
from rejoin_gateway.core.tool_outputs import open_outputs, parse_tool_outputs, repeated_outputs
from rejoin_gateway.core.unread_answers import interrupt_unread_answer, replace_messages
from rejoin_gateway.http.gateway_service import PRINCIPAL
from rejoin_gateway.http.request import key_of, session_of, view_of
from rejoin_gateway.http.response import stream_from_position
from rejoin_gateway.http.routes import ErrorFormat, Route, RouteDoc
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import MessageId
from rejoin_protocol.limits import MESSAGES_MAX, Id, RepeatedList, RepeatedPart


class UIChatRequest(SessionBody, frozen=True, rename="camel", kw_only=True):
    """The body of the AI SDK. Other fields, which applications add, are ignored. `tools`: the client tools of
    the run, `{description?, parameters?}` by name, as assistant-ui sends them. They are ignored unless the
    agent takes tools from requests: assistant-ui sends in every request what its page can run.
    """

    messages: Annotated[list[ClientMessage], Meta(max_length=MESSAGES_MAX)]
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    message_id: Id | UnsetType | None = UNSET
    tools: RepeatedPart | RepeatedList | None = None


async def answer_chat(request: web.Request, chat: UIChatRequest) -> Answer:
    """Send a message, regenerate an answer, or decide approvals. Raises as `AgentSession.send`."""
    view, key = view_of(request), key_of(request)
    message_id = chat.message_id if isinstance(chat.message_id, str) else None
    if not chat.messages:
        raise Invalid("messages holds at least one message", "/messages")
    if (
        chat.trigger == "submit-message"
        and (given := await _find_decisions(request, chat, message_id)) is not None
    ):
        return await decide(request, *given)
    session = session_of(request, chat.session_id or new_session_id(key, request[PRINCIPAL].owner))
    session = await with_webhook(request, session, chat)
    if chat.tools and await takes_tools(session):
        session = await with_tools(session, parse_named_tools(chat.tools))
    if chat.trigger == "regenerate-message":
        target = MessageId(message_id) if message_id else None
        return StreamAnswer(
            await replace_messages(
                session, chat, lambda: session.regenerate(target, view, when_busy=chat.busy_policy, key=key)
            )
        )
    return answer_sent(await _send_message(request, session, chat, message_id))


async def _send_message(
    request: web.Request, session: AgentSession, chat: UIChatRequest, message_id: str | None
) -> Replay | Steered:
    *earlier, last = chat.messages
    edit = message_id == last.id
    if last.role != "user":
        raise Invalid("the last message is not the user's, and no call in it is answered", "/messages")
    message = message_input.build_user_message(last, f"/messages/{len(earlier)}")
    if message_id:
        await session.require_message(MessageId(message_id))
    await decide_before(
        request, session, answers_before(chat.messages, "/messages"), outputs_before(chat.messages)
    )
    if not edit:
        await interrupt_unread_answer(session, chat, last.id, earlier)
    return await replace_messages(
        session,
        chat,
        lambda: session.send(
            message,
            view_of(request),
            pointer=f"/messages/{len(earlier)}",
            edit=edit,
            imports=message_input.build_imported_turns(
                earlier, lambda number: part_pointers(chat.messages[number], number)
            ),
            when_busy=chat.busy_policy,
            seen=chat.seen,
            key=key_of(request),
        ),
    )


async def resume_chat(request: web.Request) -> web.StreamResponse:
    """The stream of the session's run from the client's position."""
    return await stream_from_position(request, await session_in_path(request))


def part_pointers(message: ClientMessage, number: int) -> list[str]:
    """The JSON pointers of the parts of message `number`."""
    return [f"/messages/{number}/parts/{part}" for part in range(len(message.parts))]


async def _find_decisions(
    request: web.Request, chat: UIChatRequest, message_id: str | None
) -> tuple[Session, list[Decision]] | None:
    """The answers and the outputs of client tools in the assistant message that `messageId` names, or else in
    the last message, and their session. None if the request has none.
    """
    matches = [number for number, message in enumerate(chat.messages) if message.id == message_id]
    number = matches[-1] if matches else len(chat.messages) - 1
    message = chat.messages[number]
    if message.role != "assistant":
        return None
    answers = parse_answers(message, f"/messages/{number}")
    outputs = parse_tool_outputs(message.parts)
    if not (answers or outputs):
        return None
    session = await session_by_id(request, chat.session_id or new_session_id())
    decisions = [*await to_decisions(session, answers), *await open_outputs(session, outputs)]
    return (
        (session, decisions) if (decisions := decisions or await repeated_outputs(session, outputs)) else None
    )


ROUTES = (
    Route(
        "GET",
        "/api/chat/{id}/stream",
        resume_chat,
        Scope.CHAT,
        RouteDoc(
            "Resume the stream of a chat",
            description="`useChat` calls it with `resume: true` when a page loads. Returns the active run's "
            "stream from its beginning, or from behind a position; 204 if no run is active. `{id}` may also "
            "be the id of a run.",
            responses={200: bytes, 204: None},
            tag="chat",
        ),
        ErrorFormat.PROBLEM_WITH_TEXT,  # the client of the parts API resumes here too
    ),
)
