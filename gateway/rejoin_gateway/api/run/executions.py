"""The run API's executions: one run by its own id, to read, stream, decide and interrupt.

`status` is one of the four words that clients of this API know; `state` is the run's state as it is stored.
"""

from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from rejoin_adapters.store_types import Approval, RunSummary
from rejoin_gateway.api.shared.answers import (
    RUN_STATUS,
    Acknowledgement,
    InterruptResult,
    interrupt,
)
from rejoin_gateway.api.shared.lookup import find_run
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core.answered_calls import AnsweredCall, to_decisions
from rejoin_gateway.core.message_input import SeenAnswer
from rejoin_gateway.core.session import Session
from rejoin_gateway.core.tool_outputs import OUTPUT_KIND, ToolOutput, checked_decision
from rejoin_gateway.http.gateway_service import PRINCIPAL
from rejoin_gateway.http.request import decode_body, view_of
from rejoin_gateway.http.response import json_response, stream_replay
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_gateway.streaming import positions
from rejoin_protocol.errors import Invalid, NotFound
from rejoin_protocol.ids import ApprovalId, CallId, MessageId, RunId, SessionId, parse_turn_id
from rejoin_protocol.lifecycle import TERMINAL, State
from rejoin_protocol.limits import FreeObject, Reason, RepeatedText
from rejoin_protocol.money import to_usd


