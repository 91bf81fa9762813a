"""The run API's chat: `/run/api/chat`, and `/run/api/executions` with the same format. The graph API uses it
too.

The body holds `messages`. From a session that exists only the last user message is taken, so that a client
cannot change what is stored. Parts in state `approval-responded` are decisions; if a new message comes with
them, they are taken first.
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from aiohttp import web
from msgspec import Meta

from rejoin_adapters.store_types import Decision
from rejoin_gateway.api.shared import message_forms
from rejoin_gateway.api.shared.answers import (
    Answer,
    CompleteAnswer,
    JsonAnswer,
    StreamAnswer,
    answer_sent,
    decide,
    decide_before,
    respond,
)
from rejoin_gateway.api.shared.client_tools import with_named_tools
from rejoin_gateway.api.shared.lookup import session_by_id, session_in_path
from rejoin_gateway.api.shared.message_forms import RunMessage
from rejoin_gateway.api.shared.run_webhook import with_webhook
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core import message_input
from rejoin_gateway.core.answered_calls import AnsweredCall, to_decisions, without_answers
from rejoin_gateway.core.backend import Steered
from rejoin_gateway.core.message_input import SessionBody, new_message_id, new_session_id
from rejoin_gateway.core.session import AgentSession, Session
from rejoin_gateway.core.unread_answers import interrupt_unread_answer
from rejoin_gateway.http.gateway_service import PRINCIPAL
from rejoin_gateway.http.request import decode_body, key_of, session_of, view_of
from rejoin_gateway.http.response import stream_from_position
from rejoin_gateway.http.routes import AGENT_HEADER, IDEMPOTENCY_HEADER, Route, RouteDoc
from rejoin_gateway.streaming.collect import CollectedAnswer
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import AgentName
from rejoin_protocol.limits import MESSAGES_MAX, CheckedId, FreeObject, RepeatedPart
from rejoin_protocol.log.record import OperationSet

RUN_FINISH_REASONS = {
    "tool-calls": "tool_calls",
    "content-filter": "content_filter",
    "length": "length",
    "error": "error",
}
INVOCATION_HEADER = "x-inkeep-invocation-type"
WIDGET = "chat_widget"
"""The value of that header in requests of the run API's own widget."""


class ChatRequest(SessionBody, frozen=True, rename="camel", kw_only=True):
    """The body. `executionMode: "classic"` keeps the response open while the run waits for approvals, and
    decisions are then acknowledged with JSON; without it the agent's setting counts. Every run is durable in
    both modes. `headers` and `userProperties` are accepted and have no effect: the request context comes in
    the request's own headers. `tools`: the client tools of the run, `{description?, parameters?}` by name;
    refused if the agent takes no tools from requests.
    """

    messages: Annotated[list[RunMessage], Meta(max_length=MESSAGES_MAX)]
    message_id: CheckedId | None = None
    stream: bool = True
    headers: FreeObject | None = None
    execution_mode: Literal["classic", "durable"] | None = None
    user_properties: FreeObject | None = None
    tools: RepeatedPart | None = None


class DecidedCall(TypedDict):
    """A decision that was stored. `alreadyProcessed`: the same decision was stored before."""

    toolCallId: str | None
    approvalId: str
    approved: bool
    alreadyProcessed: bool


class DecisionAck(TypedDict):
    """Returned instead of a stream: the run waits for more decisions, or its stream is open elsewhere, or the
    client wanted no stream.
    """

    success: bool
    results: list[DecidedCall]


