"""What comes live, handed to who follows a run: one subscription a run, bounded memory for each reader.

Readers may miss records, and are told that they may have: the splice asks the log for them.
"""

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime

from rejoin_protocol.broker import subjects
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Record, parse_head

from rejoin_adapters.jetstream.nats_client import RawMessage
from rejoin_adapters.jetstream.nats_connection import NatsConnection

READER_BYTES_MAX = 256 * 1024
"""What waits for one reader; past it the reader is `lost` and reads the log when it can."""
RECORD_BYTES = 256
"""What a record weighs besides its payload: many small ones fill memory too."""
LAG_PERIOD_S = 1.0
TICK_S = 0.1
"""Waits end at multiples of it: many silences end together, and what is asked then leaves as one write."""
_SEQUENCE = re.compile(rb"\r\n%b: ?(\d+)\r\n" % subjects.SEQUENCE.encode())
_BATCH = re.compile(rb"\r\n%b: ?([^\r\n]+)\r\n" % subjects.BATCH.encode())


def parse_record(message: RawMessage) -> Record:
    """A message of the broker as the record that it carries. Raises `ValueError`."""
    sequence, batch = _SEQUENCE.search(message.fields), _BATCH.search(message.fields)
    if sequence is None or batch is None:
        raise ValueError("a message that is no record")
    return Record(int(sequence[1]), parse_head(batch[1].decode()), message.data)


class LiveReader:
    """The adapter of `LiveSubscription`: what has arrived for one reader, in bounded memory."""

    def __init__(self) -> None:
        self._waiting: list[Record] = []
        self._bytes = 0
        self._lost = False
        self._slow = False
        self._news: asyncio.Future[None] | None = None
        self._due_s = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def slow(self) -> bool:
        """See `LiveSubscription`."""
        return self._slow

    @property
    def lost(self) -> bool:
        """See `LiveSubscription`."""
        return self._lost

    def take(self) -> list[Record]:
        """See `LiveSubscription`."""
        records, self._waiting = self._waiting, []
        self._bytes = 0
        self._lost = self._slow = False
        return records

    async def wait(self, seconds: float) -> bool:
        """See `LiveSubscription`."""
        if not self._waiting and not self._lost:
            loop = asyncio.get_running_loop()
            self._due_s = math.ceil((loop.time() + seconds) / TICK_S) * TICK_S
            self._set_alarm(loop)
            self._news = loop.create_future()
            await self._news
        return bool(self._waiting) or self._lost

    def _set_alarm(self, loop: asyncio.AbstractEventLoop) -> None:
        """One that rings too early is set again when it rings: most waits end before, and cost none."""
        if self._alarm is None or self._alarm.when() > self._due_s:
            self.close()
            self._alarm = loop.call_at(self._due_s, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._alarm = None
        if self._news is not None and not self._news.done():
            if loop.time() < self._due_s:
                self._set_alarm(loop)
            else:
                self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def close(self) -> None:
        """Forget the alarm."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def push(self, record: Record) -> None:
        """One more, or too much: then all of it is dropped, and read from the log later."""
        if self._lost:
            return
        self._bytes += len(record.payload) + RECORD_BYTES
        if self._bytes > READER_BYTES_MAX:
            self._slow = True
            self.lose()
            return
        self._waiting.append(record)
        self._wake()

    def lose(self) -> None:
        """Something may be missing from here on."""
        self._waiting.clear()
        self._bytes = 0
        self._lost = True
        self._wake()


class LagSample:
    """How old live records are when they come: one in each second, of all runs together."""

    def __init__(self, lag: Callable[[float], None]) -> None:
        self._lag = lag
        self._due_s = 0.0

    def take(self, message: RawMessage) -> None:
        """Look at this one, if it is time."""
        now_s = time.time()
        if now_s < self._due_s or (stored := message.header(subjects.TIME)) is None:
            return
        self._due_s = now_s + LAG_PERIOD_S
        with suppress(ValueError):  # a clock that nobody can read
            self._lag(now_s - datetime.fromisoformat(stored).timestamp())


class LiveFeed:
    """One run's subscription in this process."""

    def __init__(self, sample: LagSample) -> None:
        self.readers: set[LiveReader] = set()
        self._sample = sample
        self._opening = asyncio.Lock()
        self._ends: list[Callable[[], Awaitable[None]]] = []

    async def open(self, live: NatsConnection, run: RunId) -> None:
        """Subscribe, and wait until the server has seen it: only then may the log be read."""
        async with self._opening:
            if self._ends:
                return
            end = await live.listen(subjects.live(run), self._on_message)
            self._ends.append(end)
            try:
                await live.flush()
            except BaseException:
                await self.close()
                raise
            off = live.on_reconnect(self._on_loss)

            async def forget() -> None:
                off()

            self._ends.append(forget)

    async def close(self) -> None:
        """Unsubscribe."""
        ends, self._ends = self._ends, []
        for end in reversed(ends):
            await end()

    def _on_message(self, message: RawMessage) -> None:
        try:
            record = parse_record(message)
        except ValueError:
            self._on_loss()  # not one of ours; if it hides one, the log has it
            return
        self._sample.take(message)
        for reader in self.readers:
            reader.push(record)

    def _on_loss(self) -> None:
        for reader in self.readers:
            reader.lose()
