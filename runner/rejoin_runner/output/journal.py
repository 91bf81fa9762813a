"""The writer of one run's log: what the loop emits, in batches, one append in flight.

While an append is on its way, whatever is emitted waits and is the next batch: an idle run sends each event
at once, a busy one coalesces, and neither needs a timer. The queue is bounded; `emit` waits where it is full.
What was acknowledged is copied into segments now and then, which nobody waits for.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec
from rejoin_adapters.ports.run_log import RunLog
from rejoin_protocol.errors import RejoinError
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.ids import RunId
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

from rejoin_runner.decision.run_state import RunState

WAITING_EVENTS_MAX = 4_096
EVENT_BYTES_MAX = 768 * 1024
"""What certainly fits in one message of a broker that takes a megabyte, as they do by default."""


class EventTooLarge(RejoinError):
    """No message can hold this event. Nothing was emitted."""


class _Item(msgspec.Struct, frozen=True):
    event: bytes | None
    audience: Audience
    mark: Mark


class Journal:
    """Made once a claim has read the log into `standing`, and the only thing that appends after that.

    `write` must run beside whoever emits; it raises `Fenced` when another runner has taken the run over.
    `appended` is told how many seconds each append took.
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
        self._prev = state.prev
        self._count_on()
        self._gathering = SegmentBuilder()
        self._waiting: deque[_Item] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._settled = asyncio.Event()
        self._room.set()
        self._settled.set()

    def _count_on(self) -> None:
        self._index = self._state.index
        self._operations = self._state.operations
        self._v7 = self._state.v7
        self._turn = self._state.suspensions

    def restart(self, suspensions: int) -> None:
        """Begin the log again from event 0, `suspensions` turns into the run. Only while nothing waits."""
        self._state.restart(suspensions)
        self._count_on()

    async def emit(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        """The run's next event. Returns once there is room; it is stored some time later, see `settle`.

        Raises `TooLarge`.
        """
        event = self.check(chunk)
        await self._room.wait()
        self._state.emit(chunk, audience)
        self._add(_Item(event, audience, Mark.NONE))

    def check(self, chunk: Chunk) -> bytes:
        """The event as it would be stored. Raises `TooLarge`, and what `chunks.encode` raises."""
        event = chunks.encode(chunk)
        if len(event) > EVENT_BYTES_MAX:
            raise EventTooLarge(f"a part of the answer is too large ({len(event)} bytes)")
        return event

    def mark(self, mark: Mark) -> None:
        """Close the batch with a mark."""
        self._state.mark(mark)
        self._add(_Item(None, Audience.ALL, mark))

    async def settle(self) -> None:
        """Until everything emitted is stored."""
        await self._settled.wait()

    def _add(self, item: _Item) -> None:
        self._waiting.append(item)
        self._settled.clear()
        self._news.set()
        if len(self._waiting) >= WAITING_EVENTS_MAX:
            self._room.clear()

    async def write(self) -> None:
        """Append what is emitted, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                await self._append()
            self._settled.set()

    async def take_over(self) -> None:
        """Append the attempt itself, so that whoever wrote before is fenced off from this moment.

        The first attempt does it too: cursors name the message before theirs, and no two runs may share one.
        """
        head = self._head(0, Audience.ALL, Mark.NONE)
        self._prev = await self._log.append(self._run, head, b"")
        self._gathering.add(Record(self._prev, head, b""))

    async def _append(self) -> None:
        events, audience, mark = self._take()
        head = self._head(len(events), audience, mark)
        payload = encode_frames(events, prev=head.prev, index=head.index)
        clock = asyncio.get_running_loop().time
        began = clock()
        self._prev = await self._log.append(self._run, head, payload)
        self._appended(clock() - began)
        self._index += len(events)
        if audience is Audience.OPERATIONS:
            self._operations += len(events)
        elif audience is Audience.V7:
            self._v7 += len(events)
        self._turn += mark is Mark.SUSPENDED
        if records := self._gathering.add(Record(self._prev, head, payload)):
            await self._log.add_segment(self._run, records)

    def _head(self, count: int, audience: Audience, mark: Mark) -> Head:
        return Head(
            prev=self._prev,
            attempt=self._attempt,
            index=self._index,
            count=count,
            operations=self._operations,
            v7=self._v7,
            audience=audience,
            mark=mark,
            turn=self._turn,
        )

    def _take(self) -> tuple[list[bytes], Audience, Mark]:
        """The next batch: events of one audience, up to a mark or the bounds."""
        events: list[bytes] = []
        audience, size_bytes = self._waiting[0].audience, 0
        mark = Mark.NONE
        while self._waiting and len(events) < BATCH_EVENTS_MAX:
            item = self._waiting[0]
            if item.event is None:
                mark = item.mark
                self._waiting.popleft()
                break
            if item.audience is not audience or (events and size_bytes + len(item.event) > BATCH_BYTES_MAX):
                break
            events.append(item.event)
            size_bytes += len(item.event)
            self._waiting.popleft()
        if mark is Mark.NONE and self._waiting and self._waiting[0].event is None:
            mark = self._waiting.popleft().mark  # never torn off the event that it is about
        if len(self._waiting) < WAITING_EVENTS_MAX:
            self._room.set()
        return events, audience, mark
