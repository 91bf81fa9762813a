"""`ResumePoint` finds a position, or reports that it is of another run, expired or not written yet.

It asks a lagging replica again.
"""

from collections.abc import Sequence

import pytest

from rejoin_adapters.memory.broker.run_log import MemoryRunLog
from rejoin_adapters.ports.run_log import LogPage
from rejoin_adapters.store_types import Run
from rejoin_gateway.streaming import resume_point
from rejoin_gateway.streaming.positions import AfterCount, AfterCursor, FromStart, FromTurn, Position
from rejoin_gateway.streaming.resume_point import CursorOfAnotherRun, ResumePoint, find_resume_point
from rejoin_protocol.errors import Gone, Invalid
from rejoin_protocol.ids import AgentName, MessageId, RunId, SessionId, TenantId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.log.cursor import Cursor
from rejoin_protocol.log.record import Audience, Head, Mark, Record, View, encode_frames

RUN, OTHER = RunId("run_1"), RunId("run_2")
V7 = View()


@pytest.fixture(autouse=True)
def without_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume_point, "RESUME_READ_RETRY_WAIT_S", 0)


def run(state: State = State.RUNNING, *, turn: int = 0) -> Run:
    who = TenantId("t"), SessionId("s"), AgentName("a"), MessageId("m")
    return Run(RUN, *who, state, ready=True, turn=turn, attempt=1)


async def append(
    log: MemoryRunLog,
    count: int,
    *,
    turn: int = 0,
    mark: Mark = Mark.NONE,
    id: RunId = RUN,
    index: int | None = None,
    audience: Audience = Audience.ALL,
) -> Record:
    """One record of `count` events behind the last one."""
    last = await log.last(id)
    prev = last.seq if last else 0
    first = index if index is not None else last.end if last else 0
    operations = (last.head.operations if last else 0) + (
        last.head.count if last and last.head.audience is Audience.OPERATIONS else 0
    )
    head = Head(prev, 1, first, count, operations, 0, audience, mark, turn)
    await log.append(id, head, encode_frames([b'{"type":"custom"}'] * count, prev=prev, index=first))
    record = await log.last(id)
    assert record is not None
    return record


async def find(log: MemoryRunLog, position: Position, at: Run | None = None, view: View = V7) -> ResumePoint:
    return await find_resume_point(log, at or run(), position, view)


# -------------------------------------------------------------------------------------------- cursors


async def test_a_cursor_points_into_its_record() -> None:
    log = MemoryRunLog()
    first = await append(log, 3)
    second = await append(log, 4)
    assert await find(log, AfterCursor(Cursor(0, 1))) == ResumePoint(0, 0, 2)
    assert await find(log, AfterCursor(Cursor(first.seq, 6))) == ResumePoint(first.seq, 3, 7)
    assert second.end == 7


async def test_a_cursor_of_another_run_names_that_run() -> None:
    log = MemoryRunLog()
    await append(log, 1)
    theirs = await append(log, 1, id=OTHER)
    await append(log, 1, id=OTHER)
    with pytest.raises(CursorOfAnotherRun) as caught:
        await find(log, AfterCursor(Cursor(theirs.seq, 1)))
    assert caught.value.cursor_run == OTHER


async def test_a_cursor_with_an_index_that_its_record_lacks_is_invalid() -> None:
    log = MemoryRunLog()
    first = await append(log, 3)
    await append(log, 2)
    for cursor in (Cursor(0, 3), Cursor(first.seq, 2), Cursor(first.seq, 5)):
        with pytest.raises(Invalid):
            await find(log, AfterCursor(cursor))


async def test_a_cursor_beyond_the_log_is_gone() -> None:
    log = MemoryRunLog()
    last = await append(log, 3)
    with pytest.raises(Gone, match="does not exist yet"):
        await find(log, AfterCursor(Cursor(last.seq, 3)))


async def test_a_cursor_of_an_expired_log_is_gone() -> None:
    log = MemoryRunLog()
    await append(log, 3)
    last = await append(log, 1)
    await log.purge(RUN)
    with pytest.raises(Gone, match="expired"):
        await find(log, AfterCursor(Cursor(last.head.prev, 3)))


class LaggingLog(MemoryRunLog):
    """Its first `stale_reads` reads are served by a replica that has nothing yet."""

    def __init__(self, stale_reads: int) -> None:
        super().__init__()
        self.stale_reads = stale_reads

    async def read(self, run: RunId, *, after: int, records_max: int | None = None) -> LogPage:
        if self.stale_reads:
            self.stale_reads -= 1
            return LogPage([], more=False)
        return await super().read(run, after=after, records_max=records_max)


async def test_a_replica_that_lags_is_asked_again() -> None:
    log = LaggingLog(resume_point.READ_TRIES - 1)
    await append(log, 3)
    assert await find(log, AfterCursor(Cursor(0, 1))) == ResumePoint(0, 0, 2)
    log.stale_reads = resume_point.READ_TRIES
    with pytest.raises(Gone):
        await find(log, AfterCursor(Cursor(0, 1)))


# --------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize("sizes", [(5,), (1, 1, 1, 1, 1), (2, 3)], ids=str)
async def test_a_count_is_found_in_every_partition_of_the_events(sizes: Sequence[int]) -> None:
    log = MemoryRunLog()
    for size in sizes:
        await append(log, size)
    for count in range(5):
        start = await find(log, AfterCount(count))
        assert start.send_from == count
        assert start.last_visible_index is None
        [record] = (await log.read(RUN, after=start.read_after, records_max=1)).records
        assert record.head.index == start.next_index <= count < record.end


