"""Clients older than AI SDK 7 receive no event of a voided step."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_adapters.memory.broker.run_log import MemoryRunLog
from rejoin_adapters.memory.database.run_store import MemoryRunStore
from rejoin_adapters.store_types import Run
from rejoin_gateway.streaming.client_view import VIEW_DEFAULT, VIEWS
from rejoin_gateway.streaming.legacy_filter import LegacyFilter, VoidedRange, VoidedRanges
from rejoin_gateway.streaming.positions import AfterCount, AfterCursor, FromStart
from rejoin_gateway.streaming.replay import Replay
from rejoin_gateway.streaming.resume_point import ResumePoint, find_resume_point
from rejoin_protocol.errors import Gone
from rejoin_protocol.events import chunks as c
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.ids import AgentName, MessageId, RunId, SessionId, TenantId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.log.cursor import Cursor, parse
from rejoin_protocol.log.record import Audience, Head, Mark, Record, View, encode_frames, split_events
from rejoin_protocol.log.sse import DONE

V5, V6, V7, UNSTATED = VIEWS["5"], VIEWS["6"], VIEWS["7"], VIEW_DEFAULT
RUN = RunId("run_1")


def run(state: State = State.COMPLETED) -> Run:
    return Run(
        RUN,
        TenantId("t"),
        SessionId("s"),
        AgentName("a"),
        MessageId("m"),
        state,
        ready=True,
        turn=0,
        attempt=1,
    )


def audience(chunk: Chunk) -> Audience:
    """As the runner's journal chooses it."""
    match chunk:
        case c.ResetStep():
            return Audience.RESETS
        case c.ToolApprovalResponse():
            return Audience.V7
        case _:
            return Audience.ALL


def batches(sent: Sequence[Chunk], sizes: Sequence[int]) -> list[tuple[Audience, list[bytes]]]:
    """The chunks as a runner appends them: batches of one audience, of these sizes where that allows it."""
    found = []
    for kind, group in itertools.groupby(sent, audience):
        waiting = [c.encode(chunk) for chunk in group]
        for size in itertools.cycle(sizes):
            found.append((kind, waiting[:size]))
            waiting = waiting[size:]
            if not waiting:
                break
    return found


async def stored(sent: Sequence[Chunk], sizes: Sequence[int] = (1,)) -> MemoryRunLog:
    """A log of these chunks, behind another run's and a takeover's empty batch, and ended."""
    log = MemoryRunLog()
    await log.append(RunId("run_0"), Head(0, 1, 0, 0), b"")
    prev = await log.append(RUN, Head(0, 1, 0, 0), b"")
    index, counts = 0, dict.fromkeys(Audience, 0)
    found = batches(sent, sizes)
    for number, (kind, batch) in enumerate(found):
        mark = Mark.ENDED if number == len(found) - 1 else Mark.NONE
        v7, resets = counts[Audience.V7], counts[Audience.RESETS]
        head = Head(prev, 1, index, len(batch), 0, v7, kind, mark, resets=resets)
        prev = await log.append(RUN, head, encode_frames(batch, prev=prev, index=index))
        index += len(batch)
        counts[kind] += len(batch)
    return log


async def replayed(log: MemoryRunLog, start: ResumePoint, view: View) -> list[bytes]:
    """The frames of one response, without its end."""
    async with Replay(MemoryRunStore(), log, run(), start, view, until=0).open() as response:
        raw = b"".join([written async for written in response])
    assert raw.endswith(DONE)
    return [frame + b"\n\n" for frame in raw.removesuffix(DONE).split(b"\n\n")[:-1]]


def cursor_of(frame: bytes) -> Cursor:
    return parse(frame.split(b"\n")[0].removeprefix(b"id: ").decode())


def text(id: str, *deltas: str) -> list[Chunk]:
    return [c.TextStart(id=id), *(c.TextDelta(id=id, delta=delta) for delta in deltas)]


