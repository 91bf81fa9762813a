"""OpenAI's responses: a run is a response, and its stream can be resumed behind a sequence number.

`previous_response_id` continues the session of that response, in a fork if the session has newer messages;
`conversation` names a session. Every response is durable: `background` only means that the request does not
wait, and a closed connection stops nothing. Metadata is not stored, except `conversation_id`. A response that
waits for approvals is `incomplete` with the reason `approval_required`. It continues under the same id after
`mcp_approval_response` items for all approvals that it asks for.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from rejoin_adapters.store_types import Run
from rejoin_gateway.api.openai import request_input
from rejoin_gateway.api.openai.completions import (
    V6,
    decode_checked_body,
    metadata_of_run,
    send_input,
    session_with_model,
    sse_frame,
)
from rejoin_gateway.api.openai.items import to_item, to_page
from rejoin_gateway.api.openai.request_input import Labels
from rejoin_gateway.api.openai.response_format import (
    FINAL_EVENTS,
    ResponseEvent,
    ResponseStream,
    SequenceRange,
    parse_response_id,
    visible_events,
)
from rejoin_gateway.api.shared.lookup import find_run
from rejoin_gateway.api.shared.paging import LIMIT_MAX, parse_limit
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core.answered_calls import AnsweredCall, to_decisions
from rejoin_gateway.core.message_input import new_message_id, new_session_id
from rejoin_gateway.core.session import AgentSession, Session
from rejoin_gateway.http import request_body
from rejoin_gateway.http.gateway_service import PRINCIPAL, begin_response
from rejoin_gateway.http.request import key_of
from rejoin_gateway.http.response import Translate, json_response, stream_replay
from rejoin_gateway.http.routes import IDEMPOTENCY_HEADER, ErrorFormat, Parameters, Route, RouteDoc
from rejoin_gateway.streaming.event_reader import decode_events, read_stored_events
from rejoin_gateway.streaming.positions import FromStart
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol.errors import Conflict, Gone, Invalid, NotFound
from rejoin_protocol.events.unfold import unfold
from rejoin_protocol.ids import ApprovalId, MessageId, SessionId, is_approval_of, session_id
from rejoin_protocol.lifecycle import BUSY, State
from rejoin_protocol.limits import MESSAGES_MAX, OBJECT_KEYS_MAX, Id, Name, Part, Text
from rejoin_protocol.log import sse
from rejoin_protocol.log.record import View

RESPONSE_STATUS = {
    State.QUEUED: "queued",
    State.RUNNING: "in_progress",
    State.SUSPENDED: "incomplete",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}
ITEMS_DEFAULT = 20
CANCEL_WAIT_S = 5.0
"""How long a cancel request waits for the run to end. Then it returns the state as it is."""
SEQUENCE_DIGITS_MAX = 12


class ConversationRef(msgspec.Struct, frozen=True):
    """A session, named by its id."""

    id: Id


class CreateResponseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that have an effect. Others are accepted with values that change nothing."""

    model: Name
    input: Text | Annotated[list[Part], Meta(max_length=MESSAGES_MAX)]
    previous_response_id: Id | None = None
    conversation: Id | ConversationRef | None = None
    stream: bool | None = False
    stream_options: Annotated[dict[Name, bool], Meta(max_length=OBJECT_KEYS_MAX)] | None = None
    background: bool | None = False
    metadata: Labels | None = None


class _AdmittedResponse(msgspec.Struct, frozen=True):
    """A request after its body is gone: its files must not stay in memory for as long as an answer takes.

    `after`: the sequence number behind which the stream begins, None: at the start.
    """

    replay: Replay
    stream: bool
    background: bool
    after: int | None = None


async def create_response(request: web.Request) -> web.StreamResponse:
    """Answer the last message of an input, or continue a response with decisions."""
    admitted = await _admit_response(request)
    if admitted.stream:
        return await _stream_events(request, admitted.replay, admitted.after)
    if admitted.background:
        run = admitted.replay.run
        return json_response(ResponseStream(metadata_of_run(run)).body(RESPONSE_STATUS[run.state]))
    request_body.release_body(request)
    begin_response(request)
    return json_response(await _await_final(admitted.replay))


