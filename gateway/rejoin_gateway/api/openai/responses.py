"""OpenAI's responses: a run as a response, streamed from anywhere by the number of the event before.

`previous_response_id` goes on with the conversation of that response, and in a fork of it where the
conversation has gone on already; `conversation` names one. Every response is durable: `background` only says
that the request does not wait, and a closed socket stops nothing. Metadata is not kept, but for
`conversation_id`. A response that waits for a person is `incomplete` with the reason `approval_required`; it
goes on, under the same id, after `mcp_approval_response` items for everything that it asks.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta
from rejoin_adapters.records import Decision, Run
from rejoin_protocol.errors import Conflict, Gone, Invalid, NotFound
from rejoin_protocol.events.unfold import unfold
from rejoin_protocol.ids import MessageId, SessionId, is_approval_of, session_id
from rejoin_protocol.lifecycle import BUSY, State
from rejoin_protocol.log import sse
from rejoin_protocol.log.record import View

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
from rejoin_gateway.api.openai.response_format import (
    TERMINAL,
    ResponseEvent,
    ResponseStream,
    SequenceRange,
    parse_response_id,
    visible_events,
)
from rejoin_gateway.api.run.conversations import LIMIT_MAX, parse_limit
from rejoin_gateway.api.shared.lookup import find_run
from rejoin_gateway.core.message_input import new_message_id, new_session_id
from rejoin_gateway.core.session import Session
from rejoin_gateway.http import request_body
from rejoin_gateway.http.request import key_of
from rejoin_gateway.http.response import Translate, json_response, stream_replay
from rejoin_gateway.http.routes import IDEMPOTENCY_HEADER, ErrorFormat, Parameters, Route, RouteDoc, Scope
from rejoin_gateway.http.service import PRINCIPAL
from rejoin_gateway.streaming.event_reader import decode_events, read_stored_events
from rejoin_gateway.streaming.positions import FromStart
from rejoin_gateway.streaming.replay import Replay

STATUS = {
    State.QUEUED: "queued",
    State.RUNNING: "in_progress",
    State.SUSPENDED: "incomplete",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}
CANCEL_WAIT_S = 5.0
"""How long a cancellation waits to be true before it says how things stand."""
NUMBER_DIGITS_MAX = 12


class ConversationRef(msgspec.Struct, frozen=True):
    """A conversation by its id."""

    id: str


class CreateResponseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body: what of it has an effect. Other fields may be there if they ask for nothing."""

    model: str
    input: str | list[dict[str, Any]]
    previous_response_id: str | None = None
    conversation: str | ConversationRef | None = None
    stream: bool | None = False
    stream_options: dict[str, bool] | None = None
    background: bool | None = False
    metadata: dict[str, str] | None = None


async def create_response(request: web.Request) -> web.StreamResponse:
    """Answer the last message of an input; or go on with what waited for the answers in it."""
    asked = await decode_checked_body(request, CreateResponseRequest)
    decisions = request_input.parse_decisions(asked.input)
    if decisions:
        return await _decide(request, asked, decisions)
    said = request_input.from_response_input(asked.input)
    session = await _session(request, asked)
    replay = await send_input(request, session, said, "/input", new=True)
    asked = msgspec.structs.replace(asked, input="")
    del said  # files must not be held for as long as an answer takes
    return await _answer(request, asked, replay)


async def get_response(request: web.Request) -> web.StreamResponse:
    """A response as it stands; with `stream=true` its events, behind number `starting_after` if given."""
    run, session = await _found(request, request.match_info["response"])
    wanted = request.query.get("stream", "false").lower()
    if wanted not in ("true", "false"):
        raise Invalid("stream is true or false", "/stream")
    after = _starting_after(request)
    if wanted == "false":
        return json_response(await _standing(session, run))
    replay = await session.backend.replay(run, FromStart(), V6, until=run.turn)
    return await _stream(request, replay, after)


