"""OpenAI's chat completions: an agent is a model, and a client of OpenAI's is a client.

A request is a conversation of its own, to which its earlier messages are imported, unless it names one in
`metadata.conversation_id` or the header `x-conversation-id`: then only its new message counts, because what
is stored wins. The protocol has no way to resume and none to take text back: a stream whose runner died after
it had said something ends with an error, and the conversation has the answer.
"""

from collections.abc import AsyncGenerator, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web
from rejoin_adapters.records import Run
from rejoin_protocol.errors import Gone, Invalid, NotFound
from rejoin_protocol.events.unfold import unfold
from rejoin_protocol.ids import SessionId, agent_name, session_id
from rejoin_protocol.log import sse
from rejoin_protocol.log.record import View

from rejoin_gateway.api.openai import request_input
from rejoin_gateway.api.openai.completion_format import (
    CompletionMetadata,
    CompletionStream,
    build_completion,
    pending_calls_in,
    stream_error,
)
from rejoin_gateway.api.openai.request_input import ChatMessage
from rejoin_gateway.core import message_input
from rejoin_gateway.core.agent_context import ContextInput
from rejoin_gateway.core.message_input import new_message_id, new_session_id
from rejoin_gateway.core.session import Session
from rejoin_gateway.http import errors, request_body
from rejoin_gateway.http.errors import ErrorDetails
from rejoin_gateway.http.request import decode_body, key_of
from rejoin_gateway.http.response import Translate, json_response, stream_replay
from rejoin_gateway.http.routes import IDEMPOTENCY_HEADER, ErrorFormat, Route, RouteDoc, Scope
from rejoin_gateway.http.service import PRINCIPAL, SERVICE
from rejoin_gateway.streaming.collect import collect_answer
from rejoin_gateway.streaming.event_reader import decode_events
from rejoin_gateway.streaming.replay import Replay

V6 = View(v7=False)
"""For those who cannot take back: what was voided before is left out, what is voided meanwhile breaks off."""


class StreamOptions(msgspec.Struct, frozen=True):
    """How a stream is to be. `include_obfuscation` changes nothing: there is none."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatCompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body: what of it has an effect. Other fields may be there if they ask for nothing."""

    model: str
    messages: list[ChatMessage]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    metadata: dict[str, str] | None = None


class ModelEntry(msgspec.Struct, frozen=True):
    """An agent, as OpenAI lists models."""

    id: str
    created: int
    description: str
    object: str = "model"
    owned_by: str = "rejoin"


class ModelList(msgspec.Struct, frozen=True):
    """All of them."""

    data: list[ModelEntry]
    object: str = "list"


async def create_completion(request: web.Request) -> web.StreamResponse:
    """Answer a conversation's last message."""
    asked = await decode_checked_body(request, ChatCompletionRequest)
    if asked.stream_options is not None and not asked.stream:
        raise Invalid("stream_options are for a stream", "/stream_options")
    named = _conversation(request, asked)
    session = session_with_model(request, asked.model, named)
    if named is not None:
        await session.check_agent()
    replay = await send_input(request, session, request_input.from_chat_messages(asked.messages), "/messages")
    asked.messages.clear()  # files must not be held for as long as an answer takes
    if not asked.stream:
        request_body.release_body(request)
        return await _whole(replay)
    options = asked.stream_options or StreamOptions()
    return await stream_replay(request, replay, _translated(replay, include_usage=options.include_usage))


