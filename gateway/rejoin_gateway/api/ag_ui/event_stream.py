"""The stream of one AG-UI run: reads the log, has `RunEvents` translate it, and adds what the log lacks.

Each event has the id `<cursor>.<n>`: the n-th of those that the log's event at that cursor becomes. `start`
and `end` stand for what comes before and behind the log. A client that was cut names the last id that it has.
The run is read from its beginning, because its events follow from all before, and what the client has is left
out.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

import msgspec
from aiohttp import web

from rejoin_adapters.store_types import ApprovalRequest, Run
from rejoin_gateway.api.ag_ui.history_place import HistoryPlace
from rejoin_gateway.api.ag_ui.run_events import FINISHED, SNAPSHOT, Event, RunEvents, RunName
from rejoin_gateway.api.ag_ui.thread_messages import (
    MessageNumbers,
    ThreadMessage,
    json_text,
    to_thread_messages,
)
from rejoin_gateway.core.session import Session
from rejoin_gateway.http.gateway_service import SERVICE, refuse_if_stopping
from rejoin_gateway.http.response import Translate, run_headers, stream_once, stream_replay
from rejoin_gateway.streaming.event_reader import decode_frames, read_stored_events
from rejoin_gateway.streaming.positions import AfterCursor, FromStart, FromTurn
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol.errors import Gone, Invalid
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.events.unfold import unfold
from rejoin_protocol.ids import CallId, MessageId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.log import cursor, sse
from rejoin_protocol.log import record as log
from rejoin_protocol.log.record import Audience, View

START, END = "start", "end"
SNAPSHOT_BYTES_MAX = 4 * 1024 * 1024
"""The messages of earlier answers in a snapshot, as JSON. The client's parser takes events up to 10 MB."""
MESSAGES_PER_READ = 50
RECORDS_PER_READ = 128
_EVENT_ID = re.compile(r"(start|end|\d{1,19}-\d{1,19})\.(\d{1,6})")


class Place(msgspec.Struct, frozen=True):
    """The place of an event: `at` is a cursor of the log, `start` or `end`, `number` counts from there."""

    at: str
    number: int

    def __str__(self) -> str:
        return f"{self.at}.{self.number}"


def parse_place(headers: Mapping[str, str]) -> Place | None:
    """The last event that a client has; None if it has none. Raises `Invalid`."""
    text = headers.get("Last-Event-ID")
    if not text:
        return None
    match = _EVENT_ID.fullmatch(text)
    if match is None:
        raise Invalid(f"not the id of an event: {text[:64]!r}")
    return Place(match[1], int(match[2]))


class Turn(msgspec.Struct, frozen=True):
    """The turn of a run that a client knows as the AG-UI run `id`. `is_old`: see `RunName`."""

    session: Session
    run: Run
    turn: int
    id: str
    is_old: bool = False

    @property
    def name(self) -> RunName:
        """What its events say."""
        return RunName(self.run.session, self.id, self.run.answer, self.is_old)


async def stream_turn(
    request: web.Request, turn: Turn, after: Place | None, *, is_known: bool
) -> web.StreamResponse:
    """Stream the events of a turn, from behind `after`. `is_known`: the client may have some of the answer,
    so without `after` the stream begins with a snapshot.

    Raises `Invalid` and `Gone` for an event that is not in the run's log.
    """
    session, run = turn.session, turn.run
    events, opening = RunEvents(turn.name), []
    async with request.app[SERVICE].resume_slots:
        refuse_if_stopping(request)  # the gateway may have begun to stop while the request waited for a slot
        if after is not None and after.at not in (START, END):
            await session.replay(run, AfterCursor(cursor.parse(after.at)), View())
        position = FromTurn(turn.turn) if turn.turn else FromStart()
        replay = await session.replay(run, position, View(), until=turn.turn)
        for chunk in await _events_before(turn):
            events.feed(chunk)
        if is_known and after is None:
            has_reasoned = await _has_reasoned(replay)
            emptied = [MessageNumbers(run.answer).next_reasoning()] if has_reasoned else []
            opening.append(events.snapshot(emptied))
    shown = msgspec.structs.replace(replay, counted_from=turn.turn)
    return await stream_replay(request, shown, _translate(request, turn, events, after, opening))


