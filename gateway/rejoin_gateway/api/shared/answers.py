"""What a chat request leads to, and the response types that several APIs share.

A handler first admits the request and gets an `Answer`, then responds with it. The decoded body is gone by
then: its files must not stay in memory for as long as an answer takes.
"""

from collections.abc import Callable, Sequence
from typing import Any, assert_never

import msgspec
from aiohttp import web

from rejoin_adapters.store_types import Decision
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core.answered_calls import AnsweredCall, find_open_requests, store_by_run
from rejoin_gateway.core.backend import Steered
from rejoin_gateway.core.message_input import SeenAnswer
from rejoin_gateway.core.session import Session
from rejoin_gateway.core.tool_outputs import ToolOutput
from rejoin_gateway.http import request_body
from rejoin_gateway.http.gateway_service import PRINCIPAL, begin_response
from rejoin_gateway.http.request import decode_optional_body, view_of
from rejoin_gateway.http.response import json_response, stream_replay
from rejoin_gateway.streaming.collect import CollectedAnswer, collect_answer
from rejoin_gateway.streaming.positions import FromStart
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol.ids import MessageId, RunId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.limits import Id
from rejoin_protocol.log.record import View

RUN_STATUS = {
    State.QUEUED: "running",
    State.RUNNING: "running",
    State.SUSPENDED: "suspended",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "completed",
}
"""The four status words that clients of the run API know."""


class Acknowledgement(msgspec.Struct, frozen=True):
    """The request was carried out."""

    success: bool = True


class SteeringAccepted(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The message is stored. The model of run `runId` reads it at its next step, and that run's stream has it
    as `steering-message`. If the run ends before, the message is the session's next turn.
    """

    message_id: str
    run_id: str
    success: bool = True
    steering: bool = True


class InterruptRequest(SeenAnswer, frozen=True, rename="camel", kw_only=True):
    """The body of an interrupt, which may be empty. `messageId`: interrupt the run that answers this message,
    also if the message comes a few seconds later. `lastPart`: the last part of the answer that the user had
    seen, with as much text as was visible; what is behind it is cut from the history.
    """

    message_id: Id | None = None


class InterruptResult(msgspec.Struct, frozen=True):
    """`interrupted`: whether there was a run to interrupt."""

    success: bool
    interrupted: bool


class StreamAnswer(msgspec.Struct, frozen=True):
    """The run's events, as they come."""

    replay: Replay


class CompleteAnswer(msgspec.Struct, frozen=True):
    """One JSON value after the run has ended; `render` builds it."""

    replay: Replay
    render: Callable[[Replay, CollectedAnswer], Any]


class JsonAnswer(msgspec.Struct, frozen=True):
    """A JSON value at once."""

    value: Any


type Answer = StreamAnswer | CompleteAnswer | JsonAnswer


def answer_sent(sent: Replay | Steered, answer: Callable[[Replay], Answer] = StreamAnswer) -> Answer:
    """What a sent message leads to. `answer`: how its answer is returned, if it gets one of its own."""
    match sent:
        case Steered(run, message):
            return JsonAnswer(SteeringAccepted(message_id=message, run_id=run.id))
        case replay:
            return answer(replay)


async def require_replay(session: Session, sent: Replay | Steered, view: View) -> Replay:
    """The stream of the answer to a message, in an API whose responses have no other form: of a message that
    steers, or has steered, a run, that of the run.
    """
    if not isinstance(sent, Steered):
        return sent
    return await session.replay(sent.run, FromStart(), view)


async def interrupt(request: web.Request, session: Session, run: RunId | None = None) -> web.Response:
    """Interrupt a run of a session as the request's body says; without `run` the active and suspended ones.

    Raises as `Session.interrupt`.
    """
    body = await decode_optional_body(request, InterruptRequest)
    message = MessageId(body.message_id) if body.message_id and run is None else None
    interrupted = await session.interrupt(run, message=message, seen=body.last_part)
    return json_response(InterruptResult(success=True, interrupted=interrupted))


async def respond(request: web.Request, answer: Answer) -> web.StreamResponse:
    """Send an answer. Raises as `Replay.open`."""
    match answer:
        case StreamAnswer(replay):
            return await stream_replay(request, replay)
        case CompleteAnswer(replay, render):
            request_body.release_body(request)
            begin_response(request)
            return json_response(render(replay, await collect_answer(replay)))
        case JsonAnswer(value):
            return json_response(value)
        case _:
            assert_never(answer)


def _require_scopes(request: web.Request, decisions: Sequence[Decision]) -> None:
    """To decide needs the scope `approve`. The output of a client's tool is a part of the chat."""
    if any(decision.kind == "approval" for decision in decisions):
        request[PRINCIPAL].require_scope(Scope.APPROVE)


async def decide_before(
    request: web.Request,
    session: Session,
    answers: Sequence[AnsweredCall],
    outputs: Sequence[ToolOutput] = (),
) -> None:
    """Store the answers to open questions, and the outputs of open calls, that come with a new message,
    before that is sent.

    Answers to questions that are not open are left out: clients repeat them with their history. Raises as
    `decide`.
    """
    await store_decisions(request, session, await find_open_requests(session, answers, outputs))


async def store_decisions(request: web.Request, session: Session, given: Sequence[Decision]) -> None:
    """Store decisions and outputs, of several runs too. Raises as `decide`."""
    _require_scopes(request, given)
    await store_by_run(session, given)


async def decide(
    request: web.Request,
    session: Session,
    decisions: Sequence[Decision],
    acknowledgement: Any = Acknowledgement(),  # noqa: B008 - it is frozen
) -> Answer:
    """Store decisions and outputs; the stream that follows, or `acknowledgement` while more are open.

    Raises `Forbidden` for a credential that may not decide, and as `Session.approve`.
    """
    _require_scopes(request, decisions)
    replay = await session.approve(decisions, view_of(request))
    return JsonAnswer(acknowledgement) if replay is None else StreamAnswer(replay)
