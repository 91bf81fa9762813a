"""What routes respond with: JSON, or a run's replay as a stream of server-sent events.

A stream ends in one of three ways: with `[DONE]`; because the client disconnected, which does not stop the
run; or with a broken connection. The connection is broken on errors because a client that sees a clean end
takes the answer as complete, and a client that sees a network error resumes.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
import structlog
from aiohttp import HttpVersion11, web

from rejoin_adapters.store_types import Run
from rejoin_gateway.core.session import Session
from rejoin_gateway.http import instrumentation, request_body
from rejoin_gateway.http.gateway_service import (
    PRINCIPAL,
    SERVICE,
    STREAM_ENDED,
    begin_response,
    refuse_if_stopping,
)
from rejoin_gateway.http.request import view_of
from rejoin_gateway.http.routes import PLAIN_TEXT
from rejoin_gateway.streaming import positions
from rejoin_gateway.streaming.answer_text import AnswerText, RunFailed
from rejoin_gateway.streaming.event_reader import decode_events
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol.errors import Gone, RejoinError
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.ids import RunId, to_header, turn_id
from rejoin_protocol.log import sse

log = structlog.get_logger("rejoin.http")

TEXT_HEADERS = {
    name: value for name, value in sse.STREAM_HEADERS.items() if not name.startswith("x-vercel")
} | {"Content-Type": f"{PLAIN_TEXT}; charset=utf-8"}
NO_RETRY = {"x-should-retry": "false"}
"""A retry by a library would start another run; only a person should decide that."""

type Translate = Callable[[AsyncGenerator[bytes]], AsyncGenerator[bytes]]
"""Turns the frames of our events into the frames of another protocol."""


def json_response(value: Any, status: int = 200) -> web.Response:
    """A JSON response."""
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


async def stream_from_position(
    request: web.Request, session: Session, of: RunId | None = None
) -> web.StreamResponse:
    """Stream the session's run from the client's position; 204 if no run is active and no position is given,
    or if the position is the last event of a run that has ended.

    `of`: another run of the session. Raises as `Session.stream`.
    """
    position = positions.parse_position(request.headers, request.query)
    follow = request.query.get("follow", "").lower() == "true"
    async with request.app[SERVICE].resume_slots:
        refuse_if_stopping(request)  # the gateway may have begun to stop while the request waited for a slot
        replay = await session.stream(position, view_of(request), follow=follow, of=of)
    return web.Response(status=204) if replay is None else await stream_replay(request, replay)


async def stream_replay(
    request: web.Request,
    replay: Replay,
    translate: Translate | None = None,
    more_headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Release the request's body and stream a replay, translated to another protocol by `translate`.

    A replay that is not translated also shows the answers that the run does not have yet. To HEAD it responds
    with the headers of the stream, and reads no event.
    """
    structlog.contextvars.bind_contextvars(session=replay.run.session, run=replay.run.id)
    if translate is None and wants_text(request):
        return await stream_text(request, replay)
    if request.method == "HEAD":
        return web.Response(headers={**stream_headers(replay), **(more_headers or {})})
    response = web.StreamResponse(headers={**stream_headers(replay), **(more_headers or {})})
    request_body.release_body(request)
    begin_response(request)
    if translate is None:
        replay = msgspec.structs.replace(replay, shows_answers=True)
    async with replay.open() as frames:  # an error here comes before the headers: it still gets a status
        await _write_frames(request, response, frames if translate is None else translate(frames))
    return response


async def stream_once(request: web.Request, headers: Mapping[str, str], frames: bytes) -> web.StreamResponse:
    """Release the request's body and send a whole stream of events. Returns when it is sent."""
    if request.method == "HEAD":
        return web.Response(headers=headers)

    async def once() -> AsyncGenerator[bytes]:
        yield frames

    response = web.StreamResponse(headers=headers)
    request_body.release_body(request)
    begin_response(request)
    await _write_frames(request, response, once())
    return response


def wants_text(request: web.Request) -> bool:
    """Whether the client takes an answer as plain text and nothing else: it has no parser for events."""
    accepted = request.headers.get("Accept", "").lower().split(",")
    return {kind.partition(";")[0].strip() for kind in accepted} == {PLAIN_TEXT}


