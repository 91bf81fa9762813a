"""The runs' logs in JetStream: fenced appends, reads by direct get, live records by core subscription.

No consumer is ever made for a reader: a followed run costs the broker one plain subscription. Long logs are
read as copies of many records in one message (`segment`), as far as there are any. Reading is gated: ungated
replays overrun the 64 MB that the server buffers for a connection, and it cuts us off.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import msgspec
import structlog
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import Fenced, Invalid, Unavailable
from rejoin_protocol.ids import RunId
from rejoin_protocol.log import segment
from rejoin_protocol.log.record import Head, Record, parse_head

from rejoin_adapters.jetstream.live_feed import LagSample, LiveFeed, LiveReader, parse_record
from rejoin_adapters.jetstream.nats_client import RawMessage
from rejoin_adapters.jetstream.nats_connection import ApiError, NatsConnection
from rejoin_adapters.ports.run_log import LogPage

log = structlog.get_logger("rejoin.log")

READS_MAX = 8
READ_BYTES_MAX = 256 * 1024
"""A reader that stalls holds this twice over: as one write, and as aiohttp copies it."""
FIRST_RECORDS = 64
PAGE_RECORDS = 256
PAGE_SEGMENTS = 12
"""Of a page, if no bound is given: so many messages at once, so many in all, or so many segments."""
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 0.5

NOT_FOUND = 10037
WRONG_LAST = frozenset({10071, 10164})
_GET = f"{subjects.API}.DIRECT.GET.{subjects.LOG}"


class _Ack(msgspec.Struct, frozen=True):
    seq: int


class _StoredRecord(msgspec.Struct, frozen=True):
    seq: int
    hdrs: str = ""
    data: str = ""


class _FoundRecord(msgspec.Struct, frozen=True):
    message: _StoredRecord


_ack = msgspec.json.Decoder(_Ack)
_found = msgspec.json.Decoder(_FoundRecord)


class JetStreamRunLog:
    """The adapter of `RunLog`. `live` carries the subscriptions, `api` everything else: a replay must not
    delay them.
    `lag` is told now and then how many seconds an append took to come live, by the broker's clock and ours.
    """

    def __init__(
        self, live: NatsConnection, api: NatsConnection, lag: Callable[[float], None] = lambda _: None
    ) -> None:
        self._live = live
        self._sample = LagSample(lag)
        self._api = api
        self._gate = asyncio.Semaphore(READS_MAX)
        self._feeds: dict[RunId, LiveFeed] = {}

    async def append(self, run: RunId, head: Head, payload: bytes) -> int:
        """See `RunLog`."""
        subject = subjects.log(run)
        headers = {subjects.EXPECTED_LAST: str(head.prev), subjects.BATCH: str(head)}
        wait_s = RETRY_FIRST_S
        while True:
            try:
                return _ack.decode(await self._api.call_api(subject, payload, headers=headers)).seq
            except Unavailable as fault:
                log.warning("append_unknown", run=run, index=head.index, error=str(fault))
            except ApiError as fault:
                if fault.code not in WRONG_LAST:
                    raise
            # Whether it was stored is not known. The log's last record tells, and until it can be read
            # nothing else may be appended.
            try:
                last = await self.last(run)
            except Unavailable:
                pass
            else:
                if last is not None and last.head == head:
                    return last.seq
                if (last.seq if last is not None else 0) != head.prev:
                    raise Fenced(f"run {run} has another writer")
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_MAX_S)

    async def read(self, run: RunId, *, after: int, records_max: int | None = None) -> LogPage:
        """See `RunLog`. A few messages first: they are all that most readers want, and they say how
        many follow. Many of them are then read as copies.
        """
        first, pending = await self._page(run, after, records_max or FIRST_RECORDS)
        room = READ_BYTES_MAX - sum(len(record.payload) for record in first.records)
        if records_max is not None or not pending or room < READ_BYTES_MAX // 2:
            return first
        seq = first.records[-1].seq
        if pending > segment.RECORDS:
            messages, _ = await self._get(
                subjects.segments(run), seq, PAGE_SEGMENTS, room - segment.BYTES_MAX
            )
            if copies := segment.records_after(seq, (message.data for message in messages)):
                return LogPage([*first.records, *copies], pending > len(copies))
        rest, pending = await self._page(run, seq, PAGE_RECORDS - FIRST_RECORDS, room)
        if sum(len(record.payload) for record in rest.records) > room:
            return first  # the next one is large, and comes alone
        return LogPage([*first.records, *rest.records], pending > 0, [*first.times, *rest.times])

    async def _page(
        self, run: RunId, after: int, records_max: int, bytes_max: int = READ_BYTES_MAX
    ) -> tuple[LogPage, int]:
        """A page of messages, and how many follow."""
        messages, pending = await self._get(subjects.log(run), after, records_max, bytes_max)
        if len(messages) > 1 and sum(len(message.data) for message in messages) > bytes_max:
            messages.pop()
            pending += 1
        times = [message.header(subjects.TIME) or "" for message in messages]
        return LogPage([parse_record(message) for message in messages], pending > 0, times), pending

    async def _get(
        self, subject: str, after: int, batch: int, bytes_max: int
    ) -> tuple[list[RawMessage], int]:
        """The messages of a subject behind a sequence, and how many follow. The last one may be too much: the
        server looks at `bytes_max` when it has sent it.
        """
        ask = {"seq": after + 1, "batch": batch, "max_bytes": bytes_max, "next_by_subj": subject}
        async with self._gate:
            replies = await self._api.request_many(_GET, msgspec.json.encode(ask))
        *messages, last = replies
        headers = last.headers or {}
        match headers.get(subjects.STATUS):
            case "204":
                return messages, int(headers.get(subjects.PENDING, "0"))
            case "404":
                return [], 0
            case status:
                raise Unavailable(f"the broker refused a read ({status})")

    async def add_segment(self, run: RunId, records: Sequence[Record]) -> None:
        """See `RunLog`."""
        with suppress(Unavailable, Invalid):  # it would have saved time, no more
            await self._api.send(subjects.segments(run), segment.pack(records))

    async def has_records_after(self, run: RunId, *, after: int) -> bool:
        """See `RunLog`. Of many at once the questions leave as one write. Not `multi_last`: for that
        the server walks through all that was stored since, and nobody can append meanwhile.
        """
        ask = msgspec.json.encode({"seq": after + 1, "next_by_subj": subjects.log(run)})
        reply = await self._api.request(_GET, ask)
        match reply.status:
            case None:
                return True
            case "404":
                return False
            case status:
                raise Unavailable(f"the broker refused a read ({status})")

    async def last(self, run: RunId) -> Record | None:
        """See `RunLog`. Asks the stream's leader, which alone is certain."""
        ask = msgspec.json.encode({"last_by_subj": subjects.log(run)})
        try:
            answer = await self._api.call_api(f"{subjects.API}.STREAM.MSG.GET.{subjects.LOG}", ask)
        except ApiError as fault:
            if fault.code == NOT_FOUND:
                return None
            raise
        stored = _found.decode(answer).message
        return Record(stored.seq, _head_of(stored.hdrs), base64.b64decode(stored.data))

    async def run_at(self, sequence: int) -> RunId | None:
        """See `RunLog`."""
        if sequence < 1:
            return None
        ask = msgspec.json.encode({"seq": sequence})
        reply = await self._api.request(_GET, ask)
        headers = reply.headers or {}
        match headers.get(subjects.STATUS):
            case None:
                with suppress(ValueError):  # it is a segment's
                    return subjects.parse_log(headers[subjects.SUBJECT])
                return None
            case "404":
                return None
            case status:
                raise Unavailable(f"the broker refused a read ({status})")

    async def purge(self, run: RunId) -> None:
        """See `RunLog`."""
        ask = msgspec.json.encode({"filter": subjects.run_messages(run)})
        await self._api.call_api(f"{subjects.API}.STREAM.PURGE.{subjects.LOG}", ask)

    @asynccontextmanager
    async def follow(self, run: RunId) -> AsyncIterator[LiveReader]:
        """See `RunLog`. Readers of one run in one process share its subscription."""
        reader = LiveReader()
        feed = self._feeds.get(run)
        if feed is None:
            feed = self._feeds[run] = LiveFeed(self._sample)
        feed.readers.add(reader)
        try:
            await feed.open(self._live, run)
            yield reader
        finally:
            feed.readers.discard(reader)
            reader.close()
            if not feed.readers and self._feeds.get(run) is feed:
                del self._feeds[run]
                await feed.close()


def _head_of(headers: str) -> Head:
    for line in base64.b64decode(headers).decode().split("\r\n"):
        name, _, value = line.partition(":")
        if name == subjects.BATCH:
            return parse_head(value.strip())
    raise Unavailable("a record of the log has no batch header")
