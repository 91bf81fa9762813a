"""Live records of a run: one subscription for all readers in this process, bounded memory for each reader.

A reader may miss records and learns that from `LiveReader.lost`; `log_tail` then reads them from the log.
"""

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime

from rejoin_adapters.jetstream.nats_client import RawMessage
from rejoin_adapters.jetstream.nats_connection import NatsConnection
from rejoin_protocol.broker import subjects
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Record, parse_head

READER_BYTES_MAX = 256 * 1024
"""Bytes of the records that wait for one reader. Beyond it they are dropped, and the reader reads the log."""
RECORD_OVERHEAD_BYTES = 256
"""Counted for each record besides its payload: many small records use memory, too."""
LIVE_LAG_PERIOD_S = 1.0
WAIT_GRANULARITY_S = 0.1
"""Waits end at multiples of it, so that the tail checks of many idle readers leave as one write."""
_SEQUENCE = re.compile(rb"\r\n%b: ?(\d+)\r\n" % subjects.SEQUENCE.encode())
_BATCH = re.compile(rb"\r\n%b: ?([^\r\n]+)\r\n" % subjects.BATCH.encode())


def parse_record(message: RawMessage, tag: int) -> Record:
    """The record in a message of the log's stream, whose sequence gets the tag of its shard. Raises
    `ValueError`.
    """
    sequence, batch = _SEQUENCE.search(message.raw_headers), _BATCH.search(message.raw_headers)
    if sequence is None or batch is None:
        raise ValueError("the message is not a record")
    return Record(tag | int(sequence[1]), parse_head(batch[1].decode()), message.data)


class LiveReader:
    """The adapter of `LiveSubscription`."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._bytes = 0
        self._lost = False
        self._slow = False
        self._wakeup: asyncio.Future[None] | None = None
        self._deadline_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

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
        records, self._records = self._records, []
        self._bytes = 0
        self._lost = self._slow = False
        return records

    async def wait(self, seconds: float) -> bool:
        """See `LiveSubscription`."""
        if not self._records and not self._lost:
            loop = asyncio.get_running_loop()
            self._deadline_s = math.ceil((loop.time() + seconds) / WAIT_GRANULARITY_S) * WAIT_GRANULARITY_S
            self._set_timer(loop)
            self._wakeup = loop.create_future()
            await self._wakeup
        return bool(self._records) or self._lost

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        """A running timer that fires too early is kept and set again when it fires. Most waits end before
        their time, so that they cost no timer of their own.
        """
        if self._timer is None or self._timer.when() > self._deadline_s:
            self.close()
            self._timer = loop.call_at(self._deadline_s, self._on_timer, loop)

    def _on_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._wakeup is not None and not self._wakeup.done():
            if loop.time() < self._deadline_s:
                self._set_timer(loop)
            else:
                self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def push(self, record: Record) -> None:
        """Add a record. If the limit is exceeded, all waiting records are dropped and the reader is
        `lost`.
        """
        if self._lost:
            return
        self._bytes += len(record.payload) + RECORD_OVERHEAD_BYTES
        if self._bytes > READER_BYTES_MAX:
            self._slow = True
            self.lose()
            return
        self._records.append(record)
        self._wake()

    def lose(self) -> None:
        """Records may be missing from here on."""
        self._records.clear()
        self._bytes = 0
        self._lost = True
        self._wake()


class LagSampler:
    """Reports the age of one live record in each second, of all runs together."""

    def __init__(self, report_lag: Callable[[float], None]) -> None:
        self._report_lag = report_lag
        self._next_sample_s = 0.0

    def sample(self, message: RawMessage) -> None:
        """Report the age of this message if a sample is due."""
        now_s = time.time()
        if now_s < self._next_sample_s or (stored := message.header(subjects.TIME)) is None:
            return
        self._next_sample_s = now_s + LIVE_LAG_PERIOD_S
        with suppress(ValueError):  # an invalid time stamp
            self._report_lag(now_s - datetime.fromisoformat(stored).timestamp())


class LiveFeed:
    """One run's subscription in this process. `tag`: of its shard, in the sequences of its records."""

    def __init__(self, lag_sampler: LagSampler, tag: int) -> None:
        self._tag = tag
        self.readers: set[LiveReader] = set()
        self._lag_sampler = lag_sampler
        self._opening = asyncio.Lock()
        self._cleanups: list[Callable[[], Awaitable[None]]] = []

    async def open(self, live: NatsConnection, run: RunId) -> None:
        """Subscribe, and wait until the server has processed the subscription. A log read before that could
        miss a record that is not delivered live either.
        """
        async with self._opening:
            if self._cleanups:
                return
            unsubscribe = await live.listen(live.names.live(run), self._on_message)
            self._cleanups.append(unsubscribe)
            try:
                await live.flush()
            except BaseException:
                await self.close()
                raise
            remove_callback = live.on_reconnect(self._on_loss)

            async def forget_callback() -> None:
                remove_callback()

            self._cleanups.append(forget_callback)

    async def close(self) -> None:
        """Unsubscribe."""
        cleanups, self._cleanups = self._cleanups, []
        for cleanup in reversed(cleanups):
            await cleanup()

    def _on_message(self, message: RawMessage) -> None:
        try:
            record = parse_record(message, self._tag)
        except ValueError:
            # Not published by the log. If it replaces a record, the record is in the log.
            self._on_loss()
            return
        self._lag_sampler.sample(message)
        for reader in self.readers:
            reader.push(record)

    def _on_loss(self) -> None:
        for reader in self.readers:
            reader.lose()
