"""Translates a client's position into a resume point: which record to read first, and which event to send
first.

Only reads the log. Three cases look alike in the log and get different errors: a position that never
existed (`Invalid`), one whose events have expired or do not exist yet (`Gone`), and, for clients that do
not know `reset-step`, one inside events that were voided later (`Gone`, see `legacy_filter`).

Any replica of the stream may serve a read, and one that lags behind does not have the newest records yet.
So a record that is missing is read again before it counts as missing.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec

from rejoin_adapters.ports.run_log import RunLog
from rejoin_adapters.store_types import Run
from rejoin_gateway.streaming.legacy_filter import LegacyFilter, VoidedRange, VoidedRanges
from rejoin_gateway.streaming.positions import AfterCount, AfterCursor, FromStart, FromTurn, Position
from rejoin_protocol.errors import Gone, Invalid
from rejoin_protocol.ids import RunId
from rejoin_protocol.lifecycle import BUSY, TERMINAL
from rejoin_protocol.log.cursor import Cursor
from rejoin_protocol.log.record import Audience, Mark, Record, View, contains

READ_TRIES = 3
RESUME_READ_RETRY_WAIT_S = 0.2


class ResumePoint(msgspec.Struct, frozen=True):
    """Where a response begins. Sequences number the broker's records, indexes number the run's events."""

    read_after: int = 0
    """Read the records after this sequence."""
    next_index: int = 0
    """Index of the first event after `read_after`."""
    send_from: int = 0
    """Index of the first event to send: a cursor may point into the middle of a record."""
    min_turn: int = 0
    """Send nothing of earlier turns."""
    last_visible_index: int | None = None
    """Index of the last event visible to the client at request time; None unless it counted from the end."""
    voided: Sequence[VoidedRange] = ()
    """The events voided at request time; looked up only for clients that may not know `reset-step`."""


class CursorOfAnotherRun(Invalid):
    """The cursor belongs to another run, or to none. `cursor_run`: the run whose record it names."""

    def __init__(self, cursor: Cursor, run: Run, cursor_run: RunId) -> None:
        super().__init__(f"the cursor {cursor} is not one of run {run.id}")
        self.cursor_run = cursor_run


async def find_resume_point(run_log: RunLog, run: Run, position: Position, view: View) -> ResumePoint:
    """Find a position in a run's log.

    Raises `CursorOfAnotherRun`, `Gone` for a position that has expired, does not exist yet or was voided, and
    `Unavailable`.
    """
    if view.v7 or (view.resets and isinstance(position, AfterCursor | AfterCount)):
        # A client that continues has received every event before, and receives every event after.
        return await _locate(run_log, run, position, view)
    if isinstance(position, AfterCount):
        legacy_filter = LegacyFilter(view, await _find_voided(run_log, run))
        start = await _locate_count_without_voided(run_log, run, position, legacy_filter)
        return msgspec.structs.replace(start, voided=legacy_filter.voided)
    start = await _locate(run_log, run, position, view)
    if run.attempt == 0:  # the database has just said so: no runner has written anything yet
        return start
    # Locate first, then look for voids. The record that voids an event is stored after it, so a later read
    # cannot miss it.
    voided = await _find_voided(run_log, run)
    if isinstance(position, AfterCursor) and any(
        voided_range.contains(position.cursor) for voided_range in voided
    ):
        raise _position_voided()
    return msgspec.structs.replace(start, voided=voided)


async def _locate(run_log: RunLog, run: Run, position: Position, view: View) -> ResumePoint:
    match position:
        case FromStart():
            return await _locate_start(run_log, run)
        case AfterCursor(cursor):
            return await _locate_cursor(run_log, run, cursor)
        case AfterCount():
            return await _locate_count(run_log, run, position, view)
        case FromTurn(turn):
            return await _locate_turn(run_log, run, turn)


async def _locate_cursor(run_log: RunLog, run: Run, cursor: Cursor) -> ResumePoint:
    """A cursor names the sequence before its record, so one read finds the record.

    Only if the record does not contain the event, a second read asks which run the sequence belongs to.
    """
    for _ in range(READ_TRIES):
        page = await run_log.read(run.id, after=cursor.prev, records_max=1)
        for record in page.records:
            if contains(record, cursor):
                return ResumePoint(cursor.prev, record.head.index, cursor.index + 1)
        cursor_run = await run_log.run_at(cursor.prev) if cursor.prev else run.id
        if cursor_run is not None and (cursor_run != run.id or page.records):
            raise CursorOfAnotherRun(cursor, run, cursor_run)
        if page.records:
            break
        # No record: the log is shorter than the cursor says, or a replica that lags behind served the read.
        await asyncio.sleep(RESUME_READ_RETRY_WAIT_S)
    raise Gone(f"the cursor {cursor} has expired or does not exist yet: start again without it")


async def _locate_count(run_log: RunLog, run: Run, position: AfterCount, view: View) -> ResumePoint:
    """The point after the first `count` visible events; negative: before the last `-count` ones. Counts with
    the totals in the records' heads: payloads are not decoded.
    """
    count, last_visible_index = position.count, None
    earlier = await _count_before_turn(run_log, run, position.turn, view) if position.turn else 0
    if count < 0:
        last = await run_log.last(run.id)
        total = view.count_through(last.head) - earlier if last is not None else 0
        last_visible_index = total - 1
        count = max(0, total + count)
    count += earlier
    count_through = 0
    newest: Record | None = None
    async for record in _read_from_beginning(run_log, run):
        count_before, count_through = view.count_before(record.head), view.count_through(record.head)
        if count < count_through:
            send_from = record.head.index + count - count_before
            return ResumePoint(
                record.head.prev, record.head.index, send_from, last_visible_index=last_visible_index
            )
        newest = record
    return _after_newest(run, newest, count, count_through, last_visible_index)


async def _count_before_turn(run_log: RunLog, run: Run, turn: int, view: View) -> int:
    """How many events of earlier turns this client sees."""
    count = 0
    async for record in _read_from_beginning(run_log, run):
        if record.head.turn >= turn:
            break
        count = view.count_through(record.head)
    return count


async def _locate_count_without_voided(
    run_log: RunLog, run: Run, position: AfterCount, legacy_filter: LegacyFilter
) -> ResumePoint:
    """As `_locate_count`, without voided events. The heads count voided events too, so each event is
    examined.
    """
    count, last_visible_index = position.count, None
    if count < 0:
        total = 0
        async for record in _read_from_beginning(run_log, run):
            if record.head.turn >= position.turn:
                total += len(legacy_filter.valid_frames(record))
        last_visible_index = total - 1
        count = max(0, total + count)
    valid_count, newest = 0, None
    valid_before: dict[VoidedRange, int] = {}
    voided_counts: dict[VoidedRange, int] = {}
    async for record in _read_from_beginning(run_log, run):
        newest = record
        if record.head.turn < position.turn:
            continue
        for cursor, _ in legacy_filter.visible_frames(record):
            voided = legacy_filter.range_of(cursor)
            if voided is not None:
                valid_before.setdefault(voided, valid_count)
                voided_counts[voided] = voided_counts.get(voided, 0) + 1
            elif valid_count == count:
                _refuse_if_voided(count, valid_before, voided_counts, last_visible_index)
                return ResumePoint(
                    record.head.prev, record.head.index, cursor.index, last_visible_index=last_visible_index
                )
            else:
                valid_count += 1
    _refuse_if_voided(count, valid_before, voided_counts, last_visible_index)
    return _after_newest(run, newest, count, valid_count, last_visible_index)


def _after_newest(
    run: Run, newest: Record | None, count: int, total: int, last_visible_index: int | None
) -> ResumePoint:
    """The resume point after all `total` events of the log. Raises `Gone` if `count` is more."""
    if count > total:
        raise Gone(f"the run has {total} events so far: start again")
    if newest is None:
        _refuse_if_expired(run)
        return ResumePoint(last_visible_index=last_visible_index)
    # No event of the newest record is sent, but its mark may be what ends the response, so the reader must
    # see it again.
    return ResumePoint(newest.head.prev, newest.head.index, newest.end, last_visible_index=last_visible_index)


def _refuse_if_voided(
    count: int,
    valid_before: Mapping[VoidedRange, int],
    voided_counts: Mapping[VoidedRange, int],
    last_visible_index: int | None,
) -> None:
    """Refuse a count that a client can have reached by receiving voided events: it would keep them.

    Example: the log has 5 valid events, then 3 voided ones, then valid ones. The count 8 may mean 8 valid
    events, or 5 valid and 3 voided ones. A count from the end (`last_visible_index` is set) includes no
    received events, so it is unambiguous. `valid_before`: how many valid events precede each voided range.
    """
    is_ambiguous = any(
        before < count <= before + voided_counts[voided] for voided, before in valid_before.items()
    )
    if last_visible_index is None and is_ambiguous:
        raise _position_voided()


def _position_voided() -> Gone:
    return Gone("the events sent so far are no longer part of the message: start again without a position")


async def _find_voided(run_log: RunLog, run: Run) -> Sequence[VoidedRange]:
    """The events voided so far. Most runs have none, which the counter in their last record's head shows."""
    last = await run_log.last(run.id)
    if last is None or (last.head.resets == 0 and last.head.audience is not Audience.RESETS):
        return ()
    voided = VoidedRanges()
    async for record in _read_from_beginning(run_log, run):
        voided.add(record)
    return voided.ranges


