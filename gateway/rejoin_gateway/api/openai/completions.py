"""OpenAI's chat completions: agents are models, and OpenAI's clients work unchanged.

A request starts a session of its own, which imports its earlier messages, unless it names a session in
`metadata.conversation_id` or the header `x-conversation-id`: then only its last message is sent, because the
stored messages count. The protocol can neither resume a stream nor take text back. If a runner dies after it
has sent text, the stream ends with an error, and the whole answer is in the session.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from rejoin_adapters.store_types import Run
from rejoin_gateway.api.openai import request_input
from rejoin_gateway.api.openai.caller_options import (
    IGNORED_HEADER_DOC,
    CallerFields,
    CallerRequest,
    TokenCount,
    read_options,
    read_tools,
)
from rejoin_gateway.api.openai.client_outputs import (
    find_asking_run,
    metadata_of_turn,
    output_decisions,
    with_request,
)
from rejoin_gateway.api.openai.completion_format import (
    CompletionMetadata,
    CompletionStream,
    build_completion,
    pending_calls_in,
    stream_error,
)
from rejoin_gateway.api.openai.request_input import ChatMessage
from rejoin_gateway.api.openai.tool_calls import SentOutput
from rejoin_gateway.api.shared.answers import decide_before, require_replay
from rejoin_gateway.api.shared.lookup import directory_of
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core import message_input
from rejoin_gateway.core.agent_context import ContextInput
from rejoin_gateway.core.message_input import new_message_id, new_session_id
from rejoin_gateway.core.session import AgentSession
from rejoin_gateway.http import errors, request_body
from rejoin_gateway.http.errors import ErrorDetails
from rejoin_gateway.http.gateway_service import PRINCIPAL, SERVICE, begin_response
from rejoin_gateway.http.request import allowed_agent, convert_body, decode_body, key_of
from rejoin_gateway.http.response import NO_RETRY, Translate, json_response, stream_replay
from rejoin_gateway.http.routes import (
    EVENT_STREAM,
    IDEMPOTENCY_HEADER,
    OPENAI_BASES,
    ErrorFormat,
    Route,
    RouteDoc,
)
from rejoin_gateway.streaming.collect import collect_answer
from rejoin_gateway.streaming.event_reader import decode_events
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol.errors import Conflict, Gone, Invalid, NotFound
from rejoin_protocol.events.unfold import unfold
from rejoin_protocol.ids import AgentName, SessionId, from_header, session_id, to_header
from rejoin_protocol.limits import MESSAGES_MAX, STOPS_MAX, FreeObject, Name
from rejoin_protocol.log import sse
from rejoin_protocol.log.record import View
from rejoin_protocol.run_request import AgentEntry

V6 = View(v7=False, resets=False)
"""For clients that cannot take events back: events voided before the request are left out, and events voided
during the stream break it.
"""


class StreamOptions(msgspec.Struct, frozen=True):
    """`include_usage`: a last chunk with token counts. `include_obfuscation` is accepted without effect."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatCompletionRequest(CallerFields, frozen=True, kw_only=True):
    """The fields that have an effect. Others are accepted, and named in the header `Rejoin-Ignored`."""

    model: Name
    messages: Annotated[list[ChatMessage], Meta(max_length=MESSAGES_MAX)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    stop: Name | Annotated[list[Name], Meta(max_length=STOPS_MAX)] | None = None
    response_format: FreeObject | None = None
    n: int | None = None


class ModelEntry(msgspec.Struct, frozen=True):
    """An agent, as OpenAI lists models. `created`: when it was deployed, in seconds since 1970."""

    id: str
    created: int
    description: str
    object: str = "model"
    owned_by: str = "rejoin"


class ModelList(msgspec.Struct, frozen=True):
    """The agents that the caller may use."""

    data: list[ModelEntry]
    object: str = "list"


class _AdmittedCompletion(msgspec.Struct, frozen=True):
    """A request after its body is gone: its files must not stay in memory for as long as an answer takes."""

    replay: Replay
    metadata: CompletionMetadata
    stream: bool
    include_usage: bool
    headers: Mapping[str, str]


async def create_completion(request: web.Request) -> web.StreamResponse:
    """Answer the last message."""
    admitted = await _admit_completion(request)
    if not admitted.stream:
        request_body.release_body(request)
        begin_response(request)
        return await _respond_complete(admitted)
    translate = _translate_stream(admitted)
    return await stream_replay(request, admitted.replay, translate, admitted.headers)


async def _admit_completion(request: web.Request) -> _AdmittedCompletion:
    body, fields = await decode_checked_body(request, ChatCompletionRequest)
    strict = request.app[SERVICE].openai_strict
    if strict and body.stream_options is not None and not body.stream:
        raise Invalid("stream_options are for a stream", "/stream_options")
    if body.n not in (None, 1):
        raise Invalid("an answer has one choice: n is 1", "/n")
    id = _parse_conversation_id(request, body)
    instructions, messages = request_input.split_instructions(
        request_input.from_chat_messages(body.messages, strict=strict)
    )
    session = session_with_model(request, body.model, id)
    asked = await read_request(request, session, fields, instructions)
    outputs = request_input.chat_outputs(body.messages, len(body.messages))
    if outputs:
        replay = await _continue_run(request, body, id, outputs)
        metadata = metadata_of_turn(replay)
    else:
        session = await with_request(session, asked)
        if id is not None:
            await session.check_agent()
            before = request_input.chat_outputs(body.messages, len(body.messages) - 1)
            await decide_before(request, session, (), [one.output for one in before])
        replay = await send_input(request, session, messages, "/messages")
        metadata = metadata_of_run(replay.run)
    options = body.stream_options or StreamOptions()
    return _AdmittedCompletion(replay, metadata, bool(body.stream), options.include_usage, asked.headers)


async def _continue_run(
    request: web.Request, body: ChatCompletionRequest, id: str | None, outputs: Sequence[SentOutput]
) -> Replay:
    """Give the run that waits for the outputs these outputs; the stream of what follows.

    Raises `Invalid`, `NotFound`, `Conflict`, also while people have to decide about other calls of the run.
    """
    run, session = await find_asking_run(request, outputs)
    if body.model != run.agent:
        raise Invalid(f"the calls are agent {run.agent}'s", "/model")
    if id not in (None, run.session):
        raise Invalid("the calls are of another conversation", "/metadata/conversation_id")
    decisions = await output_decisions(session, run, outputs, "/messages")
    waiting = [one.request.id for one in await session.pending_approvals(run.id)]
    replay = None if waiting else await session.approve(decisions, V6)
    if replay is None:
        raise Conflict(f"the run waits for approvals too, send the outputs after these: {', '.join(waiting)}")
    return replay


async def list_models(request: web.Request) -> web.StreamResponse:
    """The agents that the caller may use, as models."""
    return json_response(ModelList(list(map(_to_model, await directory_of(request).agents()))))


async def get_model(request: web.Request) -> web.StreamResponse:
    """One agent as a model. Raises `NotFound` for one that is not served or that the caller may not use."""
    name = request.match_info["agent"]
    entry = await directory_of(request).find_agent(_agent_of_model(request, name))
    if entry is None:
        raise _no_model(name)
    return json_response(_to_model(entry))


def _to_model(entry: AgentEntry) -> ModelEntry:
    return ModelEntry(entry.name, entry.deployed_at_ms // 1000, entry.description)


async def decode_checked_body[T: CallerFields](
    request: web.Request, kind: type[T]
) -> tuple[T, dict[str, Any]]:
    """The body as `kind`, and all of its fields by name. Raises as `decode_body`; a strict gateway also
    raises `Invalid` for a field that has no effect.
    """
    fields = await decode_body(request, dict[str, Any])
    if request.app[SERVICE].openai_strict:
        request_input.check_fields(fields, request_input.STRICT_FIELDS.intersection(kind.__struct_fields__))
    body = convert_body(fields, kind)
    known = fields.keys() & kind.__struct_fields__
    return body, fields | {name: getattr(body, name) for name in known}


async def read_request(
    request: web.Request,
    session: AgentSession,
    fields: Mapping[str, Any],
    instructions: Sequence[request_input.InputMessage],
) -> CallerRequest:
    """What a request sets for its run. To a strict gateway it brings tools at most, and only to an agent with
    `client_tools="request"`. Raises `NotFound` if there is no such agent, and `Invalid`.
    """
    try:
        entry = await session.backend.agent(session.agent)
    except NotFound:
        raise _no_model(session.agent) from None
    if request.app[SERVICE].openai_strict:
        return read_tools(fields, entry)
    return read_options(fields, instructions, entry)


def session_with_model(request: web.Request, model: str, id: str | None) -> AgentSession:
    """Session `id`, or a new one, with the agent that `model` names.

    Raises `NotFound` for an agent that cannot exist or that the credential may not use.
    """
    agent, owner = _agent_of_model(request, model), request[PRINCIPAL].owner
    session = SessionId(id or new_session_id(key_of(request), owner))
    backend, context = request.app[SERVICE].backend, ContextInput(request.headers)
    return AgentSession(backend, owner, session, agent, context)


async def send_input(
    request: web.Request,
    session: AgentSession,
    messages: Sequence[request_input.InputMessage],
    pointer: str,
    *,
    joins_user_messages: bool = False,
) -> Replay:
    """Send the last message; a new session imports those before it. Raises as `AgentSession.send`.

    `pointer` is that of the list. `joins_user_messages`: see `request_input.split_last_turn`.
    """
    key = key_of(request)
    turn = request_input.split_last_turn(
        messages, new_message_id(key), pointer, joins_user_messages=joins_user_messages
    )
    with message_input.relocate_errors("", turn.places):
        message = message_input.build_user_message(turn.message, "")
        imports = message_input.build_imported_turns(turn.earlier, lambda number: messages[number].places)
        sent = await session.send(message, V6, imports=imports, key=key)
    return await require_replay(session, sent, V6)


def _agent_of_model(request: web.Request, model: str) -> AgentName:
    try:
        return allowed_agent(request, model)
    except NotFound:
        raise _no_model(model) from None


def _no_model(name: str) -> NotFound:
    return NotFound(f"there is no model {name[:64]!r}: a model is an agent's name", "model_not_found")


def metadata_of_run(run: Run, turn: int = 0) -> CompletionMetadata:
    """The metadata of a run in the answer that begins with a turn."""
    return CompletionMetadata(run.id, run.session, run.agent, turn)


def _parse_conversation_id(request: web.Request, body: ChatCompletionRequest) -> str | None:
    field = (body.metadata or {}).get("conversation_id")
    value = request.headers.get("x-conversation-id")
    try:
        header = from_header(value) if value else None
        named = session_id(field) if field else header
    except Invalid as fault:
        raise Invalid(fault.detail, "/metadata/conversation_id") from fault
    if header is not None and header != named:
        raise Invalid("the header x-conversation-id names another one", "/metadata/conversation_id")
    return named


async def _respond_complete(admitted: _AdmittedCompletion) -> web.StreamResponse:
    replay = admitted.replay
    answer = await collect_answer(msgspec.structs.replace(replay, view=View()))
    headers = {
        "x-conversation-id": to_header(replay.run.session),
        "x-workflow-run-id": replay.run.id,
        **admitted.headers,
    }
    if answer.error is not None:
        headers |= NO_RETRY
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        return errors.render_error(
            ErrorDetails(status, "run_failed", answer.error, headers), ErrorFormat.OPENAI
        )
    waiting = pending_calls_in(unfold(answer.message))
    completion = build_completion(
        admitted.metadata, answer.text, answer.finish_reason, waiting, answer.message.get("metadata")
    )
    response = json_response(completion)
    response.headers.update(headers)
    return response


def _translate_stream(admitted: _AdmittedCompletion) -> Translate:
    answer = CompletionStream(admitted.metadata, include_usage=admitted.include_usage)
    session = admitted.replay.run.session

    async def translate(frames: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        try:
            async for batch in decode_events(frames):
                lines = [sse_frame(part) for chunk in batch for part in answer.feed(chunk)]
                if lines or not batch:
                    yield b"".join(lines) or sse.KEEP_ALIVE
        except Gone as fault:
            yield sse_frame(stream_error(f"{fault} (conversation {session})", "restarted"))
            return
        yield b"".join(map(sse_frame, answer.end())) + sse.DONE

    return translate


def sse_frame(value: Any) -> bytes:
    """A server-sent event without a name: OpenAI's clients read the type from its data."""
    return b"data: %b\n\n" % msgspec.json.encode(value)


ROUTES = tuple(
    Route(method, f"{base}{path}", handler, Scope.CHAT, doc, ErrorFormat.OPENAI)
    for base in OPENAI_BASES
    for method, path, handler, doc in (
        (
            "POST",
            "/chat/completions",
            create_completion,
            RouteDoc(
                "Create a chat completion",
                description="OpenAI's chat completions for agents: set the client's base URL to `/v1` and "
                "`model` to an agent's name. Each request starts a conversation of its own, unless the "
                "header `x-conversation-id` or `metadata.conversation_id` names one. Returns a "
                "completion, or its chunks with `stream: true`. System messages, sampling, "
                "`response_format` and `tools` apply to this answer as far as the agent's `callers` allow; "
                "the header `Rejoin-Ignored` names the fields that have no effect. The model's calls of "
                "`tools` end the completion with `tool_calls`, and a request whose last messages have the "
                "role `tool` continues it.",
                body=ChatCompletionRequest,
                responses={200: (dict[str, Any], EVENT_STREAM)},
                headers={
                    "x-conversation-id": "The conversation to continue. Only the last message is sent to it.",
                    **IDEMPOTENCY_HEADER,
                },
                response_headers=IGNORED_HEADER_DOC,
                takes_context=True,
                tag="openai",
                example={"model": "demo", "messages": [{"role": "user", "content": "hello"}]},
            ),
        ),
        (
            "GET",
            "/models",
            list_models,
            RouteDoc(
                "List models",
                description="Returns the agents that the credential may use, each as a model.",
                responses={200: ModelList},
                tag="openai",
            ),
        ),
        (
            "GET",
            "/models/{agent}",
            get_model,
            RouteDoc(
                "Get a model",
                description="Returns one agent as a model of OpenAI's API.",
                responses={200: ModelEntry},
                tag="openai",
            ),
        ),
    )
)
