"""OpenAI's responses: a run is a response, and its stream can be resumed behind a sequence number.

`previous_response_id` continues the session of that response, in a fork if the session has newer messages;
`conversation` names a session. Every response is durable: `background` only means that the request does not
wait, and a closed connection stops nothing. Metadata is not stored, except `conversation_id`. A response that
waits for approvals is `completed` and has `mcp_approval_request` items. It continues under the same id after
`mcp_approval_response` items for all approvals that it asks for. One that calls client tools is `completed`;
`function_call_output` items for all of these calls continue its run in another response.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from rejoin_gateway.api.openai import request_input
from rejoin_gateway.api.openai.caller_options import IGNORED_HEADER_DOC, CallerFields, TokenCount
from rejoin_gateway.api.openai.client_outputs import (
    find_asking_run,
    metadata_of_turn,
    output_decisions,
    with_request,
)
from rejoin_gateway.api.openai.completion_format import CompletionMetadata
from rejoin_gateway.api.openai.completions import (
    V6,
    decode_checked_body,
    metadata_of_run,
    read_request,
    send_input,
    session_with_model,
    sse_frame,
)
from rejoin_gateway.api.openai.items import to_item, to_page
from rejoin_gateway.api.openai.request_input import InputAnswers
from rejoin_gateway.api.openai.response_format import (
    FINAL_EVENTS,
    ResponseEvent,
    ResponseStream,
    SequenceRange,
    visible_events,
)
from rejoin_gateway.api.openai.stored_response import (
    RESPONSE_STATUS,
    ResponseLog,
    StoredResponse,
    await_end,
    await_final,
    find_previous,
    find_response,
    read_log,
    read_response,
    suspended_at,
)
from rejoin_gateway.api.shared.answers import decide_before
from rejoin_gateway.api.shared.paging import LIMIT_MAX, parse_limit
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core.answered_calls import AnsweredCall, to_decisions
from rejoin_gateway.core.message_input import new_message_id, new_session_id
from rejoin_gateway.core.session import AgentSession
from rejoin_gateway.http import request_body
from rejoin_gateway.http.gateway_service import PRINCIPAL, SERVICE, begin_response
from rejoin_gateway.http.request import key_of
from rejoin_gateway.http.response import Translate, json_response, stream_replay
from rejoin_gateway.http.routes import (
    EVENT_STREAM,
    IDEMPOTENCY_HEADER,
    OPENAI_BASES,
    ErrorFormat,
    Parameters,
    Route,
    RouteDoc,
)
from rejoin_gateway.streaming.event_reader import decode_events
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol.errors import Conflict, Gone, Invalid, NotFound
from rejoin_protocol.ids import ApprovalId, MessageId, SessionId, is_approval_of, session_id
from rejoin_protocol.limits import (
    MESSAGES_MAX,
    OBJECT_KEYS_MAX,
    FreeObject,
    Id,
    Name,
    Part,
    Text,
)
from rejoin_protocol.log import sse
from rejoin_protocol.log.record import View

ITEMS_DEFAULT = 20
CANCEL_WAIT_S = 5.0
"""How long a cancel request waits for the run to end. Then it returns the state as it is."""
SEQUENCE_DIGITS_MAX = 12


class ConversationRef(msgspec.Struct, frozen=True):
    """A session, named by its id."""

    id: Id


class CreateResponseRequest(CallerFields, frozen=True, kw_only=True):
    """The fields that have an effect. Others are accepted, and named in the header `Rejoin-Ignored`."""

    model: Name
    input: Text | Annotated[list[Part], Meta(max_length=MESSAGES_MAX)]
    previous_response_id: Id | None = None
    conversation: Id | ConversationRef | None = None
    stream: bool | None = False
    stream_options: Annotated[dict[Name, bool], Meta(max_length=OBJECT_KEYS_MAX)] | None = None
    background: bool | None = False
    instructions: Text | None = None
    max_output_tokens: TokenCount | None = None
    text: FreeObject | None = None


class _AdmittedResponse(msgspec.Struct, frozen=True):
    """A request after its body is gone: its files must not stay in memory for as long as an answer takes.

    `after`: the sequence number behind which the stream begins, None: at the start.
    """

    replay: Replay
    metadata: CompletionMetadata
    stream: bool
    background: bool
    headers: Mapping[str, str]
    after: int | None = None


async def create_response(request: web.Request) -> web.StreamResponse:
    """Answer the last message of an input, or continue a response with decisions."""
    admitted = await _admit_response(request)
    if admitted.stream:
        return await _stream_events(
            request, admitted.replay, admitted.metadata, admitted.after, admitted.headers
        )
    if admitted.background:
        await request.app[SERVICE].backend.forget_stream(admitted.replay.run)
        status = RESPONSE_STATUS[admitted.replay.run.state]
        body = ResponseStream(admitted.metadata).body(status)
    else:
        request_body.release_body(request)
        begin_response(request)
        body = await await_final(admitted.replay, admitted.metadata)
    response = json_response(body)
    response.headers.update(admitted.headers)
    return response


async def _admit_response(request: web.Request) -> _AdmittedResponse:
    body, fields = await decode_checked_body(request, CreateResponseRequest)
    answers = request_input.parse_answers(body.input)
    strict, continues = request.app[SERVICE].openai_strict, answers.are_last and bool(answers.outputs)
    instructions, messages = request_input.split_instructions(
        () if continues or answers.decisions else request_input.from_response_input(body.input, strict=strict)
    )
    model = session_with_model(request, body.model, None)
    asked, after = await read_request(request, model, fields, instructions), None
    if continues:
        replay = await _give_outputs(request, body, answers)
        metadata = metadata_of_turn(replay)
    elif answers.decisions:
        replay, turn, after = await _decide_approvals(request, body.previous_response_id, answers.decisions)
        metadata = metadata_of_run(replay.run, turn)
    else:
        session = await with_request(await _find_session(request, body), asked)
        await decide_before(request, session, (), [one.output for one in answers.outputs])
        replay = await send_input(request, session, messages, "/input", joins_user_messages=True)
        metadata = metadata_of_run(replay.run)
    return _AdmittedResponse(replay, metadata, bool(body.stream), bool(body.background), asked.headers, after)


async def get_response(request: web.Request) -> web.StreamResponse:
    """The response as of now; with `stream=true` its events, from behind number `starting_after`."""
    found = await find_response(request, request.match_info["response"])
    stream = request.query.get("stream", "false").lower()
    if stream not in ("true", "false"):
        raise Invalid("stream is true or false", "/stream")
    after = _parse_starting_after(request)
    if stream == "false":
        return json_response(await read_response(found))
    return await _stream_events(request, await found.replay(V6), found.metadata, after)


async def cancel_response(request: web.Request) -> web.StreamResponse:
    """Interrupt the run and return the response."""
    found = await find_response(request, request.match_info["response"])
    if await found.session.interrupt(found.run.id):
        found = await found.refreshed()
        # A queued run ends when its turn comes, which may be later; a run without a log cannot be awaited.
        with suppress(TimeoutError, Gone):
            async with asyncio.timeout(CANCEL_WAIT_S):
                await await_end(await found.replay(View(), follow=True))
    return json_response(await read_response(await found.refreshed()))


async def list_input_items(request: web.Request) -> web.StreamResponse:
    """A page of the messages before the response in its session, by default the newest first."""
    id = request.match_info["response"]
    found = await find_response(request, id)
    limit, after = parse_limit(request, ITEMS_DEFAULT), request.query.get("after")
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise Invalid("order is asc or desc", "/order")
    page = await found.session.messages_before(
        found.run.answer,
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
    found = await find_previous(request, previous)
    run = found.run
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
    await found.session.fork(answer.next, into)
    return session_with_model(request, model, into)


async def _decide_approvals(
    request: web.Request, previous: str | None, answers: Sequence[AnsweredCall]
) -> tuple[Replay, int, int | None]:
    """Store decisions; the whole response's stream, its first turn, and the number behind which it continues.

    Raises `Invalid` unless all open approvals of the response are decided, `NotFound` and `Conflict`.
    """
    if previous is None:
        raise Invalid("approval responses need the response that asks for them", "/previous_response_id")
    found = await find_previous(request, previous)
    run, session = found.run, found.session
    await _check_decisions(request, found, answers)
    if await session.pending_tool_outputs(run.id):
        raise Invalid("answer the function calls of the response in the same request", "/input")
    after = await suspended_at(found)
    continuation = await session.approve(await to_decisions(session, answers), V6)
    if continuation is None:
        return await (await found.refreshed()).replay(V6), found.turn, after
    found = msgspec.structs.replace(found, run=continuation.run)
    return await found.replay(V6, until=continuation.until), found.turn, after


async def _check_decisions(
    request: web.Request, found: StoredResponse, answers: Sequence[AnsweredCall]
) -> None:
    """Raises `Forbidden`, `Invalid` unless all open approvals of the response's run are decided, and
    `NotFound` for one of another run.
    """
    if answers:
        request[PRINCIPAL].require_scope(Scope.APPROVE)
    run = found.run
    approvals = [answer.approval or ApprovalId("") for answer in answers]
    foreign = [approval for approval in approvals if not is_approval_of(approval, run.id)]
    if foreign:
        raise NotFound(f"run {run.id} has no approval {foreign[0][:64]!r}")
    pending = {approval.request.id for approval in await found.session.pending_approvals(run.id)}
    if missing := pending - set(approvals):
        raise Invalid(f"decide all open approvals at once: {', '.join(sorted(missing))}", "/input")


async def _give_outputs(request: web.Request, body: CreateResponseRequest, answers: InputAnswers) -> Replay:
    """Store the outputs of client tools, and the decisions beside them; the stream of what follows.

    Raises `Invalid` unless everything is answered that the run waits for, `NotFound` and `Conflict`.
    """
    run, session = await find_asking_run(request, answers.outputs)
    if body.model != run.agent:
        raise Invalid(f"the calls are agent {run.agent}'s", "/model")
    if body.previous_response_id is not None:
        previous = await find_previous(request, body.previous_response_id)
        if previous.run.id != run.id:
            raise Invalid("the calls are of another response", "/previous_response_id")
    await _check_decisions(request, StoredResponse(run, session, 0), answers.decisions)
    outputs = await output_decisions(session, run, answers.outputs, "/input")
    continuation = await session.approve([*await to_decisions(session, answers.decisions), *outputs], V6)
    if continuation is None:
        raise Conflict("the response waits for other answers too")
    return continuation


# ----------------------------------------------------------------------------------------------- streaming


async def _stream_events(
    request: web.Request,
    replay: Replay,
    metadata: CompletionMetadata,
    after: int | None,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """The events behind number `after`. Raises `Gone` if that number is void or not in the log yet."""
    void: Sequence[SequenceRange] = ()
    if after is not None or replay.start.voided:
        log = await read_log(replay, metadata)
        void = log.response.voided
        _check_after(after, log)
    # The replay must not skip void events: they count for the numbers.
    all_events = msgspec.structs.replace(replay, view=View())
    translate = _translate_stream(metadata, -1 if after is None else after, void)
    return await stream_replay(request, all_events, translate, headers)


def _check_after(after: int | None, log: ResponseLog) -> None:
    if after is None:
        return
    count = log.response.number
    if after >= count:
        raise Gone(f"the response has {count} events so far: start again without starting_after")
    if log.restored or any(span.holds(after) for span in log.response.voided):
        raise Gone("the events up to starting_after were replaced: start again without it")


def _translate_stream(metadata: CompletionMetadata, after: int, void: Sequence[SequenceRange]) -> Translate:
    """Turns a run's frames into the response's events. Raises `Gone`, which breaks the stream, when events
    become void that the client may have seen.
    """
    response = ResponseStream(metadata)

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
            if response.is_over:
                break
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
    Route(method, f"{base}/responses{path}", handler, Scope.CHAT, doc, ErrorFormat.OPENAI)
    for base in OPENAI_BASES
    for method, path, handler, doc in (
        (
            "POST",
            "",
            create_response,
            RouteDoc(
                "Create a response",
                description="OpenAI's responses for agents: set the client's base URL to `/v1` and "
                "`model` to an agent's name. Continue a conversation by `previous_response_id` or "
                "`conversation`. `instructions`, sampling, `text.format` and `tools` apply to this response "
                "as far as the agent's `callers` allow; the header `Rejoin-Ignored` names the fields that "
                "have no effect. Tool calls that wait for approval end the response with "
                "`mcp_approval_request` items; send `mcp_approval_response` items to continue it. "
                "`function_call_output` items for calls of `tools` lead to the next response. "
                "Returns a response, or its events with `stream: true`.",
                body=CreateResponseRequest,
                responses={200: (dict[str, Any], EVENT_STREAM)},
                headers=IDEMPOTENCY_HEADER,
                response_headers=IGNORED_HEADER_DOC,
                takes_context=True,
                tag="openai",
                example={"model": "demo", "input": "hello"},
            ),
        ),
        (
            "GET",
            "/{response}",
            get_response,
            RouteDoc(
                "Read a response or resume its stream",
                description="Returns the response as of now; it has no output while it is in progress. With "
                "`stream=true` it returns the events, with `starting_after` those behind a number.",
                responses={200: (dict[str, Any], EVENT_STREAM)},
                query=_STREAM_QUERY,
                tag="openai",
            ),
        ),
        (
            "GET",
            "/{response}/input_items",
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
            "/{response}/cancel",
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
