"""A run's events for those who do not pass the bytes on: from a response's frames, or from the log.

Owns no position and no end of its own: both are `replay`'s. Writes nothing.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
from rejoin_adapters.ports.run_log import RunLog
from rejoin_adapters.records import Run
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.log import record as log
from rejoin_protocol.log import sse
from rejoin_protocol.log.record import Audience, Mark, Record

from rejoin_gateway.streaming.resume_point import ResumePoint

EMPTY_READS_MAX = 5
READ_RETRY_WAIT_S = 0.1
_DONE = b"[DONE]"


async def decode_events(frames: AsyncGenerator[bytes]) -> AsyncGenerator[Sequence[Chunk]]:
    """The events of a response, as they come; none after each silence. Ends where the response has its end.

    Raises what `frames` raises.
    """
    reader = sse.SseParser()
    async with aclosing(frames):
        async for written in frames:
            batch = list(reader.feed(written))
            over = bool(batch) and batch[-1].data == _DONE
            yield [chunks.decode(frame.data) for frame in (batch[:-1] if over else batch)]
            if over:
                return


class StoredEvents(msgspec.Struct, frozen=True):
    """A page of a log. `restored`: it begins anew with the stored message; what was before has expired."""

    events: Sequence[Chunk]
    restored: bool


async def read_stored_events(runs: RunLog, run: Run, start: ResumePoint) -> AsyncGenerator[StoredEvents]:
    """Everything that a log has now from `start` on, in pages, nothing missing. Raises `Unavailable`."""
    last, after, tries = await runs.last(run.id), start.after, 0
    while last is not None and after < last.seq:
        records = (await runs.read(run.id, after=after)).records
        if records:
            yield StoredEvents(_events(records), any(record.head.mark is Mark.RESTORED for record in records))
            after = records[-1].seq
        elif tries == EMPTY_READS_MAX:
            raise Unavailable("the broker does not give the whole log")
        else:
            tries += 1
            await asyncio.sleep(READ_RETRY_WAIT_S)  # a replica was asked that lags behind


def _events(records: Sequence[Record]) -> list[Chunk]:
    return [
        chunks.decode(event)
        for record in records
        if record.head.audience is not Audience.OPERATIONS
        for event in log.split_events(record)
    ]
