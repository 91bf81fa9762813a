"""The parts API: a message is a list of parts, a session is a thread, a decision names a run and a thread.

Errors are `{"error": "<text>"}`. The texts `NO_PARTS` and `NO_RUN` are promised to clients, word for word.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET

from rejoin_adapters.store_types import Approval, Decision, Run
from rejoin_gateway.api.shared.answers import Answer, answer_sent
from rejoin_gateway.api.shared.lookup import session_by_id
from rejoin_gateway.api.shared.run_webhook import with_webhook
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core import message_input
from rejoin_gateway.core.answered_calls import AnsweredCall, to_decisions
from rejoin_gateway.core.message_input import ClientMessage, SessionBody, new_message_id, new_session_id
from rejoin_gateway.core.session import Session
from rejoin_gateway.http.gateway_service import PRINCIPAL
from rejoin_gateway.http.request import convert_body, decode_body, key_of, session_of, view_of
from rejoin_gateway.http.response import chunks_response, stream_replay
from rejoin_gateway.http.routes import ErrorFormat, Route, RouteDoc
from rejoin_protocol import ids
from rejoin_protocol.errors import Invalid, NotFound
from rejoin_protocol.events.chunks import (
    Chunk,
    Finish,
    Start,
    ToolInputAvailable,
    ToolOutputDenied,
)
from rejoin_protocol.events.fold import DYNAMIC_TOOL, Part, is_tool, tool_name
from rejoin_protocol.ids import RUN_PREFIX, ApprovalId, CallId, parse_turn_id
from rejoin_protocol.limits import CheckedId, FreeObject, Id, Reason, RepeatedParts

NO_PARTS = "parts must be a non-empty array"
NO_RUN = "runId and threadId are required"


class PartsRequest(SessionBody, frozen=True, rename="camel", kw_only=True):
    """The body of a message."""

    parts: RepeatedParts
    message_id: CheckedId | None = None


class ThreadDecision(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The body of a decision. `runId` may also be the approval's id. Without `approved` it is a denial.
    `input`: changed arguments.
    """

    run_id: Id
    thread_id: Id
    tool_call_id: Id | None = None
    approved: bool | None = None
    reason: Reason | None = None
    input: FreeObject | None = None
    message_id: CheckedId | None = None


async def answer_chat(request: web.Request, chat: PartsRequest) -> Answer:
    """Send a message. Files are taken as data URLs only. Raises as `AgentSession.send`."""
    if not chat.parts:
        raise Invalid(NO_PARTS, "/parts")
    key = key_of(request)
    session = session_of(request, chat.session_id or new_session_id(key, request[PRINCIPAL].owner))
    session = await with_webhook(request, session, chat)
    message = ClientMessage(chat.message_id or new_message_id(key), "user", chat.parts)
    sent = await session.send(
        message_input.build_user_message(message, ""),
        view_of(request),
        fetch_urls=False,
        when_busy=chat.busy_policy,
        seen=chat.seen,
        key=key,
    )
    return answer_sent(sent)


def parse_request(fields: Mapping[str, Any]) -> PartsRequest:
    """The body of a message from its decoded fields. Raises `Invalid` in the words of this API."""
    if "parts" not in fields:
        raise Invalid(NO_PARTS, "/parts")
    try:
        return convert_body(fields, PartsRequest)
    except Invalid as fault:
        raise explain(fault) from fault


async def _decided_part(session: Session, approval: ApprovalId) -> tuple[Run, Part | None]:
    """The run of an approval that was decided, and its tool call as it stands in the stored answer.

    The part is None while the run is executed again: then its stream has the call. Raises `NotFound`.
    """
    id = ids.run_of_approval(approval)
    if id is None:
        raise NotFound(f"there is no approval {approval[:64]!r}")
    run = await session.find_run(id)
    stored = await session.message(run.answer)
    for part in stored.message["parts"] if stored is not None else ():
        if is_tool(part) and part.get("approval", {}).get("id") == approval:
            return run, part
    return run, None


def explain(fault: Invalid) -> Invalid:
    """A body's error in the words of this API, whose errors have no field for the place."""
    if fault.pointer == "/parts":
        return Invalid(NO_PARTS, "/parts")
    return Invalid(f"{fault.detail} - at `{fault.pointer}`" if fault.pointer else fault.detail, fault.pointer)


async def decide_approval(request: web.Request) -> web.StreamResponse:
    """Decide one tool call; stream what follows, or only the decision while other calls wait for theirs."""
    body = await _decode_decision(request)
    session = await session_by_id(request, body.thread_id)
    approval = await _find_approval(session, body)
    answer = AnsweredCall(approval, None, body.approved is True, body.reason, body.input, "/input")
    [decision] = await to_decisions(session, [answer])
    replay = await session.approve([decision], view_of(request))
    if replay is not None:
        return await stream_replay(request, replay)
    run, part = await _decided_part(session, decision.approval)
    return chunks_response(
        run,
        [
            Start(run.answer),
            *([] if part is None else [_decided_chunk(part, decision)]),
            Finish("tool-calls"),
        ],
    )


def _decided_chunk(part: Part, decision: Decision) -> Chunk:
    """The chunk for a decided call whose run waits for further decisions.

    When an answer has ended, the client of this API sends the first call in state `approval-responded` again.
    So the call has to leave that state: its input is available, or it is denied. The run's own events say the
    same, or more, when it continues.
    """
    call = part["toolCallId"]
    if not decision.approved:
        return ToolOutputDenied(call)
    dynamic = part["type"] == DYNAMIC_TOOL or UNSET
    input = part.get("input") if decision.input is None else decision.input
    return ToolInputAvailable(call, tool_name(part), input, dynamic=dynamic)


async def _decode_decision(request: web.Request) -> ThreadDecision:
    try:
        body = await decode_body(request, ThreadDecision)
    except Invalid as fault:
        if fault.pointer in ("", "/runId", "/threadId"):
            raise Invalid(NO_RUN) from fault
        raise explain(fault) from fault
    if not body.run_id or not body.thread_id:
        raise Invalid(NO_RUN)
    return body


async def _find_approval(session: Session, body: ThreadDecision) -> ApprovalId:
    """The approval that the body means. Raises `NotFound`, and `Invalid` if it could be several."""
    if not body.run_id.startswith(RUN_PREFIX):
        return ApprovalId(body.run_id)
    run, _ = parse_turn_id(body.run_id)
    candidates: list[Approval]
    if body.tool_call_id is not None:
        approval = await session.find_approval(run, CallId(body.tool_call_id))
        candidates = [] if approval is None else [approval]
    else:
        candidates = await session.pending_approvals(run)
    if not candidates:
        raise NotFound(f"no tool call of run {run[:64]!r} waits for a decision")
    if len(candidates) > 1:
        raise Invalid("several tool calls wait for a decision: name one by toolCallId")
    return candidates[0].request.id


ROUTES = (
    Route(
        "POST",
        "/api/chat/approve",
        decide_approval,
        Scope.APPROVE,
        RouteDoc(
            "Decide a tool call and stream what follows",
            description="Approves or denies a call that waits for a person. `runId` names the run or the "
            "approval, `toolCallId` the call if several wait; `approved` absent is a denial. Returns the "
            "stream that follows; while other decisions are missing, a short stream that holds the decided "
            "call alone.",
            body=ThreadDecision,
            responses={200: bytes},
            tag="parts",
            example={"runId": "run_1", "threadId": "trip-1", "toolCallId": "call_1", "approved": True},
        ),
        ErrorFormat.PLAIN,
    ),
)