async def stream_text(request: web.Request, replay: Replay) -> web.StreamResponse:
    """Stream a replay as plain text. The headers wait for the first text: a run that fails before it gets an
    error status. Later failures break the connection, because a text has no other way to say so.
    """
    headers = run_headers(replay.run, TEXT_HEADERS)
    if request.method == "HEAD":
        return web.Response(headers=headers)
    request_body.release_body(request)
    begin_response(request)
    async with replay.open() as frames, aclosing(_read_text(frames)) as texts:
        try:
            first = await anext(texts, b"")
        except RunFailed as fault:
            return web.Response(status=500, text=str(fault), headers=headers | NO_RETRY)
        response = web.StreamResponse(headers=headers)
        await _write_frames(request, response, _continue(first, texts))
    return response


async def _read_text(frames: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    answer = AnswerText()
    async for events in decode_events(frames):
        if text := "".join([answer.feed(event) for event in events]):
            yield text.encode()
    answer.end()


async def _continue(first: bytes, texts: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    try:
        async for text in texts:
            yield text
    except RunFailed as fault:
        raise Gone(f"the run failed: {fault}") from fault


def chunks_response(run: Run, events: Sequence[Chunk]) -> web.Response:
    """A complete stream of chunks about a run that are not in its log, so they have no cursors."""
    frames = [b"data: %b\n\n" % chunks.encode(event) for event in events]
    return web.Response(body=b"".join([*frames, sse.DONE]), headers=run_headers(run))


def stream_headers(replay: Replay) -> dict[str, str]:
    """The headers of a stream's response."""
    headers = run_headers(replay.run, turn=replay.counted_from)
    if replay.start.last_visible_index is not None:
        headers["x-workflow-stream-tail-index"] = str(replay.start.last_visible_index)
    return headers


def run_headers(
    run: Run, headers: Mapping[str, str] = sse.STREAM_HEADERS, *, turn: int = 0
) -> dict[str, str]:
    """The headers of a stream of events of this run, from a turn on.

    Transports that count events resume by this id and the number of events that they have received since.
    """
    session, id = to_header(run.session), turn_id(run.id, turn)
    return {**headers} | {"x-workflow-run-id": id, "X-Thread-Id": session, "x-conversation-id": session}


async def _write_frames(
    request: web.Request, response: web.StreamResponse, frames: AsyncGenerator[bytes]
) -> None:
    service, transport = request.app[SERVICE], request.transport
    streams, metrics, is_silent = service.streams, service.backend.metrics, True
    if transport is None:  # the client is gone already
        return
    with service.open_streams.hold(request[PRINCIPAL].owner):
        streams.add(transport)
        metrics.set_open_streams(len(streams))
        try:
            with abort_on_error(request, transport):
                await begin_stream(request, response)
                response.headers.clear()  # they are sent, and thousands of streams would hold them
                end = b""
                async with aclosing(frames):
                    async for data in frames:
                        if data is sse.DONE:
                            end = data  # it leaves with the end of the response
                            continue
                        await response.write(data)
                        if is_silent and data != sse.KEEP_ALIVE:
                            is_silent = False
                            instrumentation.record_first_event(request, metrics)
                request[STREAM_ENDED] = True
                await response.write_eof(end)
        finally:
            streams.discard(transport)
            metrics.set_open_streams(len(streams))


async def begin_stream(request: web.Request, response: web.StreamResponse) -> None:
    """Send the headers of a response without a length. Raises `ConnectionError`."""
    if request.version < HttpVersion11:  # it has no chunks: only the connection's end ends the stream
        response.force_close()
        response.headers["Connection"] = "close"
    await response.prepare(request)


class abort_on_error:  # noqa: N801 - it is used as a function
    """A block that writes a response in pieces: an error in it aborts the connection.

    The status has been sent, so an error can no longer be a status. Swallows `RejoinError` and
    `ConnectionError`.
    """

    __slots__ = ("_request", "_transport")

    def __init__(self, request: web.Request, transport: asyncio.Transport) -> None:
        self._request = request
        self._transport = transport

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, fault: BaseException | None, trace: object) -> bool:
        match fault:
            case RejoinError():
                log.warning("stream_aborted", error=str(fault))
                self._request[STREAM_ENDED] = True
                self._request.app[SERVICE].backend.metrics.count_aborted_stream()
                self._transport.abort()
                return True
            case ConnectionError():
                log.info("client_disconnected")
                return True
            case Exception():
                self._transport.abort()
        return False
