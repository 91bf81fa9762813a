"""A run's log as the bytes of one response: from any position, to the end of the turn.

Owns where a response begins and where it ends. The frames are copied as they were appended; they are cut only
where a cursor points into a batch.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import msgspec
import structlog

from gateway.positions import After, Count, Position, Turn, Whole
from protocol import sse
from protocol.adapters.ports import Log, Run, Store
from protocol.adapters.splice import Splice, splice
from protocol.cursor import Cursor
from protocol.errors import Gone, Invalid, Unavailable
from protocol.lifecycle import BUSY, TERMINAL
from protocol.log import Mark, Record, View, holds, skip

log = structlog.get_logger("rejoin.replay")

HEARTBEAT_S = 10.0
AWAY_WAIT_S = 0.5
CERTAIN_TRIES = 3
CERTAIN_WAIT_S = 0.2
STORED_WAITS_S = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0)


class Start(msgspec.Struct, frozen=True):
    """Where to begin: read behind sequence `after`, where event `index` comes first; send from `first` on.

    `tail`: number of the last event that the client could see then; set for a position from the end.
    """

    after: int = 0
    index: int = 0
    first: int = 0
    tail: int | None = None


async def locate(runs: Log, run: Run, position: Position, view: View) -> Start:
    """Find a position in a run's log.

    Raises `Invalid` for another run's cursor, `Gone` for one past retention or beyond the log, `Unavailable`.
    """
    match position:
        case Whole():
            return Start()
        case After(cursor):
            return await _after(runs, run, cursor)
        case Count(events):
            return await _count(runs, run, events, view)
        case Turn(turn):
            return await _turn(runs, run, turn)


async def _after(runs: Log, run: Run, cursor: Cursor) -> Start:
    for _ in range(CERTAIN_TRIES):
        page = await runs.read(run.id, after=cursor.prev, records_max=1)
        for record in page.records:
            if holds(record, cursor):
                return Start(cursor.prev, record.head.index, cursor.index + 1)
        if page.records:
            break
        # Nothing there: the log is shorter than the cursor says, or a replica was asked that lags behind.
        await asyncio.sleep(CERTAIN_WAIT_S)
    owner = await runs.owner(cursor.prev) if cursor.prev else run.id
    if owner is not None and (owner != run.id or page.records):
        raise Invalid(f"the cursor {cursor} is not one of run {run.id}")
    raise Gone(f"the cursor {cursor} is past retention or beyond the log: start again without it")


async def _count(runs: Log, run: Run, events: int, view: View) -> Start:
    tail: int | None = None
    if events < 0:
        last = await runs.last(run.id)
        total = view.count_through(last.head) if last is not None else 0
        tail = total - 1
        events = max(0, total + events)
    seen = 0
    newest: Record | None = None
    async for record in _stored(runs, run):
        before, seen = view.count_before(record.head), view.count_through(record.head)
        if events < seen:
            first = record.head.index + events - before
            return Start(record.head.prev, record.head.index, first, tail)
        newest = record
    if events > seen:
        raise Gone(f"the run has {seen} events so far: start again")
    if newest is None:
        return Start(tail=tail)
    # The newest record is read again, for its mark alone: it may say that nothing will follow.
    return Start(newest.head.prev, newest.head.index, newest.end, tail)


async def _turn(runs: Log, run: Run, turn: int) -> Start:
    seq = end = 0
    async for record in _stored(runs, run):
        if record.head.turn >= turn:
            return Start(record.head.prev, record.head.index, record.head.index)
        seq, end = record.seq, record.end
    return Start(seq, end, end)


async def _stored(runs: Log, run: Run) -> AsyncIterator[Record]:
    seq = 0
    more = True
    while more:
        page = await runs.read(run.id, after=seq)
        for record in page.records:
            yield record
            seq = record.seq
        more = page.more


class Replay(msgspec.Struct, frozen=True):
    """One response. `until`: it ends at the suspension of this turn, or of a later one, or with the run;
    None: with the run alone.
    """

    store: Store
    runs: Log
    run: Run
    start: Start
    view: View
    until: int | None

    async def frames(self) -> AsyncGenerator[bytes]:
        """What is to be written, as it comes; a comment after each silence. Ends with `[DONE]`, which is not
        said before the history has what the log says: a client may ask for it at once.

        Raises `Gone` when the log loses what comes next: the response is then to be broken, not ended.
        """
        async with splice(self.runs, self.run.id, after=self.start.after, index=self.start.index) as records:
            while True:
                batch = await self._next(records)
                written, ended = self._write(batch)
                if ended is not None:
                    yield written
                    await self._stored(ended)
                    yield sse.DONE
                    return
                if not batch and self._over(records):
                    raise Gone("the run has ended and its log is past retention")
                if not batch or written:
                    yield written or sse.KEEP_ALIVE

    async def _stored(self, last: Record) -> None:
        """Until the database knows of the end that the log has; the log is first by a moment."""
        if self.run.state in TERMINAL:
            return
        for wait_s in STORED_WAITS_S:
            try:
                run = await self.store.run(self.run.tenant, self.run.id)
            except Unavailable:
                return
            if run is None or run.state not in BUSY or run.turn > last.head.turn:
                return
            await asyncio.sleep(wait_s)
        log.warning("stored_late", run=self.run.id)

    def _write(self, batch: Sequence[Record]) -> tuple[bytes, Record | None]:
        """The bytes of these records up to the one that ends the response, and that one."""
        pieces = []
        for record in batch:
            pieces.append(self._cut(record))
            if self._ends(record):
                return b"".join(pieces), record
        return b"".join(pieces), None

    async def _next(self, records: Splice) -> Sequence[Record]:
        try:
            return await records.next(HEARTBEAT_S)
        except Unavailable as fault:
            log.warning("replay_waits", run=self.run.id, error=str(fault))
            await asyncio.sleep(AWAY_WAIT_S)
            return ()

    def _over(self, records: Splice) -> bool:
        """Whether nothing can come any more, although no record said so."""
        return self.run.state in TERMINAL and records.caught_up

    def _ends(self, record: Record) -> bool:
        match record.head.mark:
            case Mark.ENDED:
                return True
            case Mark.SUSPENDED:
                return self.until is not None and record.head.turn >= self.until
            case _:
                return False

    def _cut(self, record: Record) -> bytes:
        if not self.view.sees(record.head) or record.end <= self.start.first:
            return b""
        hidden = self.start.first - record.head.index
        return record.payload if hidden <= 0 else skip(record, hidden)