async def _admit_response(request: web.Request) -> _AdmittedResponse:
    body = await decode_checked_body(request, CreateResponseRequest)
    stream, background = bool(body.stream), bool(body.background)
    answers = request_input.parse_answers(body.input)
    if answers:
        replay, after = await _decide_approvals(request, body.previous_response_id, answers)
        return _AdmittedResponse(replay, stream, background, after)
    messages = request_input.from_response_input(body.input)
    session = await _find_session(request, body)
    replay = await send_input(request, session, messages, "/input", joins_user_messages=True)
    return _AdmittedResponse(replay, stream, background)


async def get_response(request: web.Request) -> web.StreamResponse:
    """The response as of now; with `stream=true` its events, from behind number `starting_after`."""
    run, session = await _find_response(request, request.match_info["response"])
    stream = request.query.get("stream", "false").lower()
    if stream not in ("true", "false"):
        raise Invalid("stream is true or false", "/stream")
    after = _parse_starting_after(request)
    if stream == "false":
        return json_response(await _read_response(session, run))
    return await _stream_events(request, await session.replay(run, FromStart(), V6), after)


async def cancel_response(request: web.Request) -> web.StreamResponse:
    """Interrupt the run and return the response."""
    run, session = await _find_response(request, request.match_info["response"])
    if await session.interrupt(run.id):
        run = await session.find_run(run.id)
        # A queued run ends when its turn comes, which may be later; a run without a log cannot be awaited.
        with suppress(TimeoutError, Gone):
            async with asyncio.timeout(CANCEL_WAIT_S):
                await _await_final(await session.replay(run, FromStart(), View(), follow=True))
    return json_response(await _read_response(session, await session.find_run(run.id)))


async def list_input_items(request: web.Request) -> web.StreamResponse:
    """A page of the messages before the response in its session, by default the newest first."""
    id = request.match_info["response"]
    run, session = await _find_response(request, id)
    limit, after = parse_limit(request, ITEMS_DEFAULT), request.query.get("after")
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise Invalid("order is asc or desc", "/order")
    page = await session.messages_before(
        run.answer,
        after=None if after is None else MessageId(after),
        limit=limit,
        oldest_first=order == "asc",
    )
    if page is None and after is not None:
        raise NotFound(f"response {id} has no input item {after[:64]!r}")
    if page is None:
        raise NotFound(f"response {id} is no longer part of its conversation")
    return json_response(to_page([to_item(message) for message in page.messages], more=page.more))


# --------------------------------------------------------------------------------- session and decisions


async def _find_session(request: web.Request, body: CreateResponseRequest) -> AgentSession:
    """The session that the request continues, or a new one. Raises `Invalid`, `NotFound`, `Conflict`."""
    id = body.conversation.id if isinstance(body.conversation, ConversationRef) else body.conversation
    field = "/conversation"
    if id is None and body.metadata and body.metadata.get("conversation_id"):
        id, field = body.metadata["conversation_id"], "/metadata/conversation_id"
    if body.previous_response_id is not None and id is not None:
        raise Invalid("previous_response_id names a conversation already", field)
    if body.previous_response_id is not None:
        return await _continue_response(request, body.model, body.previous_response_id)
    if id is None:
        return session_with_model(request, body.model, None)
    try:
        session = session_with_model(request, body.model, session_id(id))
    except Invalid as fault:
        raise Invalid(fault.detail, field) from fault
    await session.check_agent()
    return session


async def _continue_response(request: web.Request, model: str, previous: str) -> AgentSession:
    """The session of a response, or a fork of it behind that response if it has newer messages."""
    run, previous_session = await _find_previous(request, previous)
    if model != run.agent:
        raise Invalid(f"response {previous} is agent {run.agent}'s", "/model")
    session, key = session_with_model(request, model, run.session), key_of(request)
    newest = await session.current_run()
    if newest is None or newest.id == run.id:
        return session
    if key is not None and await session.message(MessageId(new_message_id(key))):
        return session  # a repeat of the request that has continued the session
    answer = await session.message(run.answer)
    if answer is None:
        raise Conflict(f"response {previous} has not ended, or is no longer part of its conversation")
    if answer.next is None:
        return session
    into = SessionId(new_session_id(key, session.owner))
    await previous_session.fork(answer.next, into)
    return session_with_model(request, model, into)


async def _find_previous(request: web.Request, id: str) -> tuple[Run, Session]:
    try:
        return await _find_response(request, id)
    except NotFound as fault:
        raise NotFound(f"previous_response_id: {fault}") from fault