async def _locate_turn(run_log: RunLog, run: Run, turn: int) -> ResumePoint:
    newest: Record | None = None
    async for record in _read_from_beginning(run_log, run):
        if record.head.turn >= turn:
            return ResumePoint(record.head.prev, record.head.index, record.head.index)
        newest = record
    if newest is None and run.state in TERMINAL:
        raise _expired(run)
    # The turn has not begun. If the log expired while the run was suspended, the runner first writes the
    # message again: those events belong to earlier turns, and `min_turn` leaves them out.
    if newest is None:
        return ResumePoint(min_turn=turn)
    if run.state in BUSY:
        return ResumePoint(newest.seq, newest.end, min_turn=turn)
    # Nothing follows for now: the newest record is read again, because its mark ends the response.
    return ResumePoint(newest.head.prev, newest.head.index, newest.end, turn)


async def _locate_start(run_log: RunLog, run: Run) -> ResumePoint:
    """The beginning of the complete message: the first event, or the record that writes the message of an
    expired log again.
    """
    if run.turn == 0 and run.state in BUSY:
        return ResumePoint()  # too young to have expired; this saves a round trip for every new message
    for record in (await run_log.read(run.id, after=0, records_max=1)).records:
        if record.head.index == 0:
            return ResumePoint(record.head.prev)
    async for record in _read_from_beginning(run_log, run):
        if record.head.index == 0:
            return ResumePoint(record.head.prev)
        raise _expired(run)
    _refuse_if_expired(run)
    return ResumePoint()


