"""A response as it is stored: found by its id, read as of now, awaited to its end."""

from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from rejoin_adapters.store_types import Run
from rejoin_gateway.api.openai.completion_format import CompletionMetadata
from rejoin_gateway.api.openai.completions import metadata_of_run
from rejoin_gateway.api.openai.response_format import ResponseStream, parse_response_id
from rejoin_gateway.api.shared.lookup import find_run
from rejoin_gateway.core.session import Session
from rejoin_gateway.streaming.event_reader import decode_events, read_stored_events
from rejoin_gateway.streaming.positions import FromStart, FromTurn
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol.errors import Gone, NotFound
from rejoin_protocol.events.unfold import unfold
from rejoin_protocol.lifecycle import BUSY, State
from rejoin_protocol.log.record import View

RESPONSE_STATUS = {
    State.QUEUED: "queued",
    State.RUNNING: "in_progress",
    State.SUSPENDED: "completed",  # as OpenAI's that asks for approvals; it may be continued
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}


class StoredResponse(msgspec.Struct, frozen=True):
    """A response: its run, the run's session, and the run's turn with which it begins."""

    run: Run
    session: Session
    turn: int

    @property
    def metadata(self) -> CompletionMetadata:
        """What is the same in all of its events."""
        return metadata_of_run(self.run, self.turn)

    async def refreshed(self) -> "StoredResponse":
        """The same, as it is stored now."""
        return msgspec.structs.replace(self, run=await self.session.find_run(self.run.id))

    async def replay(self, view: View, *, follow: bool = False, until: int | None = None) -> Replay:
        """Its stream from its beginning. See `Session.replay`."""
        position = FromTurn(self.turn) if self.turn else FromStart()
        return await self.session.replay(self.run, position, view, follow=follow, until=until)


async def read_response(found: StoredResponse) -> dict[str, Any]:
    """The response object as of now. While the run is active it has no output."""
    run, response = found.run, ResponseStream(found.metadata)
    is_busy = run.state in BUSY
    if is_busy and run.turn <= found.turn:
        return response.body(RESPONSE_STATUS[run.state])
    try:
        response = (await read_log(await found.replay(View(), follow=True), found.metadata)).response
    except Gone:  # the log has expired: the stored message is what is left
        answer = await found.session.message(run.answer)
        for chunk in () if answer is None else unfold(answer.message):
            response.feed(chunk)
    if is_busy and not response.is_over:
        return ResponseStream(found.metadata).body(RESPONSE_STATUS[run.state])
    return response.final or response.body(RESPONSE_STATUS[run.state], fault=run.error)


async def await_final(replay: Replay, metadata: CompletionMetadata) -> dict[str, Any]:
    """The response object, once the run has ended or waits."""
    response = ResponseStream(metadata)
    all_events = msgspec.structs.replace(replay, view=View())
    async with all_events.open() as frames:
        async for batch in decode_events(frames):
            for chunk in batch:
                response.feed(chunk)
    return response.final or response.body("in_progress")


async def await_end(replay: Replay) -> None:
    """Returns once the stream has ended."""
    async with replay.open() as frames:
        async for _ in frames:
            pass


class ResponseLog(msgspec.Struct, frozen=True):
    """A response as far as the log goes now. `restored`: the log and its numbers begin anew."""

    response: ResponseStream
    restored: bool


async def read_log(replay: Replay, metadata: CompletionMetadata) -> ResponseLog:
    """The response of the events that are stored now. Raises as `read_stored_events`."""
    response, restored = ResponseStream(metadata), False
    async with aclosing(read_stored_events(replay.run_log, replay.run, replay.start)) as pages:
        async for page in pages:
            restored = restored or page.restored
            for chunk in page.events:
                response.feed(chunk)
    return ResponseLog(response, restored)


async def suspended_at(found: StoredResponse) -> int | None:
    """The number of the event with which the response began to wait; None if the log has it no longer."""
    try:
        log = await read_log(await found.replay(View(), follow=True), found.metadata)
    except Gone:
        return None
    return log.response.suspended_at if log.response.suspended_at >= 0 else None


async def find_response(request: web.Request, id: str) -> StoredResponse:
    """The response of an id that a client sends. Raises `NotFound`."""
    run, turn = parse_response_id(id)
    summary, session = await find_run(request, run, f"response {id[:64]!r}")
    if turn > summary.run.turn:
        raise NotFound(f"there is no response {id[:64]!r}")
    return StoredResponse(summary.run, session, turn)


async def find_previous(request: web.Request, id: str) -> StoredResponse:
    """Like `find_response`; the error names the field."""
    try:
        return await find_response(request, id)
    except NotFound as fault:
        raise NotFound(f"previous_response_id: {fault}") from fault
