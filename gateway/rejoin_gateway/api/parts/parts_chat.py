"""The parts family: a message is its `parts`, a session is a thread, an approval is a run and a thread.

Its errors are `{"error": "<text>"}`, and some of these texts are promised to the letter.
"""

from typing import Any

import msgspec
from aiohttp import web
from rejoin_adapters.records import Decision
from rejoin_protocol.errors import Invalid, NotFound
from rejoin_protocol.ids import RUN_PREFIX, ApprovalId, CallId, RunId, is_approval_of, session_id

from rejoin_gateway.api.agent_sessions import Acknowledgement
from rejoin_gateway.api.shared.lookup import session_at
from rejoin_gateway.core import message_input
from rejoin_gateway.core.message_input import ClientMessage, SessionBody, new_message_id, new_session_id
from rejoin_gateway.core.session import Session
from rejoin_gateway.http.request import decode_body, key_of, session_of, view_of
from rejoin_gateway.http.response import approve_and_stream, stream_replay
from rejoin_gateway.http.routes import ErrorFormat, Route, RouteDoc, Scope
from rejoin_gateway.http.service import PRINCIPAL
from rejoin_gateway.streaming.replay import Replay

NO_PARTS = "parts must be a non-empty array"
NO_RUN = "runId and threadId are required"


class PartsRequest(SessionBody, frozen=True, rename="camel", kw_only=True):
    """A message."""

    parts: list[dict[str, Any]]
    message_id: str | None = None


class ThreadDecision(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A decision. `runId` may also be an approval's id; `approved` unsaid is a denial."""

    run_id: str
    thread_id: str
    tool_call_id: str | None = None
    approved: bool | None = None
    message_id: str | None = None


async def send_message(request: web.Request) -> web.StreamResponse:
    """Send a message and stream its answer. Files come as data URLs only."""
    return await stream_replay(request, await _send(request))


async def _send(request: web.Request) -> Replay:
    """Nothing of the body is left when this has returned."""
    said = await decode_body(request, dict[str, Any])
    if not isinstance(said.get("parts"), list) or not said["parts"]:
        raise Invalid(NO_PARTS, "/parts")
    chat = _converted(said, PartsRequest)
    key = key_of(request)
    session = session_of(request, chat.named or new_session_id(key, request[PRINCIPAL].owner))
    message = message_input.build_user_message(
        ClientMessage(chat.message_id or new_message_id(key), "user", chat.parts), ""
    )
    return await session.send(message, view_of(request), remote=False, when_busy=chat.busy, key=key)


async def decide_approval(request: web.Request) -> web.StreamResponse:
    """Answer a question, and stream what follows."""
    verdict = await _verdict(request)
    session = await session_at(request, session_id(verdict.thread_id))
    approval = await _meant(session, verdict)
    return await approve_and_stream(request, session, [Decision(approval, approved=verdict.approved is True)])


async def _verdict(request: web.Request) -> ThreadDecision:
    try:
        said = await decode_body(request, dict[str, Any])
    except Invalid as fault:
        raise Invalid(NO_RUN) from fault
    if not said.get("runId") or not said.get("threadId"):
        raise Invalid(NO_RUN)
    return _converted(said, ThreadDecision)


async def _meant(session: Session, verdict: ThreadDecision) -> ApprovalId:
    """The question that is meant. Raises `NotFound`, and `Invalid` if it could be one of several."""
    if not verdict.run_id.startswith(RUN_PREFIX):
        return ApprovalId(verdict.run_id)
    run = RunId(verdict.run_id)
    if verdict.tool_call_id is not None:
        one = await session.backend.store.find_approval(session.owner, run, CallId(verdict.tool_call_id))
        asked = [] if one is None else [one]
    else:
        pending = await session.backend.store.pending_approvals(session.owner, session.id)
        asked = [one for one in pending if is_approval_of(one.request.id, run)]
    if not asked:
        raise NotFound(f"nothing waits for an answer in run {run[:64]!r}")
    if len(asked) > 1:
        raise Invalid("several calls wait for an answer: name one by toolCallId")
    return asked[0].request.id


def _converted[T](said: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(said, kind)
    except msgspec.ValidationError as fault:
        raise Invalid(str(fault)) from fault


ROUTES = (
    Route(
        "POST",
        "/api/chat/approve",
        decide_approval,
        Scope.APPROVE,
        RouteDoc(
            "Answer a question and stream what follows",
            ThreadDecision,
            {200: (bytes, Acknowledgement)},
            tag="parts",
            example={"runId": "run_1", "threadId": "trip-1", "toolCallId": "call_1", "approved": True},
        ),
        ErrorFormat.PLAIN,
    ),
)
