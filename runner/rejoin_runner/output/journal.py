"""The one writer of a run's log: emitted events in batches, with one append in flight.

While an append is in flight, new events wait and form the next batch. An idle run therefore sends each event
at once, a busy one sends batches, and neither needs a timer. The queue is bounded: `emit` waits while it is
full. Now and then a copy of the stored records goes to a segment; no append waits for that.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from rejoin_adapters.ports.run_log import RunLog
from rejoin_protocol.errors import RejoinError
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.ids import RunId
from rejoin_protocol.limits import ANSWER_BYTES_MAX, EVENT_BYTES_MAX
from rejoin_protocol.log.record import (
    BATCH_BYTES_MAX,
    BATCH_EVENTS_MAX,
    Audience,
    Head,
    Mark,
    Record,
    encode_frames,
)
from rejoin_protocol.log.segment import SegmentBuilder
from rejoin_runner.next_action.run_state import RunState
from rejoin_runner.output.bounded_work import refuse_if_abandoned

QUEUED_EVENTS_MAX = 4_096
GROWING = (
    chunks.TextDelta,
    chunks.ReasoningDelta,
    chunks.ToolInputDelta,
    chunks.ToolInputAvailable,
    chunks.ToolOutputAvailable,
    chunks.File,
    chunks.ReasoningFile,
    chunks.Custom,
)
"""The events that make an answer longer. The events that end an answer are emitted whatever its size."""
AUDIENCES: Mapping[type[Chunk], Audience] = {
    chunks.ResetStep: Audience.RESETS,
    chunks.ToolApprovalResponse: Audience.V7,
    chunks.SteeringMessage: Audience.V7,
    chunks.Custom: Audience.V7,
    chunks.ReasoningFile: Audience.V7,
}
"""The clients that know the type of an event, if not all do."""


class EventTooLarge(RejoinError):
    """The event, or the answer with it, is larger than it may be. It was not emitted."""


class _Item(msgspec.Struct, frozen=True):
    """An event, or (`event` None) a mark for the batch before it."""

    event: bytes | None
    audience: Audience
    mark: Mark


class Journal:
    """Appends to one run's log for one attempt. Create it after `state` has read the log; from then on only
    the journal may append or change `state`.

    First call `take_over`. Then `run` must run beside the code that emits; it raises `Fenced` when another
    attempt has taken the run over, and `Unavailable`. `appended` gets the duration of each append in seconds.
    """

    def __init__(
        self,
        log: RunLog,
        run: RunId,
        attempt: int,
        state: RunState,
        appended: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._log = log
        self._run = run
        self._attempt = attempt
        self._state = state
        self._appended = appended
        self._prev = state.last_seq
        self._copy_counters()
        self._segment = SegmentBuilder()
        self._queue: deque[_Item] = deque()
        self._queued = asyncio.Event()
        self._has_room = asyncio.Event()
        self._all_stored = asyncio.Event()
        self._has_room.set()
        self._all_stored.set()

    def _copy_counters(self) -> None:
        """The counters of what is stored. Those of `state` run ahead of them: they count what is queued."""
        self._index = self._state.index
        self._audiences = self._state.audiences.copy()
        self._turn = self._state.suspensions

    def restart(self, suspensions: int) -> None:
        """Begin the log again with event 0, after this many suspensions of the run. Call it only while
        nothing is queued.
        """
        self._state.restart(suspensions)
        self._copy_counters()

    async def emit(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        """Queue the run's next event; waits while the queue is full. A crash loses what is queued: see
        `wait_until_stored`. Raises `EventTooLarge`, and `WorkAbandoned` for abandoned work.
        """
        chunk, event = self._make_storable(chunk)
        if isinstance(chunk, GROWING) and self.is_full(len(event)):
            raise EventTooLarge(f"the answer is too large: it has at most {ANSWER_BYTES_MAX} bytes")
        if audience is Audience.ALL:
            audience = AUDIENCES.get(type(chunk), Audience.ALL)
        if not self._has_room.is_set():
            await self._has_room.wait()
        refuse_if_abandoned()
        # The state changes when the event is queued, not when it is stored: the next decision must not wait
        # for the broker. A crash loses both, and the next attempt decides from the log.
        self._state.apply(chunk, audience)
        self._state.size_bytes += len(event)
        self._enqueue(_Item(event, audience, Mark.NONE))

    def is_full(self, added_bytes: int = 0) -> bool:
        """Whether the answer would be larger than it may be with so many bytes more."""
        return self._state.size_bytes + added_bytes > ANSWER_BYTES_MAX

    def encode(self, chunk: Chunk) -> bytes:
        """The event as it is stored. Raises `EventTooLarge`, and what `chunks.encode_mended` raises."""
        return self._make_storable(chunk)[1]

    def _make_storable(self, chunk: Chunk) -> tuple[Chunk, bytes]:
        chunk, event = chunks.encode_mended(chunk)
        if len(event) > EVENT_BYTES_MAX:
            raise EventTooLarge(
                f"a part of the answer is too large: it has {len(event)} bytes, and at most {EVENT_BYTES_MAX}"
            )
        return chunk, event

    def mark(self, mark: Mark) -> None:
        """End the present batch with a mark."""
        refuse_if_abandoned()
        self._state.apply_mark(mark)
        self._enqueue(_Item(None, Audience.ALL, mark))

    async def wait_until_stored(self) -> None:
        """Return once everything that was emitted is stored. Call it before an effect outside the log (a
        tool call, a write to the database) that assumes the log has these events.
        """
        await self._all_stored.wait()

    async def begin_append(self) -> None:
        """Let what is queued be sent now, unless an append is in flight: what the caller computes next, and
        each other task that is ready, would delay it.
        """
        for _ in range(2):  # the first turn of the loop is `run`'s, the second one the connection's
            await asyncio.sleep(0)

    async def run(self) -> None:
        """Append what is queued, until cancelled."""
        while True:
            await self._queued.wait()
            self._queued.clear()
            while self._queue:
                await self._append()
            self._all_stored.set()

    async def take_over(self) -> None:
        """Append an empty record of this attempt. From then on no earlier attempt can append: its next append
        names a previous record that is not the last one. Raises `Fenced` if the log has grown since it was
        read.

        A first attempt does it too: a cursor names the record before its event by sequence, so every run
        needs a record of its own before its first event.
        """
        head = self._head(0, Audience.ALL, Mark.NONE)
        self._prev = await self._log.append(self._run, head, b"")
        self._segment.add(Record(self._prev, head, b""))

    def _enqueue(self, item: _Item) -> None:
        self._queue.append(item)
        self._all_stored.clear()
        self._queued.set()
        if len(self._queue) >= QUEUED_EVENTS_MAX:
            self._has_room.clear()

    async def _append(self) -> None:
        events, audience, mark = self._take_batch()
        head = self._head(len(events), audience, mark)
        payload = encode_frames(events, prev=head.prev, index=head.index)
        clock = asyncio.get_running_loop().time
        started_s = clock()
        self._prev = await self._log.append(self._run, head, payload)
        self._appended(clock() - started_s)
        # Only now: a failed append leaves the counters at what is stored.
        self._index += len(events)
        self._audiences[audience] += len(events)
        self._turn += mark is Mark.SUSPENDED
        if records := self._segment.add(Record(self._prev, head, payload)):
            await self._log.add_segment(self._run, records)

    def _head(self, count: int, audience: Audience, mark: Mark) -> Head:
        return Head(
            prev=self._prev,
            attempt=self._attempt,
            index=self._index,
            count=count,
            operations=self._audiences[Audience.OPERATIONS],
            v7=self._audiences[Audience.V7],
            audience=audience,
            mark=mark,
            turn=self._turn,
            resets=self._audiences[Audience.RESETS],
        )

    def _take_batch(self) -> tuple[list[bytes], Audience, Mark]:
        """Remove the next batch from the queue: events of one audience, up to a mark or a limit."""
        events: list[bytes] = []
        audience, size_bytes = self._queue[0].audience, 0
        mark = Mark.NONE
        while self._queue and len(events) < BATCH_EVENTS_MAX:
            item = self._queue[0]
            if item.event is None:
                mark = item.mark
                self._queue.popleft()
                break
            if item.audience is not audience or (events and size_bytes + len(item.event) > BATCH_BYTES_MAX):
                break
            events.append(item.event)
            size_bytes += len(item.event)
            self._queue.popleft()
        if mark is Mark.NONE and self._queue and self._queue[0].event is None:
            # The batch is full, and a mark follows it: the mark goes with its events, because a crash between
            # the two appends would store the events without it.
            mark = self._queue.popleft().mark
        if len(self._queue) < QUEUED_EVENTS_MAX:
            self._has_room.set()
        return events, audience, mark