async def _decide_approvals(
    request: web.Request, previous: str | None, answers: Sequence[AnsweredCall]
) -> tuple[Replay, int | None]:
    """Store decisions; the whole response's stream, and the number behind which it continues.

    Raises `Invalid` unless all open approvals of the response are decided, `NotFound` and `Conflict`.
    """
    request[PRINCIPAL].require_scope(Scope.APPROVE)
    if previous is None:
        raise Invalid("approval responses need the response that asks for them", "/previous_response_id")
    run, session = await _find_previous(request, previous)
    approvals = [answer.approval or ApprovalId("") for answer in answers]
    foreign = [approval for approval in approvals if not is_approval_of(approval, run.id)]
    if foreign:
        raise NotFound(f"response {previous} has no approval {foreign[0][:64]!r}")
    pending = {approval.request.id for approval in await session.pending_approvals(run.id)}
    if missing := pending - set(approvals):
        raise Invalid(f"decide all open approvals at once: {', '.join(sorted(missing))}", "/input")
    after = await _suspended_at(session, run)
    continuation = await session.approve(await to_decisions(session, answers), V6)
    if continuation is None:
        run = await session.find_run(run.id)
        return await session.replay(run, FromStart(), V6), after
    return await session.replay(continuation.run, FromStart(), V6, until=continuation.until), after


# ------------------------------------------------------------------------------------ reading a response


async def _read_response(session: Session, run: Run) -> dict[str, Any]:
    """The response object as of now. While the run is active it has no output."""
    response = ResponseStream(metadata_of_run(run))
    if run.state in BUSY:
        return response.body(RESPONSE_STATUS[run.state])
    try:
        replay = await session.replay(run, FromStart(), View(), follow=True)
        response = (await _read_log(replay)).response
    except Gone:  # the log has expired: the stored message is what is left
        answer = await session.message(run.answer)
        for chunk in () if answer is None else unfold(answer.message):
            response.feed(chunk)
    return response.final or response.body(RESPONSE_STATUS[run.state], fault=run.error)


async def _await_final(replay: Replay) -> dict[str, Any]:
    """The response object, once the run has ended or waits for approvals."""
    response = ResponseStream(metadata_of_run(replay.run))
    all_events = msgspec.structs.replace(replay, view=View())
    async with all_events.open() as frames:
        async for batch in decode_events(frames):
            for chunk in batch:
                response.feed(chunk)
    return response.final or response.body("in_progress")


class _ResponseLog(msgspec.Struct, frozen=True):
    """A response as far as the log goes now. `restored`: the log and its numbers begin anew."""

    response: ResponseStream
    restored: bool


async def _read_log(replay: Replay) -> _ResponseLog:
    response, restored = ResponseStream(metadata_of_run(replay.run)), False
    async with aclosing(read_stored_events(replay.run_log, replay.run, replay.start)) as pages:
        async for page in pages:
            restored = restored or page.restored
            for chunk in page.events:
                response.feed(chunk)
    return _ResponseLog(response, restored)


async def _suspended_at(session: Session, run: Run) -> int | None:
    """The number of the event with which the response began to wait; None if the log has it no longer."""
    try:
        log = await _read_log(await session.replay(run, FromStart(), View(), follow=True))
    except Gone:
        return None
    return log.response.suspended_at if log.response.suspended_at >= 0 else None


# ----------------------------------------------------------------------------------------------- streaming


async def _stream_events(request: web.Request, replay: Replay, after: int | None) -> web.StreamResponse:
    """The events behind number `after`. Raises `Gone` if that number is void or not in the log yet."""
    void: Sequence[SequenceRange] = ()
    if after is not None or replay.start.voided:
        log = await _read_log(replay)
        void = log.response.voided
        _check_after(after, log)
    # The replay must not skip void events: they count for the numbers.
    all_events = msgspec.structs.replace(replay, view=View())
    translate = _translate_stream(replay.run, -1 if after is None else after, void)
    return await stream_replay(request, all_events, translate)


def _check_after(after: int | None, log: _ResponseLog) -> None:
    if after is None:
        return
    count = log.response.number
    if after >= count:
        raise Gone(f"the response has {count} events so far: start again without starting_after")
    if log.restored or any(span.holds(after) for span in log.response.voided):
        raise Gone("the events up to starting_after were replaced: start again without it")