async def list_models(request: web.Request) -> web.StreamResponse:
    """The agents that the caller's credential may talk to."""
    found = await request.app[SERVICE].backend.agents.list()
    bound = request[PRINCIPAL].agent
    shown = [
        ModelEntry(entry.name, entry.deployed_at_ms // 1000, entry.description)
        for entry in sorted(found, key=lambda entry: entry.name)
        if bound in (None, entry.name)
    ]
    return json_response(ModelList(shown))


async def decode_checked_body[T: msgspec.Struct](request: web.Request, kind: type[T]) -> T:
    """The body, if it asks for nothing that it would not get. Raises as `request.decode_body`."""
    request_input.check_fields(await decode_body(request, dict[str, msgspec.Raw]), kind.__struct_fields__)
    return await decode_body(request, kind)


def session_with_model(request: web.Request, model: str, id: str | None) -> Session:
    """The session that a request names, or a new one, with the agent that `model` names. Raises `NotFound`,
    also for an agent that is not the credential's.
    """
    principal, backend = request[PRINCIPAL], request.app[SERVICE].backend
    unknown = NotFound(f"there is no agent {model[:64]!r}")
    try:
        agent = agent_name(model)
    except Invalid:
        raise unknown from None
    if principal.agent not in (None, agent):
        raise unknown
    named = SessionId(id or new_session_id(key_of(request), principal.owner))
    return backend.agent(agent, principal.owner).session(named, ContextInput(request.headers))


async def send_input(
    request: web.Request,
    session: Session,
    said: Sequence[request_input.InputMessage],
    place: str,
    *,
    new: bool = False,
) -> Replay:
    """Ask for an answer to what was said last; of a session that is known, the rest is known better."""
    key = key_of(request)
    asked = request_input.split_last_turn(said, new_message_id(key), place, new=new)
    with message_input.relocate_errors("", asked.places):
        message = message_input.build_user_message(asked.message, "")
        imports = message_input.build_imported_turns(asked.earlier, lambda number: said[number].places)
        return await session.send(message, V6, imports=imports, key=key)


def metadata_of_run(run: Run) -> CompletionMetadata:
    """What of a run its responses say."""
    return CompletionMetadata(run.id, run.session, run.agent)


def _conversation(request: web.Request, asked: ChatCompletionRequest) -> str | None:
    named = (asked.metadata or {}).get("conversation_id")
    header = request.headers.get("x-conversation-id")
    if named and header and named != header:
        raise Invalid("the header x-conversation-id names another one", "/metadata/conversation_id")
    if not named and not header:
        return None
    try:
        return session_id(named or header or "")
    except Invalid as fault:
        raise Invalid(fault.detail, "/metadata/conversation_id") from fault


async def _whole(replay: Replay) -> web.StreamResponse:
    answer = await collect_answer(msgspec.structs.replace(replay, view=View()))
    headers = {"x-conversation-id": replay.run.session, "x-workflow-run-id": replay.run.id}
    if answer.error is not None:
        # Whoever asks again asks for another run: that is for a person to decide, not for a retry.
        once = headers | {"x-should-retry": "false"}
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        return errors.render_error(ErrorDetails(status, "run_failed", answer.error, once), ErrorFormat.OPENAI)
    waiting = pending_calls_in(unfold(answer.message))
    said = build_completion(
        metadata_of_run(replay.run),
        answer.text,
        answer.finish_reason,
        waiting,
        answer.message.get("metadata"),
    )
    response = json_response(said)
    response.headers.update(headers)
    return response


def _translated(replay: Replay, *, include_usage: bool) -> Translate:
    answer = CompletionStream(metadata_of_run(replay.run), include_usage=include_usage)

    async def translate(frames: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        try:
            async for batch in decode_events(frames):
                said = [sse_frame(part) for chunk in batch for part in answer.feed(chunk)]
                if said or not batch:
                    yield b"".join(said) or sse.KEEP_ALIVE
        except Gone as fault:
            yield sse_frame(stream_error(f"{fault} (conversation {replay.run.session})", "restarted"))
            return
        yield b"".join(map(sse_frame, answer.end())) + sse.DONE

    return translate


def sse_frame(said: Any) -> bytes:
    """An event whose type, if it has one, is in its data alone."""
    return b"data: %b\n\n" % msgspec.json.encode(said)


ROUTES = (
    Route(
        "POST",
        "/run/v1/chat/completions",
        create_completion,
        Scope.CHAT,
        RouteDoc(
            "A chat completion, for OpenAI's clients",
            ChatCompletionRequest,
            {200: (dict[str, Any], "text/event-stream")},
            headers={"x-conversation-id": "The conversation to go on with.", **IDEMPOTENCY_HEADER},
            tag="openai",
            example={"model": "demo", "messages": [{"role": "user", "content": "hello"}]},
        ),
        ErrorFormat.OPENAI,
    ),
    Route(
        "GET",
        "/run/v1/models",
        list_models,
        Scope.CHAT,
        RouteDoc("The agents, as models", None, {200: ModelList}, tag="openai"),
        ErrorFormat.OPENAI,
    ),
)
