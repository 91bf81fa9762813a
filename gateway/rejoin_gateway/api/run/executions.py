"""The run API's executions: a run by its own id, to be watched, decided and stopped.

`status` is one of the four words that its clients know; `state` is ours.
"""

from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web
from rejoin_adapters.records import Approval, Decision, RunSummary
from rejoin_protocol.errors import NotFound
from rejoin_protocol.ids import ApprovalId, CallId, MessageId, RunId, SessionId, is_approval_of
from rejoin_protocol.lifecycle import TERMINAL, State

from rejoin_gateway.api.agent_sessions import Acknowledgement, InterruptResult
from rejoin_gateway.api.shared.lookup import find_run
from rejoin_gateway.core.session import Session
from rejoin_gateway.http.request import decode_body, view_of
from rejoin_gateway.http.response import json_response, stream_replay
from rejoin_gateway.http.routes import Route, RouteDoc, Scope
from rejoin_gateway.http.service import PRINCIPAL
from rejoin_gateway.streaming import positions

STATUS = {
    State.QUEUED: "running",
    State.RUNNING: "running",
    State.SUSPENDED: "suspended",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "completed",
}


class PendingApproval(msgspec.Struct, frozen=True, rename="camel"):
    """A question that waits for an answer."""

    approval_id: ApprovalId
    tool_call_id: CallId
    tool_name: str
    input: Any


class TokenCounts(msgspec.Struct, frozen=True, rename="camel"):
    """Tokens."""

    input_tokens: int
    output_tokens: int


class Execution(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A run as its watchers see it."""

    id: RunId
    status: str
    state: State
    conversation_id: SessionId
    agent_id: str
    message_id: MessageId
    created_at: datetime
    updated_at: datetime
    pending_approvals: list[PendingApproval]
    usage: TokenCounts
    error: str | None = None


class ApprovalDecision(msgspec.Struct, frozen=True):
    """What a person says about a call."""

    approved: bool
    reason: str | None = None


async def get_execution(request: web.Request) -> web.StreamResponse:
    """How a run stands."""
    one, session = await find_execution(request)
    waiting = [] if one.run.state in TERMINAL else await pending(session, one.run.id)
    usage = one.run.usage
    return json_response(
        Execution(
            id=one.run.id,
            status=STATUS[one.run.state],
            state=one.run.state,
            conversation_id=one.run.session,
            agent_id=one.run.agent,
            message_id=one.run.answer,
            created_at=one.created_at,
            updated_at=one.updated_at,
            pending_approvals=waiting,
            usage=TokenCounts(usage.input_tokens, usage.output_tokens),
            error=one.run.error,
        )
    )


async def stream_execution(request: web.Request) -> web.StreamResponse:
    """A run's stream, from its first event or from wherever the client is, whether it is over or not."""
    one, session = await find_execution(request)
    follow = request.query.get("follow", "").lower() == "true"
    position = positions.parse_position(request.headers, request.query)
    until = None if follow else one.run.turn
    return await stream_replay(
        request, await session.backend.replay(one.run, position, view_of(request), until=until)
    )


async def decide_approval(request: web.Request) -> web.StreamResponse:
    """Answer a question about a call. The same answer again changes nothing; another one is a conflict."""
    request[PRINCIPAL].require_scope(Scope.APPROVE)
    verdict = await decode_body(request, ApprovalDecision)
    one, session = await find_execution(request)
    call = CallId(request.match_info["call"])
    question = await session.backend.store.find_approval(session.owner, one.run.id, call)
    if question is None:
        raise NotFound(f"nothing was asked about call {call!r} of run {one.run.id}")
    await session.approve([Decision(question.request.id, verdict.approved, verdict.reason)], view_of(request))
    return json_response(Acknowledgement())


async def interrupt_execution(request: web.Request) -> web.StreamResponse:
    """Stop a run. Doing it twice is doing it once."""
    one, session = await find_execution(request)
    return json_response(InterruptResult(success=True, interrupted=await session.interrupt(one.run.id)))


async def pending(session: Session, run: RunId | None = None) -> list[PendingApproval]:
    """The open questions of a session, or of one of its runs."""
    waiting = await session.backend.store.pending_approvals(session.owner, session.id)
    return [_shown(one) for one in waiting if run is None or is_approval_of(one.request.id, run)]


def _shown(approval: Approval) -> PendingApproval:
    question = approval.request
    return PendingApproval(question.id, question.call, question.tool, question.input)


async def find_execution(request: web.Request) -> tuple[RunSummary, Session]:
    """The run of a path. Raises `NotFound`."""
    id = request.match_info["run"]
    return await find_run(request, RunId(id), f"execution {id[:64]!r}")


ROUTES = (
    Route(
        "GET",
        "/run/api/executions/{run}",
        get_execution,
        Scope.CHAT,
        RouteDoc("A run's state", None, {200: Execution}, tag="run"),
    ),
    Route(
        "GET",
        "/run/api/executions/{run}/stream",
        stream_execution,
        Scope.CHAT,
        RouteDoc("A run's stream, replayed and followed", None, {200: bytes}, tag="run"),
    ),
    Route(
        "POST",
        "/run/api/executions/{run}/approvals/{call}",
        decide_approval,
        Scope.APPROVE,
        RouteDoc(
            "Answer a question about a call",
            ApprovalDecision,
            {200: Acknowledgement},
            tag="run",
            example={"approved": True},
        ),
    ),
    Route(
        "POST",
        "/run/api/executions/{run}/interrupt",
        interrupt_execution,
        Scope.CHAT,
        RouteDoc("Stop a run", None, {200: InterruptResult}, tag="run"),
    ),
)
