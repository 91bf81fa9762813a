"""What comes live, handed to who follows a run: one subscription a run, bounded memory for each reader.

Readers may miss records, and are told that they may have: the splice asks the log for them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime

from nats.aio.msg import Msg

from protocol import names
from protocol.adapters.broker import Broker
from protocol.ids import RunId
from protocol.log import Record, parse_head

FOLLOW_BYTES_MAX = 256 * 1024
"""What waits for one reader; past it the reader is `lost` and reads the log when it can."""
RECORD_BYTES = 256
"""What a record weighs besides its payload: many small ones fill memory too."""
LAG_PERIOD_S = 1.0


def record_of(message: Msg) -> Record:
    """A message of the broker as the record that it carries. Raises `KeyError` and `ValueError`."""
    headers = message.headers or {}
    return Record(int(headers[names.SEQUENCE]), parse_head(headers[names.BATCH]), message.data)


class Reader:
    """`ports.Follow`: what has arrived for one reader, in bounded memory."""

    def __init__(self) -> None:
        self._waiting: list[Record] = []
        self._bytes = 0
        self._lost = False
        self._slow = False
        self._news = asyncio.Event()

    @property
    def slow(self) -> bool:
        """See `ports.Follow`."""
        return self._slow

    @property
    def lost(self) -> bool:
        """See `ports.Follow`."""
        return self._lost

    def take(self) -> list[Record]:
        """See `ports.Follow`."""
        records, self._waiting = self._waiting, []
        self._bytes = 0
        self._lost = self._slow = False
        self._news.clear()
        return records

    async def wait(self) -> None:
        """See `ports.Follow`."""
        await self._news.wait()

    def push(self, record: Record) -> None:
        """One more, or too much: then all of it is dropped, and read from the log later."""
        if self._lost:
            return
        self._bytes += len(record.payload) + RECORD_BYTES
        if self._bytes > FOLLOW_BYTES_MAX:
            self._slow = True
            self.lose()
            return
        self._waiting.append(record)
        self._news.set()

    def lose(self) -> None:
        """Something may be missing from here on."""
        self._waiting.clear()
        self._bytes = 0
        self._lost = True
        self._news.set()


class Sample:
    """How old live records are when they come: one in each second, of all runs together."""

    def __init__(self, lag: Callable[[float], None]) -> None:
        self._lag = lag
        self._due_s = 0.0

    def take(self, message: Msg) -> None:
        """Look at this one, if it is time."""
        now_s = time.time()
        stored = (message.headers or {}).get(names.TIME)
        if now_s >= self._due_s and stored is not None:
            self._due_s = now_s + LAG_PERIOD_S
            with suppress(ValueError):  # a callback that raises would end the connection's reader
                self._lag(now_s - datetime.fromisoformat(stored).timestamp())


class Feed:
    """One run's subscription in this process."""

    def __init__(self, sample: Sample) -> None:
        self.readers: set[Reader] = set()
        self._sample = sample
        self._opening = asyncio.Lock()
        self._ends: list[Callable[[], Awaitable[None]]] = []

    async def open(self, live: Broker, run: RunId) -> None:
        """Subscribe, and wait until the server has seen it: only then may the log be read."""
        async with self._opening:
            if self._ends:
                return
            end = await live.listen(names.live(run), self._on_message)
            self._ends.append(end)
            try:
                await live.flush()
            except BaseException:
                await self.close()
                raise
            off = live.on_return(self._on_loss)

            async def forget() -> None:
                off()

            self._ends.append(forget)

    async def close(self) -> None:
        """Unsubscribe."""
        ends, self._ends = self._ends, []
        for end in reversed(ends):
            await end()

    def _on_message(self, message: Msg) -> None:
        try:
            record = record_of(message)
        except (KeyError, ValueError):
            self._on_loss()  # not one of ours; if it hides one, the log has it
            return
        self._sample.take(message)
        for reader in self.readers:
            reader.push(record)

    def _on_loss(self) -> None:
        for reader in self.readers:
            reader.lose()