ASKED: list[Chunk] = [
    c.ToolInputAvailable(tool_call_id="c", tool_name="w", input={}),
    c.ToolApprovalRequest(approval_id="p", tool_call_id="c"),
]
ANSWERED: list[Chunk] = [
    c.ToolApprovalResponse(approval_id="p", approved=False),
    c.ToolOutputDenied(tool_call_id="c"),
]
REDONE: list[Chunk] = [
    c.Start(message_id="m"),
    c.StartStep(),
    *text("1.t", "done"),
    c.TextEnd(id="1.t"),
    *ASKED,
    c.FinishStep(),
    *ANSWERED,
    c.StartStep(),
    *text("2.t", "wr", "ong"),  # voided
    c.ResetStep(),
    *text("2.t", "wrong too"),  # voided
    c.ResetStep(),
    *text("2.t", "right"),
    c.TextEnd(id="2.t"),
    c.FinishStep(),
    c.Finish(finish_reason="stop"),
]
VOIDED = range(11, 18)
"""Numbers of what the resets void, them included."""
TYPES_OF_V6 = (c.ToolApprovalRequest, c.ToolOutputDenied)


def expected(view: View) -> list[int]:
    """Numbers of the events that a client gets of `REDONE`."""
    if view.v7:
        return list(range(len(REDONE)))
    return [
        number
        for number, chunk in enumerate(REDONE)
        if number not in VOIDED
        and not isinstance(chunk, c.ToolApprovalResponse)
        and (view.v6 or not isinstance(chunk, TYPES_OF_V6))
    ]


views = pytest.mark.parametrize("view", [V5, V6, V7], ids=["v5", "v6", "v7"])


@views
@pytest.mark.parametrize("sizes", [(1,), (2,), (3, 1), (100,)], ids=str)
async def test_a_whole_replay_has_all_that_is_valid_and_known_to_the_client(
    view: View, sizes: tuple[int, ...]
) -> None:
    log = await stored(REDONE, sizes)
    got = await replayed(log, await find_resume_point(log, run(), FromStart(), view), view)
    assert [cursor_of(frame).index for frame in got] == expected(view)


@views
@pytest.mark.parametrize("sizes", [(1,), (2,), (3, 1), (100,)], ids=str)
async def test_from_every_cursor_that_was_sent_the_rest_follows(view: View, sizes: tuple[int, ...]) -> None:
    """Before what was voided, and behind it."""
    log = await stored(REDONE, sizes)
    whole = await replayed(log, await find_resume_point(log, run(), FromStart(), view), view)
    for place, frame in enumerate(whole, 1):
        start = await find_resume_point(log, run(), AfterCursor(cursor_of(frame)), view)
        assert await replayed(log, start, view) == whole[place:]


@pytest.mark.parametrize("view", [V5, V6], ids=["v5", "v6"])
async def test_a_cursor_into_what_was_voided_is_gone(view: View) -> None:
    """The client has seen what it cannot drop: it must begin again."""
    log = await stored(REDONE, (2,))
    everything = await replayed(log, await find_resume_point(log, run(), FromStart(), V7), V7)
    resets = [number for number in VOIDED if isinstance(REDONE[number], c.ResetStep)]
    for number in VOIDED:
        cursor = cursor_of(everything[number])
        if number in resets:
            continue
        with pytest.raises(Gone, match="no longer part of the message"):
            await find_resume_point(log, run(), AfterCursor(cursor), view)


@views
async def test_a_count_is_one_of_the_events_of_the_replay_unless_the_client_may_have_seen_the_voided(
    view: View,
) -> None:
    """Two clients may say the same number: one that saw the first attempts, one that saw the last one."""
    log = await stored(REDONE, (3, 1))
    whole = await replayed(log, await find_resume_point(log, run(), FromStart(), view), view)
    before = sum(number < VOIDED.start for number in expected(view))
    ambiguous = range(0) if view.v7 else range(before + 1, before + 3 + 1)  # the longer attempt has three
    for count in range(len(whole) + 1):
        if count in ambiguous:
            with pytest.raises(Gone, match="no longer part of the message"):
                await find_resume_point(log, run(), AfterCount(count), view)
        else:
            start = await find_resume_point(log, run(), AfterCount(count), view)
            assert await replayed(log, start, view) == whole[count:]
    with pytest.raises(Gone, match=f"{len(whole)} events so far"):
        await find_resume_point(log, run(), AfterCount(len(whole) + 1), view)


@views
async def test_a_count_from_the_end_is_one_of_the_events_of_the_replay(view: View) -> None:
    log = await stored(REDONE, (2,))
    whole = await replayed(log, await find_resume_point(log, run(), FromStart(), view), view)
    for back in (1, 2, 3, 5, len(whole), len(whole) + 7):
        start = await find_resume_point(log, run(), AfterCount(-back), view)
        assert start.last_visible_index == len(whole) - 1
        assert await replayed(log, start, view) == whole[max(0, len(whole) - back) :]


