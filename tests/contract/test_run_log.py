"""`RunLog` and `LiveSubscription`: the adapter and the double pass the same tests."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoin_adapters.jetstream import live_feed, nats_connection
from rejoin_adapters.jetstream.live_feed import READER_BYTES_MAX, LiveReader
from rejoin_adapters.jetstream.log_tail import open_log_tail
from rejoin_adapters.jetstream.run_log import LOG_READ_BYTES_MAX, JetStreamRunLog
from rejoin_adapters.memory.broker.run_log import MemoryRunLog
from rejoin_adapters.ports.run_log import LiveSubscription, RunLog
from rejoin_protocol.errors import Fenced, Invalid
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Audience, Head, Mark, Record

SOON_S = 5.0


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["memory", "jetstream"])
async def logs(request: pytest.FixtureRequest, nats_url: str) -> AsyncIterator[Sequence[RunLog]]:
    """The same logs, seen from two processes."""
    if request.param == "memory":
        yield [MemoryRunLog()] * 2
        return
    async with (
        nats_connection.connect(nats_url, "one") as one,
        nats_connection.connect(nats_url, "two-live") as live,
        nats_connection.connect(nats_url, "two-api") as api,
    ):
        yield [JetStreamRunLog(one, one), JetStreamRunLog(live, api)]


@pytest.fixture
def log(logs: Sequence[RunLog]) -> RunLog:
    return logs[0]


@pytest.fixture
def other(logs: Sequence[RunLog]) -> RunLog:
    """The same logs in another process."""
    return logs[1]


@pytest.fixture
def run() -> RunId:
    return fresh()


def fresh() -> RunId:
    return RunId(f"run_{secrets.token_hex(8)}")


async def write(log: RunLog, run: RunId, *payloads: bytes, attempt: int = 1) -> list[Record]:
    """Append records of one event each after the last record."""
    last = await log.last(run)
    prev, index = (last.seq, last.end) if last else (0, 0)
    written = []
    for number, payload in enumerate(payloads, index):
        head = Head(prev, attempt, number, 1)
        prev = await log.append(run, head, payload)
        written.append(Record(prev, head, payload))
    return written


async def stored(log: RunLog, run: RunId) -> list[Record]:
    """The whole log."""
    records: list[Record] = []
    while True:
        page = await log.read(run, after=records[-1].seq if records else 0)
        records += page.records
        if not page.more:
            return records


async def taken(follow: LiveSubscription, count: int) -> list[Record]:
    """So many records of a reader that is not slow."""
    records: list[Record] = []
    async with asyncio.timeout(SOON_S):
        while len(records) < count:
            await follow.wait(SOON_S)
            assert not follow.lost
            records += follow.take()
    return records


# ------------------------------------------------------------------------------------------------ append


async def test_an_append_behind_the_last_record_is_stored_and_has_its_sequence(
    log: RunLog, other: RunLog, run: RunId
) -> None:
    records = await write(log, run, b"a", b"b", b"c")
    assert records[0].seq < records[1].seq < records[2].seq
    assert [record.head.prev for record in records] == [0, records[0].seq, records[1].seq]
    assert await stored(other, run) == records


async def test_a_record_is_read_as_it_was_written(log: RunLog, run: RunId) -> None:
    heads = [
        Head(0, 3, 7, 2, 1, 4, Audience.OPERATIONS, Mark.GENERATED, 5),
        Head(0, 3, 9, 0, 3, 4, Audience.V7, Mark.SUSPENDED, 6),
    ]
    payloads = [b'id: 0-7\ndata: {"a":"\xc3\xa4 \\r\\n"}\n\n', b""]
    prev, written = 0, []
    for head, payload in zip(heads, payloads, strict=True):
        placed = Head(prev, *[getattr(head, field) for field in head.__struct_fields__[1:]])
        prev = await log.append(run, placed, payload)
        written.append(Record(prev, placed, payload))
        assert await log.last(run) == written[-1]
    assert await stored(log, run) == written


async def test_an_append_behind_anything_else_is_fenced_and_stores_nothing(log: RunLog, run: RunId) -> None:
    with pytest.raises(Fenced):
        await log.append(run, Head(1, 1, 0, 1), b"behind what never was")
    first, last = await write(log, run, b"a", b"b")
    for prev in (0, first.seq, last.seq + 1):
        with pytest.raises(Fenced):
            await log.append(run, Head(prev, 1, 2, 1), b"late")
    assert await stored(log, run) == [first, last]


async def test_the_same_batch_again_is_the_same_record(log: RunLog, other: RunLog, run: RunId) -> None:
    first, second = await write(log, run, b"a", b"b")
    for writer in (log, other):
        assert await writer.append(run, second.head, b"b") == second.seq
    with pytest.raises(Fenced):
        await log.append(run, first.head, b"a")
    assert await stored(log, run) == [first, second]


async def test_another_attempts_batch_at_the_same_place_is_not_the_same(log: RunLog, run: RunId) -> None:
    first, second = await write(log, run, b"a", b"b")
    with pytest.raises(Fenced):
        await log.append(run, Head(first.seq, 2, 1, 1), b"b")
    assert await stored(log, run) == [first, second]


async def test_of_two_writers_one_wins_and_the_other_is_fenced(
    log: RunLog, other: RunLog, run: RunId
) -> None:
    for index in range(20):
        last = await log.last(run)
        outcomes: list[str] = []

        async def attempt(writer: RunLog, number: int, prev: int, index: int, outcomes: list[str]) -> None:
            try:
                await writer.append(run, Head(prev, number, index, 1), b"x")
            except Fenced:
                outcomes.append("fenced")
            else:
                outcomes.append("stored")

        async with asyncio.TaskGroup() as group:
            for number, writer in enumerate((log, other), 1):
                group.create_task(attempt(writer, number, last.seq if last else 0, index, outcomes))
        assert sorted(outcomes) == ["fenced", "stored"]
    assert [record.head.index for record in await stored(log, run)] == list(range(20))


# -------------------------------------------------------------------------------------------------- read


async def test_a_page_has_so_many_records_and_says_whether_there_are_more(log: RunLog, run: RunId) -> None:
    records = await write(log, run, *[b"%d" % number for number in range(10)])
    page = await log.read(run, after=0, records_max=4)
    assert (list(page.records), page.more) == (records[:4], True)
    page = await log.read(run, after=records[3].seq, records_max=6)
    assert (list(page.records), page.more) == (records[4:], False)
    page = await log.read(run, after=records[6].seq)
    assert (list(page.records), page.more) == (records[7:], False)


async def test_a_place_between_two_records_is_before_the_second(log: RunLog, run: RunId) -> None:
    (first,) = await write(log, run, b"a")
    await write(log, fresh(), b"of another run")
    (second,) = await write(log, run, b"b")
    page = await log.read(run, after=second.seq - 1)
    assert (list(page.records), page.more) == ([second], False)
    assert second.seq == first.seq + 2


async def test_behind_the_end_and_in_an_unknown_run_there_is_nothing(log: RunLog, run: RunId) -> None:
    *_, last = await write(log, run, b"a", b"b")
    for place in ((run, last.seq), (run, last.seq + 1_000_000), (fresh(), 0)):
        page = await log.read(place[0], after=place[1])
        assert (list(page.records), page.more) == ([], False)


async def test_a_page_is_bounded_by_bytes_too_but_never_empty(log: RunLog, run: RunId) -> None:
    size = LOG_READ_BYTES_MAX // 3
    records = await write(log, run, *[bytes([65 + number]) * size for number in range(8)])
    records += await write(log, run, b"x" * (LOG_READ_BYTES_MAX * 2), b"y")
    page = await log.read(run, after=0)
    assert page.more
    assert sum(len(record.payload) for record in page.records) <= LOG_READ_BYTES_MAX
    assert await stored(log, run) == records


async def test_a_log_has_grown_if_something_is_behind_a_place(log: RunLog, other: RunLog, run: RunId) -> None:
    assert not await other.has_records_after(run, after=0)
    first, last = await write(log, run, b"a", b"b")
    await write(log, fresh(), b"of another run")
    places = (0, first.seq - 1, first.seq, last.seq, last.seq + 1_000_000)
    assert [await other.has_records_after(run, after=place) for place in places] == [
        True,
        True,
        True,
        False,
        False,
    ]


async def test_runs_do_not_mix(log: RunLog) -> None:
    runs = [fresh() for _ in range(3)]
    written: dict[RunId, list[Record]] = {run: [] for run in runs}
    for number in range(12):
        run = runs[number % 3]
        written[run] += await write(log, run, b"%d" % number)
    for run in runs:
        assert await stored(log, run) == written[run]


async def test_the_last_record_is_certain(log: RunLog, other: RunLog, run: RunId) -> None:
    assert await log.last(run) is None
    for payload in (b"a", b"b", b"c"):
        written = await write(log, run, payload)
        assert await other.last(run) == written[-1]


async def test_a_record_has_an_owner_and_a_sequence_without_one_has_not(log: RunLog, run: RunId) -> None:
    (mine,) = await write(log, run, b"a")
    (theirs,) = await write(log, another := fresh(), b"a")
    assert (await log.run_at(mine.seq), await log.run_at(theirs.seq)) == (run, another)
    for sequence in (0, theirs.seq + 1_000_000, 9_999_999_999_999_999_999):
        assert await log.run_at(sequence) is None


# ------------------------------------------------------------------------------------------------ follow


async def test_a_follower_takes_what_is_appended_from_now_on_in_order(
    log: RunLog, other: RunLog, run: RunId
) -> None:
    await write(log, run, b"before")
    async with other.follow(run) as follow:
        assert follow.take() == []
        first = await write(log, run, b"a", b"b")
        await write(log, fresh(), b"of another run")
        assert await taken(follow, 2) == first
        second = await write(log, run, b"c")
        assert await taken(follow, 1) == second
        assert follow.take() == []
        assert not follow.lost


async def test_a_follower_waits_until_there_is_something(log: RunLog, run: RunId) -> None:
    async with log.follow(run) as follow, asyncio.TaskGroup() as group:
        waiting = group.create_task(follow.wait(SOON_S))
        await log.last(run)  # a round trip, in which it could have returned
        assert not waiting.done()
        await write(log, run, b"a")
        async with asyncio.timeout(SOON_S):
            await waiting
        await follow.wait(SOON_S)  # still: nothing was taken
        assert len(follow.take()) == 1


async def test_a_follower_waits_no_longer_than_it_is_told_to(log: RunLog, run: RunId) -> None:
    """Nor shorter, whatever its last wait was."""
    clock = asyncio.get_running_loop().time
    async with asyncio.timeout(SOON_S), log.follow(run) as follow:
        for earlier_s in (60, 0.3):
            async with asyncio.TaskGroup() as group:
                group.create_task(follow.wait(earlier_s))
                await write(log, run, b"a")
            assert len(follow.take()) == 1
            began = clock()
            assert not await follow.wait(0.4)
            assert clock() - began >= 0.4


async def test_a_slow_follower_is_lost_in_bounded_memory_and_others_are_not(
    log: RunLog, other: RunLog, run: RunId
) -> None:
    async with other.follow(run) as slow, other.follow(run) as quick:
        seen: list[Record] = []
        written: list[Record] = []
        for number in range(8):
            written += await write(log, run, b"%d" % number * (READER_BYTES_MAX // 4))
            seen += await taken(quick, 1)
        assert seen == written
        assert (slow.lost, slow.take(), slow.lost) == (True, [], False)
        assert await taken_after(log, slow, run) == (await stored(log, run))[-1:]


async def taken_after(log: RunLog, follow: LiveSubscription, run: RunId) -> list[Record]:
    """A follower that has reported lost records receives the records that are appended later."""
    await write(log, run, b"small")
    return await taken(follow, 1)


async def test_one_record_larger_than_a_follower_may_hold_is_lost(log: RunLog, run: RunId) -> None:
    async with log.follow(run) as follow:
        await write(log, run, b"x" * (READER_BYTES_MAX + 1))
        async with asyncio.timeout(SOON_S):
            await follow.wait(SOON_S)
        assert follow.lost


async def test_after_the_context_nothing_is_kept(log: RunLog, run: RunId) -> None:
    async with log.follow(run) as follow:
        pass
    await write(log, run, b"a")
    assert follow.take() == []


async def test_readers_that_join_at_any_moment_see_every_record_once(
    log: RunLog, other: RunLog, run: RunId
) -> None:
    """The guarantee that all of this serves, through `LogTail`."""
    count = 120
    seen: list[list[int]] = [[] for _ in range(12)]

    async def read(mine: list[int]) -> None:
        async with open_log_tail(other, run) as records:
            while len(mine) < count:
                mine += [record.head.index for record in await records.next(SOON_S)]

    async with asyncio.timeout(SOON_S * 4), asyncio.TaskGroup() as group:
        for number in range(count):
            if number % 10 == 0:
                group.create_task(read(seen[number // 10]))
            await write(log, run, b"%d" % number)
    assert seen == [list(range(count))] * len(seen)


@pytest.mark.parametrize("early", [0, 1, 3])
async def test_an_expected_run_is_followed_from_its_first_record(
    log: RunLog, other: RunLog, run: RunId, early: int
) -> None:
    """Whether records come before the `follow` or behind it; a second reader reads what it has missed."""
    await other.expect(run)
    before = await write(log, run, *(b"%d" % number for number in range(early)))
    async with open_log_tail(other, run) as one, open_log_tail(other, run) as two:
        after = await write(log, run, b"x", b"y")
        for tail in (one, two):
            seen: list[Record] = []
            while len(seen) < early + 2:
                seen += await tail.next(SOON_S)
            assert seen == [*before, *after]


@pytest.mark.parametrize("followed", [False, True])
async def test_a_run_that_nobody_will_follow_is_forgotten_and_one_that_somebody_follows_is_not(
    log: RunLog, other: RunLog, run: RunId, *, followed: bool
) -> None:
    await other.expect(run)
    if not followed:
        await other.forget(run)
    async with open_log_tail(other, run) as tail:
        await other.forget(run)
        assert await write(log, run, b"x") == await tail.next(SOON_S)


# --------------------------------------------------------------------------------- of the real one alone


async def test_a_run_that_is_expected_and_not_followed_is_forgotten(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_feed, "EXPECTED_MAX", 2)
    async with nats_connection.connect(nats_url, "expecting") as connection:
        log, run = JetStreamRunLog(connection, connection), fresh()
        await log.expect(run)
        for _ in range(5):
            await log.expect(fresh())
        assert len(log._feeds) == 2
        records = await write(log, run, b"a")
        async with log.follow(run) as follow, open_log_tail(log, run) as tail:
            assert not follow.is_whole
            assert await tail.next(SOON_S) == records
        monkeypatch.setattr(live_feed, "EXPECTED_S", 0)
        await log.expect(run)
        assert len(log._feeds) == 1


async def test_an_expected_run_that_says_too_much_before_it_is_followed_is_read(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_feed, "EXPECTED_BYTES_MAX", 1_000)
    async with nats_connection.connect(nats_url, "expecting") as connection:
        log, run = JetStreamRunLog(connection, connection), fresh()
        await log.expect(run)
        records = await write(log, run, *[b"x" * 100] * 9)
        await connection.flush()
        async with open_log_tail(log, run) as tail:
            assert await tail.next(SOON_S) == records


async def test_readers_of_a_run_share_one_subscription_which_ends_with_the_last(nats_url: str) -> None:
    async with nats_connection.connect(nats_url, "shared") as connection:
        log, run = JetStreamRunLog(connection, connection), fresh()
        assert await log.last(run) is None  # subscribes to the replies
        subscribed = len(connection._client._subs)
        for _ in range(2):
            async with log.follow(run) as one:
                async with log.follow(run) as two, log.follow(fresh()):
                    assert len(connection._client._subs) == subscribed + 2
                    (record,) = await write(log, run, b"a")
                    assert await taken(one, 1) == await taken(two, 1) == [record]
                assert len(connection._client._subs) == subscribed + 1
                (record,) = await write(log, run, b"b")
                assert await taken(one, 1) == [record]
            assert len(connection._client._subs) == subscribed
            assert (len(log._feeds), connection._loss_callbacks) == (0, {})


async def test_a_follower_that_is_cancelled_while_it_subscribes_leaves_nothing_behind(nats_url: str) -> None:
    """Nor does the late answer of the broker harm the connection, which others use."""
    async with nats_connection.connect(nats_url, "cancelled") as connection:
        log, run = JetStreamRunLog(connection, connection), fresh()
        assert await log.last(run) is None  # subscribes to the replies
        subscribed = len(connection._client._subs)

        async def follow() -> None:
            async with log.follow(run):
                await asyncio.Event().wait()

        for turns in range(4):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(follow())
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
        await write(log, run, b"a")
        assert len(connection._client._subs) == subscribed
        assert (len(log._feeds), connection._loss_callbacks) == (0, {})


async def test_a_batch_that_the_broker_does_not_take_is_refused_and_not_tried_for_ever(nats_url: str) -> None:
    async with nats_connection.connect(nats_url, "large") as connection:
        log, run = JetStreamRunLog(connection, connection), fresh()
        async with asyncio.timeout(SOON_S):
            for size in (2_200_000, 2_097_152, 2_097_100):  # it counts the headers too
                with pytest.raises(Invalid, match="larger than the broker accepts"):
                    await log.append(run, Head(0, 1, 0, 1), b"x" * size)
        assert await log.last(run) is None
        await write(log, run, b"x" * 2_097_000)


@given(st.lists(st.integers(0, READER_BYTES_MAX // 2), max_size=2_000))
@settings(max_examples=50, deadline=None)
def test_a_reader_holds_no_more_than_its_bound_whatever_comes(sizes: list[int]) -> None:
    reader, held = LiveReader(), 0
    for number, size in enumerate(sizes):
        reader.push(Record(number + 1, Head(number, 1, number, 1), bytes(size)))
        held = 0 if reader.lost else held + size
        assert held <= READER_BYTES_MAX
        assert len(reader._records) <= READER_BYTES_MAX // 256
    assert reader.lost or len(reader.take()) == len(sizes)


async def test_a_purged_log_is_empty_and_its_writer_is_fenced(log: RunLog, other: RunLog, run: RunId) -> None:
    records = await write(log, run, b"a", b"b")
    [kept] = await write(log, fresh(), b"c")
    await other.purge(run)
    await other.purge(run)
    assert await log.last(run) is None
    assert (await log.read(run, after=0)).records == []
    assert await log.run_at(records[0].seq) is None
    assert await log.run_at(kept.seq) is not None
    with pytest.raises(Fenced):
        await log.append(run, Head(records[-1].seq, 1, 2, 1), b"d")
