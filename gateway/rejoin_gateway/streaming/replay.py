"""A run's log as the bytes of one response: from any position, to the end of the turn.

Owns where a response begins and where it ends. The frames are copied as they were appended; they are cut only
where a cursor points into a batch, and picked from for a client that does not know all of them.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import structlog
from rejoin_adapters.jetstream.log_tail import LogTail, ResyncReason, open_log_tail
from rejoin_adapters.ports.run_log import RunLog
from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.records import Run
from rejoin_protocol.errors import Gone, Unavailable
from rejoin_protocol.lifecycle import TERMINAL
from rejoin_protocol.log import sse
from rejoin_protocol.log.record import Mark, Record, View, skip_frames

from rejoin_gateway.metrics import GatewayMetrics
from rejoin_gateway.streaming.legacy_filter import LegacyFilter
from rejoin_gateway.streaming.resume_point import ResumePoint

log = structlog.get_logger("rejoin.replay")

HEARTBEAT_S = 10.0
BROKER_RETRY_WAIT_S = 0.5
RUN_END_WAITS_S = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.0, 2.0)
"""Together longer than a takeover: a runner may die between the end of the log and the books."""


class Replay(msgspec.Struct, frozen=True):
    """One response. `until`: it ends at the suspension of this turn, or of a later one, or with the run;
    None: with the run alone.
    """

    store: RunStore
    runs: RunLog
    run: Run
    start: ResumePoint
    view: View
    until: int | None
    metrics: GatewayMetrics | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncGenerator[bytes]]:
        """The response's frames. While a response can still say so, raises `Unavailable`, and `Gone` where
        they would have no end: the run was given up.
        """
        start = self.start
        if self.run.state in TERMINAL and await self._unsaid():
            raise _given_up()
        async with open_log_tail(
            self.runs,
            self.run.id,
            after=start.after,
            index=start.index,
            restored=start.turn > 0,
            stumbled=self._stumbled,
        ) as records:
            yield self._frames(records)

    async def _frames(self, records: LogTail) -> AsyncGenerator[bytes]:
        """What is to be written, as it comes; a comment after each silence. Ends with `[DONE]`, which is not
        said before the history has what the log says: a client may ask for it at once.

        Raises `Gone` when the log loses what comes next, or voids what was written and the client could not
        know: the response is then to be broken, not ended.
        """
        clock = asyncio.get_running_loop().time
        began: float | None = clock()
        while True:
            batch = await self._next(records)
            if began is not None and records.caught_up:
                self._caught_up(clock() - began)
                began = None
            written, ended = self._write(batch)
            silent = not batch
            del batch  # a client may take its time to read, and what it holds up is held once less
            if ended is not None:
                yield written
                await self._stored(ended)
                yield sse.DONE
                return
            if written:
                yield written
            elif silent:
                yield sse.KEEP_ALIVE
                if records.caught_up and await self._over():
                    raise _given_up()

    def _stumbled(self, why: ResyncReason) -> None:
        if self.metrics is not None:
            self.metrics.count_resync(why)

    def _caught_up(self, seconds: float) -> None:
        if self.metrics is not None:
            self.metrics.observe_catchup(seconds)

    async def _over(self) -> bool:
        """Whether the run ended while its log was silent, and the log will never say so."""
        try:
            return await self.store.has_ended(self.run.owner, self.run.id) and await self._unsaid()
        except Unavailable:
            return False

    async def _unsaid(self) -> bool:
        """Whether the log of a run that is over lacks its end: the log is first, so none will come."""
        last = await self.runs.last(self.run.id)
        while last is not None and last.head.mark is Mark.NONE and last.head.count == 0:  # a mere takeover
            prev = last.head.prev
            page = await self.runs.read(self.run.id, after=max(0, prev - 1), records_max=1)
            last = next((record for record in page.records if record.seq == prev), None)
        return last is None or last.head.mark is not Mark.ENDED

    async def _stored(self, last: Record) -> None:
        """Until the database knows of the end that the log has; the log is first by a moment."""
        if self.run.state in TERMINAL:
            return
        for wait_s in RUN_END_WAITS_S:
            await asyncio.sleep(wait_s)  # first: it is never earlier
            try:
                if await self.store.has_ended(self.run.owner, self.run.id, last.head.turn):
                    return
            except Unavailable:
                return
        log.warning("run_end_not_persisted", run=self.run.id)

    def _write(self, batch: Sequence[Record]) -> tuple[bytes, Record | None]:
        """The bytes of these records up to the one that ends the response, and that one."""
        pieces = []
        for record in batch:
            pieces.append(self._cut(record))
            if self._ends(record):
                return b"".join(pieces), record
        return b"".join(pieces), None

    async def _next(self, records: LogTail) -> Sequence[Record]:
        try:
            return await records.next(HEARTBEAT_S)
        except Unavailable as fault:
            log.warning("replay_waiting_for_broker", run=self.run.id, error=str(fault))
            await asyncio.sleep(BROKER_RETRY_WAIT_S)
            return ()

    def _ends(self, record: Record) -> bool:
        match record.head.mark:
            case Mark.ENDED:
                return True
            case Mark.SUSPENDED:
                return self.until is not None and record.head.turn >= self.until
            case _:
                return False

    def _cut(self, record: Record) -> bytes:
        head = record.head
        if record.end <= self.start.first or head.turn < self.start.turn:
            return b""
        if not self.view.v7:
            shown = LegacyFilter(self.view, self.start.voids).shown(record)
            return b"".join(frame for number, frame in shown if number >= self.start.first)
        if not self.view.sees(head):
            return b""
        hidden = self.start.first - record.head.index
        return record.payload if hidden <= 0 else skip_frames(record, hidden)


def _given_up() -> Gone:
    return Gone("the run was given up, and its log has no end: the history has what there is of it")
