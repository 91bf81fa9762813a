"""`RunLog` in JetStream: fenced appends, reads by direct get, live records by core subscription.

No consumer is created for a reader: following a run costs the broker one plain subscription. Long logs are
read as segments, copies of many records in one message (see `rejoin_protocol.log.segment`), where they exist.
The number of concurrent reads is limited: unlimited replays overrun the 64 MB that the server buffers for a
connection, and the server then closes it.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress

import msgspec
import structlog

from rejoin_adapters.jetstream.live_feed import LiveFeeds, LiveReader, parse_record
from rejoin_adapters.jetstream.nats_client import RawMessage
from rejoin_adapters.jetstream.nats_connection import ApiError, NatsConnection
from rejoin_adapters.ports.run_log import CALLS_READ_BYTES_MAX, PAGE_CALLS, LogPage, StoredCalls
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import Fenced, Invalid, Unavailable
from rejoin_protocol.ids import RunId, shard_of
from rejoin_protocol.log import segment
from rejoin_protocol.log.record import Head, Record, parse_head

log = structlog.get_logger("rejoin.log")

CONCURRENT_LOG_READS_MAX = 8
LOG_READ_BYTES_MAX = 256 * 1024
"""Bytes of a page. A stalled client keeps two copies in memory: our write and aiohttp's buffer."""
FIRST_RECORDS = 64
"""Records in the first request of a read."""
PAGE_RECORDS = 256
"""Records of a whole page."""
PAGE_SEGMENTS = 12
"""Segments of a page."""
APPEND_RETRY_FIRST_S = 0.05
APPEND_RETRY_MAX_S = 0.5

SHARD_SHIFT = 48
"""The sequences of this module say the shard above these bits, so that each record of all streams has its own
sequence, and a cursor says its stream. No stream reaches 2^48 messages.
"""
STREAM_SEQUENCE = (1 << SHARD_SHIFT) - 1

WRONG_LAST_SEQUENCE = frozenset({10071, 10164})
"""JetStream's error codes for an append whose expected last sequence is wrong."""


class _PublishAck(msgspec.Struct, frozen=True):
    seq: int


_publish_ack = msgspec.json.Decoder(_PublishAck)


