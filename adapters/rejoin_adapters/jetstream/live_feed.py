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
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Record, parse_head

READER_BYTES_MAX = 256 * 1024
"""Bytes of the records that wait for one reader. Beyond it they are dropped, and the reader reads the log."""
RECORD_OVERHEAD_BYTES = 256
"""Counted for each record besides its payload: many small records use memory, too."""
EXPECTED_BYTES_MAX = 32 * 1024
"""The same for a run that is expected and that nobody follows yet."""
EXPECTED_MAX = 256
EXPECTED_S = 10.0
"""An expected run that nobody has followed after this time is not expected any more."""
LIVE_LAG_PERIOD_S = 1.0
WAIT_GRANULARITY_S = 0.1
"""Waits end at multiples of it, so that what many idle readers ask leaves as one write and one statement."""
WAIT_GRANULARITY_SHARE = 0.05
"""Of a wait: long ones end at multiples of so much, if that is more."""
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

    def __init__(self, bytes_max: int = READER_BYTES_MAX, *, is_whole: bool = False) -> None:
        self.bytes_max = bytes_max
        self.is_whole = is_whole
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
            step_s = max(WAIT_GRANULARITY_S, seconds * WAIT_GRANULARITY_SHARE)
            self._deadline_s = math.ceil((loop.time() + seconds) / step_s) * step_s
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
        if self._bytes > self.bytes_max:
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
        self.readers: list[LiveReader] = []
        self._lag_sampler = lag_sampler
        self._opening = asyncio.Lock()
        self._unsubscribe: Callable[[], Awaitable[None]] | None = None
        self._is_known = False

    async def subscribe(self, live: NatsConnection, run: RunId) -> None:
        """Subscribe, without waiting for the server."""
        async with self._opening:
            if self._unsubscribe is None:
                self._unsubscribe = await live.listen(live.names.live(run), self._on_message)

    async def wait_until_known(self, live: NatsConnection) -> None:
        """Wait until the server has processed the subscription. A log read before that could miss a record
        that is not delivered live either.
        """
        if not self._is_known:
            await live.flush()
            self._is_known = True

    async def close(self) -> None:
        """Unsubscribe."""
        if self._unsubscribe is not None:
            await self._unsubscribe()

    def _on_message(self, message: RawMessage) -> None:
        try:
            record = parse_record(message, self._tag)
        except ValueError:
            # Not published by the log. If it replaces a record, the record is in the log.
            self.on_loss()
            return
        self._lag_sampler.sample(message)
        for reader in self.readers:
            reader.push(record)

    def on_loss(self) -> None:
        """Records may have been missed."""
        for reader in self.readers:
            reader.lose()


class LiveFeeds:
    """The feeds of one process. All readers of a run share one subscription."""

    def __init__(self, live: NatsConnection, report_lag: Callable[[float], None]) -> None:
        self._live = live
        self._lag_sampler = LagSampler(report_lag)
        self._feeds: dict[RunId, LiveFeed] = {}
        self._expected: dict[RunId, tuple[LiveReader, float]] = {}
        """The readers of runs that nobody follows yet, and since when; the oldest first."""
        live.on_reconnect(self._on_reconnect)

    def __len__(self) -> int:
        return len(self._feeds)

    async def expect(self, run: RunId, tag: int) -> None:
        """See `RunLog`."""
        clock_s = asyncio.get_running_loop().time
        await self._drop_expected(clock_s())
        reader = LiveReader(EXPECTED_BYTES_MAX, is_whole=True)
        try:
            await self._add(run, tag, reader).subscribe(self._live, run)
        except Unavailable:  # whoever follows the run tries again, and reads its log
            await self.leave(run, reader)
        except BaseException:
            await self.leave(run, reader)
            raise
        else:
            self._expected[run] = reader, clock_s()

    async def _drop_expected(self, now_s: float) -> None:
        """Make room for one, and drop those that nobody has followed in time."""
        while self._expected:
            run, (_, since_s) = next(iter(self._expected.items()))
            if len(self._expected) < EXPECTED_MAX and now_s - since_s < EXPECTED_S:
                return
            await self.forget(run)

    async def forget(self, run: RunId) -> None:
        """See `RunLog`."""
        if (expected := self._expected.pop(run, None)) is not None:
            reader, _ = expected
            await self.leave(run, reader)

    def follow(self, run: RunId, tag: int) -> "FollowedRun":
        """See `RunLog`."""
        return FollowedRun(self, run, tag)

    async def join(self, run: RunId, tag: int) -> LiveReader:
        """A reader of a run; `leave` must follow."""
        expected = self._expected.pop(run, None)
        if expected is not None:
            reader, _ = expected
            reader.bytes_max = READER_BYTES_MAX
            return reader
        reader = LiveReader()
        feed = self._add(run, tag, reader)
        try:
            await feed.subscribe(self._live, run)
            await feed.wait_until_known(self._live)
        except BaseException:
            await self.leave(run, reader)
            raise
        return reader

    def _add(self, run: RunId, tag: int, reader: LiveReader) -> LiveFeed:
        feed = self._feeds.get(run)
        if feed is None:
            feed = self._feeds[run] = LiveFeed(self._lag_sampler, tag)
        feed.readers.append(reader)
        return feed

    async def leave(self, run: RunId, reader: LiveReader) -> None:
        """The reader reads no more."""
        reader.close()
        feed = self._feeds[run]
        feed.readers.remove(reader)
        # A reader that arrives while the feed closes gets a new feed: this one is out of the table.
        if not feed.readers:
            del self._feeds[run]
            await feed.close()

    def _on_reconnect(self) -> None:
        for feed in self._feeds.values():
            feed.on_loss()


class FollowedRun:
    """The context of `LiveFeeds.follow`. Small: each open stream has one."""

    __slots__ = ("_feeds", "_reader", "_run", "_tag")
    _reader: LiveReader

    def __init__(self, feeds: LiveFeeds, run: RunId, tag: int) -> None:
        self._feeds = feeds
        self._run = run
        self._tag = tag

    async def __aenter__(self) -> LiveReader:
        self._reader = await self._feeds.join(self._run, self._tag)
        return self._reader

    async def __aexit__(self, *_: object) -> None:
        await self._feeds.leave(self._run, self._reader)