async def test_all_events_are_a_position_and_more_are_gone() -> None:
    """The last record is read again, because its mark may end the response."""
    log = MemoryRunLog()
    await append(log, 2)
    last = await append(log, 3, mark=Mark.ENDED)
    assert await find(log, AfterCount(5)) == ResumePoint(last.head.prev, 2, 5)
    with pytest.raises(Gone, match="5 events so far"):
        await find(log, AfterCount(6))


async def test_a_count_from_the_end_states_the_tail() -> None:
    log = MemoryRunLog()
    await append(log, 4)
    assert await find(log, AfterCount(-1)) == ResumePoint(0, 0, 3, last_visible_index=3)
    assert await find(log, AfterCount(-9)) == ResumePoint(0, 0, 0, last_visible_index=3)


async def test_events_that_the_client_does_not_see_are_not_counted() -> None:
    log = MemoryRunLog()
    await append(log, 2)
    await append(log, 3, audience=Audience.OPERATIONS)
    last = await append(log, 2)
    assert (await find(log, AfterCount(3))).send_from == last.head.index + 1
    assert (await find(log, AfterCount(3), view=View(operations=True))).send_from == 3


async def test_a_count_from_a_turn_on_leaves_the_earlier_turns_out() -> None:
    log = MemoryRunLog()
    await append(log, 2)
    suspended = await append(log, 3, mark=Mark.SUSPENDED)
    again = run(turn=1)
    for view in (View(), View(v7=False), View(v7=False, resets=False)):
        waiting = await find(log, AfterCount(0, turn=1), again, view=view)
        assert (waiting.read_after, waiting.send_from) == (suspended.head.prev, 5)
    await append(log, 2, audience=Audience.OPERATIONS, turn=1)
    await append(log, 3, turn=1)
    for view in (View(), View(v7=False), View(v7=False, resets=False)):
        for count in range(3):
            start = await find(log, AfterCount(count, turn=1), again, view=view)
            assert start.send_from == 7 + count
        last = await find(log, AfterCount(-1, turn=1), again, view=view)
        assert (last.send_from, last.last_visible_index) == (9, 2)
        assert (await find(log, AfterCount(-9, turn=1), again, view=view)).send_from == 7
        with pytest.raises(Gone):
            await find(log, AfterCount(4, turn=1), again, view=view)
    assert (await find(log, AfterCount(1, turn=1), again, view=View(operations=True))).send_from == 6


async def test_a_count_in_an_empty_log_depends_on_whether_events_will_follow() -> None:
    log = MemoryRunLog()
    assert await find(log, AfterCount(0), run(State.QUEUED)) == ResumePoint()
    assert await find(log, AfterCount(-1), run(State.QUEUED)) == ResumePoint(last_visible_index=-1)
    with pytest.raises(Gone, match="expired"):
        await find(log, AfterCount(0), run(State.COMPLETED))


# ------------------------------------------------------------------------------------- start and turns


async def test_the_start_is_the_first_event() -> None:
    log = MemoryRunLog()
    await append(log, 2)
    for state in (State.RUNNING, State.SUSPENDED, State.COMPLETED):
        assert await find(log, FromStart(), run(state)) == ResumePoint()


async def test_the_start_of_an_expired_log_is_gone() -> None:
    log = MemoryRunLog()
    for state in (State.SUSPENDED, State.COMPLETED):
        with pytest.raises(Gone, match="expired"):
            await find(log, FromStart(), run(state))
    assert await find(log, FromStart(), run(State.QUEUED, turn=1)) == ResumePoint()


async def test_the_start_of_a_log_without_its_beginning_is_gone() -> None:
    log = MemoryRunLog()
    await append(log, 2, index=7)
    with pytest.raises(Gone, match="expired"):
        await find(log, FromStart(), run(State.COMPLETED))


async def test_the_start_is_the_restored_message_if_the_log_had_expired() -> None:
    log = MemoryRunLog()
    await append(log, 2, index=7)
    restored = await append(log, 3, index=0, turn=1, mark=Mark.RESTORED)
    await append(log, 1, turn=1)
    again = run(State.RUNNING, turn=1)
    assert await find(log, FromStart(), again) == ResumePoint(restored.head.prev)
    assert await find(log, AfterCount(3), again) == ResumePoint(restored.seq, 3, 3)


async def test_a_turn_begins_at_its_first_record() -> None:
    log = MemoryRunLog()
    await append(log, 2, mark=Mark.SUSPENDED)
    second = await append(log, 3, turn=1)
    assert await find(log, FromTurn(1), run(turn=1)) == ResumePoint(second.head.prev, 2, 2)


async def test_a_turn_that_has_not_begun_is_behind_the_last_record() -> None:
    log = MemoryRunLog()
    last = await append(log, 2, mark=Mark.SUSPENDED)
    start = await find(log, FromTurn(1), run(State.QUEUED, turn=1))
    assert start == ResumePoint(last.seq, 2, min_turn=1)


@pytest.mark.parametrize("state", [State.SUSPENDED, State.COMPLETED])
async def test_where_no_such_turn_follows_the_last_record_is_read_again(state: State) -> None:
    """Its mark ends the response."""
    log = MemoryRunLog()
    last = await append(log, 2, mark=Mark.SUSPENDED)
    start = await find(log, FromTurn(7), run(state))
    assert start == ResumePoint(last.head.prev, last.head.index, last.end, min_turn=7)


async def test_a_turn_of_an_expired_log_is_gone_only_if_no_events_will_follow() -> None:
    log = MemoryRunLog()
    assert await find(log, FromTurn(1), run(State.QUEUED, turn=1)) == ResumePoint(min_turn=1)
    with pytest.raises(Gone, match="expired"):
        await find(log, FromTurn(1), run(State.COMPLETED, turn=1))