class JetStreamRunLog:
    """The adapter of `RunLog`.

    `live_connection` carries the subscriptions and `api_connection` everything else, so that replays do not
    delay live records. `report_lag` gets a sample of the seconds from storing a record to its arrival here,
    by the broker's clock and ours.
    """

    def __init__(
        self,
        live_connection: NatsConnection,
        api_connection: NatsConnection,
        report_lag: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._feeds = LiveFeeds(live_connection, report_lag)
        self._api_connection = api_connection
        self._names = api_connection.names
        self._reads = asyncio.Semaphore(CONCURRENT_LOG_READS_MAX)

    def _get_subject(self, shard: int) -> str:
        return f"{subjects.JETSTREAM_API}.DIRECT.GET.{self._names.log_stream(shard)}"

    async def append(self, run: RunId, head: Head, payload: bytes) -> int:
        """See `RunLog`."""
        subject = self._names.log(run)
        # The fence: the broker stores the batch only if the last message of this subject is `head.prev`. A
        # runner that lost the run names an older message, so that its append is refused.
        headers = {subjects.EXPECTED_LAST: str(head.prev & STREAM_SEQUENCE), subjects.BATCH: str(head)}
        wait_s = APPEND_RETRY_FIRST_S
        while True:
            try:
                ack = await self._api_connection.call_api(subject, payload, headers=headers)
                return tagged(run, _publish_ack.decode(ack).seq)
            except Unavailable as error:
                log.warning("append_unknown", run=run, index=head.index, error=str(error))
            except ApiError as error:
                if error.code not in WRONG_LAST_SEQUENCE:
                    raise
            # The batch may be stored: either the reply was lost, or this append is a retry and its first try
            # succeeded, so that the expected last sequence is wrong. Only the last record tells. A
            # deduplication window (`Nats-Msg-Id`) would tell, too, but only for as long as it is open.
            try:
                last = await self.last(run)
            except Unavailable:
                pass
            else:
                if last is not None and last.head == head:  # heads differ in attempt or prev between writers
                    return last.seq
                if (last.seq if last is not None else 0) != head.prev:
                    raise Fenced(f"run {run} has another writer")
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, APPEND_RETRY_MAX_S)

    async def read(self, run: RunId, *, after: int, records_max: int | None = None) -> LogPage:
        """See `RunLog`. Reads a few messages first. Most readers need no more, and the reply says how many
        follow; if they are many, they are read as segments.
        """
        first, pending = await self._read_page(run, after, records_max or FIRST_RECORDS)
        bytes_left = LOG_READ_BYTES_MAX - sum(len(record.payload) for record in first.records)
        if records_max is not None or not pending or bytes_left < LOG_READ_BYTES_MAX // 2:
            return first
        seq = first.records[-1].seq
        if pending > segment.RECORDS:
            messages, _ = await self._get(
                run, self._names.segments(run), seq, PAGE_SEGMENTS, bytes_left - segment.BYTES_MAX
            )
            segment_records = segment.records_after(seq, (message.data for message in messages))
            if segment_records:
                return LogPage([*first.records, *segment_records], pending > len(segment_records))
        rest, pending = await self._read_page(run, seq, PAGE_RECORDS - FIRST_RECORDS, bytes_left)
        if sum(len(record.payload) for record in rest.records) > bytes_left:
            return first  # the next record is so large that it gets a page of its own
        return LogPage([*first.records, *rest.records], pending > 0, [*first.times, *rest.times])

    async def _read_page(
        self, run: RunId, after: int, records_max: int, bytes_max: int = LOG_READ_BYTES_MAX
    ) -> tuple[LogPage, int]:
        """A page of messages, and the number of messages behind it."""
        messages, pending = await self._get(run, self._names.log(run), after, records_max, bytes_max)
        if len(messages) > 1 and sum(len(message.data) for message in messages) > bytes_max:
            messages.pop()
            pending += 1
        times = [message.header(subjects.TIME) or "" for message in messages]
        return LogPage(
            [parse_record(message, tagged(run, 0)) for message in messages], pending > 0, times
        ), pending

    async def _get(
        self, run: RunId, subject: str, after: int, batch: int, bytes_max: int
    ) -> tuple[list[RawMessage], int]:
        """The messages of a subject behind a sequence, and the number of messages behind these. They may
        exceed `bytes_max` by the last one: the server checks the limit after it has sent a message.
        """
        first = (after & STREAM_SEQUENCE) + 1
        query = {"seq": first, "batch": batch, "max_bytes": bytes_max, "next_by_subj": subject}
        async with self._reads:
            *messages, end = await self._api_connection.request_many(
                self._get_subject(shard_of(run)), msgspec.json.encode(query)
            )
        headers = end.headers
        match headers.get(subjects.STATUS_HEADER):
            case "204":
                return messages, int(headers.get(subjects.PENDING, "0"))
            case "404":
                return [], 0
            case status:
                raise _refused(status)

    async def add_segment(self, run: RunId, records: Sequence[Record]) -> None:
        """See `RunLog`."""
        with suppress(Unavailable, Invalid):  # without the segment, readers read the records themselves
            await self._api_connection.send(self._names.segments(run), segment.pack(records))

    async def add_model_call(self, run: RunId, step: int, stored: bytes) -> None:
        """See `RunLog`."""
        with suppress(Unavailable):
            await self._api_connection.send(self._names.model_calls(run, step), stored)

    async def model_calls(
        self, run: RunId, *, after: int, step: int | None = None, records_max: int | None = None
    ) -> StoredCalls:
        """See `RunLog`."""
        names, batch = self._names, min(records_max or PAGE_CALLS, PAGE_CALLS)
        subject = names.model_calls_of_run(run) if step is None else names.model_calls(run, step)
        messages, pending = await self._get(run, subject, after, batch, CALLS_READ_BYTES_MAX)
        last = int(messages[-1].header(subjects.SEQUENCE) or 0) if messages else 0
        return StoredCalls([message.data for message in messages], tagged(run, last) if pending else 0)

    async def has_records_after(self, run: RunId, *, after: int) -> bool:
        """See `RunLog`. Concurrent queries leave as one write. A single `multi_last` query for all of them
        would be worse: the server walks through everything stored since, and blocks appends meanwhile.
        """
        first = (after & STREAM_SEQUENCE) + 1
        query = msgspec.json.encode({"seq": first, "next_by_subj": self._names.log(run)})
        reply = await self._api_connection.request(self._get_subject(shard_of(run)), query)
        match reply.status:
            case None:
                return True
            case "404":
                return False
            case status:
                raise _refused(status)

    async def last(self, run: RunId) -> Record | None:
        """See `RunLog`. Not by direct get: a replica that is behind would miss the newest record, and
        `append` decides by it whether a batch is stored.
        """
        message = await self._api_connection.last_message(
            self._names.log_stream(shard_of(run)), self._names.log(run)
        )
        if message is None:
            return None
        if (batch := message.headers.get(subjects.BATCH)) is None:
            raise Unavailable("a record of the log has no batch header")
        return Record(tagged(run, message.sequence), parse_head(batch), message.data)

    async def run_at(self, sequence: int) -> RunId | None:
        """See `RunLog`."""
        shard, position = sequence >> SHARD_SHIFT, sequence & STREAM_SEQUENCE
        if position < 1 or shard >= self._names.shards:
            return None
        query = msgspec.json.encode({"seq": position})
        reply = await self._api_connection.request(self._get_subject(shard), query)
        headers = reply.headers
        match headers.get(subjects.STATUS_HEADER):
            case None:
                with suppress(ValueError):  # raised for the sequence of a segment
                    return self._names.parse_log(headers[subjects.SUBJECT])
                return None
            case "404":
                return None
            case status:
                raise _refused(status)

    async def purge(self, run: RunId) -> None:
        """See `RunLog`."""
        query = msgspec.json.encode({"filter": self._names.run_messages(run)})
        await self._api_connection.call_api(
            f"{subjects.JETSTREAM_API}.STREAM.PURGE.{self._names.log_stream(shard_of(run))}", query
        )

    async def expect(self, run: RunId) -> None:
        """See `RunLog`."""
        await self._feeds.expect(run, tagged(run, 0))

    async def forget(self, run: RunId) -> None:
        """See `RunLog`."""
        await self._feeds.forget(run)

    def follow(self, run: RunId) -> AbstractAsyncContextManager[LiveReader]:
        """See `RunLog`. All readers of one run in this process share one subscription."""
        return self._feeds.follow(run, tagged(run, 0))


def tagged(run: RunId, sequence: int) -> int:
    """A sequence of the run's stream with the run's shard."""
    return shard_of(run) << SHARD_SHIFT | sequence


def _refused(status: str | None) -> Unavailable:
    return Unavailable(f"the broker refused to read the log ({status})")