async def cancel_response(request: web.Request) -> web.StreamResponse:
    """Stop a response, and say how it stands then. Doing it twice is doing it once."""
    run, session = await _found(request, request.match_info["response"])
    if await session.interrupt(run.id):
        run = await _current(session, run)
        # If that is not enough: it is cancelled when its turn comes, or there is no log to wait for.
        with suppress(TimeoutError, Gone):
            async with asyncio.timeout(CANCEL_WAIT_S):
                await _final(await session.backend.replay(run, FromStart(), View(), until=None))
    return json_response(await _standing(session, await _current(session, run)))


async def list_input_items(request: web.Request) -> web.StreamResponse:
    """What stands before a response in its conversation: a page, the newest first unless asked otherwise."""
    named = request.match_info["response"]
    run, session = await _found(request, named)
    limit, after, order = (
        parse_limit(request, 20),
        request.query.get("after"),
        request.query.get("order", "desc"),
    )
    if order not in ("asc", "desc"):
        raise Invalid("order is asc or desc", "/order")
    found = await session.backend.store.messages_before(
        session.owner,
        session.id,
        run.answer,
        after=None if after is None else MessageId(after),
        limit=limit + 1,
        oldest_first=order == "asc",
    )
    if found is None and after is not None:
        raise NotFound(f"response {named} has no input item {after[:64]!r}")
    if found is None:
        raise NotFound(f"response {named} is no longer part of its conversation")
    return json_response(to_page([to_item(message) for message in found[:limit]], more=len(found) > limit))


# ------------------------------------------------------------------------------------- what is asked


async def _session(request: web.Request, asked: CreateResponseRequest) -> Session:
    named = asked.conversation.id if isinstance(asked.conversation, ConversationRef) else asked.conversation
    field = "/conversation"
    if named is None and asked.metadata and asked.metadata.get("conversation_id"):
        named, field = asked.metadata["conversation_id"], "/metadata/conversation_id"
    if asked.previous_response_id is not None and named is not None:
        raise Invalid("previous_response_id names a conversation already", field)
    if asked.previous_response_id is not None:
        return await _following(request, asked, asked.previous_response_id)
    if named is None:
        return session_with_model(request, asked.model, None)
    try:
        session = session_with_model(request, asked.model, session_id(named))
    except Invalid as fault:
        raise Invalid(fault.detail, field) from fault
    await session.check_agent()
    return session


async def _following(request: web.Request, asked: CreateResponseRequest, previous: str) -> Session:
    """The conversation behind a response: its own, or a fork where something else was said behind it."""
    run, before = await _previous(request, previous)
    if asked.model != run.agent:
        raise Invalid(f"response {previous} is agent {run.agent}'s", "/model")
    session = session_with_model(request, asked.model, run.session)
    store, key = before.backend.store, key_of(request)
    newest = await store.current_run(before.owner, before.id)
    if newest is None or newest.id == run.id:
        return session
    if key is not None and await store.find_message(before.owner, before.id, MessageId(new_message_id(key))):
        return session  # this request has been here before
    answer = await store.find_message(before.owner, before.id, run.answer)
    if answer is None:
        raise Conflict(f"response {previous} is not over, or is no longer part of its conversation")
    if answer.next is None:
        return session
    into = SessionId(new_session_id(key, before.owner))
    await before.backend.threads.fork(before.owner, before.id, answer.next, into)
    return session_with_model(request, asked.model, into)


async def _previous(request: web.Request, id: str) -> tuple[Run, Session]:
    try:
        return await _found(request, id)
    except NotFound as fault:
        raise NotFound(f"previous_response_id: {fault}") from fault


