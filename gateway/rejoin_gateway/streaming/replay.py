"""A run's log as the bytes of one response: from a resume point to the end of the turn, then live.

The frames are sent byte for byte as they were stored, so every client, and every reconnect of a client,
receives the same bytes. A record is cut only where a cursor points into its batch, and filtered only for
clients that do not know all of its events. The one change is the URL of a stored file, which gets its
signature here, the same one for every reader (`core.file_urls`).

A response ends in one of two ways. `[DONE]` says that the turn is complete. An exception makes the caller
break the connection, and the client resumes. A response must never end cleanly without `[DONE]`.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
import structlog

from rejoin_adapters.jetstream.log_tail import LogTail, ResyncReason, open_log_tail
from rejoin_adapters.ports.run_log import RunLog
from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.store_types import Run
from rejoin_gateway.metrics import GatewayMetrics
from rejoin_gateway.streaming.given_answers import GivenAnswers
from rejoin_gateway.streaming.legacy_filter import LegacyFilter
from rejoin_gateway.streaming.resume_point import ResumePoint
from rejoin_protocol.errors import Gone, Unavailable
from rejoin_protocol.lifecycle import TERMINAL
from rejoin_protocol.log import sse
from rejoin_protocol.log.record import Mark, Record, View, skip_frames

log = structlog.get_logger("rejoin.replay")

HEARTBEAT_S = 10.0
"""Time without events after which a comment is sent: proxies close idle connections, often after 30 s."""
BROKER_RETRY_WAIT_S = 0.5
LAST_RECORDS = 8
"""Records that are read at once to see whether anything is left."""
RUN_END_WAITS_S = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.0, 2.0)
"""Waits before each check whether the run's end is in the database. Most runs pass after the first ones. The
total is longer than a takeover takes: a runner can crash after writing the last event and before storing the
run's end.
"""


class Replay(msgspec.Struct, frozen=True):
    """One response.

    `until`: it ends when this turn or a later one suspends the run (waits for approvals), or with the run;
    None: only with the run. `heartbeat_s`: time without events after which a comment is sent. `rewrite` is
    applied to all frames on their way out. `shows_answers`: while the run waits, the response also has the
    answers that are not in the log yet (`given_answers`). `counted_from`: the turn from which on the client
    counts events.
    """

    store: RunStore
    run_log: RunLog
    run: Run
    start: ResumePoint
    view: View
    until: int | None
    metrics: GatewayMetrics | None = None
    heartbeat_s: float = HEARTBEAT_S
    rewrite: Callable[[bytes], bytes] | None = None
    shows_answers: bool = False
    counted_from: int = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncGenerator[bytes]]:
        """The frames of the response, for one iteration.

        Errors on entry come before the first byte, so they can still become a status: `Unavailable`, and
        `Gone` for a run that ended without an end in its log.
        """
        start = self.start
        if self.run.state in TERMINAL and await self._log_lacks_end():
            raise _abandoned()
        async with open_log_tail(
            self.run_log,
            self.run.id,
            after=start.read_after,
            index=start.next_index,
            restored=start.min_turn > 0,
            on_resync=self._count_resync,
        ) as records:
            yield self._frames(records)

    async def has_nothing_left(self) -> bool:
        """Whether the run has ended and this client gets no event of it any more, only `[DONE]`. Raises
        `Unavailable`.
        """
        if self.run.state not in TERMINAL:
            return False
        seq, more = self.start.read_after, True
        while more:
            page = await self.run_log.read(self.run.id, after=seq, records_max=LAST_RECORDS)
            for record in page.records:
                if self._cut(record):
                    return False
                if record.head.mark is Mark.ENDED:
                    return True
                seq = record.seq
            more = page.more
        return False

    async def _frames(self, records: LogTail) -> AsyncGenerator[bytes]:
        """The bytes to send, as they arrive; a comment after each silence; `[DONE]` at the end.

        Raises `Gone` if the log has lost the next records, or if records void events that a client which
        does not know `reset-step` has already received.
        """
        clock = asyncio.get_running_loop().time
        catchup_started_s: float | None = clock()
        answers, waits = GivenAnswers(self.store, self.run, self.view), False
        while True:
            batch = await self._next(records)
            if catchup_started_s is not None and records.caught_up:
                self._observe_catchup(clock() - catchup_started_s)
                catchup_started_s = None
            data, last_record = self._encode(batch)
            is_silent = not batch
            waits = self.shows_answers and (waits if is_silent else batch[-1].head.mark is Mark.SUSPENDED)
            # A slow client blocks the next `yield`: until then only the encoded copy stays in memory.
            del batch
            if last_record is not None:
                yield data
                # A client may read the history as soon as it sees `[DONE]`, and must find the answer there.
                await self._wait_until_stored(last_record)
                if waits and (given := await answers.frames()):
                    yield given
                yield sse.DONE
                return
            if data:
                yield data
            elif is_silent:
                yield sse.KEEP_ALIVE
                if records.caught_up and await self._was_abandoned():
                    raise _abandoned()
            if waits and (given := await answers.frames()):
                yield given

    def _count_resync(self, reason: ResyncReason) -> None:
        if self.metrics is not None:
            self.metrics.count_resync(reason)

    def _observe_catchup(self, seconds: float) -> None:
        if self.metrics is not None:
            self.metrics.observe_catchup(seconds)

    async def _was_abandoned(self) -> bool:
        """Whether the run has ended in the database, and its log has no end and never will."""
        try:
            return await self.store.has_ended(self.run.owner, self.run.id) and await self._log_lacks_end()
        except Unavailable:
            return False  # unknown: the next heartbeat asks again

    async def _log_lacks_end(self) -> bool:
        """Whether the log of a run that has ended lacks the end.

        The end is written to the log first and to the database second. So a run that has ended in the
        database without an end in the log was abandoned: no end will follow.
        """
        last = await self.run_log.last(self.run.id)
        # A takeover appends an empty record. If one follows the end, the end is the record before it.
        while last is not None and last.head.mark is Mark.NONE and last.head.count == 0:
            prev = last.head.prev
            page = await self.run_log.read(self.run.id, after=max(0, prev - 1), records_max=1)
            last = next((record for record in page.records if record.seq == prev), None)
        return last is None or last.head.mark is not Mark.ENDED

    async def _wait_until_stored(self, last_record: Record) -> None:
        """Wait until the database has the end that the log has. Gives up after `RUN_END_WAITS_S`, with a
        warning.
        """
        if self.run.state in TERMINAL:
            return
        for wait_s in RUN_END_WAITS_S:
            # Before the first check too: the database always stores the end later than the log.
            await asyncio.sleep(wait_s)
            try:
                if await self.store.has_ended(self.run.owner, self.run.id, last_record.head.turn):
                    return
            except Unavailable:
                return
        log.warning("run_end_not_persisted", run=self.run.id)

    def _encode(self, batch: Sequence[Record]) -> tuple[bytes, Record | None]:
        """The bytes of the records up to the one that ends the response, and that record."""
        pieces: list[bytes] = []
        for record in batch:
            frames = self._cut(record)
            pieces.append(frames if self.rewrite is None else self.rewrite(frames))
            if self._ends_response(record):
                return b"".join(pieces), record
        return b"".join(pieces), None

    async def _next(self, records: LogTail) -> Sequence[Record]:
        """The next records; none after a silence, or while the broker is unavailable."""
        try:
            return await records.next(self.heartbeat_s)
        except Unavailable as fault:
            # The stream stays open: the broker may return within seconds; reconnects would add to its load.
            log.warning("replay_waiting_for_broker", run=self.run.id, error=str(fault))
            await asyncio.sleep(BROKER_RETRY_WAIT_S)
            return ()

    def _ends_response(self, record: Record) -> bool:
        match record.head.mark:
            case Mark.ENDED:
                return True
            case Mark.SUSPENDED:
                return self.until is not None and record.head.turn >= self.until
            case _:
                return False

    def _cut(self, record: Record) -> bytes:
        """The part of a record that this client receives."""
        head, send_from = record.head, self.start.send_from
        if record.end <= send_from or head.turn < self.start.min_turn:
            return b""
        if not self.view.v7 and (self.start.voided or not self.view.resets):
            frames = LegacyFilter(self.view, self.start.voided).valid_frames(record)
            return b"".join(frame for index, frame in frames if index >= send_from)
        if not self.view.sees(head):
            return b""
        skipped = send_from - head.index
        return record.payload if skipped <= 0 else skip_frames(record, skipped)


def _abandoned() -> Gone:
    return Gone("the run was abandoned and its stream has no end: read the session's history instead")