def _refuse_if_expired(run: Run) -> None:
    """For a run without records: a busy run will write some, any other run has had some."""
    if run.state not in BUSY:
        raise _expired(run)


def _expired(run: Run) -> Gone:
    return Gone(f"the log of run {run.id} has expired: read the session's history instead")


async def _read_from_beginning(run_log: RunLog, run: Run) -> AsyncIterator[Record]:
    """The stored records from the last beginning of the log on. If the beginning has expired: from the oldest
    stored record on.
    """
    seq, more = await _find_beginning(run_log, run) if run.turn else 0, True
    while more:
        page = await run_log.read(run.id, after=seq)
        for record in page.records:
            yield record
            seq = record.seq
        more = page.more


async def _find_beginning(run_log: RunLog, run: Run) -> int:
    """The sequence before the newest record that restores the message; 0 if the log still has its first
    event.

    A run that waits for an approval for longer than the log's retention loses its log. The runner that
    continues it writes the message again, from index 0, in a record marked RESTORED.
    """
    seq, seq_before_beginning, more = 0, 0, True
    while more:
        page = await run_log.read(run.id, after=seq)
        if seq == 0 and page.records and page.records[0].head.index == 0:
            return 0
        for record in page.records:
            seq = record.seq
            if record.head.mark is Mark.RESTORED:
                seq_before_beginning = record.head.prev
        more = page.more
    return seq_before_beginning
