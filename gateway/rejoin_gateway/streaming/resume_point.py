"""A client's position in a run's log: which record to read first, and what to leave out of it.

Reads the log, writes nothing. A position that the log does not have is told from one that it no longer has,
and, for a client that cannot drop what a dead runner left, from one in the midst of that.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec
from rejoin_adapters.ports.run_log import RunLog
from rejoin_adapters.records import Run
from rejoin_protocol.errors import Gone, Invalid
from rejoin_protocol.ids import RunId
from rejoin_protocol.lifecycle import BUSY, TERMINAL
from rejoin_protocol.log.cursor import Cursor
from rejoin_protocol.log.record import Audience, Mark, Record, View, contains

from rejoin_gateway.streaming.legacy_filter import LegacyFilter, VoidedRange, VoidedRanges
from rejoin_gateway.streaming.positions import AfterCount, AfterCursor, FromStart, FromTurn, Position

READ_TRIES = 3
READ_RETRY_WAIT_S = 0.2


class ResumePoint(msgspec.Struct, frozen=True):
    """Where to begin: read behind sequence `after`, where event `index` comes first; send from `first` on,
    and nothing of the turns before `turn`.

    `tail`: number of the last event that the client could see then; set for a position from the end.
    `voids`: what was voided by then; looked for only where the client cannot void it itself.
    """

    after: int = 0
    index: int = 0
    first: int = 0
    turn: int = 0
    tail: int | None = None
    voids: Sequence[VoidedRange] = ()


class CursorOfAnotherRun(Invalid):
    """The cursor is none of the run's; if it is any, then the run's that is `owner`."""

    def __init__(self, cursor: Cursor, run: Run, owner: RunId) -> None:
        super().__init__(f"the cursor {cursor} is not one of run {run.id}")
        self.owner = owner


async def find_resume_point(runs: RunLog, run: Run, position: Position, view: View) -> ResumePoint:
    """Find a position in a run's log.

    Raises `CursorOfAnotherRun` for a cursor that is not the run's, `Gone` for one past retention or beyond
    the log, `Unavailable`.
    """
    if view.v7:
        return await _locate(runs, run, position, view)
    if isinstance(position, AfterCount):
        corrected = LegacyFilter(view, await _voids(runs, run))
        start = await _count_shown(runs, run, position.events, corrected)
        return msgspec.structs.replace(start, voids=corrected.voids)
    start = await _locate(runs, run, position, view)
    voids = await _voids(runs, run)  # not before the cursor is known to exist: what voided it is then, too
    if isinstance(position, AfterCursor) and any(void.holds(position.cursor) for void in voids):
        raise _voided()
    return msgspec.structs.replace(start, voids=voids)


async def _locate(runs: RunLog, run: Run, position: Position, view: View) -> ResumePoint:
    match position:
        case FromStart():
            return await _begin(runs, run)
        case AfterCursor(cursor):
            return await _after(runs, run, cursor)
        case AfterCount(events):
            return await _count(runs, run, events, view)
        case FromTurn(turn):
            return await _turn(runs, run, turn)


async def _after(runs: RunLog, run: Run, cursor: Cursor) -> ResumePoint:
    """Whose the cursor is, is asked if it is not the run's: nearly always it is."""
    for _ in range(READ_TRIES):
        page = await runs.read(run.id, after=cursor.prev, records_max=1)
        for record in page.records:
            if contains(record, cursor):
                return ResumePoint(cursor.prev, record.head.index, cursor.index + 1)
        owner = await runs.run_at(cursor.prev) if cursor.prev else run.id
        if owner is not None and (owner != run.id or page.records):
            raise CursorOfAnotherRun(cursor, run, owner)
        if page.records:
            break
        # Nothing there: the log is shorter than the cursor says, or a replica was asked that lags behind.
        await asyncio.sleep(READ_RETRY_WAIT_S)
    raise Gone(f"the cursor {cursor} is past retention or beyond the log: start again without it")


async def _count(runs: RunLog, run: Run, events: int, view: View) -> ResumePoint:
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
            return ResumePoint(record.head.prev, record.head.index, first, tail=tail)
        newest = record
    if events > seen:
        raise Gone(f"the run has {seen} events so far: start again")
    if newest is None:
        _refuse_if_expired(run)
        return ResumePoint(tail=tail)
    # The newest record is read again, for its mark alone: it may say that nothing will follow.
    return ResumePoint(newest.head.prev, newest.head.index, newest.end, tail=tail)