async def _decide(
    request: web.Request, asked: CreateResponseRequest, decisions: Sequence[Decision]
) -> web.StreamResponse:
    """Store a person's answers; what is streamed then is what follows them."""
    request[PRINCIPAL].require_scope(Scope.APPROVE)
    if asked.previous_response_id is None:
        raise Invalid("answers need the response that has asked", "/previous_response_id")
    run, session = await _previous(request, asked.previous_response_id)
    if strange := [one.approval for one in decisions if not is_approval_of(one.approval, run.id)]:
        raise NotFound(f"response {asked.previous_response_id} has not asked {strange[0][:64]!r}")
    pending = await session.backend.store.pending_approvals(session.owner, session.id)
    open_ = {one.request.id for one in pending if is_approval_of(one.request.id, run.id)}
    if missing := open_ - {decision.approval for decision in decisions}:
        raise Invalid(f"answer everything that it asks at once: {', '.join(sorted(missing))}", "/input")
    after = await _suspended_at(session, run)
    replay = await session.approve(decisions, V6)
    run, until = (await _current(session, run), run.turn) if replay is None else (replay.run, replay.until)
    replay = await session.backend.replay(run, FromStart(), V6, until=until)
    return await _answer(request, asked, replay, after)


async def _answer(
    request: web.Request, asked: CreateResponseRequest, replay: Replay, after: int = -1
) -> web.StreamResponse:
    if asked.stream:
        return await _stream(request, replay, after if after >= 0 else None)
    if asked.background:
        return json_response(ResponseStream(metadata_of_run(replay.run)).body(STATUS[replay.run.state]))
    request_body.release_body(request)
    return json_response(await _final(replay))


# ---------------------------------------------------------------------------------- what is answered


async def _standing(session: Session, run: Run) -> dict[str, Any]:
    """A response as it stands: without output as long as it is made."""
    response = ResponseStream(metadata_of_run(run))
    if run.state in BUSY:
        return response.body(STATUS[run.state])
    try:
        response = (await _read(await session.backend.replay(run, FromStart(), View(), until=None))).response
    except Gone:
        answer = await session.backend.store.find_message(session.owner, session.id, run.answer)
        for chunk in () if answer is None else unfold(answer.message):
            response.feed(chunk)
    return response.final or response.body(STATUS[run.state], fault=run.error)


async def _final(replay: Replay) -> dict[str, Any]:
    """A response, once it has ended."""
    response = ResponseStream(metadata_of_run(replay.run))
    everything = msgspec.structs.replace(replay, view=View())
    async with everything.open() as frames:
        async for batch in decode_events(frames):
            for chunk in batch:
                response.feed(chunk)
    return response.final or response.body("in_progress")


class _ResponseLog(msgspec.Struct, frozen=True):
    """A response as its log has it now. `restored`: the log has begun anew, and so have the numbers."""

    response: ResponseStream
    restored: bool


async def _read(replay: Replay) -> _ResponseLog:
    response, restored = ResponseStream(metadata_of_run(replay.run)), False
    async with aclosing(read_stored_events(replay.runs, replay.run, replay.start)) as pages:
        async for page in pages:
            restored = restored or page.restored
            for chunk in page.events:
                response.feed(chunk)
    return _ResponseLog(response, restored)


async def _suspended_at(session: Session, run: Run) -> int:
    """The number of the event with which a run began to wait; -1 if its log says so no longer."""
    try:
        log = await _read(await session.backend.replay(run, FromStart(), View(), until=None))
    except Gone:
        return -1
    return log.response.suspended_at


async def _stream(request: web.Request, replay: Replay, after: int | None) -> web.StreamResponse:
    """The events behind number `after`. Raises `Gone` for one that is void or not there."""
    void: Sequence[SequenceRange] = ()
    if after is not None or replay.start.voids:
        log = await _read(replay)
        void = log.response.voided
        _check(after, log)
    everything = msgspec.structs.replace(replay, view=View())  # what is void is left out by its numbers
    return await stream_replay(
        request, everything, _translated(replay.run, -1 if after is None else after, void)
    )