@pytest.mark.parametrize("view", [V5, V6], ids=["v5", "v6"])
async def test_a_response_that_meets_a_new_reset_is_broken(view: View) -> None:
    """The client has received some of the voided events, and its version has no event that drops them."""
    log = await stored(REDONE[:13])
    early = await find_resume_point(log, run(), FromStart(), view)
    late = await stored(REDONE)
    with pytest.raises(Gone, match="repeated"):
        await replayed(late, early, view)
    assert len(await replayed(late, await find_resume_point(late, run(), FromStart(), view), view)) == len(
        expected(view)
    )


@pytest.mark.feature("F84", "F95")
async def test_a_client_that_states_no_version_gets_a_new_reset_and_no_old_one() -> None:
    """The newest client corrects its message by the new one; an older client's next stream has none."""
    log = await stored(REDONE[:13])
    early = await find_resume_point(log, run(), FromStart(), UNSTATED)
    late = await stored(REDONE)
    got = await replayed(late, early, UNSTATED)
    decision = next(n for n, chunk in enumerate(REDONE) if isinstance(chunk, c.ToolApprovalResponse))
    assert [cursor_of(frame).index for frame in got] == [n for n in range(len(REDONE)) if n != decision]
    again = await replayed(late, await find_resume_point(late, run(), FromStart(), UNSTATED), UNSTATED)
    assert [cursor_of(frame).index for frame in again] == expected(V6)


@pytest.mark.feature("F83", "F95")
@pytest.mark.parametrize("sizes", [(1,), (3, 1), (100,)], ids=str)
async def test_a_client_that_states_no_version_continues_exactly(sizes: tuple[int, ...]) -> None:
    """By cursor and by count: what it received live, from any event on, with the resets."""
    log = await stored(REDONE, sizes)
    every = await replayed(log, await find_resume_point(log, run(), AfterCount(0), UNSTATED), UNSTATED)
    assert sum(b'"reset-step"' in frame for frame in every) == 2
    for place, frame in enumerate(every, 1):
        for position in (AfterCursor(cursor_of(frame)), AfterCount(place)):
            start = await find_resume_point(log, run(), position, UNSTATED)
            assert await replayed(log, start, UNSTATED) == every[place:]


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), max_size=4), st.integers(1, 5))
async def test_whatever_was_voided_the_rest_is_the_log_of_the_last_attempts(
    steps: list[list[int]], size: int
) -> None:
    """A step of several attempts: only the last one is shown."""
    sent: list[Chunk] = [c.Start(message_id="m")]
    valid = [0]
    for number, attempts in enumerate(steps):
        valid.append(len(sent))
        sent.append(c.StartStep())
        for length in attempts[:-1]:
            sent += [c.TextStart(id=f"{number}.{place}") for place in range(length)]
            sent.append(c.ResetStep())
        valid += range(len(sent), len(sent) + attempts[-1])
        sent += [c.TextStart(id=f"{number}.{place}") for place in range(attempts[-1])]
    log = await stored(sent, (size,))
    got = await replayed(log, await find_resume_point(log, run(), FromStart(), V6), V6)
    assert [cursor_of(frame).index for frame in got] == valid


def test_an_events_type_is_not_looked_for_in_its_text() -> None:
    """A delta that quotes a reset is a delta."""
    batch = [c.encode(c.TextDelta(id="t", delta='\ndata: {"type":"reset-step"}'))]
    record = Record(1, Head(0, 1, 0, 1), encode_frames(batch, prev=0, index=0))
    voided = VoidedRanges()
    voided.add(record)
    assert voided.ranges == []
    assert LegacyFilter(V6, []).valid_frames(record) == [(0, record.payload)]
    assert list(split_events(record)) == batch


def test_the_bounds_of_a_void_are_not_in_it() -> None:
    void = VoidedRange(Cursor(2, 5), Cursor(4, 9))
    held = [Cursor(2, 6), Cursor(3, 6), Cursor(4, 8)]
    assert all(void.contains(cursor) for cursor in held)
    assert not any(
        void.contains(cursor) for cursor in (Cursor(2, 5), Cursor(4, 9), Cursor(4, 10), Cursor(1, 7))
    )