async def stream_thread(request: web.Request, turn: Turn) -> web.StreamResponse:
    """Stream the thread for a client that has nothing of it: a snapshot of its messages, and what the active
    run says. `turn`: the current one.
    """
    session, run = turn.session, turn.run
    async with request.app[SERVICE].resume_slots:
        refuse_if_stopping(request)
        replay = await session.replay(run, FromStart(), View())
    events = RunEvents(turn.name, shows_outputs=True)
    opening = [events.snapshot()]
    shown = msgspec.structs.replace(replay, counted_from=turn.turn)
    return await stream_replay(
        request, shown, _translate(request, turn, events, None, opening, has_ids=False)
    )


async def stream_still(request: web.Request, turn: Turn, *, with_messages: bool) -> web.StreamResponse:
    """Stream a turn in which nothing happens: what the run has ended with, or waits for. `with_messages`:
    and the messages of the thread.
    """
    place = HistoryPlace(request)
    try:
        if with_messages:
            await place.take()
        async with request.app[SERVICE].resume_slots:
            refuse_if_stopping(request)
            frames = await _still_frames(turn, with_messages=with_messages)
        return await stream_once(request, run_headers(turn.run, turn=turn.turn), frames)
    finally:
        place.release()


async def _still_frames(turn: Turn, *, with_messages: bool) -> bytes:
    session, run = turn.session, turn.run
    found = await session.message(run.answer)
    events = RunEvents(turn.name)
    for chunk in unfold(found.message) if found is not None and run.state is State.SUSPENDED else ():
        events.feed(chunk)  # a run that has ended waits for nothing
    made = events.begin()
    if with_messages:
        answer = [] if found is None else to_thread_messages(found.message)
        made.append({"type": SNAPSHOT, "messages": answer})
    return b"".join([_frame(await _completed(turn, event)) for event in [*made, *events.end()]])


async def _has_reasoned(replay: Replay) -> bool:
    """Whether the log has reasoning, so that a client may have some."""
    async with aclosing(read_stored_events(replay.run_log, replay.run, replay.start)) as pages:
        async for page in pages:
            if any(isinstance(event, chunks.ReasoningStart) for event in page.events):
                return True
    return False


async def _events_before(turn: Turn) -> Sequence[Chunk]:
    """The events of the run's earlier turns; from the stored message, if their log has expired."""
    found: list[Chunk] = []
    after, more = 0, turn.turn > 0
    while more:
        page = await turn.session.read_log(turn.run, after=after, records_max=RECORDS_PER_READ)
        for record in page.records:
            if record.head.turn >= turn.turn:
                return found
            if record.head.index == 0:
                found = []  # the log begins again with the stored message
            if record.head.audience is not Audience.OPERATIONS:
                found += map(chunks.decode, log.split_events(record))
            after = record.seq
        more = page.more
    if turn.turn and not found:
        stored = await turn.session.message(turn.run.answer)
        return [] if stored is None else unfold(stored.message)
    return found