class CompletedAnswer(TypedDict):
    """A whole answer, in the form of an OpenAI chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, int]
    error: NotRequired[dict[str, str]]


async def send_chat(request: web.Request) -> web.StreamResponse:
    """Send a message or decide approvals; stream what follows, or return the whole answer."""
    return await respond(request, await _decode_and_answer(request))


async def _decode_and_answer(request: web.Request) -> Answer:
    return await answer_chat(request, await decode_body(request, ChatRequest))


async def answer_chat(request: web.Request, chat: ChatRequest) -> Answer:
    """Send a message, decide approvals, or both, the decisions first. Raises as `AgentSession.send`."""
    if not chat.messages:
        raise Invalid("messages holds at least one message", "/messages")
    answers = message_forms.last_answers(chat.messages)
    if answers and not message_forms.has_message(chat.messages[-1]):
        return await _decide_approvals(request, chat, answers)
    key = key_of(request)
    session = session_of(request, chat.session_id or new_session_id(key, request[PRINCIPAL].owner))
    session = await with_named_tools(session, chat.tools)
    session = await with_webhook(request, session, chat)
    sent = await _send_message(
        request, session, chat, answers or message_forms.earlier_answers(chat.messages)
    )
    if chat.stream:
        return answer_sent(sent)
    render = partial(render_completion, int(session.now().timestamp()))
    return answer_sent(sent, lambda replay: CompleteAnswer(replay, render))


async def _keeps_open(session: Session, agent: AgentName, chat: ChatRequest) -> bool:
    """Whether the response of a run stays open while the run waits for approvals."""
    if chat.execution_mode is not None:
        return chat.execution_mode == "classic"
    return (await session.backend.agent(agent)).execution_mode == "classic"


async def _send_message(
    request: web.Request, session: AgentSession, chat: ChatRequest, answers: Sequence[AnsweredCall]
) -> Replay | Steered:
    key = key_of(request)
    follow = chat.stream and await _keeps_open(session, session.agent, chat)
    message, number = message_forms.last_user_message(chat.messages, chat.message_id or new_message_id(key))
    message, pointer = without_answers(message), f"/messages/{number}"
    earlier = message_forms.earlier_messages(chat.messages, number)
    with message_input.relocate_errors(pointer, message_forms.part_pointers(chat.messages[number], pointer)):
        stored = message_input.build_user_message(message, pointer)
        await decide_before(request, session, answers)
        # The API's own widget sends nothing while it reads an answer, and its stop button only closes the
        # connection: a new message means that nobody reads the answer any more.
        by_widget = request.headers.get(INVOCATION_HEADER) == WIDGET
        await interrupt_unread_answer(session, chat, message.id, earlier, always=by_widget)
        return await session.send(
            stored,
            view_of(request),
            pointer=pointer,
            imports=message_input.build_imported_turns(
                earlier,
                lambda earlier: message_forms.part_pointers(chat.messages[earlier], f"/messages/{earlier}"),
            ),
            when_busy=chat.busy_policy,
            seen=chat.seen,
            follow=follow,
            key=key,
        )


async def _decide_approvals(
    request: web.Request, chat: ChatRequest, answers: Sequence[AnsweredCall]
) -> Answer:
    session = await session_by_id(request, chat.session_id or new_session_id())
    pending = {approval.request.id for approval in await session.pending_approvals()}
    decisions = await to_decisions(session, answers)
    acknowledgement = _acknowledge(answers, decisions, pending)
    answer = await decide(request, session, decisions, acknowledgement)
    if not isinstance(answer, StreamAnswer):
        return answer
    # Without a stream, or with the run's own stream still open, the client gets the acknowledgement at once;
    # the run goes on.
    if not chat.stream or await _keeps_open(session, answer.replay.run.agent, chat):
        return JsonAnswer(acknowledgement)
    return answer


def _acknowledge(
    answers: Sequence[AnsweredCall], decisions: Sequence[Decision], pending: Collection[str]
) -> DecisionAck:
    results: list[DecidedCall] = [
        {
            "toolCallId": answer.call,
            "approvalId": decision.approval,
            "approved": decision.approved,
            "alreadyProcessed": decision.approval not in pending,
        }
        for answer, decision in zip(answers, decisions, strict=True)
    ]
    return {"success": True, "results": results}


def render_completion(created_s: int, replay: Replay, answer: CollectedAnswer) -> CompletedAnswer:
    """The whole answer. `created_s`: seconds since 1970."""
    usage = answer.usage
    completion: CompletedAnswer = {
        "id": replay.run.id,
        "object": "chat.completion",
        "created": created_s,
        "model": replay.run.agent,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.text},
                "finish_reason": RUN_FINISH_REASONS.get(answer.finish_reason, "stop"),
            }
        ],
        "usage": {
            "prompt_tokens": usage.input,
            "completion_tokens": usage.output,
            "total_tokens": usage.total,
        },
    }
    if answer.error is not None:
        completion["error"] = {"message": answer.error}
    return completion


async def resume_run_chat(request: web.Request) -> web.StreamResponse:
    """The stream of a run, or of a conversation's run, from the client's position."""
    return await stream_from_position(request, await session_in_path(request))


def _document(summary: str, description: str) -> RouteDoc:
    return RouteDoc(
        summary,
        description=description,
        body=ChatRequest,
        responses={200: (bytes, DecisionAck, CompletedAnswer)},
        headers={**AGENT_HEADER, **IDEMPOTENCY_HEADER},
        takes_context=True,
        tag="run",
        example={"messages": [{"role": "user", "content": "hello"}]},
    )


ROUTES = (
    Route(
        "POST",
        "/run/api/chat",
        send_chat,
        Scope.CHAT,
        _document(
            "Send a message and stream its answer",
            "Takes the conversation as `messages`; the last user message is answered. `conversationId` names "
            "the session; without it a new session is created. An assistant message at the end with decided "
            "approvals continues a run that waits for them. Returns the run's events as a stream, or with "
            "`stream: false` the whole answer in the form of an OpenAI chat completion. The header "
            "`x-workflow-run-id` names the run.",
        ),
        operation_set=OperationSet.LIFECYCLE,
    ),
    Route(
        "GET",
        "/run/api/chat/{id}/stream",
        resume_run_chat,
        Scope.CHAT,
        RouteDoc(
            "Resume the stream of a run",
            description="Where the transports of the AI SDK and of `@workflow/ai` send a resume if their "
            "`api` is `/run/api/chat`. `{id}` is the id of a run or of a conversation. Without a position it "
            "returns the active run's stream from its beginning, or 204 if no run is active.",
            responses={200: bytes, 204: None},
            tag="run",
        ),
    ),
    Route(
        "POST",
        "/run/api/executions",
        send_chat,
        Scope.CHAT,
        _document(
            "Start an execution",
            "Takes and returns the same as `POST /run/api/chat`. Use it with the other routes of "
            "executions: the header `x-workflow-run-id` is the execution's id.",
        ),
        operation_set=OperationSet.LIFECYCLE,
    ),
)