def _translate_stream(run: Run, after: int, void: Sequence[SequenceRange]) -> Translate:
    """Turns a run's frames into the response's events. Raises `Gone`, which breaks the stream, when events
    become void that the client may have seen.
    """
    response = ResponseStream(metadata_of_run(run))

    async def translate(frames: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        last: ResponseEvent | None = None
        async for batch in decode_events(frames):
            events: list[ResponseEvent] = []
            for chunk in batch:
                events += response.feed(chunk)
                _refuse_new_voids(response, void)
            last = events[-1] if events else last
            shown = [event for event in visible_events(events, after, void) if event.type not in FINAL_EVENTS]
            if shown or not batch:
                yield b"".join(map(_to_frame, shown)) or sse.KEEP_ALIVE
        # A terminal event is shown only at the very end: the run may have waited and then continued.
        if last is not None and last.type in FINAL_EVENTS and last.number > after:
            yield _to_frame(last)

    return translate


def _refuse_new_voids(response: ResponseStream, void: Sequence[SequenceRange]) -> None:
    if len(response.voided) > len(void):
        span = response.voided[-1]
        if span.end > span.first:
            raise Gone("a step was repeated: request the response again from its beginning")


def _to_frame(event: ResponseEvent) -> bytes:
    return b"event: %b\n%b" % (event.type.encode(), sse_frame(event.body))


def _parse_starting_after(request: web.Request) -> int | None:
    text = request.query.get("starting_after")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= SEQUENCE_DIGITS_MAX):
        raise Invalid(f"starting_after is the number of an event, not {text[:64]!r}", "/starting_after")
    return int(text)


async def _find_response(request: web.Request, id: str) -> tuple[Run, Session]:
    """The run of a response and its session. Raises `NotFound`."""
    summary, session = await find_run(request, parse_response_id(id), f"response {id[:64]!r}")
    return summary.run, session


_RESPONSE = "/run/v1/responses/{response}"
_STREAM_QUERY: Parameters = {
    "stream": ("`true`: return the events as a stream.", Literal["true", "false"]),
    "starting_after": (
        "Sequence number of the last event that arrived; the stream begins behind it.",
        Annotated[int, Meta(ge=0, lt=10**SEQUENCE_DIGITS_MAX)],
    ),
}
_PAGE_QUERY: Parameters = {
    "limit": ("Items on the page, at most.", Annotated[int, Meta(ge=1, le=LIMIT_MAX)]),
    "after": "Id of the last item of the page before.",
    "order": ("`asc`: oldest first. `desc`: newest first.", Literal["asc", "desc"]),
}
ROUTES = tuple(
    Route(method, path, handler, Scope.CHAT, doc, ErrorFormat.OPENAI)
    for method, path, handler, doc in (
        (
            "POST",
            "/run/v1/responses",
            create_response,
            RouteDoc(
                "Create a response",
                description="OpenAI's responses for agents: set the client's base URL to `/run/v1` and "
                "`model` to an agent's name. Continue a conversation by `previous_response_id` or "
                "`conversation`. Tool calls that wait for approval end the response as `incomplete`; send "
                "`mcp_approval_response` items to continue it. Returns a response, or its events with "
                "`stream: true`.",
                body=CreateResponseRequest,
                responses={200: (dict[str, Any], "text/event-stream")},
                headers=IDEMPOTENCY_HEADER,
                takes_context=True,
                tag="openai",
                example={"model": "demo", "input": "hello"},
            ),
        ),
        (
            "GET",
            _RESPONSE,
            get_response,
            RouteDoc(
                "Read a response or resume its stream",
                description="Returns the response as of now; it has no output while it is in progress. With "
                "`stream=true` it returns the events, with `starting_after` those behind a number.",
                responses={200: (dict[str, Any], "text/event-stream")},
                query=_STREAM_QUERY,
                tag="openai",
            ),
        ),
        (
            "GET",
            f"{_RESPONSE}/input_items",
            list_input_items,
            RouteDoc(
                "List a response's input items",
                description="Returns the messages before the response in its conversation, page by page.",
                responses={200: dict[str, Any]},
                query=_PAGE_QUERY,
                tag="openai",
            ),
        ),
        (
            "POST",
            f"{_RESPONSE}/cancel",
            cancel_response,
            RouteDoc(
                "Cancel a response",
                description=f"Interrupts the run and returns the response. Waits up to {CANCEL_WAIT_S:g} "
                "seconds for the run to end. A repeated request has the same result.",
                responses={200: dict[str, Any]},
                tag="openai",
            ),
        ),
    )
)
