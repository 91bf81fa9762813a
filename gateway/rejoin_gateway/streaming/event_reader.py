"""Decodes a run's events, for APIs that translate them: from a response's frames, or from the stored log.

Where a response begins and ends is decided by `replay` and `resume_point`.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from rejoin_adapters.ports.run_log import RunLog
from rejoin_adapters.store_types import Run
from rejoin_gateway.streaming.resume_point import ResumePoint
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.log import record as log
from rejoin_protocol.log import sse
from rejoin_protocol.log.record import Audience, Mark, Record
from rejoin_protocol.log.sse import SseFrame

EMPTY_READS_MAX = 5
EVENT_READ_RETRY_WAIT_S = 0.1


async def decode_frames(frames: AsyncGenerator[bytes]) -> AsyncGenerator[Sequence[SseFrame]]:
    """The frames of a response as they arrive; an empty sequence at each keep-alive. Ends after `[DONE]`.

    Raises what `frames` raises.
    """
    parser = sse.SseParser()
    async with aclosing(frames):
        async for data in frames:
            batch = list(parser.feed(data))
            is_done = bool(batch) and batch[-1].data == sse.DONE_DATA
            yield batch[:-1] if is_done else batch
            if is_done:
                return


async def decode_events(frames: AsyncGenerator[bytes]) -> AsyncGenerator[Sequence[Chunk]]:
    """The events of a response, as `decode_frames`."""
    async with aclosing(decode_frames(frames)) as batches:
        async for batch in batches:
            yield [chunks.decode(frame.data) for frame in batch]


class StoredEvents(msgspec.Struct, frozen=True):
    """A page of a log.

    `restored`: the page holds a record that restores the stored message, because the log before it had
    expired.
    """

    events: Sequence[Chunk]
    restored: bool


async def read_stored_events(run_log: RunLog, run: Run, start: ResumePoint) -> AsyncGenerator[StoredEvents]:
    """All events that a log holds now, from `start` on, in pages. Raises `Unavailable` if one cannot be
    read.
    """
    last, read_after, empty_reads = await run_log.last(run.id), start.read_after, 0
    while last is not None and read_after < last.seq:
        records = (await run_log.read(run.id, after=read_after)).records
        if records:
            yield StoredEvents(
                _decode_events(records), any(record.head.mark is Mark.RESTORED for record in records)
            )
            read_after = records[-1].seq
        elif empty_reads == EMPTY_READS_MAX:
            raise Unavailable("the broker does not return the complete log")
        else:
            # Any replica may serve the read. One that lags behind has not stored the newest records yet.
            empty_reads += 1
            await asyncio.sleep(EVENT_READ_RETRY_WAIT_S)


def _decode_events(records: Sequence[Record]) -> list[Chunk]:
    return [
        chunks.decode(event)
        for record in records
        if record.head.audience is not Audience.OPERATIONS
        for event in log.split_events(record)
    ]