def _check(after: int | None, log: _ResponseLog) -> None:
    if after is None:
        return
    events = log.response.number
    if after >= events:
        raise Gone(f"the response has {events} events so far: start again without starting_after")
    if log.restored or any(span.holds(after) for span in log.response.voided):
        raise Gone("what was sent up to there is no longer part of the response: start again without it")


def _translated(run: Run, after: int, void: Sequence[SequenceRange]) -> Translate:
    """The frames as events. Raises `Gone` where what was shown is voided: the stream is then to be broken."""
    response = ResponseStream(metadata_of_run(run))

    async def translate(frames: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        last: ResponseEvent | None = None
        async for batch in decode_events(frames):
            said: list[ResponseEvent] = []
            for chunk in batch:
                said += response.feed(chunk)
                _refuse_if_shown(response, void)
            last = said[-1] if said else last
            events = [event for event in visible_events(said, after, void) if event.type not in TERMINAL]
            if events or not batch:
                yield b"".join(map(_frame, events)) or sse.KEEP_ALIVE
        # That the response is over is said where nothing follows: it may have waited, and gone on.
        if last is not None and last.type in TERMINAL and last.number > after:
            yield _frame(last)

    return translate


def _refuse_if_shown(response: ResponseStream, void: Sequence[SequenceRange]) -> None:
    if len(response.voided) > len(void):
        span = response.voided[-1]
        if span.end > span.first:
            raise Gone("a step was begun again: ask for the response from its beginning")


def _frame(event: ResponseEvent) -> bytes:
    return b"event: %b\n%b" % (event.type.encode(), sse_frame(event.body))


def _starting_after(request: web.Request) -> int | None:
    text = request.query.get("starting_after")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= NUMBER_DIGITS_MAX):
        raise Invalid(f"starting_after is the number of an event, not {text[:64]!r}", "/starting_after")
    return int(text)


async def _found(request: web.Request, id: str) -> tuple[Run, Session]:
    """The run of a response. Raises `NotFound`."""
    one, session = await find_run(request, parse_response_id(id), f"response {id[:64]!r}")
    return one.run, session


async def _current(session: Session, run: Run) -> Run:
    """The run as it is now."""
    found = await session.backend.store.find_run(session.owner, run.id)
    if found is None:
        raise NotFound(f"there is no run {run.id!r}")
    return found


_AT = "/run/v1/responses/{response}"
_STREAM: Parameters = {
    "stream": ("`true` for its events.", Literal["true", "false"]),
    "starting_after": (
        "The sequence_number to go on behind.",
        Annotated[int, Meta(ge=0, lt=10**NUMBER_DIGITS_MAX)],
    ),
}
_PAGED: Parameters = {
    "limit": ("How many at most.", Annotated[int, Meta(ge=1, le=LIMIT_MAX)]),
    "after": "The item to go on behind.",
    "order": ("`asc` for the oldest first.", Literal["asc", "desc"]),
}
ROUTES = tuple(
    Route(method, path, handler, Scope.CHAT, says, ErrorFormat.OPENAI)
    for method, path, handler, says in (
        (
            "POST",
            "/run/v1/responses",
            create_response,
            RouteDoc(
                "A response, for OpenAI's clients",
                CreateResponseRequest,
                {200: (dict[str, Any], "text/event-stream")},
                headers=IDEMPOTENCY_HEADER,
                tag="openai",
                example={"model": "demo", "input": "hello"},
            ),
        ),
        (
            "GET",
            _AT,
            get_response,
            RouteDoc(
                "How it stands, or its events",
                None,
                {200: (dict[str, Any], "text/event-stream")},
                _STREAM,
                tag="openai",
            ),
        ),
        (
            "GET",
            f"{_AT}/input_items",
            list_input_items,
            RouteDoc("What it is an answer to", None, {200: dict[str, Any]}, _PAGED, tag="openai"),
        ),
        (
            "POST",
            f"{_AT}/cancel",
            cancel_response,
            RouteDoc("Stop it", None, {200: dict[str, Any]}, tag="openai"),
        ),
    )
)