async def _count_shown(runs: RunLog, run: Run, events: int, corrected: LegacyFilter) -> ResumePoint:
    """As `_count`, by looking at every event."""
    tail: int | None = None
    if events < 0:
        total = 0
        async for record in _stored(runs, run):
            total += len(corrected.shown(record))
        tail = total - 1
        events = max(0, total + events)
    seen, newest = 0, None
    before: dict[VoidedRange, int] = {}
    voided: dict[VoidedRange, int] = {}
    async for record in _stored(runs, run):
        for cursor, _ in corrected.known(record):
            void = corrected.void_of(cursor)
            if void is not None:
                before.setdefault(void, seen)
                voided[void] = voided.get(void, 0) + 1
            elif seen == events:
                _refuse_if_voided(events, before, voided, tail)
                return ResumePoint(record.head.prev, record.head.index, cursor.index, tail=tail)
            else:
                seen += 1
        newest = record
    _refuse_if_voided(events, before, voided, tail)
    if events > seen:
        raise Gone(f"the run has {seen} events so far: start again")
    if newest is None:
        _refuse_if_expired(run)
        return ResumePoint(tail=tail)
    return ResumePoint(newest.head.prev, newest.head.index, newest.end, tail=tail)


def _refuse_if_voided(
    events: int, before: Mapping[VoidedRange, int], voided: Mapping[VoidedRange, int], tail: int | None
) -> None:
    """Refuse a count that a client may have reached by seeing what was voided: it would keep that."""
    reached = any(number < events <= number + voided[void] for void, number in before.items())
    if tail is None and reached:
        raise _voided()


def _voided() -> Gone:
    return Gone("what was sent up to there is no longer part of the message: start again without a position")


async def _voids(runs: RunLog, run: Run) -> Sequence[VoidedRange]:
    """What was voided so far in a run's log. Most runs have nothing, and their last record says so."""
    last = await runs.last(run.id)
    if last is None or (last.head.v7 == 0 and last.head.audience is not Audience.V7):
        return ()
    voids = VoidedRanges()
    async for record in _stored(runs, run):
        voids.read(record)
    return voids.found


async def _turn(runs: RunLog, run: Run, turn: int) -> ResumePoint:
    seq = end = 0
    async for record in _stored(runs, run):
        if record.head.turn >= turn:
            return ResumePoint(record.head.prev, record.head.index, record.head.index)
        seq, end = record.seq, record.end
    if seq == 0 and run.state in TERMINAL:
        raise _expired(run)
    # Not begun. What comes first may be the message restored, if the log has expired meanwhile.
    return ResumePoint(seq, end, turn=turn)


async def _begin(runs: RunLog, run: Run) -> ResumePoint:
    """Where the whole message begins: at the first event, or where the log begins again."""
    if run.turn == 0 and run.state in BUSY:
        return ResumePoint()  # too young to have expired, and worth a round trip less
    for record in (await runs.read(run.id, after=0, records_max=1)).records:
        if record.head.index == 0:
            return ResumePoint(record.head.prev)
    async for record in _stored(runs, run):
        if record.head.index == 0:
            return ResumePoint(record.head.prev)
        raise _expired(run)
    _refuse_if_expired(run)
    return ResumePoint()


def _refuse_if_expired(run: Run) -> None:
    """Nothing is stored of it. Of a busy run something will be; of any other one there was."""
    if run.state not in BUSY:
        raise _expired(run)


def _expired(run: Run) -> Gone:
    return Gone(f"the log of run {run.id} is past retention: its message is in the history")


async def _stored(runs: RunLog, run: Run) -> AsyncIterator[Record]:
    """The stored records from the last beginning of the log on; what is left of it if that has expired."""
    seq, more = await _restored(runs, run) if run.turn else 0, True
    while more:
        page = await runs.read(run.id, after=seq)
        for record in page.records:
            yield record
            seq = record.seq
        more = page.more


async def _restored(runs: RunLog, run: Run) -> int:
    """Sequence before the record with which the log begins again; 0 if it begins at its beginning."""
    seq, found, more = 0, 0, True
    while more:
        page = await runs.read(run.id, after=seq)
        if seq == 0 and page.records and page.records[0].head.index == 0:
            return 0
        for record in page.records:
            seq = record.seq
            if record.head.mark is Mark.RESTORED:
                found = record.head.prev
        more = page.more
    return found
