"""What a chat request leads to, and the response types that several APIs share.

A handler first admits the request and gets an `Answer`, then responds with it. The decoded body is gone by
then: its files must not stay in memory for as long as an answer takes.
"""

from collections.abc import Callable, Sequence
from typing import Any, assert_never

import msgspec
from aiohttp import web
from rejoin_adapters.records import Decision
from rejoin_protocol.lifecycle import State

from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core.session import Session
from rejoin_gateway.http import request_body
from rejoin_gateway.http.request import view_of
from rejoin_gateway.http.response import json_response, stream_replay
from rejoin_gateway.http.service import PRINCIPAL
from rejoin_gateway.streaming.collect import CollectedAnswer, collect_answer
from rejoin_gateway.streaming.replay import Replay

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


async def respond(request: web.Request, answer: Answer) -> web.StreamResponse:
    """Send an answer. Raises as `Replay.open`."""
    match answer:
        case StreamAnswer(replay):
            return await stream_replay(request, replay)
        case CompleteAnswer(replay, render):
            request_body.release_body(request)
            return json_response(render(replay, await collect_answer(replay)))
        case JsonAnswer(value):
            return json_response(value)
        case _:
            assert_never(answer)


async def decide(
    request: web.Request,
    session: Session,
    decisions: Sequence[Decision],
    acknowledgement: Any = Acknowledgement(),  # noqa: B008 - it is frozen
) -> Answer:
    """Store decisions; the stream that follows, or `acknowledgement` while the run waits for more of them.

    Raises `Forbidden` for a credential that may not decide, and as `Session.approve`.
    """
    request[PRINCIPAL].require_scope(Scope.APPROVE)
    replay = await session.approve(decisions, view_of(request))
    return JsonAnswer(acknowledgement) if replay is None else StreamAnswer(replay)