def _translate(
    request: web.Request,
    turn: Turn,
    events: RunEvents,
    after: Place | None,
    opening: Sequence[Event],
    *,
    has_ids: bool = True,
) -> Translate:
    """Turns a run's frames into the frames of AG-UI, from behind `after`. `opening`: what follows the first
    event for a client that has nothing.
    """

    async def translate(frames: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        place = HistoryPlace(request)
        shown = _Shown(turn, after, place, request.app[SERVICE].resume_slots, has_ids=has_ids)
        try:
            yield await shown.frames(START, [*events.begin(), *opening]) or sse.KEEP_ALIVE
            place.release()
            async with aclosing(decode_frames(frames)) as batches:
                async for batch in batches:
                    lines: list[bytes] = []
                    for frame in batch:
                        lines.append(await shown.frames(frame.id, events.feed(chunks.decode(frame.data))))
                        if place.is_taken:
                            yield b"".join(lines)
                            lines.clear()
                            place.release()
                    if any(lines) or not batch:
                        yield b"".join(lines) or sse.KEEP_ALIVE
            if last := await shown.frames(END, events.end()):
                yield last
        finally:
            place.release()
        if not shown.has_passed:
            raise Gone(f"the run has no event {after}: start again without Last-Event-ID")

    return translate


class _Shown:
    """Makes the frames of the events that a client does not have yet."""

    def __init__(
        self,
        turn: Turn,
        after: Place | None,
        place: HistoryPlace,
        slots: asyncio.Semaphore,
        *,
        has_ids: bool,
    ) -> None:
        self._turn = turn
        self._after = after
        self._place = place
        self._slots = slots
        self._has_ids = has_ids
        self.has_passed = after is None

    async def frames(self, at: str, events: Sequence[Event]) -> bytes:
        pieces = []
        for number, event in enumerate(events):
            place = Place(at, number)
            if self.has_passed:
                id = b"id: %b\n" % str(place).encode() if self._has_ids else b""
                pieces.append(id + _frame(await self._completed(event)))
            self.has_passed = self.has_passed or place == self._after
        # A client that has the first event gets no opening, whatever of it has reached it.
        self.has_passed = self.has_passed or (self._after is not None and self._after.at == at == START)
        return b"".join(pieces)

    async def _completed(self, event: Event) -> Event:
        if event["type"] != SNAPSHOT:
            return await _completed(self._turn, event)
        await self._place.take()  # before the slot: who holds a slot waits for no client
        async with self._slots:
            return await _completed(self._turn, event)


def _frame(event: Event) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(event)


async def _completed(turn: Turn, event: Event) -> Event:
    """The event with what the log lacks: the messages of earlier answers, and how approvals may be given."""
    if event["type"] == SNAPSHOT:
        return event | {"messages": [*await _earlier_messages(turn.session, turn.run), *event["messages"]]}
    if event["type"] == FINISHED and event["outcome"]["type"] == "interrupt":
        interrupts = [await _with_request(turn, one) for one in event["outcome"]["interrupts"]]
        return event | {"outcome": event["outcome"] | {"interrupts": interrupts}}
    return event


async def _with_request(turn: Turn, interrupt: Event) -> Event:
    """The interrupt with its deadline, and with the schema of the arguments if they may be changed."""
    call = CallId(interrupt["toolCallId"].removeprefix(f"{turn.run.answer}."))
    asked = await turn.session.find_approval(turn.run.id, call)
    return interrupt if asked is None else _say_request(interrupt, asked.request)


def _say_request(interrupt: Event, request: ApprovalRequest) -> Event:
    if request.expires_at is not None:
        interrupt = interrupt | {"expiresAt": request.expires_at.isoformat()}
    if request.edit_schema is not None:
        schema = interrupt["responseSchema"]
        properties = schema["properties"] | {"editedArgs": request.edit_schema}
        interrupt = interrupt | {"responseSchema": schema | {"properties": properties}}
    return interrupt


async def _earlier_messages(session: Session, run: Run) -> list[ThreadMessage]:
    """The messages before the answer: the newest that fit into `SNAPSHOT_BYTES_MAX`. None if the answer
    has been replaced.
    """
    found: list[list[ThreadMessage]] = []
    after, size, more = None, 0, True
    while more:
        page = await session.messages_before(
            run.answer, after=after, limit=MESSAGES_PER_READ, oldest_first=False
        )
        if page is None:
            break
        for message in page.messages:
            messages, bytes_more = _measured(message)
            size += bytes_more
            if size > SNAPSHOT_BYTES_MAX:
                return _in_order(found)
            found.append(messages)
            after = MessageId(message["id"])
        more = page.more
    return _in_order(found)


def _measured(message: MessageDict) -> tuple[list[ThreadMessage], int]:
    messages = to_thread_messages(message)
    return messages, len(json_text(messages))


def _in_order(found: list[list[ThreadMessage]]) -> list[ThreadMessage]:
    return [message for messages in reversed(found) for message in messages]