class PendingApproval(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A tool call that waits for a person's decision. `inputSchema`: what the arguments must be if the person
    changes them; absent if they cannot be changed.
    """

    approval_id: ApprovalId
    tool_call_id: CallId
    tool_name: str
    input: Any
    input_schema: dict[str, Any] | None = None


class PendingToolOutput(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A call of a client's tool that waits for its output. `outputSchema`: what the output must be."""

    tool_call_id: CallId
    tool_name: str
    input: Any
    output_schema: dict[str, Any] | None = None


class ToolOutputBody(msgspec.Struct, frozen=True, rename="camel"):
    """The output of a client's tool, or the text of the error in its place."""

    output: Any = UNSET
    error_text: RepeatedText | UnsetType = UNSET


class TokenCounts(msgspec.Struct, frozen=True, rename="camel"):
    """Tokens of one run, and their cost in US dollars; null if no model that answered has a price."""

    input_tokens: int
    output_tokens: int
    cost_usd: float | None


class Execution(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A run. `error`: why it failed; `errorCode`: the kind of failure."""

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
    error_code: str | None = None
    pending_tool_outputs: list[PendingToolOutput] = []


class ApprovalDecision(msgspec.Struct, frozen=True):
    """A person's decision about a tool call. Tool and agent see the reason. `input`: with an approval, the
    arguments with which the call runs, if its tool allows that they are changed: `inputSchema` of the pending
    approval says what they must be.
    """

    approved: bool
    reason: Reason | None = None
    input: FreeObject | None = None


async def get_execution(request: web.Request) -> web.StreamResponse:
    """The run's state."""
    summary, session = await find_execution(request)
    run = summary.run
    is_over = run.state in TERMINAL
    pending = [] if is_over else await session.pending_approvals(run.id)
    outputs = [] if is_over else await session.pending_tool_outputs(run.id)
    return json_response(
        Execution(
            id=run.id,
            status=RUN_STATUS[run.state],
            state=run.state,
            conversation_id=run.session,
            agent_id=run.agent,
            message_id=run.answer,
            created_at=summary.created_at,
            updated_at=summary.updated_at,
            pending_approvals=[to_pending_approval(approval) for approval in pending],
            usage=TokenCounts(
                run.usage.input_tokens, run.usage.output_tokens, to_usd(run.usage.cost_nano_usd)
            ),
            error=run.error,
            error_code=run.error_code,
            pending_tool_outputs=[_to_pending_output(one) for one in outputs],
        )
    )


async def stream_execution(request: web.Request) -> web.StreamResponse:
    """The run's events from the client's position, whether the run has ended or not."""
    summary, session = await find_execution(request)
    follow = request.query.get("follow", "").lower() == "true"
    _, turn = parse_turn_id(request.match_info["run"])
    position = positions.in_turn(positions.parse_position(request.headers, request.query), turn)
    replay = await session.resume(summary.run, position, view_of(request), follow=follow)
    return web.Response(status=204) if replay is None else await stream_replay(request, replay)


async def decide_approval(request: web.Request) -> web.StreamResponse:
    """Store the decision about one tool call."""
    request[PRINCIPAL].require_scope(Scope.APPROVE)
    decision = await decode_body(request, ApprovalDecision)
    summary, session = await find_execution(request)
    call = CallId(request.match_info["call"])
    approval = await session.find_approval(summary.run.id, call)
    if approval is None:
        raise NotFound(f"call {call!r} of run {summary.run.id} has no approval to decide")
    answer = AnsweredCall(
        approval.request.id, call, decision.approved, decision.reason, decision.input, "/input"
    )
    await session.approve(await to_decisions(session, [answer]), view_of(request))
    return json_response(Acknowledgement())


async def add_tool_output(request: web.Request) -> web.StreamResponse:
    """Store the output of a client's tool."""
    body = await decode_body(request, ToolOutputBody)
    if (body.output is UNSET) == (body.error_text is UNSET):
        raise Invalid("give `output` or `errorText`", "/output")
    summary, session = await find_execution(request)
    call = CallId(request.match_info["call"])
    stored = await session.find_approval(summary.run.id, call)
    if stored is None or stored.request.kind != OUTPUT_KIND:
        raise NotFound(f"call {call[:64]!r} of run {summary.run.id} waits for no output")
    error = None if body.error_text is UNSET else body.error_text
    given = ToolOutput(call, None if body.output is UNSET else body.output, error, pointer="/output")
    await session.approve([await checked_decision(session, stored.request, given)], view_of(request))
    return json_response(Acknowledgement())


async def interrupt_execution(request: web.Request) -> web.StreamResponse:
    """Interrupt the run."""
    summary, session = await find_execution(request)
    return await interrupt(request, session, summary.run.id)


def to_pending_approval(approval: Approval) -> PendingApproval:
    """An open approval as clients see it."""
    request = approval.request
    return PendingApproval(request.id, request.call, request.tool, request.input, request.edit_schema)


def _to_pending_output(waiting: Approval) -> PendingToolOutput:
    request = waiting.request
    return PendingToolOutput(request.call, request.tool, request.input, request.output_schema)


async def find_execution(request: web.Request) -> tuple[RunSummary, Session]:
    """The run of the path and its session. Raises `NotFound`."""
    id = request.match_info["run"]
    return await find_run(request, RunId(id), f"execution {id[:64]!r}")


ROUTES = (
    Route(
        "GET",
        "/run/api/executions/{run}",
        get_execution,
        Scope.CHAT,
        RouteDoc(
            "Read a run's state",
            description="Use it to poll a run, or to see which tool calls wait for a decision. `status` is "
            "`running` (also while the run is queued), `suspended`, `completed` (also if it was "
            "interrupted) or `failed`; `state` tells these apart.",
            responses={200: Execution},
            tag="run",
        ),
    ),
    Route(
        "GET",
        "/run/api/executions/{run}/stream",
        stream_execution,
        Scope.CHAT,
        RouteDoc(
            "Stream a run's events",
            description="Returns the run's events from the first one, or from behind a position, and follows "
            "an active run to its end. Works for runs that have ended, as long as their log is kept. With "
            "`follow=true` the stream stays open while the run waits for approvals. 204 for the cursor of "
            "the last event of a run that has ended.",
            responses={200: bytes, 204: None},
            tag="run",
        ),
    ),
    Route(
        "POST",
        "/run/api/executions/{run}/approvals/{call}",
        decide_approval,
        Scope.APPROVE,
        RouteDoc(
            "Decide a tool call that waits for approval",
            description="Approves or denies one call. After the last open decision the run continues; read "
            "its stream for what follows. The same decision again changes nothing, another one is a 409. "
            "`input` changes the arguments, if the call's tool allows it; the error for arguments that do "
            "not fit names the field.",
            body=ApprovalDecision,
            responses={200: Acknowledgement},
            tag="run",
            example={"approved": True},
        ),
    ),
    Route(
        "POST",
        "/run/api/executions/{run}/tool-outputs/{call}",
        add_tool_output,
        Scope.CHAT,
        RouteDoc(
            "Add the output of a client's tool",
            description="For a call in `pendingToolOutputs`: `output`, or `errorText` in its place. After "
            "the last open call the run continues; read its stream for what follows. The same output again "
            "changes nothing, another one is a 409. The error for an output that does not fit names the "
            "field.",
            body=ToolOutputBody,
            responses={200: Acknowledgement},
            tag="run",
            example={"output": {"city": "Oslo"}},
        ),
    ),
    Route(
        "POST",
        "/run/api/executions/{run}/interrupt",
        interrupt_execution,
        Scope.CHAT,
        RouteDoc(
            "Interrupt a run",
            description="Stops the run, whether it is queued, running or waiting for approvals. "
            "`interrupted` tells whether it was still active. A repeated request has the same result.",
            body=SeenAnswer,
            body_required=False,
            example={"lastPart": {"type": "text", "text": "1 2 3"}},
            responses={200: InterruptResult},
            tag="run",
        ),
    ),
)
